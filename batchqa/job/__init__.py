"""A job: inputs are annotated part by part, and the output is published.

::

    running.py    run(): the whole job in the order in which it happens; dry_run()
    estimate.py   what a job would cost
    reusing.py    the answers of earlier outputs
    following.py  how far a job is: rows, counts, seconds
"""

from .estimate import Estimate
from .following import Progress
from .running import Summary, dry_run, run

__all__ = ["Estimate", "Progress", "Summary", "dry_run", "run"]
