"""Where a job runs: a runner shares out parts and nothing else.

::

    local_processes.py   one job in several processes of this machine
    shards.py            shards on any scheduler
    engines.py           shards as tasks of Ray or Spark
"""

from __future__ import annotations

from typing import Any

from batchqa.errors import SettingsError
from batchqa.job import Summary
from batchqa.job import run as run_job

from . import local_processes

__all__ = ["run"]


def run(
    inputs: Any,
    output: Any,
    *,
    on: str | None = None,
    shards: int | None = None,
    processes: int | None = None,
    **options: Any,
) -> Summary:
    """`batchqa.job.run`, in `processes` processes of this machine, or `on` a cluster ("ray", "spark").

    There it is done in so many `shards`; see the runners for the other options.
    """
    if on is None:
        if shards is not None:
            raise SettingsError("--shards N goes with --shard auto or --on; give one of them, or --shard I/N")
        if processes is None:
            return run_job(inputs, output, **options)
        return local_processes.run(inputs, output, processes=processes, **options)
    from . import engines

    return engines.run_on(on, inputs, output, shards=shards, processes=processes, **options)
