"""Names of inputs: which are skipped, where a glob begins, what is below a prefix of an object store."""

from __future__ import annotations

import difflib
import glob
import re
from pathlib import Path, PurePosixPath

import pyarrow.fs as pafs

from batchqa.errors import InputError, NoInputError
from batchqa.store import layout
from batchqa.store.locations import EMPTY_PART, has_empty_part

_MARKERS = ("_$folder$", layout.STAGING_SUFFIX, layout.SIDECAR_SUFFIX)
"""How the names of Hadoop's folders in an object store end, and of what jobs keep beside their outputs."""

_OF_WINDOWS = ("thumbs.db", "desktop.ini")
"""What its file manager leaves in folders, as that of macOS leaves .DS_Store."""

NOT_FINISHED = "is the output of a job that is not finished; run its command again to finish it"


def near(path: Path) -> str:
    """What to do about a path at which nothing is."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f"there is no folder {path.parent}"
    similar = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / similar[0]}?" if similar else "check the path"


def is_hidden(name: str) -> bool:
    """Whether a name is a marker's (_SUCCESS, .crc) or one of a job's own files, not an input's."""
    return name.startswith(("_", ".")) or name.endswith(_MARKERS) or name.lower() in _OF_WINDOWS


def literal_parts(pattern: str) -> tuple[str, ...]:
    """The folders of a glob before its first special character."""
    parts = PurePosixPath(pattern).parts
    magic = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return parts[:magic]


def remote_paths(filesystem: pafs.FileSystem, path: str, public: str, unfinished: bool) -> list[str]:
    """The objects that a path names: one, all below a prefix, or those of a glob; sorted by their bytes."""
    info = filesystem.get_file_info(path)
    if info.type is pafs.FileType.File and info.size:
        return [path]
    parts = literal_parts(path)
    base = "/".join(parts) if glob.has_magic(path) else path.rstrip("/")
    selector = pafs.FileSelector(base, recursive=True, allow_not_found=True)
    names = [entry.path for entry in filesystem.get_file_info(selector) if entry.type is pafs.FileType.File]
    there = set(names)
    begun = [name.removesuffix(layout.JOB) for name in names if name.endswith(f"/{layout.JOB}")]
    names = [name for name in names if not any(is_hidden(p) for p in name[len(base) :].split("/"))]
    for folder in begun:
        if (
            not unfinished
            and folder + layout.SUCCESS not in there
            and any(name.startswith(folder) for name in names)
        ):
            raise InputError(f"{public}: {folder.rstrip('/')} {NOT_FINISHED}")
    if glob.has_magic(path):
        matches = re.compile(_glob_expression(path))
        names = [name for name in names if matches.fullmatch(name)]
    odd = next((name for name in names if has_empty_part(name)), None)
    if odd is not None:
        raise InputError(f"{public}: {odd}: {EMPTY_PART}")
    if not names and info.type is pafs.FileType.File:
        return [path]  # of no bytes; with objects below it, it is a tool's mark of a folder
    if not names:
        if glob.has_magic(path):
            raise NoInputError(f"no file matches {public}")
        raise NoInputError(f"{public} does not exist; check the path")
    return sorted(names, key=str.encode)


def _glob_expression(pattern: str) -> str:
    """A regular expression for a glob in which `*` and `?` stop at a slash and `**/` does not."""
    pieces = re.split(r"(\*\*/|\*|\?|\[[^\]]+\])", pattern)
    special = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        special.get(piece) or (piece if piece.startswith("[") and piece.endswith("]") else re.escape(piece))
        for piece in pieces
    )
