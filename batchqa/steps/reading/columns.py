"""Rules that all formats share: which columns pass through, where the texts stand, and which cells are bad.

`ColumnPlan` turns record batches (of Parquet, of SQuAD) into `Rows`; JSONL builds its columns itself and
shares only the rules.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.answer_columns import ANSWER_FIELDS, ASKED_FIELDS, QUESTIONS_TYPE
from batchqa.errors import InputError
from batchqa.records import Cursor, RowFault, Rows
from batchqa.settings import ReadingSettings, TemplateColumnError

from .cells import (
    Locate,
    Path,
    as_texts,
    at_path,
    clean_cells,
    has_a_text,
    is_list,
    may_be_questions,
    may_be_text,
    plain_text,
    question_lists,
    struct_fields,
    texts_of,
    type_at,
)

MAX_ROWS = 4096
BATCH_BYTES = 8 * 2**20
"""About how much text one `Rows` holds at most, unless a single row is larger."""


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


def added_names(settings: ReadingSettings, *, lists: bool = False) -> set[str]:
    """The columns that a run may add; `lists` says that rows bring several questions each."""
    names = settings.added_columns
    if names is None:
        asked = ASKED_FIELDS if lists or settings.template_columns is not None else ()
        names = (*(field.name for field in (*asked, *ANSWER_FIELDS)), "candidates", "answers")
    return {settings.output_prefix + name for name in names}


def refuse_clash(
    names: Iterable[str], settings: ReadingSettings, where: str, *, extra: bool = False, lists: bool = False
) -> None:
    """Raise InputError where a column that passes through bears the name of one that the run adds."""
    added = added_names(settings, lists=lists)
    unknown_keys = settings.output_prefix + "extra"
    if extra and unknown_keys in added:
        raise InputError(
            f"a question named 'extra' would be written as {unknown_keys!r}, which has the keys that {where} "
            "does not show at its beginning; choose another name"
        )
    output = added | ({unknown_keys} if extra else set())
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
    known = list(names)
    if option == "ask":
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has: {listed(known)}"
        return TemplateColumnError(name, f"{where} has no column {name!r}; {hint}")
    hint = ", or ask the same of every row with --ask or --questions" if option == "question" else ""
    return InputError(
        f"{where} has no column {name!r}; it has: {listed(known)}; name the column with --{option}{hint}"
    )


def judged(
    columns: pa.RecordBatch,
    context: pa.Array,
    question: pa.Array | None,
    faults: dict[int, RowFault],
    locate: Locate,
    settings: ReadingSettings,
    first_record: int,
    cursor_after: Callable[[int], Cursor],
    values: pa.RecordBatch | None = None,
) -> Rows:
    """The rows with the faults of their texts added (too_large, null_*), and faulted texts nulled.

    A row has one fault: those found earlier stay, errors go before statuses. With `question` None the job
    asks its own questions; what is wrong with questions of a list is seen where they are asked.
    """
    limit = settings.max_context_chars
    own = question is not None and question.type != QUESTIONS_TYPE
    judged_texts = [("context", context)] + ([("question", question)] if own else [])
    for name, texts in judged_texts:
        for row in _longer_than(texts, limit):
            detail = f"{locate(row)}: the {name} is longer than {limit} characters (--max-context-chars)"
            faults.setdefault(row, RowFault("too_large", detail))
    for name, texts in judged_texts:
        if texts.null_count:
            for row in np.flatnonzero(texts.is_null()).tolist():
                faults.setdefault(row, RowFault(f"null_{name}", f"{locate(row)}: the {name} is null"))
    if faults:
        mask = np.zeros(len(context), dtype=bool)
        mask[list(faults)] = True
        context = pc.if_else(pa.array(mask), None, context)
        question = pc.if_else(pa.array(mask), None, question) if own else question
    if question is None:
        question = pa.nulls(len(context), pa.string())
    return Rows(columns, context, question, faults, first_record, cursor_after, locate, values)


def _longer_than(texts: pa.Array, limit: int) -> list[int]:
    """Positions of the texts with more than `limit` characters."""
    if (pc.max(pc.binary_length(texts)).as_py() or 0) <= limit:  # no text has more characters than bytes
        return []
    over = pc.greater(pc.utf8_length(texts), limit).fill_null(fill_value=False)
    return [int(row) for row in np.flatnonzero(over)]


@dataclass(frozen=True, slots=True, eq=False)
class ColumnPlan:
    """What to take from record batches of one schema: the columns passed through, and where the texts are.

    `question` is None, and `values` has the columns that the questions hold, where the job asks its own.
    `lists` says that the column of questions has lists of them.
    """

    schema: pa.Schema
    context: Path
    question: Path | None
    values: Mapping[str, Path]
    lists: bool
    settings: ReadingSettings

    @classmethod
    def of(cls, schema: pa.Schema, settings: ReadingSettings, where: str) -> ColumnPlan:
        """Plan for an input's schema. Raises InputError where it cannot be: `where` is the file's name."""
        names = schema.names
        fields = {field.name: field.type for field in schema}
        paths = {name: _text_path(fields, option, name, where) for option, name in settings.text_columns}
        context = paths[settings.context]
        asks = settings.template_columns
        question = paths[settings.question] if asks is None else None
        lists = question is not None and is_list(type_at(fields, question))
        if settings.id is not None and find_path(settings.id, fields, struct_fields) is None:
            raise missing_column("id", settings.id, names, where)
        kept = passed_through(names, settings, where)
        for name in {*kept, *(path[0] for path in paths.values())}:
            if names.count(name) > 1:
                raise InputError(f"{where} has two columns named {name!r}; rename one")
        refuse_clash(kept, settings, where, lists=lists)
        kept_schema = pa.schema([schema.field(name) for name in kept], metadata=schema.metadata)
        return cls(
            kept_schema, context, question, {name: paths[name] for name in asks or ()}, lists, settings
        )

    @property
    def _paths(self) -> list[Path]:
        """Where all texts are."""
        return [self.context, *([self.question] if self.question else []), *self.values.values()]

    @property
    def only_read(self) -> list[Path]:
        """The texts of columns that do not pass through."""
        paths = (path for path in self._paths if path[0] not in self.schema.names)
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
        roots = [path[0] for path in self._paths]
        clean: dict[str, pa.Array] = {}
        for name in dict.fromkeys([*self.schema.names, *roots]):
            field = batch.schema.field(name)
            clean[name] = clean_cells(batch.column(name), field, locate, faults)
        context = texts_of(clean[self.context[0]], self.context, locate, faults)
        question = None
        if self.question is not None and self.lists:
            lists = at_path(clean[self.question[0]], self.question)
            question = question_lists(lists, self.question, locate, faults)
        elif self.question is not None:
            question = texts_of(clean[self.question[0]], self.question, locate, faults)
        values = pa.record_batch(
            {name: as_texts(clean[path[0]], path, locate, faults) for name, path in self.values.items()}
        )
        columns = pa.RecordBatch.from_arrays([clean[name] for name in self.schema.names], schema=self.schema)
        if not self.schema.names:
            columns = batch.select([])  # keeps the number of rows

        def rows_after(count: int) -> Cursor:
            return Cursor(begin.file, begin.row + count)

        after = cursor_after or rows_after
        return judged(
            columns,
            context,
            question,
            faults,
            locate,
            self.settings,
            first_record,
            after,
            values if self.values else None,
        )


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
    if not plain_text(column.type.value_type):
        return int(column.indices.nbytes)
    lengths = pc.binary_length(column.dictionary).cast(pa.int64()).take(column.indices)
    return pc.sum(lengths).as_py() or 0


def _text_path(fields: Mapping[str, pa.DataType], option: str, name: str, where: str) -> Path:
    path = find_path(name, fields, struct_fields)
    if path is None:
        raise missing_column(option, name, fields, where)
    kind = type_at(fields, path)
    if option == "ask":
        if not (may_be_text(kind) or has_a_text(kind)):
            raise TemplateColumnError(name, f"{where}: column {name!r} is {kind}, which is not a single text")
    elif not may_be_text(kind) and not (option == "question" and may_be_questions(kind)):
        raise InputError(f"{where}: column {name!r} (--{option}) is {kind}, not text; name a column of texts")
    return path
