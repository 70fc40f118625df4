"""Answers of earlier outputs (`--reuse`), found by their pairs' digests; no texts are held.

What is held of a pair: 16 bytes of digest, some 17 of its answer, 12 of each candidate. So it does not matter
in which order rows come, nor what becomes of the earlier output while the job runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.answer_columns import ROW_STATUSES, pair_schema
from batchqa.records import Bool, Float64, Int64

from .digests import DistinctTexts, UInt64, pair_digests

RUN_PAIRS = 2**21
"""So many pairs are sorted together; what sorting takes besides is that of one such run."""

_STATUSES = pa.array(ROW_STATUSES)


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """Pairs sorted by the lower half of their digest: uint64, (pairs,) each, and their answers."""

    low: UInt64
    high: UInt64
    answers: pa.RecordBatch

    @classmethod
    def of(cls, pieces: list[_Run]) -> _Run:
        """All pairs of some runs, each once."""
        low = np.concatenate([piece.low for piece in pieces])
        order = np.argsort(low, kind="stable")
        low = low[order]
        # of two pairs with one lower half, which copies have, the first is enough
        is_first = np.concatenate([[True], low[1:] != low[:-1]])
        order, low = order[is_first], low[is_first]
        high = np.concatenate([piece.high for piece in pieces])[order]
        answers = pa.concat_batches([piece.answers for piece in pieces]).take(pa.array(order))
        return cls(low, high, answers)

    def places(self, low: UInt64, high: UInt64) -> tuple[Int64, Bool]:
        """Where each digest is, and whether it is there at all."""
        place = np.minimum(np.searchsorted(self.low, low), len(self.low) - 1)
        return place, (self.low[place] == low) & (self.high[place] == high)


class EarlierAnswers:
    """Finds the answers that earlier outputs have; an empty one finds none."""

    def __init__(self, top_k: int = 0, most_answers: int = 0) -> None:
        self._schema = pair_schema(top_k, most_answers)
        self._runs: list[_Run] = []
        self._new: list[_Run] = []

    def add(
        self,
        context: pa.Array,
        question: pa.Array,
        answers: Mapping[str, pa.Array],
        threshold: Float64 | None = None,
    ) -> None:
        """Remember rows of an output: their texts, and the columns of `answer_schema` that they have.

        threshold: float64, (rows,), the questions' own thresholds, see `records.Asked`. Rows that could not
        be judged are left out: another run may judge them.
        """
        contexts, questions = _texts(context, question, threshold)
        errors = answers["error"].cast(pa.string())
        status = pc.index_in(errors, value_set=_STATUSES, skip_nulls=True)
        usable = (contexts.codes >= 0) & (questions.codes >= 0)
        usable &= pc.or_(errors.is_null(), status.is_valid()).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(usable)
        low, high = pair_digests(contexts, questions, contexts.codes[rows], questions.codes[rows])
        columns = [
            status.cast(pa.int8())
            if field.name == "error"
            else _without_texts(answers[field.name], field.type)
            for field in self._schema
        ]
        kept = pa.record_batch(columns, names=self._schema.names)
        self._new.append(_Run(low, high, kept.take(pa.array(rows))))
        if sum(len(run.low) for run in self._new) >= RUN_PAIRS:
            self.settle()

    def settle(self) -> None:
        """Make what was added known to `find`."""
        if any(len(run.low) for run in self._new):
            self._runs.append(_Run.of(self._new))
        self._new = []

    def __len__(self) -> int:
        return sum(len(run.low) for run in self._runs)

    @property
    def nbytes(self) -> int:
        """What they take of memory."""
        return sum(run.low.nbytes + run.high.nbytes + run.answers.nbytes for run in self._runs)

    def knows(self, context: pa.Array, question: pa.Array, threshold: Float64 | None = None) -> Bool:
        """Which rows with these texts and thresholds are answered: bool, (rows,)."""
        if not self._runs:
            return np.zeros(len(context), dtype=bool)
        contexts, questions = _texts(context, question, threshold)
        is_known = (contexts.codes >= 0) & (questions.codes >= 0)
        rows = np.flatnonzero(is_known)
        is_known[rows], _ = self.find(
            *pair_digests(contexts, questions, contexts.codes[rows], questions.codes[rows])
        )
        return is_known

    def find(self, low: UInt64, high: UInt64) -> tuple[Bool, pa.RecordBatch]:
        """Which of these digests are known, and the answers of those, in order, as `pair_schema` has them."""
        is_known = np.zeros(len(low), dtype=bool)
        order = np.argsort(low)  # sorted ones are looked up several times as fast
        at: list[Int64] = []
        found = [pa.RecordBatch.from_pylist([], self._schema)]
        for run in self._runs:
            left = order[~is_known[order]]
            place, is_there = run.places(low[left], high[left])
            at.append(left[is_there])
            is_known[at[-1]] = True
            found.append(self._as_answered(run.answers.take(pa.array(place[is_there]))))
        in_order = np.argsort(np.concatenate([np.zeros(0, dtype=np.int64), *at]))
        return is_known, pa.concat_batches(found).take(pa.array(in_order))

    def _as_answered(self, kept: pa.RecordBatch) -> pa.RecordBatch:
        columns = dict(zip(kept.schema.names, kept.columns, strict=True))
        columns["error"] = _STATUSES.take(columns["error"])
        return pa.record_batch([columns[name] for name in self._schema.names], schema=self._schema)


def _texts(
    context: pa.Array, question: pa.Array, threshold: Float64 | None
) -> tuple[DistinctTexts, DistinctTexts]:
    contexts, questions = DistinctTexts.of(context), DistinctTexts.of(question)
    return contexts, questions if threshold is None else questions.split_by(threshold)


def _without_texts(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column of answers as `pair_schema` has it, whatever integers, floats and lists a file made of it.

    Answers that were written have passed the threshold: their odds, which are not written, are -inf.
    """
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), kind)
    if not pa.types.is_list(kind):
        return column.cast(kind)
    values = column.flatten()
    if pa.types.is_null(values.type):
        values = pa.nulls(len(values), kind.value_type)
    written = [field.name for field in values.type]
    fields = [
        _without_texts(values.field(field.name), field.type)
        if field.name in written
        else pa.array(np.full(len(values), -np.inf), field.type)
        for field in kind.value_type
    ]
    return lists_like(column, fields, kind)


def lists_like(lists: pa.Array, fields: list[pa.Array], kind: pa.DataType) -> pa.ListArray:
    """Lists as long as those given, of structs with these fields."""
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    offsets = pa.array(np.cumsum([0, *counts]), pa.int32())
    structs = pa.StructArray.from_arrays(fields, [field.name for field in kind.value_type])
    return pa.ListArray.from_arrays(offsets, structs, type=kind, mask=lists.is_null())
