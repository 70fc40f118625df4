"""Files that a command writes in addition to its result: a summary, a report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from batchqa.errors import SettingsError
from batchqa.store.locations import local_path

PAGE = b"<!doctype html"
SUMMARY = b'{"rows"'
"""How the files begin that a page or a summary may replace, in lower case."""


def check_side_file(
    option: str,
    path: Path,
    taken: Iterable[str | Path],
    replaces: bytes | None = None,
    *,
    through: bool = False,
) -> None:
    """Find out before the work that a file can be written, and costs none of those `taken` by the job.

    `taken` are inputs (files, folders, URIs) and outputs, whether they exist or not. A file that is there
    must be empty or begin as `replaces` says, where that is given: it is no earlier one of ours else, but
    perhaps somebody's data. A device, pipe or link is written `through`, or refused: a file that takes its
    place would be the end of /dev/null. Raises SettingsError.
    """
    if not path.parent.is_dir():
        raise SettingsError(f"{option} {path}: there is no folder {path.parent}; create it first")
    if path.is_dir():
        raise SettingsError(f"{option} {path} is a folder; give the name of a file")
    if not through and (path.is_symlink() or (path.exists() and not path.is_file())):
        raise SettingsError(f"{option} {path} is a link, a device or a pipe; give the name of a file")
    real = path.resolve()
    for other in taken:
        place = Path(local_path(str(other)))
        if real == place.resolve() or (path.exists() and place.exists() and path.samefile(place)):
            raise SettingsError(f"{option} {path} is an input or output of this job, which it would replace")
        seen = not path.name.startswith(("_", "."))  # others are skipped in folders
        if seen and place.is_dir() and real.is_relative_to(place.resolve()):
            raise SettingsError(
                f"{option} {path} lies inside {other} and would become an input; choose another place"
            )
    if replaces is not None and path.is_file() and not _begins(path, replaces):
        raise SettingsError(
            f"{option} {path} already exists and was not written by this option; choose another file, or "
            "remove it"
        )


def _begins(path: Path, wanted: bytes) -> bool:
    """Whether a file begins so, or has nothing in it."""
    try:
        with path.open("rb") as file:
            found = file.read(1024).lstrip()[: len(wanted)].lower()
    except OSError:  # writing will say what is wrong
        return True
    return found in (b"", wanted)
