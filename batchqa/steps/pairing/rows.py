"""Answers of pairs -> answers of rows: each row has its pair's, in order, with texts and errors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.records import (
    CANDIDATE_TYPE,
    AnsweredChunk,
    Int32,
    PairAnswers,
    Pairs,
    RowFault,
    answer_schema,
)

from .cache import AnswerCache
from .statuses import row_fault, status_of_pair


def answered_rows(answered: PairAnswers, cache: AnswerCache, threshold: float | None = None) -> AnsweredChunk:
    """The chunk with its rows' answers: new ones are kept in `cache`, the others are taken from it.

    Of all answers, where they are wanted, those remain whose odds are not above `threshold` (None: all).
    """
    pairs, windows = answered.windows.pairs, answered.windows
    first = int(pairs.number[pairs.to_ask[0]]) if len(pairs.to_ask) else 0
    cache.keep(first, _to_keep(answered), pairs.oldest)
    of_pairs = cache.take(pairs.number)
    of_rows = pa.array(pairs.row_pair, mask=pairs.row_pair < 0)
    cut = of_pairs.column("question_cut").take(of_rows)
    answers = _with_texts(of_pairs, pairs, threshold).take(of_rows)
    errors = answers.column("error")
    faults = dict(pairs.faults)
    for row in np.flatnonzero(errors.is_valid().to_numpy(zero_copy_only=False)).tolist():
        faults[row] = row_fault(errors[row].as_py(), pairs.chunk, row)
    if faults:
        answers = _with_faults(answers, faults)
    return AnsweredChunk(pairs.chunk, answers, len(windows), pc.sum(cut).as_py() or 0)


def _to_keep(answered: PairAnswers) -> pa.RecordBatch:
    """The answers as the cache keeps them: one that is missing has its status, cut questions are marked."""
    windows, answers = answered.windows, answered.answers
    at = answers.schema.get_field_index("error")
    errors = answers.column(at)
    unanswered = np.flatnonzero(pc.and_(answers.column("score").is_null(), errors.is_null()))
    if len(unanswered):
        codes = errors.to_pylist()
        for asked in unanswered.tolist():
            codes[asked] = status_of_pair(windows, asked)
        answers = answers.set_column(at, answers.schema.field(at), pa.array(codes, pa.string()))
    cut = windows.question_cut[windows.pair_question] & (windows.pair_count > 0)
    return answers.append_column("question_cut", pa.array(cut))


def _with_texts(answers: pa.RecordBatch, pairs: Pairs, threshold: float | None) -> pa.RecordBatch:
    """The columns of `answer_schema`: answers and candidates with their texts, cut from the contexts."""
    start, end = answers.column("start"), answers.column("end")
    added = {
        "answer": _cut(pairs.contexts, pairs.context, start, end),
        "error_detail": pa.nulls(len(answers), pa.string()),
    }
    lists = [name for name in ("candidates", "answers") if name in answers.schema.names]
    if "candidates" in lists:
        added["candidates"] = _lists_with_texts(pairs, answers.column("candidates"))
    if "answers" in lists:
        added["answers"] = _lists_with_texts(pairs, _passing(answers.column("answers"), threshold))
    schema = answer_schema("candidates" in lists, "answers" in lists)
    columns = [added[name] if name in added else answers.column(name) for name in schema.names]
    return pa.record_batch(columns, schema=schema)


def _lists_with_texts(pairs: Pairs, lists: pa.ListArray) -> pa.ListArray:
    start, end, score = (lists.flatten().field(name) for name in ("start", "end", "score"))
    context = pairs.context[pc.list_parent_indices(lists).to_numpy()]
    texts = _cut(pairs.contexts, context, start, end)
    names = [field.name for field in CANDIDATE_TYPE.value_type]
    candidates = pa.StructArray.from_arrays([texts, start, end, score], names)
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    offsets = pa.array(np.cumsum([0, *counts]), pa.int32())
    return pa.ListArray.from_arrays(offsets, candidates, type=CANDIDATE_TYPE, mask=lists.is_null())


def _passing(lists: pa.ListArray, threshold: float | None) -> pa.ListArray:
    """The lists without the answers that lose against null by more than the threshold."""
    if threshold is None:
        return lists
    passed = pc.less_equal(lists.flatten().field("null_odds"), threshold)
    row = pc.list_parent_indices(lists).to_numpy()[passed.to_numpy(zero_copy_only=False)]
    offsets = np.searchsorted(row, np.arange(len(lists) + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), lists.flatten().filter(passed), type=lists.type, mask=lists.is_null()
    )


def _cut(contexts: list[str], context: Int32, start: pa.Array, end: pa.Array) -> pa.Array:
    """The text of each span, given in characters of its context; null where there is no span."""
    missing = start.is_null().to_numpy(zero_copy_only=False)
    starts, ends = (pc.fill_null(places, 0).to_numpy().tolist() for places in (start, end))
    texts = [contexts[at][begin:end] for at, begin, end in zip(context.tolist(), starts, ends, strict=True)]
    return pa.array(texts, pa.string(), mask=missing)


def _with_faults(answers: pa.RecordBatch, faults: Mapping[int, RowFault]) -> pa.RecordBatch:
    codes: list[str | None] = [None] * len(answers)
    details: list[str | None] = [None] * len(answers)
    for row, fault in faults.items():
        codes[row], details[row] = fault.code, fault.detail
    for name, values in (("error", codes), ("error_detail", details)):
        at = answers.schema.get_field_index(name)
        answers = answers.set_column(at, answers.schema.field(at), pa.array(values, pa.string()))
    return answers
