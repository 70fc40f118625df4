"""Files that a command writes beside its result: a summary, a report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from batchqa.errors import SettingsError


def check_beside(option: str, path: Path, taken: Iterable[str | Path]) -> None:
    """Find out before the work that a file can be written, and costs none of those `taken` by the job.

    `taken` are inputs (files, folders, URIs) and outputs, whether they exist or not. Raises SettingsError.
    """
    if not path.parent.is_dir():
        raise SettingsError(f"{option} {path}: there is no folder {path.parent}; create it first")
    if path.is_dir():
        raise SettingsError(f"{option} {path} is a folder; name a file")
    real = path.resolve()
    for other in taken:
        place = Path(str(other).removeprefix("file://"))
        if real == place.resolve() or (path.exists() and place.exists() and path.samefile(place)):
            raise SettingsError(f"{option} {path} is an input or output of this job, which it would replace")
        seen = not path.name.startswith(("_", "."))  # others are skipped in folders
        if seen and place.is_dir() and real.is_relative_to(place.resolve()):
            raise SettingsError(f"{option} {path} lies inside {other} and would become input; name another")
