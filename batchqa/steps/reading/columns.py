"""Rules that all formats share: which columns pass through, where the texts stand, and which cells are bad.

`ColumnPlan` turns record batches (of Parquet, of SQuAD) into `Rows`; JSONL builds its columns itself and
shares only the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.errors import InputError, StorageError
from batchqa.records import ANSWER_FIELDS, Cursor, RowFault, Rows
from batchqa.settings import ReadingSettings

MAX_ROWS = 4096
BATCH_BYTES = 8 * 2**20
"""About how much text one `Rows` holds at most, unless a single row is larger."""

Path = tuple[str, ...]
Locate = Callable[[int], str]
"""Names the place of a row (by its position in the batch) for messages: file, line or row."""


def find_path(dotted: str, fields: Any, children: Callable[[Any], Any]) -> Path | None:
    """Where `dotted` leads from a mapping of names; a name that holds the dots literally wins.

    `children` gives the mapping below a value of the mapping, empty where there is none.
    """
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        name = ".".join(parts[:cut])
        if name not in fields:
            continue
        if cut == len(parts):
            return (name,)
        rest = find_path(".".join(parts[cut:]), children(fields[name]), children)
        if rest:
            return (name, *rest)
    return None


def passed_through(names: Sequence[str], settings: ReadingSettings, where: str) -> list[str]:
    """The columns to pass through, in the input's order. Raises InputError for a name that is not there."""
    wanted = settings.drop if settings.keep is None else settings.keep
    option = "--drop" if settings.keep is None else "--keep"
    for name in wanted:
        if name not in names:
            raise InputError(f"{option} {name}: {where} has no such column; it has: {listed(names)}")
    if settings.keep is None:
        return [name for name in names if name not in settings.drop]
    return [name for name in names if name in settings.keep]


def added_names(settings: ReadingSettings) -> set[str]:
    """The columns that a run may add."""
    return {
        settings.output_prefix + name for name in (*(field.name for field in ANSWER_FIELDS), "candidates")
    }


def refuse_clash(names: Iterable[str], settings: ReadingSettings, where: str, *, extra: bool = False) -> None:
    """Raise InputError where a column that passes through bears the name of one that the run adds."""
    output = added_names(settings) | ({settings.output_prefix + "extra"} if extra else set())
    for name in names:
        if name in output:
            raise InputError(
                f"{where} has a column {name!r}, which the run would add; choose another --output-prefix "
                f"or leave it out with --drop {name}"
            )


def listed(names: Iterable[str]) -> str:
    """Column names for a message, shortened where there are many."""
    shown = list(names)
    return ", ".join(shown[:50]) + (f" and {len(shown) - 50} more" if len(shown) > 50 else "") or "none"


def missing_column(option: str, name: str, names: Iterable[str], where: str) -> InputError:
    """The error for a text column that the input does not have."""
    return InputError(f"{where} has no column {name!r} (--{option}); it has: {listed(names)}")


def judged(
    columns: pa.RecordBatch,
    context: pa.Array,
    question: pa.Array,
    faults: dict[int, RowFault],
    locate: Locate,
    settings: ReadingSettings,
    first_record: int,
    cursor_after: Callable[[int], Cursor],
) -> Rows:
    """The rows with the faults of their texts added (too_large, null_*), and faulted texts nulled.

    A row has one fault: those found earlier stay, errors go before statuses.
    """
    limit = settings.max_context_chars
    for name, texts in (("context", context), ("question", question)):
        for row in _longer_than(texts, limit):
            detail = f"{locate(row)}: the {name} is longer than {limit} characters (--max-context-chars)"
            faults.setdefault(row, RowFault("too_large", detail))
    for name, texts in (("context", context), ("question", question)):
        if texts.null_count:
            for row in np.flatnonzero(texts.is_null()).tolist():
                faults.setdefault(row, RowFault(f"null_{name}", f"{locate(row)}: the {name} is null"))
    if faults:
        mask = np.zeros(len(context), dtype=bool)
        mask[list(faults)] = True
        context, question = (pc.if_else(pa.array(mask), None, texts) for texts in (context, question))
    return Rows(columns, context, question, faults, first_record, cursor_after, locate)


def _longer_than(texts: pa.Array, limit: int) -> list[int]:
    """Positions of the texts with more than `limit` characters."""
    if (pc.max(pc.binary_length(texts)).as_py() or 0) <= limit:  # no text has more characters than bytes
        return []
    over = pc.greater(pc.utf8_length(texts), limit).fill_null(fill_value=False)
    return [int(row) for row in np.flatnonzero(over)]


@dataclass(frozen=True, slots=True, eq=False)
class ColumnPlan:
    """What to take from record batches of one schema: the columns passed through, and where the texts are."""

    schema: pa.Schema
    context: Path
    question: Path
    settings: ReadingSettings

    @classmethod
    def of(cls, schema: pa.Schema, settings: ReadingSettings, where: str) -> ColumnPlan:
        """Plan for an input's schema. Raises InputError where it cannot be: `where` is the file's name."""
        names = schema.names
        fields = {field.name: field.type for field in schema}
        context, question = (
            _text_path(fields, option, getattr(settings, option), where) for option in ("context", "question")
        )
        if settings.id is not None and find_path(settings.id, fields, _struct_fields) is None:
            raise missing_column("id", settings.id, names, where)
        kept = passed_through(names, settings, where)
        for name in {*kept, context[0], question[0]}:
            if names.count(name) > 1:
                raise InputError(f"{where} has two columns named {name!r}; rename one")
        refuse_clash(kept, settings, where)
        fields_kept = [schema.field(name) for name in kept]
        return cls(pa.schema(fields_kept, metadata=schema.metadata), context, question, settings)

    @property
    def only_read(self) -> list[Path]:
        """The texts of columns that do not pass through."""
        paths = (path for path in (self.context, self.question) if path[0] not in self.schema.names)
        return list(dict.fromkeys(paths))

    def needed(self, has: Collection[str]) -> list[str]:
        """The columns to read of those that a file has, the texts of `only_read` by their dotted path."""
        return [
            *(name for name in self.schema.names if name in has),
            *(".".join(path) for path in self.only_read if path[0] in has),
        ]

    def rows(
        self,
        batch: pa.RecordBatch,
        locate: Locate,
        first_record: int,
        begin: Cursor,
        *,
        faults: dict[int, RowFault] | None = None,
        cursor_after: Callable[[int], Cursor] | None = None,
    ) -> Rows:
        """The rows of a batch that holds the needed columns; its first one stands at `begin`.

        `faults` are those found already; `cursor_after` is for inputs whose cursors count more than rows.
        """
        faults = {} if faults is None else faults
        roots = [path[0] for path in (self.context, self.question)]
        clean: dict[str, pa.Array] = {}
        for name in dict.fromkeys([*self.schema.names, *roots]):
            field = batch.schema.field(name)
            clean[name] = _clean(batch.column(name), field, locate, faults)
        context, question = (
            _texts(clean[path[0]], path, locate, faults) for path in (self.context, self.question)
        )
        columns = pa.RecordBatch.from_arrays([clean[name] for name in self.schema.names], schema=self.schema)
        if not self.schema.names:
            columns = batch.select([])  # keeps the number of rows

        def rows_after(count: int) -> Cursor:
            return Cursor(begin.file, begin.row + count)

        after = cursor_after or rows_after
        return judged(columns, context, question, faults, locate, self.settings, first_record, after)


def pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut a batch into slices of about BATCH_BYTES and at most MAX_ROWS, in order; one row is never cut."""
    parts = max(math.ceil(decoded_bytes(batch) / BATCH_BYTES), math.ceil(batch.num_rows / MAX_ROWS))
    if parts <= 1 or batch.num_rows <= 1:
        yield batch
        return
    half = batch.num_rows // 2
    yield from pieces(batch.slice(0, half))
    yield from pieces(batch.slice(half))


def decoded_bytes(batch: pa.RecordBatch) -> int:
    """The size of a batch with its dictionaries of text written out: a small file can hold a large one."""
    return sum(_decoded_bytes(column) for column in batch.columns)


def _decoded_bytes(column: pa.Array) -> int:
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    if not _plain_text(column.type.value_type):
        return int(column.indices.nbytes)
    lengths = pc.binary_length(column.dictionary).cast(pa.int64()).take(column.indices)
    return pc.sum(lengths).as_py() or 0


def _struct_fields(kind: pa.DataType) -> Mapping[str, pa.DataType]:
    return {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}


def _text_path(fields: Mapping[str, pa.DataType], option: str, name: str, where: str) -> Path:
    path = find_path(name, fields, _struct_fields)
    if path is None:
        raise missing_column(option, name, fields, where)
    kind: Any = fields
    for step in path:
        kind = (kind if kind is fields else _struct_fields(kind))[step]
    if not _may_be_text(kind):
        raise InputError(f"{where}: column {name!r} (--{option}) is {kind}, not text; name one of strings")
    return path


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _plain_text(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
        )
    )


def _may_be_text(kind: pa.DataType) -> bool:
    kind = _storage(kind)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    views = (pa.types.is_string_view(kind), pa.types.is_binary_view(kind))
    return _plain_text(kind) or any(views) or pa.types.is_null(kind)


def _is_valid(column: pa.Array) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _invalid_cells(column: pa.Array, begin: int = 0) -> list[int]:
    """Positions of the cells that do not validate, found by halving."""
    # `take` copies only the cells asked for: a slice of a list or struct validates all that is behind it
    if _is_valid(column.take(pa.array(np.arange(len(column))))):
        return []
    if len(column) == 1:
        return [begin]
    half = len(column) // 2
    return _invalid_cells(column.slice(0, half), begin) + _invalid_cells(column.slice(half), begin + half)


def _without(column: pa.Array, rows: list[int]) -> pa.Array:
    """The column with the cells of `rows` null."""
    keep = np.arange(len(column))
    mask = np.isin(keep, rows)
    return column.take(pa.array(keep, mask=mask))


def _clean(column: pa.Array, field: pa.Field, locate: Locate, faults: dict[int, RowFault]) -> pa.Array:
    """The column with cells that are not valid UTF-8 replaced by null ("" where the column is required).

    Such cells cannot be written: other readers would refuse the file, or read something else.
    """
    if _is_valid(column):
        return column
    kind = column.type
    plain = column
    if pa.types.is_dictionary(kind):
        plain = column.dictionary_decode()
    elif pa.types.is_string_view(kind):  # pyarrow 26 cannot take from views
        plain = column.cast(pa.large_string(), safe=False)
    try:
        bad = _invalid_cells(plain)
        cleaned = _without(plain, bad)
        instead = "null"
        if not field.nullable:
            cleaned, instead = pc.fill_null(cleaned, ""), "an empty string"
        cleaned = cleaned.cast(kind) if cleaned.type != kind else cleaned
    except (pa.ArrowException, NotImplementedError) as error:
        raise StorageError(
            f"{locate(0)} ff.: column {field.name!r} ({kind}) holds invalid UTF-8 and cannot be repaired; "
            f"leave it out with --drop {field.name}"
        ) from error
    for row in bad:
        detail = f"{locate(row)}: column {field.name!r} is not valid UTF-8 and is written as {instead}"
        faults.setdefault(row, RowFault("bad_utf8", detail))
    return cleaned


def _texts(column: pa.Array, path: Path, locate: Locate, faults: dict[int, RowFault]) -> pa.Array:
    """The texts at `path` as string or large_string, null where a binary cell is not UTF-8."""
    texts = pc.struct_field(column, list(path[1:])) if len(path) > 1 else column
    if isinstance(texts, pa.ExtensionArray):
        texts = texts.storage
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    if pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type):
        return texts
    target = pa.large_string() if pa.types.is_large_binary(texts.type) else pa.string()
    try:
        return texts.cast(target)
    except pa.ArrowInvalid:
        return _decoded(texts.cast(pa.large_binary()), path, locate, faults).cast(target)


def _decoded(cells: pa.Array, path: Path, locate: Locate, faults: dict[int, RowFault]) -> pa.Array:
    """Binary cells as text, cell by cell, because the cast refuses the whole column for one bad cell."""
    bad = [row for row, cell in enumerate(cells) if cell.is_valid and not _is_utf8(cell.as_buffer())]
    for row in bad:
        detail = f"{locate(row)}: column {'.'.join(path)!r} is not valid UTF-8"
        faults.setdefault(row, RowFault("bad_utf8", detail))
    return _without(cells, bad).cast(pa.large_string())


def _is_utf8(cell: pa.Buffer) -> bool:
    try:
        str(cell, "utf-8")
    except UnicodeDecodeError:
        return False
    return True
