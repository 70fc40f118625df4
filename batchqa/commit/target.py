"""Where an output goes, what stands beside it, and whether it may go there at all."""

from __future__ import annotations

import fnmatch
import glob
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from batchqa.commit.files import exists
from batchqa.errors import SettingsError

_SUFFIXES: dict[str, Literal["parquet", "jsonl"]] = {".parquet": "parquet", ".jsonl": "jsonl"}
STAGING_SUFFIX = ".batchqa"
_LONGEST_SUFFIX = ".rejects.jsonl"


@dataclass(frozen=True, slots=True)
class Target:
    """An output, from the text of `-o`.

    `x.parquet` and `x.jsonl` are one file; `-` is JSONL on standard output; a path with no suffix or with a
    trailing slash is a folder of parts: Parquet, or JSONL when it is spelled `x.jsonl/`. `path` is absolute;
    links in its folders are resolved, but it may itself be one (which `check_target` refuses).
    """

    kind: Literal["parquet", "jsonl", "folder", "stdout"]
    format: Literal["parquet", "jsonl"]
    path: Path

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read the text of `-o`."""
        if text == "-":
            return cls("stdout", "jsonl", Path("-"))
        if "://" in text:
            raise SettingsError(f"-o {text.partition('://')[0]}://...: an output must be a local path")
        if not text or "\0" in text:
            raise SettingsError("-o needs the path of a file or folder")
        path = _absolute(text)
        suffix = path.suffix.lower()
        if not path.name or suffix == STAGING_SUFFIX:
            raise SettingsError(f"-o {text!r}: this cannot be an output; name a file or a folder of its own")
        if text.endswith("/") or not suffix:
            return cls("folder", _SUFFIXES.get(suffix, "parquet"), path)
        if suffix not in _SUFFIXES:
            raise SettingsError(
                f"-o {text!r}: {suffix} is no known format; use .parquet, .jsonl, - for standard output,"
                " or a trailing / for a folder of parts"
            )
        return cls(_SUFFIXES[suffix], _SUFFIXES[suffix], path)

    def __str__(self) -> str:
        return "standard output" if self.kind == "stdout" else str(self.path)

    @property
    def rejects(self) -> Path:
        """The file of the rejected lines, beside the output."""
        return self.path.with_name(self.path.name + ".rejects.jsonl")

    @property
    def sidecar(self) -> Path:
        """The record of a JSONL file, beside it."""
        return self.path.with_name(self.path.name + ".batchqa.json")

    @property
    def staging(self) -> Path:
        """The folder of unfinished work beside the output."""
        return self.path.with_name(self.path.name + STAGING_SUFFIX)

    def written(self) -> Iterator[Path]:
        """Every path that publishing may write."""
        yield self.path
        yield self.rejects
        if self.kind == "jsonl":
            yield self.sidecar


def check_target(target: Target, inputs: Sequence[str], overwrite: bool) -> None:
    """Refuse an output that cannot be, before anything is created (SettingsError, exit 2).

    `inputs` are local paths: the arguments as they were given (files, folders, globs) and the files that
    they stand for. Refused are an output that is an input under any name, or that a folder or glob of the
    inputs would read the next time; links; things that are no files; folders that cannot be written.
    """
    if target.kind == "stdout":
        return
    _check_name(target)
    _check_kind(target)
    for path in inputs:
        _check_input(target, path)
    # A finished output in a read-only folder is still "already done".
    if overwrite or not exists(target.path):
        _check_writable(target)


def space_shortage(target: Target, output_bytes: int) -> str | None:
    """A sentence about too little free space for an output of about `output_bytes`, else None.

    `output_bytes` is the size of the finished output. One-file outputs need about twice that, because the
    parts are kept until the whole is published. The figure is an estimate: whether it ends the run is the
    caller's to decide.
    """
    if target.kind == "stdout":
        return None
    in_place = target.kind == "folder" and target.format == "parquet"
    needed = output_bytes if in_place else 2 * output_bytes
    free = shutil.disk_usage(_nearest_folder(target.path)).free
    if free >= needed:
        return None
    return f"{target}: about {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free" + (
        "" if in_place else " (a folder as output, -o NAME/, needs about half)"
    )


def _check_name(target: Target) -> None:
    try:
        target.path.parent.stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SettingsError(f"-o {target}: {error.strerror}") from error
    longest = os.pathconf(_nearest_folder(target.path), "PC_NAME_MAX") - len(_LONGEST_SUFFIX)
    if len(os.fsencode(target.path.name)) > longest:
        raise SettingsError(f"-o {target}: the name is too long; at most {longest} bytes are possible here")


def _check_kind(target: Target) -> None:
    try:
        mode = target.path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISLNK(mode):
        raise SettingsError(f"-o {target}: this is a symbolic link; name what it points to instead")
    if target.kind == "folder":
        if not stat.S_ISDIR(mode):
            raise SettingsError(f"-o {target}: a folder is asked for, but this is a file")
    elif stat.S_ISDIR(mode):
        raise SettingsError(f"-o {target}: this is a folder; write {target}/ for a folder of parts")
    elif not stat.S_ISREG(mode):
        raise SettingsError(f"-o {target}: this is no regular file")


def _check_input(target: Target, text: str) -> None:
    given = Path(text)
    if not given.exists():
        _check_glob(target, text)
        return
    real = given.resolve()
    for path in target.written():
        if path.resolve() == real or (path.exists() and path.samefile(given)):
            raise SettingsError(f"-o {target}: {str(path)!r} is an input; an output never replaces its input")
    output = target.path.resolve()
    if given.is_dir() and output.is_relative_to(real):
        raise SettingsError(f"-o {target}: it lies inside the input folder {text!r} and would become input")
    if target.kind == "folder" and real.is_relative_to(output):
        raise SettingsError(f"-o {target}: the input {text!r} lies inside this folder")


def _check_glob(target: Target, text: str) -> None:
    if not glob.has_magic(text):
        return
    pattern = _absolute_glob(text).parts
    path = target.path.parts
    # A folder's parts stand one level below it.
    below = (f"part-00000.{target.format}",) if target.kind == "folder" else ()
    if _matches(path, pattern) or _matches(path + below, pattern):
        raise SettingsError(f"-o {target}: it matches the input {text!r} and would become input")


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path fits a glob, name by name; `**` stands for any number of folders."""
    if not path or not pattern:
        return not path and not pattern
    if pattern[0] == "**":
        return _matches(path, pattern[1:]) or _matches(path[1:], pattern)
    return fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def _check_writable(target: Target) -> None:
    nearest = target.path.parent
    while not exists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir():
        raise SettingsError(f"-o {target}: {str(nearest)!r} is not a folder")
    folders = [nearest, target.path] if target.kind == "folder" and target.path.is_dir() else [nearest]
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SettingsError(f"-o {target}: the folder {str(folder)!r} cannot be written")


def _nearest_folder(path: Path) -> Path:
    """The nearest folder that exists, from `path` upwards."""
    while not path.is_dir():
        path = path.parent
    return path


def _absolute(text: str) -> Path:
    """The path made absolute, links in its folders resolved but not its own: a linked output is refused."""
    path = Path(text)
    try:
        return path.parent.resolve() / path.name if path.name not in {"", ".."} else path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise SettingsError(f"-o {text!r}: {error}") from error


def _absolute_glob(text: str) -> Path:
    """The pattern made absolute, links resolved in the folders before its first wildcard."""
    parts = Path(text).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed]).resolve().joinpath(*parts[fixed:])
