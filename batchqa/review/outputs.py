"""An output of `batchqa run`, of any layout, as rows of one shape: what `show` and `convert` read.

A row is one question asked of one context. A file whose rows are such already (`layout` rows or long) is read
as it is; of a wide file each record becomes a row for each of its questions, in the columns' order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.answer_columns import ANSWER_FIELDS
from batchqa.errors import InputError
from batchqa.evaluation.comparing import Maker, made_by
from batchqa.gold import decoded_json, plain_array
from batchqa.job.added_columns import DEFAULT_PREFIX, asked_columns, prefix_of, record_of
from batchqa.output import JobRecord
from batchqa.records import Int64
from batchqa.steps.asking import Question, Questions
from batchqa.steps.reading import (
    Dataset,
    column_at,
    is_unfinished,
    open_dataset,
    question_values,
    root_of,
)
from batchqa.store.layout import STAGING_SUFFIX
from batchqa.store.locations import is_uri, local_path

"""What stands behind the name of a one-file output while it is not finished."""

LISTS = ("candidates", "answers")
"""Columns of several answers for a row, where the run was asked for them."""

BATCH_ROWS = 10_000
"""Rows that are Python objects at one time."""

OF_A_ROW = (*(field.name for field in ANSWER_FIELDS), *LISTS)
"""The columns that a run adds to a row that asks one question, before the prefix."""

_KINDS: dict[str, pa.DataType] = {field.name: field.type for field in ANSWER_FIELDS} | {
    name: pa.large_string() for name in ("id", "name", "question", "context", "answer")
}
"""The columns of a row's table, and their types; `record` (int64) and LISTS besides."""


@dataclass(frozen=True, slots=True)
class ShownSpan:
    """An answer: its text and its place in the context, in code points, end excluded; the score may lack."""

    text: str
    start: int
    end: int
    score: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """One question of one context, and what the run said. `record` counts the file's rows from 0."""

    record: int
    id: str | None
    name: str | None
    question: str
    context: str | None
    answers: tuple[ShownSpan, ...]
    candidates: tuple[ShownSpan, ...]
    score: float | None
    no_answer: bool | None
    null_odds: float | None
    error: str | None
    error_detail: str | None

    @property
    def state(self) -> Literal["answered", "no-answer", "error"]:
        """What became of the question; an answer below --min-score counts as none."""
        if self.answers:
            return "answered"
        return "no-answer" if self.error in (None, "low_score") else "error"


@dataclass(frozen=True)
class Output:
    """An opened output. `asked`: a wide layout's questions by name; None where no record has their text.

    `maker`: which model and threshold the output's own record names.
    """

    source: Dataset
    prefix: str
    columns: dict[str, str]
    asked: dict[str, Question | None]
    unfinished: bool
    maker: Maker | None

    @property
    def layout(self) -> Literal["rows", "long", "wide"]:
        """Whether a row is a question, with or without its name, or a context with all its questions."""
        return "wide" if self.asked else "long" if "name" in self.columns else "rows"

    @property
    def is_blank(self) -> bool:
        """Whether it holds nothing: JSON lines without rows do not name their columns either."""
        return not self.source.names

    def tables(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """All rows, some thousand at a time, as columns `record` and those named (keys of a Row)."""
        first = 0
        for table in self.source.batches(self._stored(names)):
            for start in range(0, len(table), BATCH_ROWS):
                piece = table.slice(start, BATCH_ROWS)
                yield self._rows_of(piece, np.arange(first, first + len(piece)), names)
                first += len(piece)

    def rows(self) -> Iterator[Row]:
        """All rows, in order, in bounded memory."""
        for table in self.tables(self._all()):
            yield from map(_row, table.to_pylist())

    def take(self, numbers: Int64) -> list[Row]:
        """The rows with these numbers, counted as `rows` gives them, in the order given."""
        if not len(numbers):
            return []
        each = max(1, len(self.asked))
        records, place = np.unique(numbers // each, return_inverse=True)
        names = self._all()
        table = self._rows_of(self.source.take(self._stored(names), records), records, names)
        return [_row(row) for row in table.take(place * each + numbers % each).to_pylist()]

    def _all(self) -> list[str]:
        return [*_KINDS, *LISTS]

    def _stored(self, names: Sequence[str]) -> list[str]:
        """The file's columns that hold what is asked for."""
        wanted = [self.columns[name] for name in names if name in self.columns]
        if self.asked:
            wanted += [self.prefix + name for name in self.asked]
            wanted += [column for asked in self.asked.values() if asked for column in asked.columns]
        have = self.source.names
        stored = dict.fromkeys(root_of(name, have) for name in wanted)
        return [name for name in stored if name is not None]  # a question's columns may have been left out

    def question_texts(self, name: str, table: pa.Table) -> pa.Array:
        """What question `name` of a wide layout asked of each of the file's rows: string, null if unknown.

        Where a column that the question holds was left out of the output, it is the question as it was given.
        """
        asked = self.asked[name]
        if asked is None:
            return pa.nulls(len(table), pa.string())
        found = {column: question_values(table, column) for column in asked.columns}
        values = {column: texts for column, texts in found.items() if texts is not None}
        if len(values) < len(found):
            return pa.array([asked.text] * len(table), pa.string())
        texts = asked.texts(pa.record_batch(values or {"": pa.nulls(len(table))}))
        return texts if isinstance(texts, pa.Array) else pa.array([texts.as_py()] * len(table), pa.string())

    def _rows_of(self, table: pa.Table, records: Int64, names: Sequence[str]) -> pa.Table:
        """The file's rows as rows of one shape; what the file does not have is null."""
        if not self.asked:
            found = {name: _at(table, at) for name, at in self.columns.items() if name in names}
            return _shaped(found, records, names)
        shared = {name: _at(table, at) for name, at in self.columns.items() if name in names}
        pieces = []
        for asked in self.asked:
            struct = decoded_json(plain_array(table.column(self.prefix + asked)))
            fields = {
                field.name.removeprefix(self.prefix): plain_array(pc.struct_field(struct, field.name))
                for field in struct.type
            }
            texts = self.question_texts(asked, table)
            told = {"name": pa.array([asked] * len(table), pa.large_string()), "question": texts}
            pieces.append(_shaped({**shared, **fields, **told}, records, names))
        order = np.arange(len(table) * len(pieces)).reshape(len(pieces), -1).T.reshape(-1)
        return pa.concat_tables(pieces, promote_options="permissive").take(order)


def open_output(
    given: str,
    *,
    prefix: str | None = None,
    context: str | None = None,
    question: str | None = None,
) -> Output:
    """Open a file or folder that a run wrote, or the staging of one that is not finished.

    `prefix`, `context` and `question` None: what the run was told, as its record says, else the columns.
    Raises InputError where the file has no answers.
    """
    given = local_path(given)
    staged = (
        not is_uri(given) and not Path(given).exists() and Path(given.rstrip("/") + STAGING_SUFFIX).is_dir()
    )
    path = given.rstrip("/") + STAGING_SUFFIX if staged else given
    unfinished = staged or (not is_uri(given) and is_unfinished(Path(given)))
    source = open_dataset(path, unfinished=True, of_a_run=True)
    names = source.names
    job = record_of(given)
    prefixes = [name.removesuffix("answer") for name in names if _is_prefix(name, names)]
    if prefix is None:
        prefix = prefix_of(job)
    if prefix is None:
        prefix = DEFAULT_PREFIX if DEFAULT_PREFIX in prefixes or not prefixes else prefixes[-1]
    asked = _wide(source, prefix, job, may_guess=prefix not in prefixes)
    if prefix not in prefixes and not asked and (names or job is None):
        wrote = "`batchqa run` did not write it; annotate it first"
        known = (
            f"its answers have the prefix {prefixes[-1]!r}; give it with --output-prefix"
            if prefixes
            else wrote
        )
        raise InputError(f"{source.path} has no column {prefix + 'answer'!r}: {known}")
    columns = {} if asked else {name: prefix + name for name in OF_A_ROW if prefix + name in names}
    own = None if asked else asked_columns(names, prefix, job)
    columns |= {"name": own.name} if own else {}
    columns |= _texts(source, job, own.question if own else None, context, question)
    if asked:  # what it asks is known, and a column of that name is the user's
        columns.pop("question", None)
    return Output(source, prefix, columns, asked, unfinished, None if unfinished else made_by(job))


def _is_prefix(name: str, names: Sequence[str]) -> bool:
    prefix = name.removesuffix("answer")
    return name.endswith("answer") and all(prefix + each in names for each in ("start", "end", "score"))


def _wide(
    source: Dataset, prefix: str, job: JobRecord | None, *, may_guess: bool
) -> dict[str, Question | None]:
    """The questions of a wide layout by name.

    Its record names them; where there is none, they are the struct columns that hold answers.
    """
    said = (job.fields.get("asked") if job else None) or {}
    asked = {each["name"]: each["question"] for each in said.get("questions", ())}
    known = {item.name: item for item in Questions.given(asked, "wide").items} if asked else {}
    if said.get("layout") == "wide" and prefix_of(job) == prefix:
        return {name: item for name, item in known.items() if prefix + name in source.names}
    structs = [name for name in source.names if name.startswith(prefix)]
    if not structs or not may_guess:
        return {}
    sample = next(iter(source.batches(structs)))
    return {
        name.removeprefix(prefix): known.get(name.removeprefix(prefix))
        for name in structs
        if pa.types.is_struct(kind := decoded_json(plain_array(sample[name])).type)
        and {"answer", "start", "end", "score"} <= {field.name.removeprefix(prefix) for field in kind}
    }


def _texts(
    source: Dataset, job: JobRecord | None, asked: str | None, context: str | None, question: str | None
) -> dict[str, str]:
    """Which of the file's columns are id, context and question; a column that was asked for must be there.

    `asked` is the column of the questions as a row each was asked them, where there is one.
    """
    columns = {}
    reading = job.fields.get("options", {}).get("reading", {}) if job else {}
    told = {name: reading[name] for name in ("context", "question", "id") if reading.get(name)}
    if asked is not None:
        told["question"] = asked
    for name, given in (("context", context), ("question", question), ("id", None)):
        column = given or told.get(name) or name
        if root_of(column, source.names) is not None:
            columns[name] = column
        elif given:
            raise InputError(f"{source.path} has no column {given!r}; it has: {', '.join(source.names)}")
    return columns


def _at(table: pa.Table, name: str) -> pa.Array:
    """A column as one plain array; a dotted path reaches into structs. Raises InputError."""
    column = column_at(table, name)
    if column is None:
        raise InputError(f"column {root_of(name, table.column_names)!r} has no field that {name!r} leads to")
    return plain_array(column)


def _shaped(found: dict[str, pa.Array], records: Int64, names: Sequence[str]) -> pa.Table:
    """The columns named, of the types of a row; lists stay as they are."""
    arrays = {"record": pa.array(records, pa.int64())}
    for name in names:
        array = found.get(name)
        if array is None:
            array = pa.nulls(len(records), _KINDS.get(name, pa.null()))
        elif name in LISTS:
            array = decoded_json(array)
        elif name in _KINDS:
            try:
                array = array.cast(_KINDS[name])
            except pa.ArrowException as error:
                raise InputError(f"column {name!r} of type {array.type} is not what a run writes") from error
        arrays[name] = array
    return pa.table(arrays)


def _row(values: dict[str, Any]) -> Row:
    candidates = _spans(values["candidates"])
    answers = _spans(values["answers"])
    if not answers and values["answer"] is not None:
        start, end = values["start"] or 0, values["end"] or 0
        answers = (ShownSpan(values["answer"], start, end, values["score"]),)
    return Row(
        record=values["record"],
        id=values["id"],
        name=values["name"],
        question=values["question"] or values["name"] or "",
        context=values["context"],
        answers=answers,
        candidates=candidates,
        score=values["score"],
        no_answer=values["no_answer"],
        null_odds=values["null_odds"],
        error=values["error"],
        error_detail=values["error_detail"],
    )


def _spans(values: list[dict[str, Any]] | None) -> tuple[ShownSpan, ...]:
    return tuple(
        ShownSpan(each["answer"], each["start"], each["end"], each.get("score"))
        for each in values or ()
        if each and each.get("answer") is not None
    )
