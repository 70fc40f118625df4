"""Errors of jobs on Ray or Spark: what a task or the cluster says, as one line with its exit code."""

from __future__ import annotations

import re

from batchqa import errors
from batchqa.errors import (
    BatchqaError,
    ModelError,
    NoInputError,
    StorageError,
    TryAgainError,
    first_line,
)

SHARED = "all workers need the inputs, the model and the output under the same names as this machine"


def of_task(name: str, message: str, before: str = "") -> BatchqaError:
    """The error of a task; one that may come from a place that is not shared says what is needed."""
    kind = getattr(errors, name, TryAgainError)
    needed = f" ({SHARED})" if issubclass(kind, NoInputError | ModelError | StorageError) else ""
    error: BatchqaError = kind(before + message + needed)
    return error


def given_up(engine: str, error: Exception) -> BatchqaError:
    """Why the engine does not try a task again: the last error in its report."""
    text = str(error)
    ours = re.findall(r"batchqa\.errors\.(\w+): (.+)", text)
    others = re.findall(r"^[\w.: ]*?(\w+(?:Error|Exception): .+)", text, re.MULTILINE)
    name, message = ours[-1] if ours else ("", (others or text.strip().splitlines() or [repr(error)])[-1])
    return of_task(name, f"{message}; finished parts are kept", f"{engine} gave up on a shard: ")


def unreachable(engine: str, where: str, advice: str, error: Exception) -> TryAgainError:
    """No cluster answers, or none can be started."""
    where = where or "the default master"
    return TryAgainError(
        f"--on {engine}: no cluster can be reached at {where} ({first_line(error)}); {advice}"
    )


def gone(engine: str, error: Exception) -> TryAgainError:
    """The cluster, or this process's way to it, has ended before the job."""
    return TryAgainError(
        f"{engine} has ended before the job was done ({first_line(error)}); finished parts are kept: "
        "run the same command again"
    )
