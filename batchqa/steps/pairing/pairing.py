"""Rows of a chunk -> the distinct pairs that are to be asked, and what is wrong with the other rows."""

from __future__ import annotations

import numpy as np

from batchqa.records import Chunk, Int64, Pairs

from .answer_cache import AnswerCache
from .digests import DistinctTexts, pair_digests
from .statuses import row_fault, status_of_text


def pairs_of(chunk: Chunk, cache: AnswerCache) -> Pairs:
    """The pairs of a chunk, of which those are to be asked that `cache` does not know yet.

    The chunks of a part must come in order.
    """
    rows = chunk.rows
    contexts, questions = DistinctTexts.of(rows.context), DistinctTexts.of(rows.question)
    if chunk.asked is not None and chunk.asked.threshold is not None:
        questions = questions.split_by(chunk.asked.threshold)
    # the last status is that of code -1
    context_status = [*(status_of_text("context", text) for text in contexts.texts), "null_context"]
    question_status = [*(status_of_text("question", text) for text in questions.texts), "null_question"]
    is_bad = np.array([status is not None for status in context_status])[contexts.codes]
    is_bad |= np.array([status is not None for status in question_status])[questions.codes]
    faults = dict(rows.faults)
    for row in np.flatnonzero(is_bad).tolist():
        status = context_status[contexts.codes[row]] or question_status[questions.codes[row]]
        if status is not None and row not in faults:
            faults[row] = row_fault(status, chunk, row)
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
