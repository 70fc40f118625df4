"""Files as columns: Parquet, JSONL, SQuAD `.json` and `{id: text}` predictions, read a few columns at a time.

Evaluation needs small columns of many rows (answers, scores, titles) and large ones (contexts) of a few rows
only. So a source hands out the columns that are asked for, in batches, and single rows by their numbers. The
kind of a file comes from its content.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq

from batchqa.errors import InputError, StorageError
from batchqa.records import Int64

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

    path: Path

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
        table = pa.concat_tables(self.batches([root]), promote_options="permissive")
        column = table.column(root)
        for field in inner:
            kind = column.type
            if not pa.types.is_struct(kind) or kind.get_field_index(field) < 0:
                raise InputError(
                    f"{self.path}: column {root!r} has no field {field!r} ({name!r} was asked for)"
                )
            column = pc.struct_field(column, field)
        return column


@dataclass(frozen=True)
class ParquetSource(Source):
    """One Parquet file, or the part files of a folder in the order of their names."""

    path: Path
    files: tuple[Path, ...]

    @cached_property
    def _open(self) -> list[pq.ParquetFile]:
        opened = []
        for file in self.files:
            try:
                names = pq.read_schema(file).names
                repeated = [name for name in _REPEATED if name in names]
                opened.append(pq.ParquetFile(file, read_dictionary=repeated, memory_map=True))
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{file} cannot be read as Parquet: {_first_line(error)}") from error
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

    path: Path
    files: tuple[Path, ...]

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
        return any(file.with_name(file.name + SIDECAR).is_file() for file in (self.path, *self.files))

    def batches(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """The named columns, some thousand lines at a time; a key that a line lacks is null."""
        columns: dict[str, list[Any]] = {name: [] for name in names}
        rows = 0
        for record in self._records():
            for name, column in columns.items():
                column.append(record.get(name))
            rows += 1
            if rows % JSONL_BLOCK == 0:
                yield self._table(columns, rows)
                columns = {name: [] for name in names}
        yield self._table(columns, rows)

    def take(self, names: Sequence[str], rows: Int64) -> pa.Table:
        """The rows wanted; the file is read up to the last of them."""
        wanted = set(rows.tolist())
        found = {}
        for number, record in enumerate(self._records()):
            if number in wanted:
                found[number] = {name: record.get(name) for name in names}
                if len(found) == len(wanted):
                    break
        records = [found[row] for row in rows.tolist()]
        return self._table({name: [record[name] for record in records] for name in names}, len(records))

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

    def _table(self, columns: dict[str, list[Any]], rows: int) -> pa.Table:
        arrays = []
        for name, values in columns.items():
            try:
                arrays.append(pa.array(values))
            except (pa.ArrowException, OverflowError) as error:
                raise InputError(
                    f"{self.path}: column {name!r} holds values of different types in rows up to {rows}; "
                    "make them one type"
                ) from error
        return pa.table(arrays, names=list(columns))


@dataclass(frozen=True)
class TableSource(Source):
    """A table in memory: what a SQuAD file becomes."""

    path: Path
    table: pa.Table

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


@dataclass(frozen=True)
class TextById:
    """Predictions in the form of the official scripts: `{id: text}`, "" for "no answer"."""

    path: Path
    ids: pa.Array
    texts: pa.Array


def open_source(path: Path) -> Source | TextById:
    """Open a file or a folder of part files. Raises InputError where its content is of no known kind."""
    files = _files_of(path)
    head = _head(files[0])
    if head.startswith(b"PAR1"):
        return ParquetSource(path, files)
    if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        raise InputError(f"{files[0]} is neither Parquet, JSONL, SQuAD JSON nor {{id: text}} JSON")
    first = _first_of_several_lines(files[0])
    if first is None:
        return _open_object(path) or JsonlSource(path, files)
    if _is_record(first):
        return JsonlSource(path, files)
    opened = _open_object(path)
    if opened is None:
        raise InputError(
            f"{path} is one JSON object, but neither SQuAD (data[].paragraphs[]) nor predictions "
            '({id: text}, with "" for no answer)'
        )
    return opened


def _files_of(path: Path) -> tuple[Path, ...]:
    if not path.exists():
        raise InputError(f"{path}: there is no such file")
    if not path.is_dir():
        return (path,)
    files = sorted(
        (
            file
            for file in path.iterdir()
            if file.is_file() and file.name[0] not in "_." and file.suffix != ".json"
        ),
        key=lambda file: file.name.encode(),
    )
    if not files:
        raise InputError(f"{path}: the folder holds no Parquet or JSONL files")
    return tuple(files)


def _head(file: Path) -> bytes:
    try:
        with pa.input_stream(str(file), compression="detect") as stream:
            return bytes(stream.read(4096))
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {_first_line(error)}") from error


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1."""
    with pa.input_stream(str(file), compression="detect", buffer_size=1 << 20) as stream:
        number = 0
        pending: list[bytes] = []
        while True:
            try:
                block = stream.read(1 << 20)
            except OSError as error:
                raise InputError(f"{file}, line {number + 1}: damaged data ({_first_line(error)})") from error
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


def _first_of_several_lines(file: Path) -> bytes | None:
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


def _open_object(path: Path) -> TableSource | TextById | None:
    """A file that is one JSON object: SQuAD, or texts by id; None where it is neither."""
    raw = _whole(path)
    # Arrow's reader makes columns straight from the text: a Python object per question would cost ten
    # times the memory. Where it cannot, the slow road finds out why.
    try:
        table = _arrow_json(raw, _SQUAD)
    except pa.ArrowInvalid as error:
        record = _parse(path, raw)
        if "data" in record:
            raise InputError(
                f"{path} is not of SQuAD's shape: {_squad_fault(record) or _first_line(error)}"
            ) from error
        return None
    if len(table) == 1 and table.column("data")[0].is_valid:
        columns = _squad_columns(table)
        if columns is None:
            fault = _squad_fault(_parse(path, raw)) or "something is missing"
            raise InputError(f"{path} is not of SQuAD's shape: {fault}")
        return TableSource(path, columns)
    record = _parse(path, raw)
    if not all(isinstance(value, str) for value in record.values()):
        return None
    texts = pa.array(list(record.values()), pa.large_string())
    return TextById(path, pa.array(list(record), pa.large_string()), texts)


def read_numbers(path: Path) -> tuple[pa.Array, pa.Array]:
    """Ids and numbers of `{id: number}` JSON: the official script's null odds, or run_qa's null_odds.json."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    record = _parse(path, _whole(path))
    if not isinstance(record, dict) or not all(type(value) in (int, float) for value in record.values()):
        raise InputError(f"{path} is not a JSON object of numbers by id ({{id: null odds}})")
    return pa.array(list(record), pa.large_string()), pa.array(list(record.values()), pa.float64())


def _whole(path: Path) -> pa.Buffer:
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            return stream.read_buffer()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {_first_line(error)}") from error


def _parse(path: Path, raw: pa.Buffer) -> Any:
    try:
        return orjson.loads(memoryview(raw))
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error


_ANSWERS = pa.list_(pa.struct([("text", pa.string()), ("answer_start", pa.int64())]))
_QUESTIONS = pa.list_(pa.struct([("id", pa.string()), ("question", pa.string()), ("answers", _ANSWERS)]))
_PARAGRAPHS = pa.list_(pa.struct([("context", pa.string()), ("qas", _QUESTIONS)]))
_SQUAD = pa.schema([("data", pa.list_(pa.struct([("title", pa.string()), ("paragraphs", _PARAGRAPHS)])))])


def _arrow_json(raw: pa.Buffer, schema: pa.Schema) -> pa.Table:
    return pj.read_json(
        pa.BufferReader(raw),
        read_options=pj.ReadOptions(use_threads=False, block_size=max(raw.size + 1, 1024)),
        parse_options=pj.ParseOptions(
            explicit_schema=schema, newlines_in_values=True, unexpected_field_behavior="ignore"
        ),
    )


def _squad_columns(table: pa.Table) -> pa.Table | None:
    """The questions as columns id, title, context, question, answers (list of structs); None if some lack."""
    articles = pc.list_flatten(table.column("data")).combine_chunks()
    paragraph_lists = pc.struct_field(articles, "paragraphs")
    paragraphs = pc.list_flatten(paragraph_lists)
    question_lists = pc.struct_field(paragraphs, "qas")
    questions = pc.list_flatten(question_lists)
    paragraph = pc.list_parent_indices(question_lists)
    article = pc.list_parent_indices(paragraph_lists).take(paragraph)
    columns = {
        "id": pc.struct_field(questions, "id"),
        "title": pa.DictionaryArray.from_arrays(article.cast(pa.int32()), pc.struct_field(articles, "title")),
        "context": pa.DictionaryArray.from_arrays(
            paragraph.cast(pa.int32()), pc.struct_field(paragraphs, "context")
        ),
        "question": pc.struct_field(questions, "question"),
        "answers": pc.struct_field(questions, "answers"),
    }
    needed = (
        columns["id"],
        columns["answers"],
        pc.struct_field(paragraphs, "context"),
        question_lists,
        paragraph_lists,
    )
    return None if any(column.null_count for column in needed) else pa.table(columns)


def _squad_fault(record: Any) -> str | None:
    """The first thing in a SQuAD file that is not as it should be, and where."""
    if not isinstance(record, dict) or not isinstance(record.get("data"), list):
        return "there is no list `data`"
    for a, article in enumerate(record["data"]):
        at = f"data[{a}]"
        if not isinstance(article, dict) or not isinstance(article.get("paragraphs"), list):
            return f"{at} has no list `paragraphs`"
        for p, paragraph in enumerate(article["paragraphs"]):
            fault = _paragraph_fault(paragraph)
            if fault:
                return f"{at}.paragraphs[{p}]{fault}"
    return None


def _paragraph_fault(paragraph: Any) -> str | None:
    if not isinstance(paragraph, dict) or not isinstance(paragraph.get("context"), str):
        return " has no text `context`"
    if not isinstance(paragraph.get("qas"), list):
        return " has no list `qas`"
    for q, question in enumerate(paragraph["qas"]):
        if not isinstance(question, dict) or not isinstance(question.get("id"), str):
            return f".qas[{q}] has no text `id`"
        answers = question.get("answers")
        if not isinstance(answers, list):
            return f".qas[{q}] has no list `answers` (empty for a question without an answer)"
        for n, answer in enumerate(answers):
            if not isinstance(answer, dict) or not isinstance(answer.get("text"), str):
                return f".qas[{q}].answers[{n}] has no text `text`"
    return None


def _read_group(file: Path, opened: pq.ParquetFile, group: int, names: Sequence[str]) -> pa.Table:
    try:
        return opened.read_row_group(group, columns=list(names), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"{file}, row group {group}: damaged data ({_first_line(error)})") from error


def _in_order(pieces: list[pa.Table], places: list[Int64]) -> pa.Table:
    """The pieces as one table whose rows are at the places given."""
    order = np.argsort(np.concatenate(places), kind="stable")
    return pa.concat_tables(pieces, promote_options="permissive").take(order)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
