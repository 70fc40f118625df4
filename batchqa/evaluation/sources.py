"""Files as columns: Parquet, JSONL and JSON documents, here or in an object store, a few columns at a time.

Evaluation needs small columns of many rows (answers, scores, titles) and large ones (contexts) of a few rows
only. So a source hands out the columns that are asked for, in batches, and single rows by their numbers. The
kind of a file comes from its content.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchqa.errors import InputError, StorageError
from batchqa.records import Int64
from batchqa.store.locations import trouble

from .documents import columns_of, read_document
from .places import Place, first_line, place_of

METADATA = "batchqa."
"""What the keys begin with that a run leaves in the footer of its Parquet files."""

SIDECAR = ".batchqa.json"
"""What a run puts behind the name of a JSONL output, for the record that has no place in JSONL."""

JSONL_BLOCK = 20_000
"""Lines that are turned into columns together."""

NAMED_BY = 10_000
"""Records whose keys are taken as the columns of a JSONL file, as `run` does."""

# texts that repeat a lot: read as numbers into a dictionary, so that a context costs memory once
_REPEATED = ("context", "title")


class Source(ABC):
    """A table in one or more files."""

    path: Place

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The top-level columns."""

    @abstractmethod
    def batches(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """The named columns of all rows, in order, some rows at a time."""

    @abstractmethod
    def take(self, names: Sequence[str], rows: Int64) -> pa.Table:
        """The named columns of the rows with these numbers, in the order given."""

    @property
    def written_by_run(self) -> bool:
        """Whether the file says of itself that `batchqa run` wrote it."""
        return False

    def read(self, name: str) -> pa.ChunkedArray:
        """One column of all rows; a dotted path reaches into structs. Raises InputError if there is none."""
        root, *inner = [name] if name in self.names else name.split(".")
        if root not in self.names:
            have = ", ".join(self.names)
            raise InputError(f"{self.path}: there is no column {name!r}; it has: {have}")
        column = self._whole(root)
        for field in inner:
            kind = column.type
            if not pa.types.is_struct(kind) or kind.get_field_index(field) < 0:
                raise InputError(
                    f"{self.path}: column {root!r} has no field {field!r} ({name!r} was asked for)"
                )
            column = pc.struct_field(column, field)
        return column

    def _whole(self, name: str) -> pa.ChunkedArray:
        """A top-level column of all rows; numbers here and texts there are texts, as ids of two makes are."""
        tables = list(self.batches([name]))
        try:
            return pa.concat_tables(tables, promote_options="permissive").column(name)
        except pa.ArrowException as error:
            try:
                return pa.chunked_array(
                    [
                        chunk.cast(pa.large_string())
                        for table in tables
                        for chunk in table.column(name).chunks
                    ],
                    pa.large_string(),
                )
            except pa.ArrowException:
                kinds = ", ".join(dict.fromkeys(str(table.column(name).type) for table in tables))
                raise InputError(
                    f"{self.path}: column {name!r} is of several types ({kinds}); make them one"
                ) from error


@dataclass(frozen=True)
class ParquetSource(Source):
    """One Parquet file, or the part files of a folder in the order of their names."""

    path: Place
    files: tuple[Place, ...]

    @cached_property
    def _open(self) -> list[pq.ParquetFile]:
        opened = []
        for file in self.files:
            try:
                stored = file.open_at_random()
                names = pq.read_schema(stored).names
                repeated = [name for name in _REPEATED if name in names]
                opened.append(pq.ParquetFile(stored, read_dictionary=repeated))
            except (pa.ArrowException, OSError) as error:
                known = trouble(str(file), error)
                raise known or InputError(f"{file} cannot be read as Parquet: {first_line(error)}") from error
        return opened

    @property
    def names(self) -> tuple[str, ...]:
        """The top-level columns of the first file; all must have the same."""
        return tuple(self._open[0].schema_arrow.names)

    @property
    def written_by_run(self) -> bool:
        """Whether the first file's footer has a key of ours."""
        metadata = self._open[0].schema_arrow.metadata or {}
        return any(key.startswith(METADATA.encode()) for key in metadata)

    def batches(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """The named columns, one row group at a time."""
        for file, opened in zip(self.files, self._open, strict=True):
            for group in range(opened.num_row_groups):
                yield _read_group(file, opened, group, names)
        if not any(opened.num_row_groups for opened in self._open):
            yield self._open[0].schema_arrow.empty_table().select(list(names))

    def take(self, names: Sequence[str], rows: Int64) -> pa.Table:
        """The rows wanted; only their row groups are read."""
        pieces, order, first = [], [], 0
        for file, opened in zip(self.files, self._open, strict=True):
            for group in range(opened.num_row_groups):
                size = opened.metadata.row_group(group).num_rows
                here = np.flatnonzero((rows >= first) & (rows < first + size))
                if len(here):
                    pieces.append(_read_group(file, opened, group, names).take(rows[here] - first))
                    order.append(here)
                first += size
        return _in_order(pieces, order)


@dataclass(frozen=True)
class JsonlSource(Source):
    """Lines of JSON objects: one file (also gzip or zstd), or the part files of a folder."""

    path: Place
    files: tuple[Place, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The keys of the first records, in the order in which they first appear."""
        names: dict[str, None] = {}
        for _, record in zip(range(NAMED_BY), self._records(), strict=False):
            names |= dict.fromkeys(record)
        return tuple(names)

    @property
    def written_by_run(self) -> bool:
        """Whether the sidecar that a run writes is there, beside the file or beside a folder's parts."""
        return any(file.beside(SIDECAR).is_file for file in (self.path, *self.files))

    def batches(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """The named columns, some thousand lines at a time; a key that a line lacks is null."""
        block: list[dict[str, Any]] = []
        for record in self._records():
            block.append({name: record.get(name) for name in names})
            if len(block) == JSONL_BLOCK:
                yield columns_of(self.path, block, names)
                block = []
        yield columns_of(self.path, block, names)

    def take(self, names: Sequence[str], rows: Int64) -> pa.Table:
        """The rows wanted; the file is read up to the last of them."""
        wanted = set(rows.tolist())
        found = {}
        for number, record in enumerate(self._records()):
            if number in wanted:
                found[number] = {name: record.get(name) for name in names}
                if len(found) == len(wanted):
                    break
        return columns_of(self.path, [found[row] for row in rows.tolist()], names)

    def _records(self) -> Iterator[dict[str, Any]]:
        for file in self.files:
            for number, line in _lines(file):
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise InputError(f"{file}, line {number}: not JSON ({error.msg})") from error
                if not isinstance(record, dict):
                    raise InputError(f"{file}, line {number}: not a JSON object")
                yield record


@dataclass(frozen=True)
class TableSource(Source):
    """A table in memory: what a JSON document becomes; `references` are its gold answers, if it has both."""

    path: Place
    table: pa.Table
    references: pa.Table | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(self.table.column_names)

    def batches(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """All rows at once."""
        yield self.table.select(list(names))

    def take(self, names: Sequence[str], rows: Int64) -> pa.Table:
        """The rows wanted."""
        return self.table.select(list(names)).take(rows)


def open_source(given: str | os.PathLike[str]) -> Source:
    """Open a file or a folder of part files. Raises InputError where its content is of no known kind."""
    place = place_of(given)
    files = place.files()
    with files[0].open_text() as stream:
        head = bytes(stream.read(4096))
    if head.startswith(b"PAR1"):
        return ParquetSource(place, files)
    begins = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if begins == b"[":
        return _document(place) or JsonlSource(place, files)
    if begins != b"{":
        raise InputError(
            f"{files[0]} is {_named(head)}, neither Parquet, JSONL, SQuAD JSON nor predictions ({{id: text}})"
        )
    first = _first_of_several_lines(files[0])
    if first is None:
        return _document(place) or JsonlSource(place, files)
    if _is_record(first):
        return JsonlSource(place, files)
    source = _document(place)
    if source is None:
        raise InputError(f"{place} is one record over several lines; write one record a line (jq -c .)")
    return source


def _document(place: Place) -> TableSource | None:
    document = read_document(place)
    return None if document is None else TableSource(place, document.rows, document.references)


def _named(head: bytes) -> str:
    """What a file is that cannot be read, from its first bytes."""
    if head.startswith(b"PK"):
        return "a zip archive (or an Excel file)"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text in UTF-16"
    if head.lstrip()[:1] == b"<":
        return "an HTML or XML page"
    if not head.strip():
        return "empty"
    first = head.partition(b"\n")[0]
    if b"," in first or b"\t" in first:
        return "CSV or TSV, it seems (pandas or DuckDB write it as Parquet)"
    return "of no known kind"


def _lines(file: Place) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1."""
    with file.open_text() as stream:
        number = 0
        pending: list[bytes] = []
        while True:
            try:
                block = stream.read(1 << 20)
            except OSError as error:
                known = trouble(str(file), error)
                raise known or InputError(
                    f"{file}, line {number + 1}: damaged data ({first_line(error)})"
                ) from error
            head, *rest = block.split(b"\n")
            pending.append(head)
            ended = [b"".join(pending), *rest] if rest or not block else []
            if ended:
                pending = [ended.pop()] if block else []
            for line in ended:
                number += 1
                if line.strip():
                    yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not block:
                return


def _first_of_several_lines(file: Place) -> bytes | None:
    """The first line that is not blank; None where it is the only one."""
    lines = _lines(file)
    _, first = next(lines)
    return first if next(lines, None) is not None else None


def _is_record(line: bytes) -> bool:
    """Whether the first of several lines is a JSONL record, maybe damaged, not the start of one object."""
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return not line.rstrip().endswith((b"{", b"[", b","))
    return True


def _read_group(file: Place, opened: pq.ParquetFile, group: int, names: Sequence[str]) -> pa.Table:
    try:
        return opened.read_row_group(group, columns=list(names), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        known = trouble(str(file), error)
        raise known or StorageError(
            f"{file}, row group {group}: damaged data ({first_line(error)})"
        ) from error


def _in_order(pieces: list[pa.Table], places: list[Int64]) -> pa.Table:
    """The pieces as one table whose rows are at the places given."""
    order = np.argsort(np.concatenate(places), kind="stable")
    return pa.concat_tables(pieces, promote_options="permissive").take(order)
