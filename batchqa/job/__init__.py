"""A job: inputs are annotated part by part, and the output is published.

::

    running.py     run(): the whole job in the order in which it happens; dry_run()
    annotating.py  each missing part: rows to answers to its commit
    shard_plan.py  which parts a job of several shards has, and which shard does which
    finalizing.py  finalize(): the shards are done, the output is published
    summary.py     what a job did, in figures
    sharing.py     parts of a job, annotated by another process
    ranges.py      where parts begin in the inputs
    estimate.py    what a job would cost
    reusing.py     the answers of earlier outputs
    following.py   how far a job is: rows, counts, seconds
"""

from .estimate import Estimate
from .finalizing import finalize
from .following import Progress
from .running import dry_run, run
from .summary import Summary

__all__ = ["Estimate", "Progress", "Summary", "dry_run", "finalize", "run"]
