"""Rows of a chunk -> the distinct pairs that are to be asked, and what is wrong with the other rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.records import Chunk, Int64, Pairs

from .cache import AnswerCache, pair_digests
from .statuses import row_fault, status_of_text


def pairs_of(chunk: Chunk, cache: AnswerCache) -> Pairs:
    """The pairs of a chunk, of which those are to be asked that `cache` does not know yet.

    The chunks of a part must come in order. Texts of dictionary arrays are hashed once for each distinct one.
    """
    rows = chunk.rows
    context_codes, contexts = _distinct(rows.context)
    question_codes, questions = _distinct(rows.question)
    # the last status is that of code -1
    context_status = [*(status_of_text("context", text) for text in contexts), "null_context"]
    question_status = [*(status_of_text("question", text) for text in questions), "null_question"]
    is_bad = np.array([status is not None for status in context_status])[context_codes]
    is_bad |= np.array([status is not None for status in question_status])[question_codes]
    faults = dict(rows.faults)
    for row in np.flatnonzero(is_bad).tolist():
        status = context_status[context_codes[row]] or question_status[question_codes[row]]
        if status is not None and row not in faults:
            faults[row] = row_fault(status, chunk, row)
    judged = np.ones(len(rows), dtype=bool)
    judged[list(faults)] = False

    width = max(len(questions), 1)
    distinct, pair_of_judged = _in_order_of_appearance((context_codes * width + question_codes)[judged])
    context, question = (places.astype(np.int32) for places in np.divmod(distinct, width))
    row_pair = np.full(len(rows), -1, dtype=np.int32)
    row_pair[judged] = pair_of_judged
    number, is_new, oldest = cache.number(chunk.part, *pair_digests(contexts, questions, context, question))
    return Pairs(
        chunk=chunk,
        contexts=contexts,
        questions=questions,
        context=context,
        question=question,
        number=number,
        oldest=oldest,
        to_ask=np.flatnonzero(is_new).astype(np.int32),
        row_pair=row_pair,
        faults=faults,
    )


def _distinct(texts: pa.Array) -> tuple[Int64, list[str]]:
    """Codes (int64, (rows,), -1 for null) and the distinct texts that they count.

    `texts` is plain or a dictionary array, whose dictionary may hold texts twice, or that no row has.
    """
    if not pa.types.is_dictionary(texts.type):
        encoded = texts.dictionary_encode()
        return _codes(encoded), encoded.dictionary.to_pylist()
    used, place = np.unique(_codes(texts), return_inverse=True)
    encoded = texts.dictionary.take(pa.array(used, mask=used < 0)).dictionary_encode()
    return _codes(encoded)[place], encoded.dictionary.to_pylist()


def _codes(encoded: pa.DictionaryArray) -> Int64:
    codes: Int64 = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def _in_order_of_appearance(keys: Int64) -> tuple[Int64, Int64]:
    """The distinct keys in the order in which they first appear, and for each key its place among them."""
    distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return distinct[order], rank[inverse]
