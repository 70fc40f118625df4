"""Files -> training rows: contexts, questions, gold answers as character spans, and groups of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.errors import InputError
from batchqa.gold import gold_column, plain_array, read_gold
from batchqa.records import Bool, Int64, Rows
from batchqa.settings import ReadingSettings
from batchqa.steps.reading import open_source
from batchqa.steps.reading.squad_files import SCHEMA

GROUP_COLUMNS = ("title", "group")
"""Columns that say which rows belong together, if none is named: an article's questions share contexts."""

ROUNDING = 1e-9
"""Room for a share times a count that should be a whole number."""

_TEXTS = ("context", "question")
_EMPTY = pa.schema(
    {
        "context": pa.large_string(),
        "question": pa.large_string(),
        "gold": pa.large_list(pa.large_string()),
        "starts": pa.large_list(pa.int64()),
        "group": pa.large_string(),
    }
).empty_table()


@dataclass(frozen=True, slots=True, eq=False)
class GoldRows:
    """Rows to learn from, or to judge by.

    context, question: large_string. gold: large_list<large_string>, the texts of all gold answers, empty for
    "not answerable", null where the row has no gold (a teacher may label it). start, end: int64, (rows,),
    the first gold answer in characters of the context, end excluded; -1 where there is none. group: int64,
    (rows,): rows of one group are held out together. `not_found` counts the rows that were left out because
    no gold answer is in their context.
    """

    context: pa.Array
    question: pa.Array
    gold: pa.Array
    start: Int64
    end: Int64
    group: Int64
    not_found: int = 0

    def __len__(self) -> int:
        return len(self.context)

    @property
    def labelled(self) -> Bool:
        """Whether a row has gold: an answer, or "not answerable"."""
        return np.asarray(self.gold.is_valid())

    def shares_context_with(self, others: GoldRows) -> Bool:
        """Whether a row's context is one of the others' too."""
        return np.asarray(pc.is_in(self.context, others.context))

    def select(self, rows: Int64) -> GoldRows:
        """The rows with these numbers."""
        taken = pa.array(rows)
        return replace(
            self,
            context=self.context.take(taken),
            question=self.question.take(taken),
            gold=self.gold.take(taken),
            start=self.start[rows],
            end=self.end[rows],
            group=self.group[rows],
        )


def read_gold_rows(
    files: Sequence[str | Path],
    *,
    gold_column: str | None = None,
    group_column: str | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> GoldRows:
    """Read training files: any input of `run`. Raises InputError for what has no context and question.

    Rows that `run` could not judge are left out and counted in a note. An input without a gold column gives
    rows without gold.
    """
    named = ", ".join(map(str, files))
    source = open_source([str(file) for file in files], ReadingSettings())
    tables, left_out = [_EMPTY], Counter[str]()
    for rows in source.read():
        table = _table(rows, named, gold_column, group_column)
        left_out.update(fault.code for fault in rows.faults.values())
        readable = np.ones(len(rows), dtype=bool)
        readable[list(rows.faults)] = False
        tables.append(table.filter(pa.array(readable)))
    table = pa.concat_tables(tables)
    asked = [pc.fill_null(pc.utf8_length(pc.utf8_trim_whitespace(table[each])), 0) for each in _TEXTS]
    table = table.filter(pc.and_(pc.greater(asked[0], 0), pc.greater(asked[1], 0)))
    if not len(table):
        raise InputError(f"{named}: there is no row with a context and a question")
    if left_out:
        codes = ", ".join(f"{code} {count:,}" for code, count in left_out.items())
        on_note(f"{left_out.total():,} rows are left out, which cannot be read ({codes})")
    context, question, gold, starts = (
        plain_array(table.column(name)) for name in ("context", "question", "gold", "starts")
    )
    start, end = _first_answers(context, gold, starts)
    answerable = pc.fill_null(pc.greater(pc.list_value_length(gold), 0), False).to_numpy(zero_copy_only=False)
    found = ~answerable | (start >= 0)
    group = plain_array(table.column("group")).dictionary_encode().indices.to_numpy().astype(np.int64)
    whole = GoldRows(context, question, gold, start, end, group)
    return replace(whole.select(np.flatnonzero(found)), not_found=int((~found).sum()))


def _table(rows: Rows, named: str, wanted: str | None, group_column: str | None) -> pa.Table:
    """The columns that training reads, of rows as reading hands them over."""
    names = rows.columns.schema.names
    for column in (wanted, group_column):
        if column is not None and column not in names:
            raise InputError(f"{named}: there is no column {column!r}; there are: {', '.join(names)}")
    gold = gold_column(names, wanted)
    texts = pa.nulls(len(rows), _EMPTY.schema.field("gold").type)
    starts = pa.nulls(len(rows), _EMPTY.schema.field("starts").type)
    if gold is not None:
        column = rows.columns.column(gold)
        read = read_gold(column, f"{named}: column {gold!r}")
        # null says that nobody labelled the row; an empty list, that it is not answerable
        labelled = column.is_valid()
        if names == SCHEMA.names:  # SQuAD's files say it twice; where neither does, nobody labelled the row
            either = pc.or_(
                pc.greater(pc.list_value_length(read.texts), 0), rows.columns["is_impossible"].is_valid()
            )
            labelled = pc.and_(labelled, either)
        texts = pc.if_else(labelled, read.texts, pa.scalar(None, texts.type))
        starts = read.starts
    group = group_column or next((name for name in GROUP_COLUMNS if name in names), None)
    groups = rows.columns.column(group) if group else rows.context
    kind = groups.type.value_type if pa.types.is_dictionary(groups.type) else groups.type
    if pa.types.is_nested(kind):
        raise InputError(f"{named}: column {group!r} of type {kind} cannot name groups of rows")
    contexts = rows.context.cast(pa.large_string())
    return pa.table(
        {
            "context": contexts,
            "question": rows.question.cast(pa.large_string()),
            "gold": texts,
            "starts": starts,
            # a row of no group belongs to those with its context
            "group": pc.coalesce(plain_array(groups).cast(pa.large_string()), contexts),
        },
        schema=_EMPTY.schema,
    )


def _first_answers(context: pa.Array, gold: pa.Array, starts: pa.Array) -> tuple[Int64, Int64]:
    """Where each row's first gold answer is: at its given start if the text is there, else where it is found.

    A start that is off (another unit, a text that was edited) is corrected to the nearest occurrence.
    """
    start, end = np.full((2, len(context)), -1, dtype=np.int64)
    rows = zip(context, gold, starts, strict=True)
    for row, (text, answers, places) in enumerate(rows):
        if not (given := answers.as_py()):
            continue
        whole, there = text.as_py(), places.as_py() or []
        for number, answer in enumerate(given):
            wanted = there[number] if number < len(there) and there[number] is not None else 0
            found = _nearest(whole, answer, wanted)
            if found >= 0:
                start[row], end[row] = found, found + len(answer)
                break
    return start, end


def _nearest(text: str, answer: str, wanted: int) -> int:
    """Where `answer` begins in `text`, as near to character `wanted` as it can be had; -1 if nowhere."""
    if not answer:
        return -1
    if wanted >= 0 and text.startswith(answer, wanted):
        return wanted
    before, after = text.rfind(answer, 0, max(wanted, 0) + len(answer)), text.find(answer, max(wanted, 0))
    if before < 0 or after < 0:
        return max(before, after)
    return before if wanted - before <= after - wanted else after


def held_out(rows: GoldRows, part: tuple[float, float], seed: int) -> tuple[GoldRows, GoldRows]:
    """Rows to train on and rows to judge by: whole groups; `part` is the stretch of them that is out.

    The groups are in an order drawn from `seed`; stretches that do not overlap have no group in common. A
    context that is in groups of both is trained on, and its rows are not judged by. One group is always left
    to train on.
    """
    groups = np.random.default_rng(seed).permutation(np.unique(rows.group))
    begin, end = (ceil(len(groups) * place - ROUNDING) for place in part)
    out = np.isin(rows.group, groups[begin : min(end, begin + len(groups) - 1)])
    trained, judged = rows.select(np.flatnonzero(~out)), rows.select(np.flatnonzero(out))
    return trained, judged.select(np.flatnonzero(~judged.shares_context_with(trained)))
