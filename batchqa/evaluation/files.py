"""A file of predictions or gold answers, and what the run that wrote it, if one did, added to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.answer_columns import ASKED_FIELDS
from batchqa.errors import InputError
from batchqa.evaluation.predictions import PREDICTION
from batchqa.gold import COLUMNS, Gold, decoded_json, gold_column, plain_array, read_gold
from batchqa.job.added_columns import DEFAULT_PREFIX, Asked, asked_columns, may_be_asked, prefix_of, record_of
from batchqa.output import JobRecord
from batchqa.records import Bool, Float64
from batchqa.steps.reading import Dataset


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What was predicted for each gold question.

    text: the answer as decided, "" for "no answer", null where the row has no prediction.
    span: the best span even where the decision is "no answer"; null where it is not known.
    span_score: the span's raw probability (softmax), float64, NaN where it is not known.
    score, null_odds: float64, NaN where there is none. silent: the decision is "no answer".
    fault: the code of `qa_error`, or null.
    """

    text: pa.Array
    span: pa.Array
    span_score: Float64
    score: Float64
    null_odds: Float64
    silent: Bool
    fault: pa.Array

    def take(self, rows: pa.Array) -> Predictions:
        """The predictions at these places; a null place has none."""
        at = rows.fill_null(0).to_numpy(zero_copy_only=False)
        missing = rows.is_null().to_numpy(zero_copy_only=False)

        def numbers(values: Float64) -> Float64:
            return np.where(missing, np.nan, values[at] if len(values) else np.nan)

        return Predictions(
            text=self.text.take(rows),
            span=self.span.take(rows),
            span_score=numbers(self.span_score),
            score=numbers(self.score),
            null_odds=numbers(self.null_odds),
            silent=self.silent[at] & ~missing if len(self.silent) else np.zeros(len(rows), dtype=bool),
            fault=self.fault.take(rows),
        )


_WIDE = "it is in the wide layout; convert it with `batchqa convert --to long` first"


@dataclass(frozen=True, slots=True, eq=False)
class File:
    """An opened file. `prefix` is that of its answers' columns, `id` the column of its ids, if given."""

    rows: Dataset
    record: JobRecord | None
    prefix: str
    id: str | None

    @classmethod
    def of(cls, rows: Dataset, prefix: str | None, id: str | None) -> File:  # noqa: A002 - the option's name
        """The prefix is as it was given, else as the file's run was told."""
        record = record_of(rows.given)
        return cls(rows, record, prefix or prefix_of(record) or DEFAULT_PREFIX, id)

    @property
    def holds_predictions(self) -> bool:
        """Whether it has answers already: a run's, or those that another program gave."""
        return self.prefix + "answer" in self.rows.names or PREDICTION in self.rows.names

    def check_rows(self) -> None:
        """Raise InputError where its record says that it has a column for each question, not a row."""
        record = self.record
        if (
            record
            and prefix_of(record) == self.prefix
            and record.fields.get("asked", {}).get("layout") == "wide"
        ):
            raise InputError(f"{self.rows.path}: {_WIDE}")

    def asked(self) -> Asked | None:
        """The columns that say what was asked, where a record has a row for each question."""
        return asked_columns(self.rows.names, self.prefix, self.record)

    def ids(self) -> pa.Array | None:
        """The ids as texts; without a given column they are in `id`, and there may be none.

        Where a record has a row for each question that it was asked, the question's name is part of its
        row's id, as in the predictions that `convert --to squad` makes.
        """
        names, column, name = self.rows.names, self.id or "id", self.prefix + "name"
        if name in names and column in names and may_be_asked(self.prefix, self.record):
            asked = pc.fill_null(self._ids(name), "")
            return pc.binary_join_element_wise(self._ids(column), asked, pa.scalar("/", pa.large_string()))
        if self.id is None and "id" not in names:
            return None
        return self._ids(column)

    def _ids(self, column: str) -> pa.Array:
        ids = plain_array(self.rows.read(column))
        try:
            return ids.cast(pa.large_string())
        except pa.ArrowException as error:
            raise InputError(
                f"{self.rows.path}: column {column!r} of type {ids.type} cannot be an id"
            ) from error


def answers_column(source: Dataset, column: str | None) -> str:
    """The column that holds the gold answers; `column` None looks for `answers`, then `answer`."""
    name = gold_column(source.names, column)
    if name is None:
        raise InputError(
            f"{source.path} has no gold answers: there is no column {' or '.join(map(repr, COLUMNS))} "
            f"(it has: {', '.join(source.names)}); name the column with --gold-column, or give --gold FILE"
        )
    return name


def read_answers(source: Dataset, column: str) -> Gold:
    """The gold answers of a file; see `read_gold`."""
    return read_gold(source.read(column), f"{source.path}: column {column!r}")


def read_predictions(source: Dataset, prefix: str) -> Predictions:
    """What `run` wrote into the columns `<prefix>answer` and so on; only the best candidate is kept."""
    needed = [prefix + name for name in ("answer", "score", "no_answer", "null_odds", "error")]
    lacking = [name for name in needed if name not in source.names]
    if not source.names:
        raise InputError(f"{source.path} has no rows")
    if lacking:
        found = [name.removesuffix("null_odds") for name in source.names if name.endswith("_null_odds")]
        others = [other for other in found if other != prefix and other + "answer" in source.names]
        why = (
            f"its columns have another prefix: give --output-prefix {others[0]}"
            if others
            else _WIDE
            if prefix + "answer" in lacking and _may_be_wide(source.names, prefix)
            else "the run left it out, and evaluate needs it"
            if prefix + "answer" not in lacking
            else "`batchqa run` did not write it: give a model with --model to annotate it first"
        )
        raise InputError(f"{source.path} has no column {', '.join(map(repr, lacking))}; {why}")
    candidates = prefix + "candidates"
    with_candidates = candidates in source.names
    pieces = [
        _piece(batch, prefix, candidates if with_candidates else None)
        for batch in source.batches([*needed, *([candidates] if with_candidates else [])])
    ]
    return Predictions(
        text=_joined([piece.text for piece in pieces], pa.large_string()),
        span=_joined([piece.span for piece in pieces], pa.large_string()),
        span_score=np.concatenate([piece.span_score for piece in pieces]),
        score=np.concatenate([piece.score for piece in pieces]),
        null_odds=np.concatenate([piece.null_odds for piece in pieces]),
        silent=np.concatenate([piece.silent for piece in pieces]),
        fault=_joined([piece.fault for piece in pieces], pa.large_string()),
    )


def _may_be_wide(names: Sequence[str], prefix: str) -> bool:
    """Whether there are columns that may be questions, and not only what a gold file has of them."""
    asked = {prefix + field.name for field in ASKED_FIELDS}
    return any(name.startswith(prefix) and name not in asked for name in names)


def read_texts(source: Dataset, null_odds: Float64 | None) -> Predictions:
    """Predictions that no run wrote: the text is the best span too, unless the file says which that was.

    `null_odds`, or the file's own, or the `evaluate` library's no_answer_probability.
    """

    def numbers(*names: str) -> Float64:
        found = next((name for name in names if name in source.names), None)
        if found is None:
            return np.full(len(texts), np.nan)
        try:
            values = plain_array(source.read(found)).cast(pa.float64())
        except pa.ArrowException as error:
            raise InputError(f"{source.path}: column {found!r} does not hold numbers") from error
        return np.asarray(pc.fill_null(values, float("nan")).to_numpy(zero_copy_only=False))

    texts = plain_array(source.read(PREDICTION))
    try:
        texts = pc.fill_null(texts.cast(pa.large_string()), "")
    except pa.ArrowException as error:
        raise InputError(f"{source.path}: column {PREDICTION!r} does not hold texts") from error
    span = texts
    if "span_text" in source.names:
        span = pc.coalesce(plain_array(source.read("span_text")).cast(pa.large_string()), texts)
    return Predictions(
        text=texts,
        span=span,
        span_score=numbers("span_score"),
        score=numbers("score"),
        null_odds=numbers("null_odds", "no_answer_probability") if null_odds is None else null_odds,
        silent=np.asarray(pc.equal(texts, "").to_numpy(zero_copy_only=False)),
        fault=pa.nulls(len(texts), pa.large_string()),
    )


def _piece(batch: pa.Table, prefix: str, candidates: str | None) -> Predictions:
    def numbers(name: str) -> Float64:
        values = plain_array(batch.column(prefix + name)).cast(pa.float64())
        return np.asarray(pc.fill_null(values, float("nan")).to_numpy(zero_copy_only=False))

    answer = plain_array(batch.column(prefix + "answer")).cast(pa.large_string())
    fault = plain_array(batch.column(prefix + "error")).cast(pa.large_string())
    no_answer = plain_array(batch.column(prefix + "no_answer")).cast(pa.bool_())
    # an answer below --min-score was judged, and is "no answer"
    fault = pc.if_else(pc.equal(fault, "low_score"), None, fault)
    judged = fault.is_null()
    text = pc.if_else(judged, pc.fill_null(answer, ""), pa.scalar(None, pa.large_string()))
    span, span_score = answer, pa.nulls(len(answer), pa.float64())
    if candidates is not None:
        best = _first_of_lists(decoded_json(plain_array(batch.column(candidates))))
        if pa.types.is_struct(best.type):
            # a row that was judged and has no candidate has no span at all
            span = pc.coalesce(answer, pc.struct_field(best, "answer").cast(pa.large_string()), pa.scalar(""))
            span_score = pc.struct_field(best, "score").cast(pa.float64())
    return Predictions(
        text=text,
        span=pc.if_else(judged, span, pa.scalar(None, pa.large_string())),
        span_score=np.asarray(pc.fill_null(span_score, float("nan")).to_numpy(zero_copy_only=False)),
        score=numbers("score"),
        null_odds=numbers("null_odds"),
        silent=np.asarray(pc.fill_null(no_answer, False).to_numpy(zero_copy_only=False)),
        fault=fault,
    )


def _first_of_lists(lists: pa.Array) -> pa.Array:
    """The first element of each list, null where it is empty or null."""
    if pa.types.is_null(lists.type):
        return lists
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    first = np.cumsum(counts) - counts
    return pc.list_flatten(lists).take(pa.array(first, mask=counts == 0))


def _joined(arrays: list[pa.Array], kind: pa.DataType) -> pa.Array:
    return pa.concat_arrays([array.cast(kind) for array in arrays])
