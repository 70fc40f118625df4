"""Where a job runs: a runner shares out parts and nothing else.

::

    local_processes.py   one job in several processes of this machine
    shards.py            shards on any scheduler
"""

from .local_processes import run

__all__ = ["run"]
