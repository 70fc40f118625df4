"""Windows -> padded batches: like lengths together, long ones first.

So the engine's buffers are allocated once at their largest. A batch is what the host handles at once; where
that is more than the engine's budget, the engine takes it in micro-batches. Batches end where these do: so
none is cut in two, and a worker meets fewer shapes, of which each costs it some milliseconds when it is new.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from batchqa.records import LENGTH_BUCKET, Int32, Int64, Layout, PaddedBatch, Ragged, Windows

HOST_TOKENS = 4096
"""Tokens of a batch, unless the engine takes more: a dozen windows or more share what it costs the host."""

LAST_BATCHES = 16
"""The chunk's rest is always enough for so many batches: they become smaller towards its end.

So workers that share the last ones out end at nearly the same time (guided self-scheduling, Polychronopoulos
and Kuck 1987).
"""


def padded_batches(
    windows: Windows, budget: int, length_bucket: int = LENGTH_BUCKET
) -> Iterator[PaddedBatch]:
    """The windows of a chunk, sorted by length, in batches of `budget` to HOST_TOKENS tokens (with padding).

    `budget` and `length_bucket` are the engine's (see SpanScorer). A window longer than the budget is a batch
    by itself. The last batch is marked; a chunk without windows
    gives one empty batch, so that its rows still go through the whole pipeline.
    """
    contexts = Ragged.joined([context.ids for context in windows.contexts])
    order = np.argsort(-windows.length, kind="stable").astype(np.int32)
    ends = _micro_batch_ends(windows.length[order], budget, length_bucket)
    place, left = 0, int(windows.length.sum())
    while True:
        longest = int(windows.length[order[place]]) if len(order) else 1
        size = max(min(left // LAST_BATCHES, HOST_TOKENS), budget)
        fits = place + max(size // longest, 1)
        end = int(ends[np.searchsorted(ends, fits, side="right") - 1])
        left -= int(windows.length[order[place:end]].sum())
        yield pad(windows, contexts, order[place:end], last=end == len(order))
        place = end
        if place == len(order):
            return


def _micro_batch_ends(lengths: Int32, budget: int, length_bucket: int) -> Int64:
    """Where a micro-batch of windows of one bucket ends that fits into `budget` tokens; of sorted lengths.

    Zero comes first, for a chunk without windows. A batch that is one micro-batch may end anywhere.
    """
    if budget >= HOST_TOKENS:
        return np.arange(len(lengths) + 1)
    padded = -(-lengths // length_bucket) * length_bucket
    buckets = np.concatenate([np.flatnonzero(np.diff(padded, prepend=-1)), [len(lengths)]])
    within = [
        np.arange(first, end, max(budget // int(padded[first]), 1))[1:] for first, end in pairwise(buckets)
    ]
    return np.unique(np.concatenate([[0], buckets, *within])).astype(np.int64)


def blank_batch(layout: Layout, rows: int, tokens: int) -> tuple[Int64, Int64, Int64]:
    """Arrays of shape (rows, tokens) that hold padding only: input_ids, attention_mask, token_type_ids."""
    shape = (rows, tokens)
    return (
        np.full(shape, layout.pad_id, dtype=np.int64),
        np.zeros(shape, dtype=np.int64),
        np.full(shape, layout.pad_type, dtype=np.int64),
    )


def pad(windows: Windows, contexts: Ragged, index: Int32, last: bool) -> PaddedBatch:
    """The windows `index` as the model takes them; `contexts` are the ids of `windows.contexts`."""
    layout = windows.layout
    lengths, sizes, pairs = windows.length[index], windows.size[index], windows.pair[index]
    tokens = int(lengths.max(initial=0))
    input_ids, attention_mask, token_type_ids = blank_batch(layout, len(index), tokens)
    context_end = lengths - len(layout.after)
    context_at = context_end - sizes
    # ids come row by row, in the order in which a mask is filled
    place = np.arange(tokens, dtype=np.int32)
    in_prefix = place < context_at[:, None]
    in_context = (place < context_end[:, None]) & ~in_prefix
    input_ids[in_prefix] = windows.prefixes.pieces(
        windows.pair_question[pairs], np.zeros_like(sizes), context_at
    )
    input_ids[in_context] = contexts.pieces(windows.pair_context[pairs], windows.begin[index], sizes)
    for number, token in enumerate(layout.after):
        input_ids[np.arange(len(index)), context_end + number] = token
    attention_mask[place < lengths[:, None]] = 1
    _fill_types(token_type_ids, layout, context_at[:, None], lengths[:, None], place)
    return PaddedBatch(windows, index, input_ids, attention_mask, token_type_ids, context_at, last)


def _fill_types(types: Int64, layout: Layout, context_at: Int32, lengths: Int32, place: Int32) -> None:
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
