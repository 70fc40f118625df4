"""A job: inputs are annotated part by part, and the output is published.

::

    running.py     run(): the whole job in the order in which it happens
    annotating.py  each missing part: rows to answers to its commit
    shard_plan.py  which parts a job of several shards has, and which shard does which
    finalizing.py  finalize(): the shards are done, the output is published
    summary.py     what a job did, in figures
    sharing.py     parts of a job, annotated by another process
    ranges.py      where parts begin in the inputs
    dry_runs.py    dry_run(): what a job would cost
    counting.py    what reading an input tells of it; a sample
    estimate.py    the estimate, from both
    fingerprint.py what can change an output
    reusing.py     the answers of earlier outputs
    following.py   how far a job is: rows, counts, seconds
"""

from .dry_runs import dry_run
from .estimate import Estimate
from .finalizing import finalize
from .following import Progress
from .running import run
from .summary import Summary

__all__ = ["Estimate", "Progress", "Summary", "dry_run", "finalize", "run"]
