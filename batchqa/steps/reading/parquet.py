"""Parquet: streamed row group by row group, in batches whose size comes from the metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from batchqa.errors import InputError, NoInputError, StorageError
from batchqa.footer import SCHEMA, Column, columns_of, decode_closing, has_int96
from batchqa.records import Cursor, Rows
from batchqa.settings import ReadingSettings
from batchqa.store.locations import read_at, trouble

from .columns import BATCH_BYTES, MAX_ROWS, ColumnPlan, decoded_bytes, passed_through, pieces
from .input_files import MIB, Place, reason
from .int96 import Unit, look
from .parquet_descriptions import descriptions, refuse_without_json
from .union import conformed, united
from .unreadable_columns import readable_part

_BOMB_BYTES = 64 * MIB
"""The most that one decoded batch may hold where a small dictionary could stand for large cells."""


@dataclass(frozen=True, slots=True, eq=False)
class _Kind:
    """What files with one and the same schema have in common; `shown` is the first of them.

    `refused` are columns that pyarrow cannot read, with their types, `twice` names that two columns have;
    `columns` has all columns.
    """

    shown: str
    text: str
    schema: pa.Schema
    columns: dict[str, Column]
    refused: dict[str, str]
    twice: frozenset[str]


class ParquetReader:
    """All Parquet inputs of a job, as one table.

    With `as_json` the output is JSON lines, which have no form for some types.
    """

    def __init__(self, places: Sequence[Place], settings: ReadingSettings, *, as_json: bool = False) -> None:
        self._places = places
        self.notes: tuple[str, ...] = ()
        kinds = self._look("us")
        names = list(dict.fromkeys(name for kind in kinds for name in kind.columns))
        where = kinds[0].shown if len(kinds) == 1 else f"{kinds[0].shown} and the following files"
        kept = passed_through(names, settings, where)
        for kind in kinds:
            _check_kept(kind, kept, settings)
        if self._needs_nanoseconds(kept):
            kinds = self._look("ns")
        union = united([(kind.shown, kind.schema) for kind in kinds], kept)
        of_union = replace(settings, drop=tuple(name for name in settings.drop if name in union.names))
        self._plan = ColumnPlan.of(union, of_union, where)
        self.schema = self._plan.schema
        self.lists = self._plan.lists
        self._only_read = [union.field(path[0]) for path in self._plan.only_read]
        described = [(kind.shown, kind.columns) for kind in kinds]
        self.parquet: Mapping[str, Column] = {} if as_json else descriptions(self.schema, described)
        if as_json:
            refuse_without_json(described, kept)

    def _look(self, unit: Unit) -> list[_Kind]:
        """Open every file; what INT96 is read as is decided by then. Returns the kinds of files there are."""
        self._unit = unit
        self.rows: list[int | None] = []
        self._kind_of: list[_Kind] = []
        kinds: list[_Kind] = []
        for place in self._places:
            with _opened(place, unit) as opened:
                self.rows.append(_rows_of(opened.file.metadata, place.shown))
                self._kind_of.append(_kind(kinds, place, opened))
        return kinds

    def _needs_nanoseconds(self, kept: Sequence[str]) -> bool:
        """Look through INT96 columns. Raises InputError where no one unit holds all that is in them."""
        fine: set[str] = set()
        far: dict[str, str] = {}
        for place, kind in zip(self._places, self._kind_of, strict=True):
            names = [name for name in kept if has_int96(kind.columns.get(name, ()))]
            if not names:
                continue
            with _opened(place) as in_us, _opened(place, "ns") as in_ns:
                try:
                    of_file = look(in_us.file, in_ns.file, names)
                except (OSError, pa.ArrowException) as error:
                    raise place.failure(error, f"{place.shown}: the data is damaged") from error
            fine |= of_file[0]
            far |= dict.fromkeys(of_file[1], place.shown)
        if fine and far:
            name, shown = next(iter(far.items()))
            raise InputError(
                f"{shown}: column {name!r} is INT96 with years beyond 1677 to 2262, which need microseconds, "
                f"and column {min(fine)!r} has nanoseconds; leave one of them out, with --drop {name}"
            )
        return bool(fine)

    def read(self, start: Cursor, first_record: int) -> Iterator[Rows]:
        """The rows of one file from `start` to its end; whole row groups before it are not read."""
        place = self._places[start.file]
        row = 0  # of the file, before the batch
        with _opened(place, self._unit) as opened:
            raw, file = opened.raw, opened.file
            for group in range(file.metadata.num_row_groups):
                rows_of_group = file.metadata.row_group(group).num_rows
                skip = min(max(start.row - row, 0), rows_of_group)
                row += skip
                if skip == rows_of_group:
                    continue
                for batch in self._batches(place, raw, file, group, skip):
                    yield self._rows(batch, place, Cursor(start.file, row), first_record)
                    row += batch.num_rows
                    first_record += batch.num_rows

    def _rows(self, batch: pa.RecordBatch, place: Place, begin: Cursor, first_record: int) -> Rows:
        def locate(row: int) -> str:
            return f"{place.in_rows}, row {begin.row + row + 1}"

        wanted = self._of_batch(batch.schema)
        try:
            if not batch.schema.equals(wanted):
                batch = conformed(batch, wanted)
        except pa.ArrowException as error:
            raise StorageError(
                f"{locate(0)} and following rows: a value does not fit the type of the other files: "
                f"{reason(error)}"
            ) from error
        return self._plan.rows(batch, locate, first_record, begin)

    def _batches(
        self, place: Place, raw: pa.NativeFile, file: pq.ParquetFile, group: int, skip: int
    ) -> Iterator[pa.RecordBatch]:
        """A row group's rows after the first `skip`, small batches joined and large ones cut."""
        waiting: list[pa.RecordBatch] = []
        rows = size = 0
        for decoded in self._decoded(place, raw, file, group):
            batch = decoded.slice(skip)
            skip -= decoded.num_rows - batch.num_rows
            if batch.num_rows == 0:
                continue
            size_of_batch = decoded_bytes(batch)
            if waiting and (rows + batch.num_rows > MAX_ROWS or size + size_of_batch > BATCH_BYTES):
                yield _joined(waiting)
                waiting, rows, size = [], 0, 0
            if size_of_batch > BATCH_BYTES:
                yield from pieces(batch)
                continue
            waiting.append(batch)
            rows += batch.num_rows
            size += size_of_batch
        if waiting:
            yield _joined(waiting)

    def _decoded(
        self, place: Place, raw: pa.NativeFile, file: pq.ParquetFile, group: int
    ) -> Iterator[pa.RecordBatch]:
        """The batches of a row group as pyarrow decodes them; what fails is a StorageError."""
        try:
            # One row first: where a chunk's metadata is damaged this is an error, while asking the metadata
            # itself, as _batch_rows does, would abort the process (pyarrow 26).
            next(self._iterate(file, group, 1), None)
            missing = file.metadata.row_group(group).num_rows
            for batch in self._iterate(file, group, self._batch_rows(raw, file, group)):
                missing -= batch.num_rows
                yield batch
            if missing:
                raise StorageError(
                    f"{place.shown}, row group {group}: it does not hold as many rows as its footer says"
                )
        except (OSError, pa.ArrowException) as error:
            raise place.failure(
                error, f"{place.shown}, row group {group}: the data is damaged or cannot be read"
            ) from error

    def _iterate(self, file: pq.ParquetFile, group: int, batch_rows: int) -> Iterator[pa.RecordBatch]:
        batches: Iterator[pa.RecordBatch] = file.iter_batches(
            batch_size=batch_rows,
            row_groups=[group],
            columns=self._plan.needed(file.schema_arrow.names),
            use_threads=False,  # the cores belong to the inference
        )
        return batches

    def _of_batch(self, own: pa.Schema) -> pa.Schema:
        """What a batch is made to have: the columns that pass through, and texts as they are in its file."""
        texts = {
            field.name: own.field(field.name) if field.name in own.names else field
            for field in self._only_read
        }
        return pa.schema([*self.schema, *texts.values()])

    def _batch_rows(self, raw: pa.NativeFile, file: pq.ParquetFile, group: int) -> int:
        """Rows to decode at once: about BATCH_BYTES by the average, at most _BOMB_BYTES by the worst case.

        The worst case is that every cell is the largest that a dictionary can hold: 475 bytes of Parquet
        can stand for 2 GB of text, and the metadata does not say so.
        """
        metadata = file.metadata.row_group(group)
        wanted = self._plan.needed(file.schema_arrow.names)
        chunks = [
            metadata.column(leaf)
            for leaf in range(metadata.num_columns)
            if any(f"{file.schema.column(leaf).path}.".startswith(f"{name}.") for name in wanted)
        ]
        rows = max(metadata.num_rows, 1)
        average: int = sum(chunk.total_uncompressed_size for chunk in chunks) // rows
        worst = sum(_largest_repeated_cell(raw, chunk) for chunk in chunks)
        return int(max(1, min(MAX_ROWS, BATCH_BYTES // max(average, 1), _BOMB_BYTES // max(worst, 1))))


@contextmanager
def opened_columns(place: Place, repeated: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """A file to read columns of by name; those of texts that are `repeated` come as dictionaries.

    Raises InputError where it is no sound Parquet file.
    """
    with _opened(place) as opened:
        _rows_of(opened.file.metadata, place.shown)
        names = [name for name in repeated if name in opened.file.schema_arrow.names]
        yield _parquet_file(opened.raw, "us", opened.file.metadata, names) if names else opened.file


def _rows_of(metadata: pq.FileMetaData, shown: str) -> int:
    """The number of rows, on which the file and its row groups must agree."""
    rows = int(metadata.num_rows)
    if rows != sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)):
        raise InputError(f"{shown} is not a valid Parquet file: its row groups do not add up to its rows")
    return rows


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A file that is open; `refused` are columns that pyarrow cannot read and `file` has not, with types."""

    raw: pa.NativeFile
    file: pq.ParquetFile
    refused: dict[str, str]


@contextmanager
def _opened(place: Place, unit: Unit = "us") -> Iterator[_Opened]:
    with place.open() as raw:
        if raw.size() == 0:
            raise NoInputError(f"{place.shown} is empty (0 bytes); create it again, or leave it out")
        refused: dict[str, str] = {}
        try:
            file = _parquet_file(raw, unit)
            encrypted = _has_encrypted_columns(raw, file.metadata)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            network = None if place.local else trouble(place.shown, error)
            if network:
                raise network from error
            if _ends_encrypted(raw):
                raise _encrypted(place) from error
            readable = readable_part(raw)
            if readable is None:
                raise InputError(
                    f"{place.shown} is not a complete Parquet file (its footer cannot be read: "
                    f"{reason(error)}); copy or create it again"
                ) from error
            metadata, refused = readable
            file, encrypted = _parquet_file(raw, unit, metadata), False
        with file:
            if encrypted:
                raise _encrypted(place)
            yield _Opened(raw, file, refused)


def _parquet_file(
    raw: pa.NativeFile,
    unit: Unit,
    metadata: pq.FileMetaData | None = None,
    read_dictionary: Sequence[str] = (),
) -> pq.ParquetFile:
    # read through a buffer: neither mapped (a shrinking file would be a SIGBUS) nor read ahead whole
    file = pq.ParquetFile(
        raw,
        metadata=metadata,
        memory_map=False,
        pre_buffer=False,
        buffer_size=MIB,
        coerce_int96_timestamp_unit=unit,
        page_checksum_verification=True,
        read_dictionary=list(read_dictionary) or None,
    )
    file.schema_arrow.to_string()  # decodes the names of all columns
    return file


def _kind(kinds: list[_Kind], place: Place, opened: _Opened) -> _Kind:
    """The one of the `kinds` that a file is of; a new one joins them."""
    # its first line is the object's address: with it every file would be a kind of its own, all compared
    text, schema = str(opened.file.schema).partition("\n")[2], opened.file.schema_arrow
    for kind in kinds:
        if kind.text == text and kind.schema.equals(schema) and kind.refused == opened.refused:
            return kind
    size = opened.raw.size()
    length = int.from_bytes(read_at(opened.raw, size - 8, 4), "little") + 8
    try:
        columns = columns_of(decode_closing(read_at(opened.raw, size - length, length), SCHEMA))
    except ValueError as error:
        raise InputError(f"{place.shown} is not a valid Parquet file: {error}") from error
    names = [name for name, _ in columns]
    twice = frozenset(name for name in names if names.count(name) > 1)
    kinds.append(_Kind(place.shown, text, schema, dict(columns), opened.refused, twice))
    return kinds[-1]


def _check_kept(kind: _Kind, kept: Sequence[str], settings: ReadingSettings) -> None:
    """Raise InputError where a column to be kept or asked cannot be read, or two have its name."""
    for name in dict.fromkeys([*kept, *(name for _, name in settings.text_columns)]):
        if name in kind.refused:
            raise InputError(
                f"{kind.shown}: column {name!r} is {kind.refused[name]}, which cannot be read; leave it out "
                f"with --drop {name}"
            )
        if name in kind.twice:
            raise InputError(f"{kind.shown} has two columns named {name!r}; rename one")


def _encrypted(place: Place) -> InputError:
    return InputError(f"{place.shown} is encrypted Parquet, which batchqa does not read; decrypt it first")


def _ends_encrypted(raw: pa.NativeFile) -> bool:
    return read_at(raw, max(raw.size() - 4, 0), 4) == b"PARE"


def _has_encrypted_columns(raw: pa.NativeFile, metadata: pq.FileMetaData) -> bool:
    """Whether the footer is plain but signed, as it is where columns are encrypted.

    Asking such a column for its metadata aborts the process (pyarrow 26), so the 28 bytes of nonce and tag
    that follow the footer's content are looked for instead (Parquet encryption specification, 4.2).
    """
    length = int.from_bytes(read_at(raw, raw.size() - 8, 4), "little")
    return bool(length - metadata.serialized_size == 28)


def _largest_repeated_cell(raw: pa.NativeFile, chunk: pq.ColumnChunkMetaData) -> int:
    """An upper bound of a cell that costs next to nothing in the file, bytes; 0 where there is none."""
    if chunk.physical_type != "BYTE_ARRAY":
        return 0
    if "DELTA_BYTE_ARRAY" in chunk.encodings:  # a cell can repeat the one before it
        return int(chunk.total_uncompressed_size)
    if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
        return _page_bytes(raw, chunk.dictionary_page_offset) or int(chunk.total_uncompressed_size)
    return 0


def _page_bytes(raw: pa.NativeFile, offset: int) -> int | None:
    """The uncompressed size in a page's header, None where it is not as expected.

    A header is Thrift's compact protocol: field 1 (type), field 2 (uncompressed_page_size), each an i32
    marked 0x15 and written as a zigzag varint (parquet.thrift, PageHeader).
    """
    header = read_at(raw, offset, 16)
    if len(header) < 16 or header[0] != 0x15 or header[1] > 0x7F or header[2] != 0x15:
        return None
    value = 0
    for position, byte in enumerate(bytes(header[3:8])):
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return value >> 1
    return None
