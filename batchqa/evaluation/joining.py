"""Gold answers and predictions, brought together: one row per gold question.

Gold answers come from a column of the predictions' own file, row by row, or from another file, joined by id.
Everything after this module works on columns of the same length and order, the gold questions'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.errors import InputError, SettingsError
from batchqa.evaluation.predictions import PREDICTION
from batchqa.gold import COLUMNS, Gold, decoded_json, gold_column, plain_array, read_gold
from batchqa.job.added_columns import may_be_asked, record_of
from batchqa.records import Bool, Float64, Int64
from batchqa.steps.reading import Dataset

NAMED_IDS = 5
"""How many ids a message names."""


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What was predicted for each gold question.

    text: the answer as decided, "" for "no answer", null where the row has no prediction.
    span: the best span even where the decision is "no answer"; null where it is not known.
    span_score: the span's raw probability (soft-max), float64, NaN where it is not known.
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


@dataclass(frozen=True, eq=False)
class Examples:
    """The gold questions with their predictions.

    `place` is each question's row in `predicted`, null where it has none; `predicted` is None where the
    predictions stand in the gold file itself. `answers` and `starts` are those of `batchqa.gold.Gold`.
    `extra` counts predictions that no gold question has. `texts` says what the columns `context` and
    `question` are called, where they are not.
    """

    gold: Dataset
    predicted: Dataset | None
    place: pa.Array
    ids: pa.Array | None
    answers: pa.Array
    starts: pa.Array
    predictions: Predictions
    extra: int
    texts: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.answers)

    @cached_property
    def has_answer(self) -> Bool:
        """Whether the question has gold answers: the official script's `HasAns`."""
        return np.asarray(pc.list_value_length(self.answers).to_numpy(zero_copy_only=False) > 0)

    @cached_property
    def missing(self) -> Bool:
        """Whether the question has no prediction: none in the file, or a row that could not be judged."""
        return np.asarray(self.predictions.text.is_null().to_numpy(zero_copy_only=False))

    def has_column(self, name: str) -> bool:
        """Whether the gold file or the predictions have a column (or its root, for a dotted path)."""
        return any(
            source is not None and _names(source, self.name_in(source, name))
            for source in (self.gold, self.predicted)
        )

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of the gold file, else of the predictions, in the rows' order. Raises InputError."""
        here = self.name_in(self.gold, name)
        if _names(self.gold, here) or self.predicted is None:
            return self.gold.read(here)
        there = self.name_in(self.predicted, name)
        if not _names(self.predicted, there):
            have = ", ".join(dict.fromkeys([*self.gold.names, *self.predicted.names]))
            raise InputError(
                f"there is no column {name!r}, neither in {self.gold.path} nor in "
                f"{self.predicted.path}; they have: {have}"
            )
        return self.predicted.read(there).take(self.place)

    def values(self, name: str, rows: Int64, *, of_predictions: bool = False) -> list[Any]:
        """A column's values in some rows, None where there are none: for columns too large to be read whole.

        Looks into the gold file first, or into the predictions first.
        """
        sources = [(self.gold, rows)]
        if self.predicted is not None:
            place = self.place.fill_null(-1).to_numpy(zero_copy_only=False)[rows]
            sources.insert(0 if of_predictions else 1, (self.predicted, place))
        for source, place in sources:
            named = self.name_in(source, name)
            if named in source.names:
                there = np.flatnonzero(place >= 0)
                values: list[Any] = [None] * len(rows)
                found = source.take([named], place[there]).column(named).to_pylist() if len(there) else []
                for at, value in zip(there.tolist(), found, strict=True):
                    values[at] = value
                return values
        return [None] * len(rows)

    def answer_lists(self, prefix: str) -> list[list[tuple[str, float]]] | None:
        """All answers of each row with their scores (`--answers all`); None where the file has none."""
        source, name = self.predicted or self.gold, prefix + "answers"
        if name not in source.names:
            return None
        lists = decoded_json(plain_array(source.read(name))).take(self.place)
        return [[(one["answer"], one["score"]) for one in row or []] for row in lists.to_pylist()]

    def name_in(self, source: Dataset, name: str) -> str:
        """What a column is called in a file: a gold file may have other names than the predictions."""
        given = self.texts.get(name, name)
        return given if _names(source, given) else name


def answers_column(source: Dataset, column: str | None) -> str:
    """The column that holds the gold answers; `column` None looks for `answers`, then `answer`."""
    name = gold_column(source.names, column)
    if name is None:
        raise InputError(
            f"{source.path} holds no gold answers: it has no column {' or '.join(map(repr, COLUMNS))} "
            f"(it has: {', '.join(source.names)}); name the column with --gold-column, or a file with --gold"
        )
    return name


def read_answers(source: Dataset, column: str) -> Gold:
    """The gold answers of a file; see `read_gold`."""
    return read_gold(source.read(column), f"{source.path}: column {column!r}")


def read_predictions(source: Dataset, prefix: str) -> Predictions:
    """What `run` wrote into the columns `<prefix>answer` and so on; only the best candidate is kept."""
    needed = [prefix + name for name in ("answer", "score", "no_answer", "null_odds", "error")]
    lacking = [name for name in needed if name not in source.names]
    if lacking:
        found = [name.removesuffix("null_odds") for name in source.names if name.endswith("_null_odds")]
        others = [other for other in found if other + "answer" in source.names]
        why = (
            f"its columns have another prefix: name it with --output-prefix {others[0]}"
            if others
            else "each question has a column of its own; make rows of them with `batchqa convert --to long`"
            if any(name.startswith(prefix) for name in source.names)
            else "`batchqa run` did not write it: name a model with --model to annotate it first"
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


def holds_predictions(source: Dataset, prefix: str) -> bool:
    """Whether a file has answers already: a run's, or those that another program gave."""
    return prefix + "answer" in source.names or PREDICTION in source.names


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


def read_ids(source: Dataset, column: str | None, prefix: str) -> pa.Array | None:
    """The ids as texts; `column` None looks for `id`, and there may be none.

    Where a record has a row for each question that it was asked, the question's name is part of its row's id,
    as in the predictions that `convert --to squad` makes.
    """
    name = prefix + "name"
    has_both = name in source.names and (column or "id") in source.names
    if has_both and may_be_asked(prefix, record_of(source.given)):
        names = pc.fill_null(plain_array(source.read(name)).cast(pa.large_string()), "")
        return pc.binary_join_element_wise(_ids(source, column), names, pa.scalar("/", pa.large_string()))
    if column is None and "id" not in source.names:
        return None
    return _ids(source, column)


def _ids(source: Dataset, column: str | None) -> pa.Array:
    ids = plain_array(source.read(column or "id"))
    try:
        return ids.cast(pa.large_string())
    except pa.ArrowException as error:
        raise InputError(
            f"{source.path}: column {column or 'id'!r} of type {ids.type} cannot be an id"
        ) from error


def same_rows(source: Dataset, column: str, ids: pa.Array | None, predictions: Predictions) -> Examples:
    """Examples whose gold answers stand in the predictions' own rows."""
    answers = read_answers(source, column)
    return Examples(
        source,
        None,
        pa.array(np.arange(len(answers))),
        ids,
        answers.texts,
        answers.starts,
        predictions,
        extra=0,
    )


def join(
    gold: Dataset,
    column: str,
    gold_ids: pa.Array | None,
    predicted: Dataset,
    predicted_ids: pa.Array | None,
    predictions: Predictions,
) -> Examples:
    """Examples whose predictions are found by id. Raises InputError where ids lack, repeat or never match."""
    gold_ids, predicted_ids, place = check_join(gold, gold_ids, predicted, predicted_ids)
    answers = read_answers(gold, column)
    common = len(place) - place.null_count
    return Examples(
        gold=gold,
        predicted=predicted,
        place=place,
        ids=gold_ids,
        answers=answers.texts,
        starts=answers.starts,
        predictions=predictions.take(place),
        extra=len(predicted_ids) - common,
    )


def check_join(
    gold: Dataset, gold_ids: pa.Array | None, predicted: Dataset, predicted_ids: pa.Array | None
) -> tuple[pa.Array, pa.Array, pa.Array]:
    """The ids of both, and where each gold id is among the predicted. Raises InputError; see `join`."""
    gold_ids = _checked_ids(gold_ids, gold.path)
    predicted_ids = _checked_ids(predicted_ids, predicted.path)
    place = pc.index_in(gold_ids, value_set=predicted_ids).cast(pa.int64())
    if place.null_count == len(place):
        raise InputError(
            f"{predicted.path} and {gold.path} have no id in common "
            f"({len(predicted_ids)} and {len(gold_ids)} ids): are they of the same data set?"
        )
    return gold_ids, predicted_ids, place


def align(examples: Examples, other: Dataset, ids: pa.Array | None, predictions: Predictions) -> Predictions:
    """Another file's predictions for the same questions: row by row where the ids agree, else by id.

    Where one of them has no ids, the rows must be the same ones in the same order. Raises InputError.
    """
    if len(predictions.text) == len(examples):
        if ids is None or examples.ids is None:
            _check_same_rows(examples, other)
            return predictions
        if ids.equals(examples.ids):
            return predictions
    if examples.ids is None or ids is None:
        raise InputError(
            f"{other.path} has {len(predictions.text)} rows, not {len(examples)}, and there are no ids to "
            "compare them by"
        )
    place = pc.index_in(
        _checked_ids(examples.ids, examples.gold.path), value_set=_checked_ids(ids, other.path)
    )
    if place.null_count == len(place):
        raise InputError(
            f"{other.path} has no id in common with {examples.gold.path}: are they of the same data set?"
        )
    return predictions.take(place.cast(pa.int64()))


def _check_same_rows(examples: Examples, other: Dataset) -> None:
    """Raise InputError where a row of the other file has another question or context."""
    for name in ("question", "context"):
        there = examples.name_in(other, name)
        if not examples.has_column(name) or not _names(other, there):
            continue
        ours, theirs = (plain_array(column) for column in (examples.column(name), other.read(there)))
        if not pa.types.is_null(ours.type) and not pa.types.is_null(theirs.type):
            alike = pc.equal(ours.cast(pa.large_string()), theirs.cast(pa.large_string()))
            unlike = np.flatnonzero(pc.equal(alike, False).fill_null(False).to_numpy(zero_copy_only=False))
            if len(unlike):
                raise InputError(
                    f"{other.path}, row {unlike[0] + 1}: its {name} is not that of {examples.gold.path}, and "
                    "there are no ids to join them by; give both an id, or the same order"
                )


def null_odds_of(
    source: Dataset, predicted: pa.Array | None, ids: pa.Array, numbers: pa.Array, odds_path: str
) -> Float64:
    """The null odds of predictions by id, NaN where the other file has none."""
    at = pc.index_in(_checked_ids(predicted, source.path), value_set=ids)
    if len(at) and at.null_count == len(at):
        raise SettingsError(
            f"{odds_path} and {source.path} have no id in common: do they belong to other predictions?"
        )
    odds = numbers.take(at).cast(pa.float64())
    return np.asarray(pc.fill_null(odds, float("nan")).to_numpy(zero_copy_only=False))


def _checked_ids(ids: pa.Array | None, path: str) -> pa.Array:
    if ids is None:
        raise InputError(f"{path} has no column 'id' to join by; name it with --id")
    if ids.null_count:
        row = int(np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError(f"{path}: row {row} has no id ({ids.null_count} rows have none)")
    counts = pc.value_counts(ids)
    double = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(double):
        named = ", ".join(double[:NAMED_IDS].to_pylist())
        raise InputError(f"{path}: {len(double)} ids occur more than once, so rows cannot be joined: {named}")
    return ids


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


def _names(source: Dataset, column: str) -> bool:
    return column in source.names or column.partition(".")[0] in source.names
