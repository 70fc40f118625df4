"""The calls that the promise rests on, on object stores: put a whole object, read, list, remove.

The counterpart of `files`: nothing else in the package writes or removes objects of an output. An object
appears at its key complete or not at all, and replaces what was there in one step; nothing is renamed. All
raise errors of `batchqa.errors` for what the store says, `OSError` only for the local disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from batchqa.errors import InputError, StorageError
from batchqa.store import files
from batchqa.store.conditional import put_new
from batchqa.store.locations import Location, again, translated, waiting_for

_COPY_BYTES = 8 * 2**20


def put(file: Path, to: Location) -> None:
    """Upload a finished local file whole; when this returns the object is there, durable."""
    # Mapped, so that a large file is not read into memory; an empty one cannot be mapped.
    source = pa.memory_map(str(file)) if file.stat().st_size else pa.BufferReader(b"")
    with source, _refused(to):
        waiting_for(_upload, source.read_buffer(), to)


def put_bytes(data: bytes, to: Location) -> None:
    """Write a small object."""
    with _refused(to):
        waiting_for(_upload, pa.py_buffer(data), to)


def put_if_absent(data: bytes, to: Location) -> bool:
    """Create a small object unless there is one; whether this call did.

    On S3 by a conditional write (If-None-Match), which pyarrow does not have: botocore is needed (the extra
    `s3`). Elsewhere the key is looked at before, which leaves a moment for another run to come between; the
    caller must look at what is there afterwards. An answer that was lost, too, can make a False of a True.
    """
    if get(to) is not None:
        return False
    with _refused(to):
        written: bool | None = waiting_for(put_new, data, to)
    if written is None:
        put_bytes(data, to)
    return written is not False


def _upload(data: pa.Buffer, to: Location) -> None:
    # One write of all the data. A stream that is closed, or only forgotten, after an exception between two
    # writes completes its upload, and a cut-off object is published (pyarrow 26).
    stream = to.filesystem.open_output_stream(to.path)
    stream.write(data)
    stream.close()


def get(place: Location) -> bytes | None:
    """A small object's content, None where there is none."""

    def read() -> bytes:
        with place.filesystem.open_input_file(place.path) as source:
            return bytes(source.read())

    with suppress(FileNotFoundError), translated(str(place)):
        content: bytes = waiting_for(again, read)
        return content
    return None


def fetch(place: Location, file: Path) -> None:
    """Copy an object to a new local file. FileNotFoundError where there is no such object."""

    def copy() -> None:
        files.remove(file)
        with place.filesystem.open_input_file(place.path) as source, files.create(file) as out:
            while piece := source.read(_COPY_BYTES):
                out.write(piece)

    with translated(str(place)):
        waiting_for(again, copy)


@contextmanager
def opened(place: Location) -> Iterator[pa.NativeFile]:
    """An object opened for reading. FileNotFoundError where there is none."""
    with translated(str(place)), waiting_for(place.filesystem.open_input_file, place.path) as source:
        yield source


def size(place: Location) -> int | None:
    """An object's bytes, None where there is none."""
    with translated(str(place)):
        info: pafs.FileInfo = waiting_for(place.filesystem.get_file_info, place.path)
    return int(info.size) if info.type is pafs.FileType.File else None


def below(root: Location) -> dict[str, int]:
    """The objects below a prefix: their names from there on, and their bytes."""
    selector = pafs.FileSelector(root.path, recursive=True, allow_not_found=True)
    with translated(str(root)):
        entries: list[Any] = waiting_for(root.filesystem.get_file_info, selector)
    start = len(root.path) + 1
    return {entry.path[start:]: int(entry.size) for entry in entries if entry.type is pafs.FileType.File}


def remove(place: Location) -> None:
    """Remove an object; one that is not there is as good."""
    with suppress(FileNotFoundError), translated(str(place)):
        waiting_for(place.filesystem.delete_file, place.path)


def remove_below(root: Location) -> None:
    """Remove all objects below a prefix, whoever's they are, in as few requests as possible."""
    with suppress(FileNotFoundError), translated(str(root)):
        waiting_for(root.filesystem.delete_dir, root.path)


@contextmanager
def _refused(to: Location) -> Iterator[None]:
    """Writing: a store's error as ours; here a bucket that is not there is no input."""
    try:
        with translated(str(to)):
            yield
    except InputError as error:
        raise StorageError(str(error)) from error
