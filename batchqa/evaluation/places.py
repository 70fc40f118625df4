"""Where a file to be evaluated is, here or in an object store; opened, and looked through compression."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.fs as pafs

from batchqa.errors import BatchqaError, InputError, StorageError
from batchqa.store.locations import is_uri, locate, trouble

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_MARKERS = ("_", ".")
_FOLDER_MARKER = "_$folder$"


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder. `given` is what a run is given; `str()` is for people, without credentials."""

    given: str
    shown: str
    path: str
    filesystem: pafs.FileSystem = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.shown

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return PurePosixPath(self.path).stem

    def beside(self, suffix: str) -> Place:
        """The file of this name with `suffix` behind it."""
        return replace(self, shown=self.shown + suffix, path=self.path + suffix)

    @property
    def is_file(self) -> bool:
        """Whether there is such a file now."""
        with reading(self):
            return bool(self.filesystem.get_file_info(self.path).type == pafs.FileType.File)

    def files(self) -> tuple[Place, ...]:
        """The file itself, or a folder's part files by name. Raises InputError where there is none."""
        with reading(self):
            kind = self.filesystem.get_file_info(self.path).type
            if kind == pafs.FileType.NotFound:
                raise InputError(f"{self}: there is no such file")
            if kind != pafs.FileType.Directory:
                return (self,)
            found = self.filesystem.get_file_info(pafs.FileSelector(self.path))
        parts = [
            replace(self, shown=f"{self.shown.rstrip('/')}/{file.base_name}", path=file.path)
            for file in sorted(found, key=lambda file: file.base_name.encode())
            if file.type == pafs.FileType.File
            and not file.base_name.startswith(_MARKERS)
            and not file.base_name.endswith((_FOLDER_MARKER, ".json"))
        ]
        if not parts:
            raise InputError(f"{self}: the folder holds no Parquet or JSONL files")
        return tuple(parts)

    def open_at_random(self) -> pa.NativeFile:
        """The stored bytes, to be read from any place; mapped into memory where that can be."""
        with reading(self):
            if isinstance(self.filesystem, pafs.LocalFileSystem):
                return pa.memory_map(self.path)
            return self.filesystem.open_input_file(self.path)

    @contextmanager
    def open_text(self) -> Iterator[pa.NativeFile]:
        """The bytes in order, decompressed where their beginning says that they are gzip or zstd."""
        with reading(self):
            with self.filesystem.open_input_stream(self.path, compression=None) as stream:
                magic = stream.read(4)
            stream = self.filesystem.open_input_stream(self.path, compression=None)
        kind = next((kind for mark, kind in _MAGIC.items() if magic.startswith(mark)), None)
        with stream, pa.CompressedInputStream(stream, kind) if kind else stream as text:
            yield text


def place_of(given: str | os.PathLike[str]) -> Place:
    """The place that a path or an object store's URI names. Raises SettingsError for a URI that cannot be."""
    text = os.fspath(given)
    if not is_uri(text):
        return Place(text, text, str(Path(text).absolute()), pafs.LocalFileSystem())
    location = locate(text)
    return Place(text, location.uri, location.path, location.filesystem)


@contextmanager
def reading(place: Place) -> Iterator[None]:
    """What the file system raises in the block becomes our error, with the place."""
    try:
        yield
    except BatchqaError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{place}: there is no such file") from error
    except (OSError, pa.ArrowException) as error:
        known = trouble(place.shown, error)
        raise known or StorageError(f"{place} cannot be read: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or what kind of error it is."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
