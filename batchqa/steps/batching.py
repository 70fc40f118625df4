"""Windows -> padded batches: like lengths together, as many as the token budget holds.

Long ones come first, so that the engine's buffers are allocated once at their largest.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from batchqa.records import Int32, Int64, Layout, PaddedBatch, Windows


def padded_batches(windows: Windows, budget: int, *, unpadded: bool = False) -> Iterator[PaddedBatch]:
    """The windows of a chunk, sorted by length, in batches of at most `budget` tokens (padding included).

    `unpadded` puts windows of one length only into a batch, so that there is no padding. A window longer than
    the budget is a batch by itself. The last batch is marked; a chunk without windows gives one empty batch,
    so that its rows still travel the whole road.
    """
    order = np.argsort(-windows.length, kind="stable").astype(np.int32)
    place = 0
    while True:
        longest = int(windows.length[order[place]]) if len(order) else 1
        end = min(place + max(budget // longest, 1), len(order))
        if unpadded:
            end = place + int(np.count_nonzero(windows.length[order[place:end]] == longest))
        yield _pad(windows, order[place:end], last=end == len(order))
        place = end
        if place == len(order):
            return


def blank_batch(layout: Layout, rows: int, tokens: int) -> tuple[Int64, Int64, Int64]:
    """Arrays of shape (rows, tokens) that hold padding only: input_ids, attention_mask, token_type_ids."""
    shape = (rows, tokens)
    return (
        np.full(shape, layout.pad_id, dtype=np.int64),
        np.zeros(shape, dtype=np.int64),
        np.full(shape, layout.pad_type, dtype=np.int64),
    )


def _pad(windows: Windows, index: Int32, last: bool) -> PaddedBatch:
    layout = windows.layout
    lengths = windows.length[index]
    tokens = int(lengths.max(initial=0))
    input_ids, attention_mask, token_type_ids = blank_batch(layout, len(index), tokens)
    after = np.array(layout.after, dtype=np.int64)
    context_at = (lengths - windows.size[index] - len(after)).astype(np.int32)
    for row, window in enumerate(index.tolist()):
        pair = windows.pair[window]
        start, begin, size = int(context_at[row]), int(windows.begin[window]), int(windows.size[window])
        ids = input_ids[row]
        ids[:start] = windows.prefixes[windows.pair_question[pair]]
        ids[start : start + size] = windows.contexts[windows.pair_context[pair]].ids[begin : begin + size]
        ids[start + size : start + size + len(after)] = after
    place = np.arange(tokens)
    attention_mask[place < lengths[:, None]] = 1
    _fill_types(token_type_ids, layout, context_at[:, None], lengths[:, None], place)
    return PaddedBatch(windows, index, input_ids, attention_mask, token_type_ids, context_at, last)


def _fill_types(types: Int64, layout: Layout, context_at: Int32, lengths: Int32, place: Int64) -> None:
    """Write each segment's token type; segments end where the next begins, padding stays as it is."""
    end_of_question = context_at - len(layout.between)
    for until, token_type in (
        (lengths, layout.after_type),
        (lengths - len(layout.after), layout.context_type),
        (context_at, layout.between_type),
        (end_of_question, layout.question_type),
        (np.full_like(lengths, len(layout.before)), layout.before_type),
    ):
        np.copyto(types, token_type, where=place < until)
