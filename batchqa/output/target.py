"""Where an output goes, what stands beside it, and whether it may go there at all."""

from __future__ import annotations

import fnmatch
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import pyarrow.fs as pafs

from batchqa.errors import SettingsError
from batchqa.store.files import exists
from batchqa.store.layout import LONGEST_SUFFIX, REJECTS_SUFFIX, SIDECAR_SUFFIX, STAGING_SUFFIX, part_name
from batchqa.store.local import LocalStore
from batchqa.store.locations import (
    OBJECT_STORES,
    Location,
    is_uri,
    local_path,
    locate,
    public,
    translated,
    waiting_for,
)
from batchqa.store.object_store import ObjectStore
from batchqa.store.store import Store

Format = Literal["parquet", "jsonl", "csv", "tsv"]

_FORMATS: tuple[Format, ...] = ("parquet", "jsonl", "csv", "tsv")
_SUFFIXES = {f".{name}": name for name in _FORMATS}


@dataclass(frozen=True)
class Target:
    """An output, from the text of `-o`: a `LocalTarget` or an `ObjectTarget`.

    `x.parquet` is one file, and so is one of text: `x.jsonl`, `x.csv` and `x.tsv`. `-` is JSONL on standard
    output. A path with no suffix or with a trailing slash is a folder of parts: Parquet, or text when it is
    spelled like `x.jsonl/`. `store` is the folder or prefix that it is in, under the name `name`; what stands
    beside it is there too.
    """

    kind: Literal["parquet", "text", "folder", "stdout"]
    format: Format
    store: Store
    name: str
    shown: str

    @staticmethod
    def parse(text: str) -> LocalTarget | ObjectTarget:
        """Read the text of `-o`."""
        if text == "-":
            return LocalTarget("stdout", "jsonl", LocalStore(Path()), "-", "standard output", Path("-"))
        text = local_path(text)
        if not text or "\0" in text:
            raise SettingsError("-o needs the path of a file or folder")
        return _parse_uri(text) if is_uri(text) else _parse_path(text)

    @staticmethod
    def to_read(text: str) -> LocalTarget | ObjectTarget:
        """An output that is read, not written: a link is followed, such as that to the latest one."""
        path = Path(local_path(text))
        if not is_uri(text) and path.is_symlink() and path.exists():
            text = str(path.resolve())
        return Target.parse(text)

    def __str__(self) -> str:
        return self.shown

    @cached_property
    def rejects_name(self) -> str:
        """The file of the rejected lines."""
        return self.name + REJECTS_SUFFIX

    @cached_property
    def sidecar_name(self) -> str:
        """The record of a file of text."""
        return self.name + SIDECAR_SUFFIX

    @cached_property
    def staging_name(self) -> str:
        """The folder of unfinished work."""
        return self.name + STAGING_SUFFIX

    def written_names(self) -> list[str]:
        """Every name that publishing may write, the output's first."""
        return [self.name, self.rejects_name] + ([self.sidecar_name] if self.kind == "text" else [])


@dataclass(frozen=True)
class LocalTarget(Target):
    """An output on a local file system, or standard output.

    `path` is absolute; links in its folders are resolved, but it may itself be one (which `check_target`
    refuses).
    """

    path: Path

    def written(self) -> list[Path]:
        """Every path that publishing may write."""
        return [self.path.with_name(name) for name in self.written_names()]


@dataclass(frozen=True)
class ObjectTarget(Target):
    """An output in an object store: the same names as locally, as keys."""

    location: Location


def _parse_path(text: str) -> LocalTarget:
    path = _absolute(text)
    kind, form = _kind_and_format(repr(text), path.name, path.suffix, folder=text.endswith("/"))
    # a name that is no UTF-8 can be written to, but not be said as it is: JSON has no such text
    shown = str(path).encode("utf-8", "backslashreplace").decode()
    return LocalTarget(kind, form, LocalStore(path.parent), path.name, shown, path)


def _parse_uri(text: str) -> ObjectTarget:
    shown = public(text)
    scheme = shown.partition("://")[0]
    if scheme not in OBJECT_STORES:
        raise SettingsError(
            f"-o {shown}: an output must be a local path or in an object store (s3, gs, abfs)"
        )
    key = shown.split("/", 3)[3]
    name = key.rstrip("/").rpartition("/")[2]  # a bucket alone has none
    kind, form = _kind_and_format(shown, name, Path(name).suffix, folder=key.endswith("/"))
    location = replace(locate(text), key=key.rstrip("/"))
    store = ObjectStore(replace(location, key=location.key.rpartition("/")[0]))
    return ObjectTarget(kind, form, store, location.name, location.uri, location)


def _kind_and_format(
    shown: str, name: str, suffix: str, *, folder: bool
) -> tuple[Literal["parquet", "text", "folder"], Format]:
    suffix = suffix.lower()
    if not name or suffix == STAGING_SUFFIX:
        raise SettingsError(f"-o {shown}: this cannot be an output; give the path of a file or folder")
    if folder or not suffix:
        return "folder", _SUFFIXES.get(suffix, "parquet")
    if suffix not in _SUFFIXES:
        raise SettingsError(
            f"-o {shown}: {suffix} is not a known format; use .parquet, .jsonl, .csv, .tsv, - for standard"
            " output, or a trailing / for a folder of parts"
        )
    return "parquet" if suffix == ".parquet" else "text", _SUFFIXES[suffix]


def check_target(target: LocalTarget | ObjectTarget, inputs: Sequence[str], overwrite: bool) -> None:
    """Refuse an output that cannot be, before anything is created (SettingsError, exit 2).

    `inputs` are the arguments as they were given (files, folders, globs, URIs) and the files that they stand
    for. Refused are an output that is an input under any name, or that a folder or glob of the inputs would
    read the next time; links; things that are no files; folders that cannot be written.
    """
    if target.kind == "stdout":
        return
    if isinstance(target, ObjectTarget):
        _check_object_target(target, [public(text) for text in inputs if is_uri(text)])
        return
    _check_name(target)
    _check_kind(target)
    output = target.path.resolve()
    written = {path: path.resolve() for path in target.written()}
    for text in inputs:
        if not is_uri(text):
            _check_input(target, local_path(text), output, written)
    # A finished output in a read-only folder is still "already done".
    if overwrite or not exists(target.path):
        _check_writable(target)


def space_shortage(target: Target, output_bytes: int) -> str | None:
    """A sentence about too little free space for an output of about `output_bytes`, else None.

    `output_bytes` is the size of the finished output. One-file outputs need about twice that, because the
    parts are kept until the whole is published; those in an object store need it once, in the folder for
    temporary files. The figure is an estimate: whether it ends the run is the caller's to decide.
    """
    if isinstance(target, ObjectTarget):
        scratch = tempfile.gettempdir()
        free = shutil.disk_usage(scratch).free
        if target.kind == "folder" or free >= output_bytes:
            return None
        return _shortage(
            f"{scratch}, where {target} is assembled", output_bytes, free, "set TMPDIR to use another folder"
        )
    if not isinstance(target, LocalTarget) or target.kind == "stdout":
        return None
    in_place = target.kind == "folder" and target.format == "parquet"
    needed = output_bytes if in_place else 2 * output_bytes
    free = shutil.disk_usage(_nearest_folder(target.path)).free
    if free >= needed:
        return None
    hint = "" if in_place else "a folder as output, -o NAME/, needs about half"
    return _shortage(str(target), needed, free, hint)


def _shortage(where: str, needed: int, free: int, hint: str) -> str:
    text = f"{where}: about {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free"
    return f"{text} ({hint})" if hint else text


def _check_object_target(target: ObjectTarget, inputs: Sequence[str]) -> None:
    """The same for an object store; `inputs` are public URIs."""
    output = target.location.uri
    written = [target.store.show(name) for name in target.written_names()]
    for text in inputs:
        if text.rstrip("/") in written:
            raise SettingsError(f"-o {target}: {text} is an input, which an output never replaces")
        if output.startswith(text.rstrip("/") + "/"):
            raise SettingsError(f"-o {target}: it lies below the input {text} and would become an input")
        if target.kind == "folder" and text.startswith(output + "/"):
            raise SettingsError(f"-o {target}: the input {text} lies inside this folder")
        if glob.has_magic(text):
            _check_match(target, text, output.split("/"), text.split("/"))
    with translated(output):
        there = waiting_for(target.location.filesystem.get_file_info, target.location.path)
    if there.type is pafs.FileType.Directory and target.kind != "folder":
        raise SettingsError(f"-o {target}: this is a folder; write {target}/ for a folder of parts")
    if there.type is pafs.FileType.File and target.kind == "folder" and there.size:
        raise SettingsError(f"-o {target}: a folder was asked for, but this is an object")


def _check_name(target: LocalTarget) -> None:
    try:
        target.path.parent.stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SettingsError(f"-o {target}: {error.strerror}") from error
    longest = os.pathconf(_nearest_folder(target.path), "PC_NAME_MAX") - len(LONGEST_SUFFIX)
    if len(os.fsencode(target.path.name)) > longest:
        raise SettingsError(f"-o {target}: the name is too long; at most {longest} bytes are possible here")


def _check_kind(target: LocalTarget) -> None:
    try:
        mode = target.path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISLNK(mode):
        raise SettingsError(f"-o {target}: this is a symbolic link; give the path that it points to")
    if target.kind == "folder":
        if not stat.S_ISDIR(mode):
            raise SettingsError(f"-o {target}: a folder was asked for, but this is a file")
    elif stat.S_ISDIR(mode):
        raise SettingsError(f"-o {target}: this is a folder; write {target}/ for a folder of parts")
    elif not stat.S_ISREG(mode):
        raise SettingsError(f"-o {target}: this is not a regular file")


def _check_input(target: LocalTarget, text: str, output: Path, written: Mapping[Path, Path]) -> None:
    """`output` and the values of `written` are the target's paths with their links resolved."""
    try:
        status = os.stat(text)  # noqa: PTH116 -- for each of many files: a Path costs more than this
    except (OSError, ValueError):
        _check_glob(target, text)
        return
    real = os.path.realpath(text)
    for path, resolved in written.items():
        if str(resolved) == real or (path.exists() and os.path.samestat(path.stat(), status)):
            raise SettingsError(f"-o {target}: {str(path)!r} is an input, which an output never replaces")
    if stat.S_ISDIR(status.st_mode) and output.is_relative_to(real):
        raise SettingsError(
            f"-o {target}: it lies inside the input folder {text!r} and would become an input"
        )
    if target.kind == "folder" and real.startswith(f"{output}{os.sep}"):
        raise SettingsError(f"-o {target}: the input {text!r} lies inside this folder")


def _check_glob(target: LocalTarget, text: str) -> None:
    if not glob.has_magic(text):
        return
    _check_match(target, text, target.path.parts, _absolute_glob(text).parts)


def _check_match(target: Target, text: str, path: Sequence[str], pattern: Sequence[str]) -> None:
    # A folder's parts stand one level below it.
    below = (part_name(0, target.format),) if target.kind == "folder" else ()
    if _matches(path, pattern) or _matches((*path, *below), pattern):
        raise SettingsError(f"-o {target}: it matches the input {text!r} and would become an input")


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path fits a glob, name by name; `**` stands for any number of folders."""
    if not path or not pattern:
        return not path and not pattern
    if pattern[0] == "**":
        return _matches(path, pattern[1:]) or _matches(path[1:], pattern)
    return fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def _check_writable(target: LocalTarget) -> None:
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
