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
from batchqa.evaluation.files import Predictions, read_answers
from batchqa.gold import decoded_json, plain_array
from batchqa.records import Bool, Float64, Int64
from batchqa.steps.reading import Dataset

NAMED_IDS = 5
"""How many ids a message names."""


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
        raise InputError(f"{path}: row {row + 1} has no id ({ids.null_count} rows have none)")
    counts = pc.value_counts(ids)
    double = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(double):
        named = ", ".join(double[:NAMED_IDS].to_pylist())
        raise InputError(f"{path}: {len(double)} ids occur more than once, so rows cannot be joined: {named}")
    return ids


def _names(source: Dataset, column: str) -> bool:
    return column in source.names or column.partition(".")[0] in source.names
