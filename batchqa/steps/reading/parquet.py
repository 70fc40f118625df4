"""Parquet: streamed row group by row group, in batches whose size comes from the metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from batchqa.errors import InputError, StorageError
from batchqa.records import Cursor, Rows
from batchqa.settings import ReadingSettings
from batchqa.storage import read_at, trouble

from .columns import BATCH_BYTES, MAX_ROWS, ColumnPlan, decoded_bytes, pieces
from .files import MIB, Place, reason

_BOMB_BYTES = 64 * MIB
"""The most that one decoded batch may hold where a small dictionary could stand for large cells."""


class ParquetReader:
    """All Parquet inputs of a job; they have one schema."""

    def __init__(self, places: Sequence[Place], settings: ReadingSettings) -> None:
        self._places = places
        first: pa.Schema | None = None
        self.rows: list[int | None] = []
        for place in places:
            with _opened(place) as (_, file):
                schema = file.schema_arrow
                self.rows.append(_rows_of(file.metadata, place.shown))
            if first is None:
                first = schema
                self._plan = ColumnPlan.of(schema, settings, place.shown)
            difference = _difference(first, schema)
            if difference:
                raise InputError(
                    f"{places[0].shown} and {place.shown} have different schemas: {difference}; "
                    "run them separately"
                )
        self.schema = self._plan.schema
        self.notes: tuple[str, ...] = ()

    def read(self, start: Cursor, first_record: int) -> Iterator[Rows]:
        """The rows of one file from `start` to its end; whole row groups before it are not read."""
        place = self._places[start.file]
        row = 0  # of the file, before the batch
        with _opened(place) as (raw, file):
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
            return f"{place.shown}, row {begin.row + row + 1}"

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
            columns=self._plan.needed,
            use_threads=False,  # the cores belong to the inference
        )
        return batches

    def _batch_rows(self, raw: pa.NativeFile, file: pq.ParquetFile, group: int) -> int:
        """Rows to decode at once: about BATCH_BYTES by the average, at most _BOMB_BYTES by the worst case.

        The worst case is that every cell is the largest that a dictionary can hold: 475 bytes of Parquet
        can stand for 2 GB of text, and the metadata does not say so.
        """
        metadata = file.metadata.row_group(group)
        wanted = self._plan.needed
        chunks = [
            metadata.column(leaf)
            for leaf in range(metadata.num_columns)
            if any(f"{file.schema.column(leaf).path}.".startswith(f"{name}.") for name in wanted)
        ]
        rows = max(metadata.num_rows, 1)
        average: int = sum(chunk.total_uncompressed_size for chunk in chunks) // rows
        worst = sum(_largest_repeated_cell(raw, chunk) for chunk in chunks)
        return int(max(1, min(MAX_ROWS, BATCH_BYTES // max(average, 1), _BOMB_BYTES // max(worst, 1))))


def _rows_of(metadata: pq.FileMetaData, shown: str) -> int:
    """The number of rows, on which the file and its row groups must agree."""
    rows = int(metadata.num_rows)
    if rows != sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)):
        raise InputError(f"{shown} is no sound Parquet file: its row groups do not add up to its rows")
    return rows


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


@contextmanager
def _opened(place: Place) -> Iterator[tuple[pa.NativeFile, pq.ParquetFile]]:
    with place.open() as raw:
        if raw.size() == 0:
            raise InputError(f"{place.shown} is empty (0 bytes), not a Parquet file")
        try:
            # read through a buffer: neither mapped (a shrinking file would be a SIGBUS) nor read ahead whole
            file = pq.ParquetFile(
                raw, memory_map=False, pre_buffer=False, buffer_size=MIB, page_checksum_verification=True
            )
            file.schema_arrow.to_string()  # decodes the names of all columns
            encrypted = _has_encrypted_columns(raw, file.metadata)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            network = None if place.local else trouble(place.shown, error)
            if network:
                raise network from error
            if _ends_encrypted(raw):
                raise _encrypted(place) from error
            raise InputError(
                f"{place.shown} is no whole Parquet file (its footer cannot be read): {reason(error)}"
            ) from error
        with file:
            if encrypted:
                raise _encrypted(place)
            yield raw, file


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


def _difference(first: pa.Schema, other: pa.Schema) -> str:
    """What differs between two schemas, "" where they agree in the names and types of their columns."""
    if first.names != other.names:
        odd = sorted(set(first.names) ^ set(other.names))
        return f"column {odd[0]!r} is only in one of them" if odd else "the order of their columns"
    for mine, theirs in zip(first, other, strict=True):
        if mine.type != theirs.type:
            return f"column {mine.name!r} is {mine.type} in the first and {theirs.type} in the second"
    return ""


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
