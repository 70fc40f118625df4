"""Training rows -> windows with their gold places, by `run`'s own windowing; and batches of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from batchqa.records import (
    Bool,
    Chunk,
    Cursor,
    EncodedContext,
    Int32,
    Int64,
    PaddedBatch,
    Ragged,
    Rows,
    Windows,
)
from batchqa.steps.batching import pad
from batchqa.steps.pairing import AnswerCache, pairs_of
from batchqa.steps.windowing import Windower

from .gold_rows import GoldRows

POOL_BATCHES = 64
"""Batches whose windows are sorted by length together: little padding, and still a random order."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """All windows of the training rows.

    start, end: int32, (windows,): gold places in the window's tokens; both are the null position where the
    window does not show the answer (run_squad's rule). labelled: bool, (windows,): the row has gold.
    """

    windows: Windows
    contexts: Ragged
    start: Int32
    end: Int32
    labelled: Bool

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, index: Int32) -> PaddedBatch:
        """These windows as the model takes them."""
        return pad(self.windows, self.contexts, index, last=False)

    def answerable(self, batch: PaddedBatch) -> Bool:
        """The positions at which an answer may be, and the null position: bool, (batch, tokens)."""
        place = np.arange(batch.input_ids.shape[1], dtype=np.int32)
        context_end = batch.context_at + self.windows.size[batch.index]
        mask = (place >= batch.context_at[:, None]) & (place < context_end[:, None])
        mask[:, self.windows.layout.null_position] = True
        return np.asarray(mask)


def make_features(gold_rows: GoldRows, windower: Windower) -> Features:
    """Windows of all rows. A (context, question) that is there twice counts once, with its first gold."""
    pairs = pairs_of(as_chunk(gold_rows), AnswerCache())
    windows = windower.fresh().windows(pairs)
    row_of_pair = np.full(len(pairs.number), -1, dtype=np.int64)
    rows = np.flatnonzero(pairs.row_pair >= 0)[::-1]
    row_of_pair[pairs.row_pair[rows]] = rows  # of several rows the first is written last
    first, last = _gold_tokens(windows, gold_rows, row_of_pair)
    null = windows.layout.null_position
    context_at = windows.length - len(windows.layout.after) - windows.size
    start, end = first[windows.pair] - windows.begin, last[windows.pair] - windows.begin
    shown = (first[windows.pair] >= 0) & (start >= 0) & (end < windows.size)
    return Features(
        windows=windows,
        contexts=Ragged.joined([context.ids for context in windows.contexts]),
        start=np.where(shown, start + context_at, null).astype(np.int32),
        end=np.where(shown, end + context_at, null).astype(np.int32),
        labelled=gold_rows.labelled[row_of_pair][windows.pair],
    )


def as_chunk(gold_rows: GoldRows) -> Chunk:
    """All rows as one chunk of the pipeline."""
    rows = Rows(
        columns=pa.RecordBatch.from_arrays([gold_rows.context], names=["context"]),
        context=gold_rows.context,
        question=gold_rows.question,
        faults={},
        first_record=0,
        cursor_after=lambda count: Cursor(row=count),
        locate=lambda row: f"row {row + 1}",
    )
    return Chunk(rows, part=0, last_of_part=True)


def _gold_tokens(windows: Windows, gold_rows: GoldRows, row_of_pair: Int64) -> tuple[Int32, Int32]:
    """First and last context token of each pair's gold answer, -1 where it has none: int32, (pairs,)."""
    first, last = np.full((2, len(row_of_pair)), -1, dtype=np.int32)
    offsets: tuple[int, EncodedContext | None, Int32, Int32] = (-1, None, *np.zeros((2, 0), dtype=np.int32))
    for pair in np.argsort(windows.pair_context, kind="stable").tolist():
        row, context = int(row_of_pair[pair]), int(windows.pair_context[pair])
        if gold_rows.start[row] < 0:
            continue
        if offsets[0] != context:
            encoded = windows.contexts[context]
            offsets = (context, encoded, *encoded.trimmed_offsets())
        starts, ends = offsets[2], offsets[3]
        begin = int(np.searchsorted(ends, gold_rows.start[row], side="right"))
        end = int(np.searchsorted(starts, gold_rows.end[row], side="left")) - 1
        if begin <= end:
            first[pair], last[pair] = begin, end
    return first, last


def batches(lengths: Int32, budget: int, seed: int, epoch: int) -> list[Int32]:
    """One epoch's batches: window numbers, at most `budget` tokens with padding, in a random order.

    The order depends on the lengths, the seed and the epoch alone, so that a resumed run sees the same.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths)).astype(np.int32)
    mean = max(int(lengths.mean()), 1) if len(lengths) else 1
    pool = max(budget // mean, 1) * POOL_BATCHES
    made: list[Int32] = []
    for first in range(0, len(order), pool):
        windows = order[first : first + pool]
        windows = windows[np.argsort(-lengths[windows], kind="stable")]
        while len(windows):
            count = max(budget // int(lengths[windows[0]]), 1)
            made.append(windows[:count])
            windows = windows[count:]
    return [made[at] for at in random.permutation(len(made))]
