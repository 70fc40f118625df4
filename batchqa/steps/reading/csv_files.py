"""CSV and TSV: a header line, then records; all columns are text unless --schema says otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchqa.errors import InputError, SettingsError
from batchqa.records import Cursor, RowFault, Rows
from batchqa.settings import ReadingSettings

from .columns import BATCH_BYTES, MAX_ROWS, ColumnPlan, listed, missing_column
from .cursors import RecordEnds, table_ends
from .formats import FileFormat
from .input_files import Place
from .json_types import STRING, JsonType, parse_schema
from .streams import TextStream
from .table_text import Record, choose_delimiter, numbered_lines, records


@dataclass(frozen=True, slots=True)
class _Header:
    """What separates the fields of a file, the names of its columns, and where its records begin."""

    delimiter: str
    names: list[str]
    line: int
    byte: int


class CsvFile:
    """One CSV or TSV file: its header, and its records. `wanted` are names that its header may have."""

    def __init__(
        self, place: Place, kind: FileFormat, settings: ReadingSettings, wanted: Sequence[str] = ()
    ) -> None:
        self._place = place
        self._kind = kind
        self._settings = settings
        self._header = self._read_header(wanted)
        self.names = self._header.names

    def records(self, start: Cursor) -> Iterator[tuple[Cursor, list[Record]]]:
        """The records from `start` on, bounded in rows and bytes, each time with the place before them."""
        place, header, longest = self._place, self._header, self._settings.max_line_bytes
        line, byte = (start.line, start.byte) if start.byte else (header.line, header.byte)
        begin = start
        waiting: list[Record] = []
        size = 0
        with self._opened() as stream:
            stream.skip(byte)
            for record in records(stream, header.delimiter, place.in_rows, longest, line, byte):
                waiting.append(record)
                size += record.byte_after - (waiting[-2].byte_after if len(waiting) > 1 else begin.byte)
                if len(waiting) == MAX_ROWS or size >= BATCH_BYTES:
                    yield begin, waiting
                    begin = behind(begin, waiting, len(waiting))
                    waiting, size = [], 0
        if waiting:
            yield begin, waiting

    def ends(self) -> Iterator[RecordEnds]:
        """Where the records end, found without making them."""
        header, longest = self._header, self._settings.max_line_bytes
        with self._opened() as stream:
            stream.skip(header.byte)
            yield from table_ends(
                stream, header.delimiter, self._place.shown, longest, header.line, header.byte
            )

    def texts(self, waiting: Sequence[Record]) -> tuple[dict[str, Sequence[str | None]], dict[int, RowFault]]:
        """Records as columns, and what is wrong with some of them, by their positions."""
        names = self.names
        faults: dict[int, RowFault] = {}
        for row, record in enumerate(waiting):
            if record.fault:
                faults[row] = record.fault
            elif len(record.fields) < len(names) or any(record.fields[len(names) :]):
                where = self.locate(record)
                detail = f"{where}: {len(record.fields)} fields, and the header has {len(names)}"
                faults[row] = RowFault("type_field", detail)
        nothing = [None] * len(names)
        cells = zip(*((record.fields + nothing)[: len(names)] for record in waiting), strict=True)
        return dict(zip(names, cells, strict=True)), faults

    def locate(self, record: Record) -> str:
        """The place of a record for messages: file and line, from 1."""
        return f"{self._place.in_rows}:{record.line + 1}"

    def _opened(self) -> TextStream:
        return TextStream(self._place, self._kind.compression, self._settings.max_zstd_window)

    def _first_line(self) -> tuple[int, int, str]:
        """The lines and bytes before the first line that is not blank, its byte order marks too; its text."""
        byte = 0
        with self._opened() as stream:
            for line, (raw, after) in enumerate(numbered_lines(stream, self._settings.max_line_bytes)):
                bare = re.sub(rb"\A(?:\xef\xbb\xbf)+", b"", raw or b"")
                if raw is None or bare.strip():
                    return line, byte + len(raw or b"") - len(bare), bare.decode("utf-8", "replace")
                byte = after
        return 0, byte, ""

    def _read_header(self, wanted: Sequence[str]) -> _Header:
        shown, longest = self._place.shown, self._settings.max_line_bytes
        line, byte, text = self._first_line()
        if told := re.fullmatch(r"sep=(.)\r?", text):  # what Excel writes before the header
            delimiter, line, byte = told[1], line + 1, byte + len(text.encode()) + 1
        else:
            delimiter = choose_delimiter(text, wanted)
        with self._opened() as stream:
            stream.skip(byte)
            record = next(records(stream, delimiter, shown, longest, line, byte), None)
        if record is None or record.fault:
            raise InputError(
                record.fault.detail if record and record.fault else f"{shown} has no header line"
            )
        names = _named([(name or "").strip() for name in record.fields])
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{shown} has two columns named {twice!r}; rename one")
        return _Header(delimiter, names, record.line_after, record.byte_after)


class CsvReader:
    """All CSV and TSV inputs of a job, as one table: a column that a file does not have is null there."""

    def __init__(
        self, places: Sequence[Place], kinds: Sequence[FileFormat], settings: ReadingSettings
    ) -> None:
        texts = [name for _, name in settings.text_columns]
        self._files = [
            CsvFile(place, kind, settings, texts) for place, kind in zip(places, kinds, strict=True)
        ]
        names = dict.fromkeys(name for file in self._files for name in file.names)
        given = parse_schema(settings.schema) if settings.schema is not None else {}
        if strange := [name for name in given if name not in names]:
            has = f"{places[0].shown} has no such column; it has: {listed(names)}"
            raise SettingsError(f"--schema {strange[0]}: {has}")
        self._types = {name: _of_text(given.get(name, STRING), name) for name in names}
        for place, file in zip(places, self._files, strict=True):
            for option, name in settings.text_columns:
                if name not in file.names:
                    raise missing_column(option, name, file.names, place.shown)
        schema = pa.schema([(name, json_type.type) for name, json_type in self._types.items()])
        self._plan = ColumnPlan.of(schema, settings, places[0].shown)
        self.schema = self._plan.schema
        self.rows: list[int | None] = [None] * len(places)
        self.notes: tuple[str, ...] = ()
        self.lists = self._plan.lists

    def read(self, start: Cursor, first_record: int) -> Iterator[Rows]:
        """The rows of one file from `start` to its end."""
        file = self._files[start.file]
        for begin, waiting in file.records(start):
            yield self._rows(file, waiting, begin, first_record)
            first_record += len(waiting)

    def record_ends(self, file: int) -> Iterator[RecordEnds]:
        """Where the records of a file end, found without making them."""
        return self._files[file].ends()

    def _rows(self, file: CsvFile, waiting: Sequence[Record], begin: Cursor, first_record: int) -> Rows:
        texts, faults = file.texts(waiting)

        def locate(row: int) -> str:
            return file.locate(waiting[row])

        columns = {
            name: _typed(
                pa.array(texts.get(name, [None] * len(waiting)), pa.string()), json_type, name, locate, faults
            )
            for name, json_type in self._types.items()
        }
        return self._plan.rows(
            pa.record_batch(columns),
            locate,
            first_record,
            begin,
            faults=faults,
            cursor_after=lambda count: behind(begin, waiting, count),
        )


def _named(names: list[str]) -> list[str]:
    """The names of a header, with one made up for each column that has none."""
    named: list[str] = []
    for number, name in enumerate(names, 1):
        made = f"column_{number}"
        while made in names:
            made += "_"
        named.append(name or made)
    return named


def behind(begin: Cursor, waiting: Sequence[Record], count: int) -> Cursor:
    """The place behind the first `count` of the records that follow `begin`."""
    if not count:
        return begin
    last = waiting[count - 1]
    return Cursor(begin.file, begin.row + count, last.line_after, last.byte_after)


def _of_text(json_type: JsonType, name: str) -> JsonType:
    if json_type.kind in ("list", "struct"):
        raise SettingsError(f"--schema: {name!r}: CSV has no lists and structs; use the type json")
    return json_type


def _typed(
    texts: pa.Array, json_type: JsonType, name: str, locate: Any, faults: dict[int, RowFault]
) -> pa.Array:
    """A column as --schema has it; an empty field is null, and so is one that does not fit, with a fault."""
    if json_type.kind in ("string", "json"):
        return texts.cast(json_type.type)
    texts = pc.if_else(pc.equal(texts, ""), None, texts)
    try:
        return texts.cast(json_type.type)
    except pa.ArrowInvalid:
        pass
    values = []
    for row, text in enumerate(texts):
        try:
            values.append(text.cast(json_type.type))
        except pa.ArrowInvalid:
            values.append(pa.scalar(None, json_type.type))
            detail = f"{locate(row)}: column {name!r} is not {json_type.type}, as --schema says"
            faults.setdefault(row, RowFault("type_field", detail))
    return pa.array([value.as_py() for value in values], json_type.type)
