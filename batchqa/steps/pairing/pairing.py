"""Rows of a chunk -> the distinct pairs to ask, and back: answers of pairs -> answers of rows, in order.

Why a row has no answer, beyond what reading found, is decided and worded here, whichever step noticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.answer_columns import CANDIDATE_TYPE, answer_schema
from batchqa.records import (
    AnsweredChunk,
    Bool,
    Chunk,
    Float64,
    Int32,
    Int64,
    PairAnswers,
    Pairs,
    RowFault,
    Windows,
)
from batchqa.text import is_blank

from .answer_cache import AnswerCache
from .digests import DistinctTexts, pair_digests
from .earlier import lists_like


def pairs_of(chunk: Chunk, cache: AnswerCache) -> Pairs:
    """The pairs of a chunk, of which those are to be asked that `cache` does not know yet.

    The chunks of a part must come in order.
    """
    rows = chunk.rows
    contexts, questions = DistinctTexts.of(rows.context), DistinctTexts.of(rows.question)
    if chunk.asked is not None and chunk.asked.threshold is not None:
        questions = questions.split_by(chunk.asked.threshold)
    # the last status is that of code -1
    context_status = [*(_status_of_text("context", text) for text in contexts.texts), "null_context"]
    question_status = [*(_status_of_text("question", text) for text in questions.texts), "null_question"]
    is_bad = np.array([status is not None for status in context_status])[contexts.codes]
    is_bad |= np.array([status is not None for status in question_status])[questions.codes]
    faults = dict(rows.faults)
    for row in np.flatnonzero(is_bad).tolist():
        status = context_status[contexts.codes[row]] or question_status[questions.codes[row]]
        if status is not None and row not in faults:
            faults[row] = _row_fault(status, chunk, row)
    judged = np.ones(len(rows), dtype=bool)
    judged[list(faults)] = False

    width = max(len(questions.texts), 1)
    distinct, pair_of_judged = _in_order_of_appearance((contexts.codes * width + questions.codes)[judged])
    context, question = (places.astype(np.int32) for places in np.divmod(distinct, width))
    row_pair = np.full(len(rows), -1, dtype=np.int32)
    row_pair[judged] = pair_of_judged
    low, high = pair_digests(contexts, questions, context, question)
    number, is_new, oldest = cache.number(chunk.part, low, high)
    new = np.flatnonzero(is_new).astype(np.int32)
    is_reused, reused_answers = cache.earlier.find(low[new], high[new])
    return Pairs(
        chunk=chunk,
        contexts=contexts.texts,
        questions=questions.texts,
        context=context,
        question=question,
        number=number,
        oldest=oldest,
        to_ask=new[~is_reused],
        reused=new[is_reused],
        reused_answers=reused_answers,
        row_pair=row_pair,
        faults=faults,
        threshold=questions.threshold,
    )


def _in_order_of_appearance(keys: Int64) -> tuple[Int64, Int64]:
    """The distinct keys in the order in which they first appear, and for each key its place among them."""
    distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return distinct[order], rank[inverse]


def answered_rows(answered: PairAnswers, cache: AnswerCache, threshold: float | None = None) -> AnsweredChunk:
    """The chunk with its rows' answers: new ones are kept in `cache`, the others are taken from it.

    Of all answers, where they are wanted, those remain whose odds are not above the question's own threshold,
    or `threshold` where it has none (None: all remain), the first ones up to the question's own number.
    """
    windows, pairs = answered.windows, answered.windows.pairs
    new = np.concatenate([pairs.to_ask, pairs.reused])
    answers = pa.concat_batches([_judged(answered), _reused(pairs)]).take(pa.array(np.argsort(new)))
    cache.keep(int(pairs.number[new].min()) if len(new) else 0, answers, pairs.oldest)

    of_pairs = cache.take(pairs.number)
    of_rows = pa.array(pairs.row_pair, mask=pairs.row_pair < 0)
    cut, reused = (pc.sum(of_pairs.column(name).take(of_rows)) for name in ("question_cut", "reused"))
    limits = _limits(of_pairs, pairs, threshold)
    answers = _with_texts(of_pairs, pairs.contexts, pairs.context, limits).take(of_rows)
    asked = pairs.chunk.asked
    if asked is not None and asked.most_answers is not None and "answers" in answers.schema.names:
        at = answers.schema.get_field_index("answers")
        listed = _first(answers.column(at), asked.most_answers)
        answers = answers.set_column(at, answers.schema.field(at), listed)
    errors = answers.column("error")
    faults = dict(pairs.faults)
    for row in np.flatnonzero(errors.is_valid().to_numpy(zero_copy_only=False)).tolist():
        faults[row] = _row_fault(errors[row].as_py(), pairs.chunk, row)
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
            codes[asked] = _status_of_pair(windows, asked)
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


def _status_of_text(name: str, text: str) -> str | None:
    """The status of rows whose `name` ("context", "question") is this text, if there is nothing to read."""
    return f"empty_{name}" if is_blank(text) else None


def _status_of_pair(windows: Windows, asked: int) -> str:
    """Why an asked pair has no span although nothing failed: what the tokenizer made of its texts."""
    layout, question = windows.layout, int(windows.pair_question[asked])
    if windows.pair_count[asked]:
        return "empty_context"  # its tokens show nothing that could be an answer
    if not len(windows.contexts[windows.pair_context[asked]].ids):
        return "empty_context"
    if windows.prefixes.length[question] == len(layout.before) + len(layout.between):
        return "empty_question"
    return "question_too_long"


def _row_fault(code: str, chunk: Chunk, row: int) -> RowFault:
    """A code with the place of the row that has it."""
    return RowFault(code, chunk.rows.locate(row))


def _with_texts(
    answers: pa.RecordBatch, contexts: Sequence[str], context: Int32, limits: Float64
) -> pa.RecordBatch:
    """The columns of `answer_schema`: answers and candidates with their texts, cut from the contexts.

    context: int32, (answers,): each answer's place in `contexts`. Of all answers, those remain whose odds
    are not above their pair's of `limits`: float64, (answers,).
    """

    def with_their_texts(lists: pa.ListArray) -> pa.ListArray:
        start, end, score = (lists.flatten().field(name) for name in ("start", "end", "score"))
        texts = _cut(contexts, context[pc.list_parent_indices(lists).to_numpy()], start, end)
        return lists_like(lists, [texts, start, end, score], CANDIDATE_TYPE)

    added = {
        "answer": _cut(contexts, context, answers.column("start"), answers.column("end")),
        "error_detail": pa.nulls(len(answers), pa.string()),
    }
    if "candidates" in answers.schema.names:
        added["candidates"] = with_their_texts(answers.column("candidates"))
    if "answers" in answers.schema.names:
        added["answers"] = with_their_texts(_passing(answers.column("answers"), limits))
    schema = answer_schema("candidates" in added, "answers" in added)
    columns = [added[name] if name in added else answers.column(name) for name in schema.names]
    return pa.record_batch(columns, schema=schema)


def _passing(lists: pa.ListArray, limits: Float64) -> pa.ListArray:
    """The lists without the answers that lose against null by more than their pair's limit."""
    if np.isposinf(limits).all():
        return lists
    parent = pc.list_parent_indices(lists).to_numpy()
    odds = lists.flatten().field("null_odds").to_numpy()
    return _chosen(lists, parent, odds <= limits[parent])


def _first(lists: pa.ListArray, most: Int64) -> pa.ListArray:
    """The lists up to `most` entries of each: int64, (lists,)."""
    parent = pc.list_parent_indices(lists).to_numpy()
    place = np.arange(len(parent)) - np.searchsorted(parent, parent)
    return _chosen(lists, parent, place < most[parent])


def _chosen(lists: pa.ListArray, parent: Int64, chosen: Bool) -> pa.ListArray:
    """The lists with their chosen entries; `parent` is each entry's list: int64, (entries,)."""
    offsets = np.searchsorted(parent[chosen], np.arange(len(lists) + 1)).astype(np.int32)
    entries = lists.flatten().filter(pa.array(chosen))
    return pa.ListArray.from_arrays(pa.array(offsets), entries, type=lists.type, mask=lists.is_null())


def _cut(contexts: Sequence[str], context: Int32, start: pa.Array, end: pa.Array) -> pa.Array:
    """The text of each span, given in characters of its context; null where there is no span."""
    missing = start.is_null().to_numpy(zero_copy_only=False)
    starts, ends = (pc.fill_null(places, 0).to_numpy().tolist() for places in (start, end))
    texts = [contexts[at][begin:end] for at, begin, end in zip(context.tolist(), starts, ends, strict=True)]
    return pa.array(texts, pa.string(), mask=missing)
