"""Which shard of a job a process is: `--shard I/N`, or what a scheduler's variables say (`auto`).

A new scheduler is one row of `SCHEDULERS`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from batchqa.errors import SettingsError
from batchqa.settings import Shard


@dataclass(frozen=True, slots=True)
class Scheduler:
    """How a scheduler tells its tasks apart: names of environment variables.

    `first` and `last` have the numbers of the first and last task, where they need not be 0 and count - 1.
    """

    name: str
    index: str
    count: str | None = None
    first: str | None = None
    last: str | None = None


SCHEDULERS = (
    Scheduler("Kubernetes indexed job", "JOB_COMPLETION_INDEX"),
    Scheduler("AWS Batch array job", "AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    Scheduler("Cloud Run job", "CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT"),
    Scheduler(
        "Slurm job array",
        "SLURM_ARRAY_TASK_ID",
        "SLURM_ARRAY_TASK_COUNT",
        "SLURM_ARRAY_TASK_MIN",
        "SLURM_ARRAY_TASK_MAX",
    ),
    Scheduler("SkyPilot", "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES"),
)


def share_of_job(
    text: str | None, count: int | None, environment: Mapping[str, str] = os.environ
) -> Shard | None:
    """The shard that was asked for; None for a job of one process."""
    if text is None and count is not None:
        raise SettingsError("--shards N goes with --shard auto or --on; give one of them, or --shard I/N")
    return None if text is None else shard_of(text, count, environment)


def shard_of(text: str, count: int | None, environment: Mapping[str, str] = os.environ) -> Shard:
    """The shard that `--shard TEXT --shards COUNT` means. Raises SettingsError where that cannot be known."""
    if text != "auto":
        shard = Shard.parse(text)
        if count is not None and count != shard.count:
            raise SettingsError(f"--shard {text} and --shards {count} name different numbers of shards")
        return shard
    found = [scheduler for scheduler in SCHEDULERS if environment.get(scheduler.index)]
    if not found:
        names = ", ".join(scheduler.index for scheduler in SCHEDULERS)
        raise SettingsError(f"--shard auto: no scheduler's variable is set ({names}); give --shard I/N")
    if len(found) > 1:
        names = " and ".join(scheduler.index for scheduler in found)
        raise SettingsError(f"--shard auto: {names} are both set; give --shard I/N")
    return _of_scheduler(found[0], count, environment)


def _of_scheduler(scheduler: Scheduler, given: int | None, environment: Mapping[str, str]) -> Shard:
    def number(name: str | None) -> int | None:
        text = (environment.get(name) if name else None) or None  # one that is set to nothing is not set
        if text is not None and not re.fullmatch(r"[0-9]{1,18}", text):
            raise SettingsError(f"--shard auto: {name}={text[:40]!r} is not a task number; give --shard I/N")
        return None if text is None else int(text)

    index, count = number(scheduler.index) or 0, number(scheduler.count)
    first, last = number(scheduler.first) or 0, number(scheduler.last)
    if given is not None:
        if count not in (None, given) and scheduler.first is None:  # such a job always has all its tasks
            raise SettingsError(
                f"--shard auto: {scheduler.count}={count} and --shards {given} name different numbers of "
                "shards, so that some would never be done; leave out --shards"
            )
        # of an array that repeats some tasks only the numbers count, from 0
        is_whole = count == given and last == first + count - 1
        return _checked(scheduler, index, first if is_whole else 0, given)
    if count is None:
        raise SettingsError(
            f"--shard auto: {scheduler.name} does not say how many tasks there are; give --shards N"
        )
    if last is not None and last - first + 1 != count:
        raise SettingsError(
            f"--shard auto: the tasks {first} to {last} of this {scheduler.name} are only {count}, so the "
            "number of shards is not known; give --shards N, with tasks counted from 0"
        )
    return _checked(scheduler, index, first, count)


def _checked(scheduler: Scheduler, index: int, first: int, count: int) -> Shard:
    if count and not first <= index < first + count:
        raise SettingsError(
            f"--shard auto: {scheduler.index}={index} is out of range: {count} tasks are numbered {first} to "
            f"{first + count - 1}; number them so, or give --shard I/N"
        )
    return Shard(index - first, count)
