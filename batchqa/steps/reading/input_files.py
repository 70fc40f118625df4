"""Input files: finding them, opening them, and knowing one again.

Everything goes through pyarrow's file systems, so that a local path and an object store's URI are read by
the same code. Standard input and pipes can be read once only; what planning reads of them is kept (`Tape`).
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.fs as pafs

from batchqa.errors import (
    BatchqaError,
    InputError,
    NoInputError,
    PreconditionError,
    SettingsError,
    StorageError,
)
from batchqa.store import layout
from batchqa.store.locations import is_uri, local_path, locate, trouble

from .input_names import NOT_FINISHED, is_hidden, literal_parts, near, remote_paths
from .partitions import with_keys
from .table_formats import live
from .tape import Tape

Format = Literal["parquet", "jsonl", "json", "csv", "squad", "text", "empty"]
"""`json` is an array of objects, whose items are read like lines; `text` a document; `empty` blank."""

Compression = Literal["none", "gzip", "zstd"]

MIB = 2**20
_LOCAL = pafs.LocalFileSystem()


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input as it was when the job was planned. `rows` is None where only reading would tell.

    `path` is how messages name it and `uri` where it is, both without credentials; `size` is in bytes as
    stored, 0 for a stream. `identity` is what tells this file from a changed one: an object's size and ETag;
    else size, mtime_ns, device and inode (local files), and the sha256 of a Parquet footer or of the first
    and last MiB.
    """

    path: str
    uri: str
    format: Format
    compression: Compression
    size: int
    rows: int | None
    identity: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where one input is: how messages name it, its absolute URI, and how it is opened.

    `keys` are values that its folders give to all its rows, as columns.
    """

    shown: str
    uri: str
    filesystem: pafs.FileSystem
    path: str
    tape: Tape | None = None
    keys: Mapping[str, Any] = field(default_factory=dict)

    @property
    def in_rows(self) -> str:
        """How rows name it: by its absolute path or URI, however it was named and from which folder.

        So all processes of a job write the same, wherever they run.
        """
        return self.path if self.local else self.shown

    @property
    def local(self) -> bool:
        """Whether it is a file of this machine, with an inode."""
        return self.tape is None and isinstance(self.filesystem, pafs.LocalFileSystem)

    def open(self) -> pa.NativeFile:
        """Open its bytes as stored, from the first; seekable unless it is a stream."""
        if self.tape is not None:
            self.tape.rewind()
            return pa.PythonFile(self.tape, mode="r")
        with translated(self.shown):
            return self.filesystem.open_input_file(self.path)

    def stamp(self) -> dict[str, Any]:
        """What changes when the file is written to or replaced; nothing for a stream.

        Raises FileNotFoundError where it is gone.
        """
        if self.tape is not None:
            return {}
        if self.local:
            status = os.stat(self.path)  # noqa: PTH116 -- four times for each file: a Path costs more than this
            return {
                "size": status.st_size,
                "mtime_ns": status.st_mtime_ns,
                "device": status.st_dev,
                "inode": status.st_ino,
            }
        with self.filesystem.open_input_file(self.path) as raw:
            size, metadata = raw.size(), raw.metadata() or {}
        etag = next((value for name, value in metadata.items() if name.lower() == "etag"), b"")
        if etag:
            return {"size": size, "etag": etag.decode("ascii", "replace").strip('"')}
        return {"size": size, "mtime_ns": self.filesystem.get_file_info(self.path).mtime_ns}

    def digest(self, file_format: Format) -> dict[str, Any]:
        """The sha256 of the Parquet footer, or of the first and last MiB; nothing for a stream."""
        if self.tape is not None:
            return {}
        with translated(self.shown), self.open() as raw:
            return _digest(raw, raw.size(), file_format)

    def check(self, identity: dict[str, Any]) -> None:
        """Raise PreconditionError where the file is no longer the one that had `identity`."""
        try:
            stamp = self.stamp()
        except FileNotFoundError:
            raise PreconditionError(f"{self.shown} was deleted after the job started; put it back") from None
        except OSError as error:
            raise self.failure(error, f"{self.shown} cannot be inspected") from error
        changed = [name for name, value in stamp.items() if value != identity.get(name)]
        if changed:
            how = "replaced" if "inode" in changed or "device" in changed else "changed"
            raise PreconditionError(
                f"{self.shown} was {how} after the job started ({', '.join(changed)} differ); "
                "start over with --restart"
            )

    def failure(self, error: BaseException, what: str) -> BatchqaError:
        """The error of ours for a library's about this input: damage (`what` says where), or the network."""
        network = None if self.local else trouble(self.shown, error)
        return network or StorageError(f"{what}: {reason(error)}")


def reason(error: BaseException) -> str:
    """The first line of a library's message, without the repetition that pyarrow appends."""
    text = str(error).split("\n", 1)[0].split(". Detail:", 1)[0]
    return text or type(error).__name__


@contextmanager
def translated(shown: str) -> Iterator[None]:
    """Turn the operating system's errors about an input into ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise NoInputError(f"{shown} does not exist") from error
    except PermissionError as error:
        raise InputError(f"{shown} cannot be read: permission denied") from error
    except OSError as error:
        raise trouble(shown, error) or StorageError(f"{shown} cannot be read: {reason(error)}") from error


def find(
    inputs: Sequence[str], stdin: BinaryIO | None, *, keys: bool = False, unfinished: bool = False
) -> tuple[list[Place], tuple[str, ...]]:
    """The files that the arguments name, in order, and what is to be said about them.

    With `keys` they have those of their `key=value` folders. Raises InputError for an argument that names
    nothing, or the output of a job that is not finished unless `unfinished` allows it; SettingsError for a
    file that is named twice.
    """
    places: list[Place] = []
    notes: list[str] = []
    missing: list[NoInputError] = []
    for argument in inputs:
        try:
            found = [_standard_input(stdin)] if argument == "-" else _named_by(argument, unfinished)
        except NoInputError as error:
            missing.append(error)
            continue
        found = live(argument, found)
        if keys:
            found = [with_keys(place) for place in found]
        places += found
        keyed = next((place for place in found if not place.keys and _has_key_folders(place, argument)), None)
        if keyed:
            notes.append(
                f"{keyed.shown}: key=value folders are not read as columns; --partition-columns does that"
            )
    if missing:  # beside inputs that are there it is a mistake, and the job would be incomplete
        raise InputError(str(missing[0])) if places else missing[0]
    if not places:
        raise InputError("no input was given")
    seen: dict[str, str] = {}
    for place in places:
        if (first := seen.get(place.uri)) is not None:
            same = "" if first == place.shown else f" (it is the same file as {first})"
            raise SettingsError(f"{place.shown} is named twice{same}; give every input once")
        seen[place.uri] = place.shown
    return places, tuple(dict.fromkeys(notes))


def is_unfinished(folder: Path) -> bool:
    """Whether a folder is the output of a job that has not been finished: rows may be missing there."""
    return (folder / layout.JOB).is_file() and not (folder / layout.SUCCESS).exists()


def _named_by(argument: str, unfinished: bool) -> list[Place]:
    if is_uri(argument):
        return _remote(argument, unfinished)
    local = local_path(argument)
    with translated(argument):
        if _exists(local):
            paths = _below(local, unfinished) if Path(local).is_dir() else [local]
            if not paths:
                raise NoInputError(
                    f"{argument} is a folder with no input file in it (a leading _ or . hides a file)"
                )
        elif glob.has_magic(local):
            paths = _matching(local, unfinished)
            if not paths:
                raise NoInputError(f"no file matches {argument}")
        elif Path(local).is_symlink():
            raise InputError(f"{argument} is a link to a file that does not exist")
        elif Path(local.rstrip("/") + layout.STAGING_SUFFIX).is_dir():
            raise InputError(f"{argument} {NOT_FINISHED}")
        else:
            raise NoInputError(f"{argument} does not exist; {near(Path(local))}")
        return [_local_place(path) for path in paths]


def _exists(path: str) -> bool:
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (ValueError, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        raise InputError(f"{path!r} is not a path: {reason(error)}") from error
    return True


def _local_place(path: str) -> Place:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(f"{path!r}: the file's name is not UTF-8; rename it") from None
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:  # found in a folder: this is no input that is not there
        if Path(path).is_symlink():
            raise InputError(f"{path} is a link to a file that does not exist; remove it") from None
        raise InputError(f"{path} has just been deleted; try again") from None
    if stat.S_ISREG(mode):
        real = os.path.realpath(path)
        return Place(path, Path(real).as_uri(), _LOCAL, real)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):  # no realpath: that of /dev/fd/63 is no path
        return Place(
            path, Path(path).absolute().as_uri(), _LOCAL, path, Tape(Path(path).open("rb"), owned=True)
        )
    raise InputError(f"{path} is neither a file nor a pipe")


def _standard_input(stdin: BinaryIO | None) -> Place:
    if stdin is None:
        if sys.stdin is None or sys.stdin.closed:
            raise InputError("standard input (-) is closed, nothing can be read from it; give a file")
        stdin = sys.stdin.buffer
    return Place("standard input", "-", _LOCAL, "-", Tape(stdin, owned=False))


def _below(folder: str, unfinished: bool) -> list[str]:
    """The files anywhere below a folder, sorted bytewise by path; links to folders are followed once."""
    found: list[str] = []
    visited: set[str] = set()

    def fail(error: OSError) -> None:
        raise error

    for here, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        if not unfinished and layout.CONTROL in folders and is_unfinished(Path(here)):
            raise InputError(f"{here} {NOT_FINISHED}")
        folders[:] = [name for name in folders if not is_hidden(name)]
        real = os.path.realpath(here)
        if real in visited:  # a link back up
            folders.clear()
            continue
        visited.add(real)
        found += [str(Path(here, name)) for name in names if not is_hidden(name)]
    return sorted(found, key=os.fsencode)


def _matching(pattern: str, unfinished: bool) -> list[str]:
    paths: list[str] = []
    for path in glob.glob(pattern, recursive=True):  # noqa: PTH207 -- Path.glob takes no absolute pattern
        inner = PurePosixPath(path).parts[len(literal_parts(pattern)) :]
        if any(is_hidden(part) for part in inner):
            continue
        paths += _below(path, unfinished) if Path(path).is_dir() else [path]
    # `**` names a folder and what is in it: once is enough
    return sorted(set(paths), key=os.fsencode)


def _has_key_folders(place: Place, argument: str) -> bool:
    inside = PurePosixPath(place.shown).parent.parts[len(literal_parts(argument)) :]
    return place.tape is None and any(re.fullmatch(r"[^=]+=[^=]*", part) for part in inside)


def _remote(uri: str, unfinished: bool) -> list[Place]:
    """The objects that a URI of an object store names: one, or all below a prefix, or those of a glob."""
    start = locate(uri)
    with translated(start.uri):
        found = [start.at(path) for path in remote_paths(start.filesystem, start.path, start.uri, unfinished)]
    return [Place(place.uri, place.uri, place.filesystem, place.path) for place in found]


def _digest(raw: pa.NativeFile, size: int, file_format: Format) -> dict[str, Any]:
    if file_format == "parquet":
        raw.seek(size - 8)
        footer = int.from_bytes(raw.read(4), "little") + 8
        raw.seek(size - footer)
        return {"sha256": hashlib.sha256(raw.read(footer)).hexdigest(), "hashed": "footer"}
    digest = hashlib.sha256(raw.read(MIB))
    if size > MIB:
        raw.seek(max(MIB, size - MIB))
        digest.update(raw.read(MIB))
    return {"sha256": digest.hexdigest(), "hashed": "first and last MiB"}
