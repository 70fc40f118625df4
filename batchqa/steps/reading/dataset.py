"""Files as columns: what evaluation and `show` read of any input, through the same code as a run.

A `Source` hands on every row with its context and question. A `Dataset` asks for neither: it hands on the
columns that are named, some rows at a time, and single rows by their numbers. So small columns of many rows
(answers, scores) can be read without the large ones (contexts), and those of a few rows.

A bad line is an error here, not the fault of its row: a figure without some of the rows would be another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchqa.errors import InputError
from batchqa.records import Cursor, Int64, RowFault
from batchqa.settings import ReadingSettings
from batchqa.store.locations import public
from batchqa.taking import rows_of

from .cells import as_texts, at_path, struct_fields
from .columns import find_path, listed
from .csv_files import CsvFile
from .formats import FileFormat, compression_of
from .input_files import MIB, Format, Place, find
from .json_records import read_records
from .json_sample import SAMPLE_RECORDS
from .json_types import MisfitError, json_text
from .lines import kind_of
from .parquet import opened_columns
from .source import known_formats
from .squad_files import Document, read_document
from .streams import read_whole
from .text_files import SCHEMA as TEXT_SCHEMA
from .text_files import read_text

REPEATED = ("context", "title")
"""Columns whose texts repeat a lot: read as dictionaries, so that a context is in memory once."""

_MAX_DOCUMENT = 2048 * MIB

_SETTINGS = ReadingSettings(max_line_bytes=2**31 - 1)
"""The bounds of a row are a run's; a line of predictions by id may be long."""

Columns = Callable[[Sequence[str]], pa.Table]
"""The named columns of some rows."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Consecutive rows: how many, and how their columns are read."""

    count: int
    columns: Columns


@dataclass(frozen=True, eq=False)
class Dataset:
    """A table in one or more files, or in memory. `given` is how it was named, `path` the same for messages.

    `names` are the top-level columns: of Parquet and CSV those of all files, of JSONL those of the first
    10,000 records.
    """

    given: str
    path: str
    format: Format
    _rows: Callable[[], Iterator[_Rows]]
    _names: Callable[[], tuple[str, ...]]

    @classmethod
    def of_table(cls, given: str, table: pa.Table) -> Dataset:
        """A table in memory that stands for a file."""

        def rows() -> Iterator[_Rows]:
            yield _Rows(len(table), lambda names: _selected(table, names, len(table)))

        return cls(given, public(given), "json", rows, lambda: tuple(table.column_names))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The top-level columns."""
        return self._names()

    def batches(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """The named columns of all rows, in order, some rows at a time; null where a file or row has none.

        Raises InputError for a row that cannot be read, StorageError where data is damaged.
        """
        empty = True
        for rows in self._rows():
            empty = False
            yield rows.columns(names)
        if empty:
            yield pa.table({name: pa.nulls(0) for name in names})

    def take(self, names: Sequence[str], rows: Int64) -> pa.Table:
        """The named columns of the rows with these numbers, in the order given."""
        pieces, order, first = [], [], 0
        last = int(rows.max(initial=-1))
        for piece in self._rows():
            here = np.flatnonzero((rows >= first) & (rows < first + piece.count))
            if len(here):
                pieces.append(rows_of(piece.columns(names), pa.array(rows[here] - first)))
                order.append(here)
            first += piece.count
            if first > last:
                break
        if last >= first or (len(rows) and rows.min() < 0):
            raise IndexError(f"{self.path} has {first} rows, and row {last} was asked for")
        if not pieces:
            return pa.table({name: pa.nulls(0) for name in names})
        in_order = pa.array(np.argsort(np.concatenate(order), kind="stable"))
        return rows_of(pa.concat_tables(pieces, promote_options="permissive"), in_order)

    def read(self, name: str) -> pa.ChunkedArray:
        """One column of all rows; a dotted path reaches into structs. Raises InputError if there is none."""
        root = root_of(name, self.names)
        if root is None:
            raise InputError(f"{self.path}: there is no column {name!r}; it has: {listed(self.names)}")
        column = self._whole(root)
        path = find_path(name, {root: column.type}, struct_fields)
        if path is None:
            raise InputError(f"{self.path}: column {root!r} has no field {name[len(root) + 1 :]!r}")
        return pc.struct_field(column, list(path[1:])) if len(path) > 1 else column

    def has_one_row(self) -> bool:
        """Whether there is one row and no other."""
        return sum(rows.count for rows in islice(self._rows(), 2)) == 1

    def _whole(self, name: str) -> pa.ChunkedArray:
        """A top-level column of all rows; numbers here and texts there are texts, as ids of two makes are."""
        tables = list(self.batches([name]))
        try:
            return pa.concat_tables(tables, promote_options="permissive").column(name)
        except pa.ArrowException as error:
            columns = [table.column(name) for table in tables]
            try:
                return pa.chunked_array(
                    [chunk.cast(pa.large_string()) for column in columns for chunk in column.chunks],
                    pa.large_string(),
                )
            except pa.ArrowException:
                kinds = ", ".join(dict.fromkeys(str(column.type) for column in columns))
                raise InputError(
                    f"{self.path}: column {name!r} is of several types ({kinds}); convert it to one type"
                ) from error


def open_dataset(
    given: str, repeated: Sequence[str] = REPEATED, *, unfinished: bool = False, of_a_run: bool = False
) -> Dataset:
    """The rows of a file, folder or glob, here or in an object store, in any format that a run reads.

    Text columns of Parquet that are `repeated` come as dictionaries. With `unfinished` it may be the
    output of a job that is not finished. `of_a_run`: what was no text in a JSON lines input is there as the
    error of its row, and comes as JSON text.

    Raises InputError where it is none, JsonDocumentError where it is one JSON value that holds no rows.
    """
    places, kinds, _ = known_formats(_places(given, unfinished), _SETTINGS.max_zstd_window)
    files = list(zip(places, kinds, strict=True))
    kind = kinds[0].format
    if kind == "parquet":
        rows, names = _parquet(places, repeated)
    elif kind == "squad":
        rows, names = _squad(files)
    elif kind == "csv":
        rows, names = _csv(files)
    elif kind == "text":
        rows, names = _texts(files)
    else:
        rows, names = _jsonl(files, of_a_run)
    return Dataset(given, public(given), kind, rows, names)


def root_of(dotted: str, names: Collection[str]) -> str | None:
    """The column that a dotted path begins with, None where there is none; the longest name wins."""
    parts = dotted.split(".")
    roots = (".".join(parts[:cut]) for cut in range(len(parts), 0, -1))
    return next((root for root in roots if root in names), None)


def column_at(table: pa.Table, dotted: str) -> pa.Array | None:
    """What a dotted path leads to, as a run finds it, as one array; None where it leads nowhere."""
    path = find_path(dotted, {field.name: field.type for field in table.schema}, struct_fields)
    if path is None:
        return None
    chunks = table.column(path[0]).chunks
    return at_path(
        pa.concat_arrays(chunks) if chunks else pa.array([], table.schema.field(path[0]).type), path
    )


def question_values(table: pa.Table, dotted: str) -> pa.Array | None:
    """The values of a column that a question holds, as the run wrote them into it: string, (rows,)."""
    column = column_at(table, dotted)
    return None if column is None else as_texts(column, (dotted,), str, {})


def read_json_document(given: str) -> bytes:
    """The text of a file that is one JSON value, decompressed, without a byte order mark."""
    places = _places(given)
    if len(places) > 1:
        raise InputError(f"{public(given)} is {len(places)} files, where one JSON document is needed")
    text = read_whole(places[0], compression_of(places[0]), _SETTINGS.max_zstd_window, _MAX_DOCUMENT)
    if text is None:
        raise InputError(f"{public(given)} is a JSON document of more than {_MAX_DOCUMENT // MIB} MiB")
    return text


def _places(given: str, unfinished: bool = False) -> list[Place]:
    places = [] if given == "-" else find([given], None, unfinished=unfinished)[0]
    if given == "-" or any(place.tape is not None for place in places):
        raise InputError(f"{given} can be read only once, but is needed more often here; give a file instead")
    return places


_Opened = tuple[Callable[[], Iterator[_Rows]], Callable[[], tuple[str, ...]]]


def _parquet(places: Sequence[Place], repeated: Sequence[str]) -> _Opened:
    def rows() -> Iterator[_Rows]:
        for place in places:
            with opened_columns(place, repeated) as file:
                for group in range(file.metadata.num_row_groups):
                    count = file.metadata.row_group(group).num_rows
                    yield _Rows(count, partial(_row_group, place, file, group))

    def names() -> tuple[str, ...]:
        found: dict[str, None] = {}
        for place in places:
            with opened_columns(place) as file:
                found |= dict.fromkeys(file.schema_arrow.names)
        return tuple(found)

    return rows, names


def _row_group(place: Place, file: pq.ParquetFile, group: int, names: Sequence[str]) -> pa.Table:
    here = [name for name in names if name in file.schema_arrow.names]
    try:
        table = file.read_row_group(group, columns=here, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise place.failure(
            error, f"{place.shown}, row group {group}: the data is damaged or cannot be read"
        ) from error
    return _selected(table, names, file.metadata.row_group(group).num_rows)


def _jsonl(files: Sequence[tuple[Place, FileFormat]], of_a_run: bool) -> _Opened:
    def rows() -> Iterator[_Rows]:
        for place, kind in files:
            for parsed in read_records(place, kind, _SETTINGS):
                _refuse(parsed.faults)
                records = parsed.records
                yield _Rows(len(records), partial(records_table, place.shown, records, any_type=of_a_run))

    def names() -> tuple[str, ...]:
        found: dict[str, None] = {}
        seen = 0
        for place, kind in files:
            for parsed in read_records(place, kind, _SETTINGS):
                _refuse(parsed.faults)
                for record in parsed.records:
                    found |= dict.fromkeys(record)
                seen += len(parsed.records)
                if seen >= SAMPLE_RECORDS:
                    return tuple(found)
        return tuple(found)

    return rows, names


def _csv(files: Sequence[tuple[Place, FileFormat]]) -> _Opened:
    """All columns are texts. An empty field is null: a table as text has no other way to say so."""
    opened = [CsvFile(place, kind, _SETTINGS) for place, kind in files]

    def columns(texts: Mapping[str, Sequence[str | None]], count: int, names: Sequence[str]) -> pa.Table:
        here = [name for name in names if name in texts]
        table = pa.table(
            {name: pa.array([text or None for text in texts[name]], pa.string()) for name in here}
        )
        return _selected(table, names, count)

    def rows() -> Iterator[_Rows]:
        for file in opened:
            for _, records in file.records(Cursor()):
                texts, faults = file.texts(records)
                _refuse(faults)
                yield _Rows(len(records), partial(columns, texts, len(records)))

    return rows, lambda: tuple(dict.fromkeys(name for file in opened for name in file.names))


def _squad(files: Sequence[tuple[Place, FileFormat]]) -> _Opened:
    documents = [read_document(place, kind, _SETTINGS.max_zstd_window) for place, kind in files]
    tables = [document.table() for document in documents]

    def columns(place: Place, document: Document, table: pa.Table, names: Sequence[str]) -> pa.Table:
        if "answers" in names and document.unlabelled:
            question, why = next(iter(document.unlabelled.items()))
            raise InputError(f"{place.shown}, question {question + 1}: {why}")
        return _selected(table, names, len(table))

    def rows() -> Iterator[_Rows]:
        for (place, _), document, table in zip(files, documents, tables, strict=True):
            yield _Rows(len(table), partial(columns, place, document, table))

    return rows, lambda: tuple(tables[0].column_names)


def _texts(files: Sequence[tuple[Place, FileFormat]]) -> _Opened:
    def columns(place: Place, kind: FileFormat, names: Sequence[str]) -> pa.Table:
        batch, fault = read_text(place, kind, _SETTINGS)
        _refuse({} if fault is None else {0: fault})
        return _selected(pa.Table.from_batches([batch]), names, 1)

    def rows() -> Iterator[_Rows]:
        for place, kind in files:
            yield _Rows(1, partial(columns, place, kind))

    return rows, lambda: tuple(TEXT_SCHEMA.names)


def _selected(table: pa.Table, names: Sequence[str], count: int) -> pa.Table:
    """The named columns of `count` rows, null where the table has none."""
    return pa.table({name: table[name] if name in table.column_names else pa.nulls(count) for name in names})


def _text_of(value: Any) -> str:
    try:
        return json_text(value) if isinstance(value, (bool, list, dict)) else str(value)
    except MisfitError:  # nested beyond what can be written
        return kind_of(value)


def _refuse(faults: Mapping[int, RowFault]) -> None:
    if faults:
        raise InputError(faults[min(faults)].detail)


def records_table(
    where: str, records: Sequence[Mapping[str, Any]], names: Sequence[str], *, any_type: bool = False
) -> pa.Table:
    """Records as columns; numbers beside texts become texts, as ids of two makes are.

    With `any_type` values of all types do where a column has several; else that raises InputError.
    """
    arrays = []
    for name in names:
        values = [record.get(name) for record in records]
        try:
            arrays.append(pa.array(values))
        except (pa.ArrowException, OverflowError) as error:
            if not any_type and not all(type(value) in (int, float, str, type(None)) for value in values):
                raise InputError(
                    f"{where}: column {name!r} holds values of different types; convert it to one type"
                ) from error
            arrays.append(pa.array([None if value is None else _text_of(value) for value in values]))
    return pa.table(arrays, names=list(names))
