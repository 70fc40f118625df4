"""From arguments to a `Source`: find the files, know their formats, agree on the columns."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, TypeVar

import pyarrow as pa

from batchqa.errors import InputError
from batchqa.footer import Column
from batchqa.records import Cursor, Rows
from batchqa.settings import ReadingSettings

from .csv_files import CsvReader
from .cursors import Parts, parts_of
from .formats import FileFormat, format_of, refuse_empty
from .input_files import Format, InputFile, Place, find, translated
from .jsonl import JsonlReader
from .parquet import ParquetReader
from .partitions import Partitions
from .squad_files import SquadReader
from .text_files import TextReader

Result = TypeVar("Result")

_AT_ONCE = 16
"""Remote files that are looked at at the same time."""


class Reader(Protocol):
    """Reads the files of one format. `rows` has the number of rows per file, None where it is not known.

    `lists` says that each row brings a list of questions.
    """

    schema: pa.Schema
    rows: list[int | None]
    notes: tuple[str, ...]
    lists: bool

    def read(self, start: Cursor, first_record: int) -> Iterator[Rows]:
        """The rows of file `start.file` from `start` to its end."""
        ...


STREAM = "stream"
"""The key of a file's identity that only a stream has: a number that is drawn for each reading."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The inputs of a job: what they are, and their rows.

    `schema` has the columns that pass through, as they will be written; `parquet` how Parquet is to describe
    those that come from it, where that is more than Arrow knows. With `lines` the only column holds input
    lines. `rows` is their number where it is known without reading everything. `replayable` is False where an
    input is a stream: it can be read once, from its start. `notes` are to be said once, to the user. `lists`
    says that each row brings a list of questions.
    """

    files: tuple[InputFile, ...]
    schema: pa.Schema
    parquet: Mapping[str, Column]
    lines: bool
    rows: int | None
    replayable: bool
    notes: tuple[str, ...]
    lists: bool
    _reader: Reader
    _places: tuple[Place, ...]
    _partitions: Partitions

    def read(self, start: Cursor = Cursor(), first_record: int = 0) -> Iterator[Rows]:  # noqa: B008 -- frozen
        """All rows from `start` on, in order; `first_record` is the number of the first over all files.

        Raises StorageError where data is damaged, PreconditionError where a file is no longer what it was.
        """
        for file in range(start.file, len(self.files)):
            self._places[file].check(self.files[file].identity)
            begin = start if file == start.file else Cursor(file)
            read = self._reader.read(begin, first_record)
            if self._partitions:
                read = self._partitions.added_to_rows(read, file, self.schema)
            for rows in read:
                yield rows
                first_record += len(rows)

    def has_rows(self) -> bool:
        """Whether there is a row; a stream, read only once, has some unless it is known to be empty."""
        if self.rows is not None:
            return self.rows > 0
        if self.replayable:
            return any(len(rows) for rows in self.read())
        return any(file.format != "empty" for file in self.files)

    def parts(self, part_rows: int, limit: int | None = None) -> Parts:
        """Where the parts of a job of these inputs end, up to `limit` records, without reading rows.

        Raises PreconditionError where a file is no longer what it was, InputError where it is a stream.
        """
        if not self.replayable:
            raise InputError("a stream can be read only once and cannot be split; give a file instead")
        self.check_unchanged()
        reader = self._reader
        ends_of = reader.record_ends if isinstance(reader, JsonlReader | CsvReader) else None
        return parts_of(reader.rows, ends_of, part_rows, limit)

    def check_unchanged(self, first: int = 0, stop: int | None = None) -> None:
        """Look at the files [first, stop) again, all by default.

        Raises PreconditionError where one was changed, replaced or deleted.
        """
        identities = {file.uri: file.identity for file in self.files[first:stop]}
        _of_each(self._places[first:stop], lambda place: place.check(identities[place.uri]))


def open_source(
    inputs: Sequence[str],
    settings: ReadingSettings,
    *,
    stdin: BinaryIO | None = None,
    keep_raw: bool = False,
) -> Source:
    """Find and check the inputs: files, folders, globs, URIs, `-` for JSONL on `stdin`.

    With `keep_raw`, JSONL passes through as one column `_record` with the original lines. Raises
    SettingsError and InputError for what cannot be read, StorageError for what is damaged.
    """
    found, notes = find(inputs, stdin, keys=settings.partition_columns)
    stamp_of = dict(zip((place.uri for place in found), _of_each(found, _stamp), strict=True))
    places, kinds, empty = known_formats(found, settings.max_zstd_window)
    stamps = [stamp_of[place.uri] for place in places]
    notes += empty
    partitions = Partitions(places, settings)
    reader = _reader(places, kinds, partitions.settings_of_files, keep_raw=keep_raw)
    names = reader.names if isinstance(reader, JsonlReader) else reader.schema.names
    files = tuple(
        InputFile(
            place.shown,
            place.uri,
            kind.format,
            kind.compression,
            stamp.get("size", 0),
            rows,
            _identity(place, kind.format, stamp),
        )
        for place, kind, stamp, rows in zip(places, kinds, stamps, reader.rows, strict=True)
    )
    for place, file in zip(places, files, strict=True):
        place.check(file.identity)  # nothing changed while it was looked at
        if place.tape is not None:
            place.tape.keep_no_more()
    if settings.schema is not None and isinstance(reader, ParquetReader | SquadReader | TextReader):
        notes += (f"{places[0].shown}: --schema applies to JSON and CSV; it is not used here",)
    streams = [place.shown for place in places if place.tape is not None]
    notes += tuple(f"{shown} can be read only once: this job cannot be resumed" for shown in streams)
    rows = None if None in reader.rows else sum(count or 0 for count in reader.rows)
    return Source(
        files,
        partitions.added_to(reader.schema, names),
        reader.parquet if isinstance(reader, ParquetReader) else {},
        keep_raw and isinstance(reader, JsonlReader),
        rows,
        not streams,
        notes + reader.notes,
        reader.lists,
        reader,
        tuple(places),
        partitions,
    )


def _of_each(places: Sequence[Place], function: Callable[[Place], Result]) -> list[Result]:
    """What the function says of each place; several at once where each answer is a journey."""
    if all(place.local or place.tape is not None for place in places):
        return [function(place) for place in places]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(function, places))


def _stamp(place: Place) -> dict[str, Any]:
    with translated(place.shown):
        return place.stamp()


def _identity(place: Place, kind: Format, stamp: dict[str, Any]) -> dict[str, Any]:
    """An ETag says it all; without it, part of the content is hashed. What folders say are values of rows.

    What comes through a pipe is not known before it is read, so no two streams are the same: an output or
    parts of an earlier one must not be taken for this one's.
    """
    if place.tape is not None:
        return {**stamp, STREAM: uuid.uuid4().hex}
    known = stamp if "etag" in stamp else stamp | place.digest(kind)
    if not place.keys:
        return known
    return known | {
        "keys": {key: value if value is None else str(value) for key, value in place.keys.items()}
    }


def known_formats(
    places: list[Place], max_zstd_window: int
) -> tuple[list[Place], list[FileFormat], tuple[str, ...]]:
    """The files that hold anything, their formats, and a note about those that do not hold anything.

    Spark and Hadoop write such parts. Where all are empty they are JSONL without a record. Raises InputError
    where the first may have been meant to be anything else, and for files of different formats.
    """
    kinds = _of_each(places, lambda place: format_of(place, max_zstd_window))
    full = [number for number, kind in enumerate(kinds) if kind.format != "empty"]
    if not full:
        refuse_empty(places[0])
        return places, kinds, ()
    notes: tuple[str, ...] = ()
    if len(full) < len(kinds):
        first = next(place for place, kind in zip(places, kinds, strict=True) if kind.format == "empty")
        count = f"{len(kinds) - len(full)} of {len(kinds)} files"
        notes = (f"{count} are empty and are skipped, such as {first.shown}",)
    places, kinds = [places[number] for number in full], [kinds[number] for number in full]
    for place, kind in zip(places, kinds, strict=True):
        if _reader_of(kind.format) is not _reader_of(kinds[0].format):
            raise InputError(
                f"{places[0].shown} is {kinds[0].format} and {place.shown} is {kind.format}; "
                "all inputs must have one format"
            )
    return places, kinds, notes


def _reader_of(kind: Format) -> type[Reader]:
    if kind == "parquet":
        return ParquetReader
    if kind in ("squad", "text"):
        return SquadReader if kind == "squad" else TextReader
    return CsvReader if kind == "csv" else JsonlReader


def _reader(
    places: Sequence[Place], kinds: Sequence[FileFormat], settings: ReadingSettings, *, keep_raw: bool
) -> Reader:
    reader = _reader_of(kinds[0].format)
    if reader is ParquetReader:
        return ParquetReader(places, settings, as_json=keep_raw)
    if reader is SquadReader or reader is TextReader:
        return reader(places, kinds, settings)
    return (
        CsvReader(places, kinds, settings)
        if reader is CsvReader
        else JsonlReader(places, kinds, settings, keep_raw=keep_raw)
    )
