"""Answers of pairs -> answers of rows: each row has its pair's, in order, with texts and errors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.records import (
    AnsweredChunk,
    Bool,
    Float64,
    PairAnswers,
    Pairs,
    RowFault,
)

from .answer_cache import AnswerCache
from .statuses import row_fault, status_of_pair
from .texts import with_texts


def answered_rows(answered: PairAnswers, cache: AnswerCache, threshold: float | None = None) -> AnsweredChunk:
    """The chunk with its rows' answers: new ones are kept in `cache`, the others are taken from it.

    Of all answers, where they are wanted, those remain whose odds are not above the question's own threshold,
    or `threshold` where it has none (None: all remain).
    """
    windows, pairs = answered.windows, answered.windows.pairs
    new = np.concatenate([pairs.to_ask, pairs.reused])
    answers = pa.concat_batches([_judged(answered), _reused(pairs)]).take(pa.array(np.argsort(new)))
    cache.keep(int(pairs.number[new].min()) if len(new) else 0, answers, pairs.oldest)

    of_pairs = cache.take(pairs.number)
    of_rows = pa.array(pairs.row_pair, mask=pairs.row_pair < 0)
    cut, reused = (pc.sum(of_pairs.column(name).take(of_rows)) for name in ("question_cut", "reused"))
    limits = _limits(of_pairs, pairs, threshold)
    answers = with_texts(of_pairs, pairs.contexts, pairs.context, limits).take(of_rows)
    errors = answers.column("error")
    faults = dict(pairs.faults)
    for row in np.flatnonzero(errors.is_valid().to_numpy(zero_copy_only=False)).tolist():
        faults[row] = row_fault(errors[row].as_py(), pairs.chunk, row)
    if faults:
        answers = _with_faults(answers, faults)
    return AnsweredChunk(pairs.chunk, answers, len(windows), cut.as_py() or 0, reused.as_py() or 0)


def _limits(answers: pa.RecordBatch, pairs: Pairs, threshold: float | None) -> Float64:
    """The odds that answers of each pair may have at most: float64, (pairs,); none passes a low score."""
    limits = np.full(len(answers), np.inf if threshold is None else threshold)
    if threshold is not None and pairs.threshold is not None:
        own = pairs.threshold[pairs.question]
        limits = np.where(np.isnan(own), limits, own)
    low = pc.fill_null(pc.equal(answers.column("error"), "low_score"), fill_value=False)
    limits[low.to_numpy(zero_copy_only=False)] = -np.inf
    return limits


def _judged(answered: PairAnswers) -> pa.RecordBatch:
    """The model's answers as the cache keeps them: one that is missing has its status."""
    windows, answers = answered.windows, answered.answers
    at = answers.schema.get_field_index("error")
    errors = answers.column(at)
    unanswered = np.flatnonzero(pc.and_(answers.column("score").is_null(), errors.is_null()))
    if len(unanswered):
        codes = errors.to_pylist()
        for asked in unanswered.tolist():
            codes[asked] = status_of_pair(windows, asked)
        answers = answers.set_column(at, answers.schema.field(at), pa.array(codes, pa.string()))
    question_cut = windows.question_cut[windows.pair_question] & (windows.pair_count > 0)
    return _marked(answers, question_cut, np.zeros(len(answers), dtype=bool))


def _reused(pairs: Pairs) -> pa.RecordBatch:
    """Answers of earlier outputs as the cache keeps them; whether their questions were cut is not known."""
    count = len(pairs.reused)
    return _marked(pairs.reused_answers, np.zeros(count, dtype=bool), np.ones(count, dtype=bool))


def _marked(answers: pa.RecordBatch, question_cut: Bool, reused: Bool) -> pa.RecordBatch:
    return answers.append_column("question_cut", pa.array(question_cut)).append_column(
        "reused", pa.array(reused)
    )


def _with_faults(answers: pa.RecordBatch, faults: Mapping[int, RowFault]) -> pa.RecordBatch:
    codes: list[str | None] = [None] * len(answers)
    details: list[str | None] = [None] * len(answers)
    for row, fault in faults.items():
        codes[row], details[row] = fault.code, fault.detail
    for name, values in (("error", codes), ("error_detail", details)):
        at = answers.schema.get_field_index(name)
        answers = answers.set_column(at, answers.schema.field(at), pa.array(values, pa.string()))
    return answers
