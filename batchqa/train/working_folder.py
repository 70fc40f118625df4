"""The folder that keeps a training run until it is done: whose it is, and whether a run may go on there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from batchqa.errors import InputError, PreconditionError, SettingsError, TryAgainError
from batchqa.store.layout import STAGING_SUFFIX
from batchqa.store.lock import Lock

LOCK = "lock"


def working_folder(output: Path) -> Path:
    """Where a run is kept until it is done, beside `output`. Raises SettingsError where that cannot be."""
    if not output.name:
        raise SettingsError(f"-o {output} does not name a new folder; give it a name")
    return output.with_name(output.name + STAGING_SUFFIX)


def alone(work: Path, output: Path, note: Callable[[str], None]) -> Lock:
    """Make the working folder and hold its lock. Raises TryAgainError while another run trains there."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = Lock(work / LOCK, str(output))
    except FileNotFoundError as error:
        raise TryAgainError(f"{output}: another run has just ended; run the same command again") from error
    except OSError as error:
        raise InputError(f"{work} cannot be made: {error.strerror}; choose another output") from error
    if lock.note:
        note(lock.note)
    return lock


def begin(work: Path, job: dict[str, Any], *, restart: bool) -> None:
    """Begin in the working folder, or resume. Raises PreconditionError if another run began there."""
    if restart:
        for each in work.iterdir():
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)
            elif each.name != LOCK:
                each.unlink(missing_ok=True)
    file = work / "job.json"
    if file.is_file():
        if different := differences(job, orjson.loads(file.read_bytes())):
            raise PreconditionError(
                f"{work} holds a run that was started with other options ({', '.join(different)}); give the "
                f"same options to resume it, or --restart to start again"
            )
        return
    try:
        file.write_bytes(orjson.dumps(job, option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}; choose another output") from error


def differences(job: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """Names of what differs, an option by its own name."""
    different = [name for name in job if name != "options" and before.get(name) != job[name]]
    options = before.get("options", {})
    return different + [name for name, value in job["options"].items() if options.get(name) != value]
