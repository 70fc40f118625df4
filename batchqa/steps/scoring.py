"""What the pipeline needs of a model on a device, and what is done about a batch that goes wrong.

A scorer turns token ids into start and end logits, nothing more. What goes wrong on the way is decided
here once for all scorers: a batch that does not fit into memory is halved down to single windows, so is one
with which the engine dies, logits that are not finite fail their window, and no row is lost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from batchqa.records import LENGTH_BUCKET, BatchLogits, Float32, Int64, PaddedBatch


class OutOfMemoryError(Exception):
    """The device has no room for a batch of this size; a smaller one may fit."""


class CrashedError(Exception):
    """The engine's process died with this batch; it will be started again for the next one."""


UNLIMITED = 2**31 - 1
"""The token budget of a scorer that takes each batch as a whole."""


class SpanScorer(Protocol):
    """A model on a device: what the pipeline needs of it.

    `at_once`: by how many threads it wants to be called at the same time, so that it never waits for a batch.
    `budget`: how many tokens, padding included, it computes at once; larger batches are cut up.
    `length_bucket`: batches end where windows' lengths, rounded up to a multiple of it, change.
    """

    engine: str
    device: str
    at_once: int
    budget: int
    length_bucket: int

    def score(
        self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64
    ) -> tuple[Float32, Float32]:
        """Start and end logits, float32, (windows, tokens), of int64 inputs of that shape, padded at the end.

        Raises OutOfMemoryError where a smaller batch may fit, CrashedError where the engine died with it,
        TryAgainError where the device is lost.
        """
        ...

    def close(self) -> None:
        """End what it has running beside this process; a batch that comes afterwards starts it again."""
        ...


class MicroBatchScorer(ABC):
    """A scorer in this process: it cuts a batch into micro-batches, and `_run` computes each of them.

    `together`: windows are in one micro-batch only if their lengths, rounded up to a multiple of it, are the
    same; None puts any together.
    """

    at_once = 1
    budget = UNLIMITED
    length_bucket = LENGTH_BUCKET
    together: int | None = None

    def score(
        self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64
    ) -> tuple[Float32, Float32]:
        """See SpanScorer.score."""
        start, end = np.zeros((2, *input_ids.shape), dtype=np.float32)
        for part in micro_batches(attention_mask, self.budget, length_bucket=self.together):
            start[part], end[part] = self._run(input_ids[part], attention_mask[part], token_type_ids[part])
        return start, end

    def close(self) -> None:  # noqa: B027 - what runs in this process alone has nothing to end
        """See SpanScorer.close."""

    @abstractmethod
    def _run(self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64) -> tuple[Float32, Float32]:
        """The logits of a micro-batch, which the model computes at once."""


def micro_batches(
    attention_mask: Int64, budget: int, *, length_bucket: int | None = None
) -> Iterator[tuple[slice, slice]]:
    """Neighbouring windows, and as many tokens as their longest has, within `budget` tokens.

    `length_bucket` puts only windows together whose lengths are equal, rounded up to a multiple of it; they
    count as if they had that length, so that there are equally many in all micro-batches of a bucket but the
    last. A window longer than the budget is a micro-batch by itself.
    """
    lengths = np.maximum(attention_mask.sum(axis=1), 1)
    counted = lengths if length_bucket is None else -(-lengths // length_bucket) * length_bucket
    first, widest = 0, 0
    for row, width in enumerate(counted.tolist()):
        too_many = max(widest, width) * (row + 1 - first) > budget
        if row > first and (too_many or (length_bucket is not None and width != widest)):
            yield slice(first, row), slice(0, int(lengths[first:row].max()))
            first, widest = row, 0
        widest = max(widest, width)
    if len(lengths):
        yield slice(first, len(lengths)), slice(0, int(lengths[first:].max()))


def score_batch(scorer: SpanScorer, batch: PaddedBatch) -> BatchLogits:
    """Score a batch; the windows that cannot be scored are `oom`, `crashed` or `non_finite`, each by itself.

    A batch that is too large is halved until it fits. One with which the engine dies is tried once more (the
    cause may have been another), then halved as well, until the windows that kill it stand alone.
    """
    count, tokens = batch.input_ids.shape
    start = np.zeros((count, tokens), dtype=np.float32)
    end = np.zeros((count, tokens), dtype=np.float32)
    failed: dict[int, str] = {}
    crashes = 0
    left = [slice(0, count)] if count else []
    while left:
        piece = left.pop()
        try:
            start[piece], end[piece] = scorer.score(
                batch.input_ids[piece], batch.attention_mask[piece], batch.token_type_ids[piece]
            )
            continue
        except OutOfMemoryError:
            code = "oom"
        except CrashedError:
            code = "crashed"
            crashes += 1
            if crashes == 1:
                left.append(piece)
                continue
        if piece.stop - piece.start == 1:
            failed[piece.start] = code
            continue
        middle = (piece.start + piece.stop) // 2
        left += [slice(middle, piece.stop), slice(piece.start, middle)]
    finite = (np.isfinite(start) & np.isfinite(end)) | (batch.attention_mask == 0)
    for row in np.flatnonzero(~finite.all(axis=1)).tolist():
        failed.setdefault(row, "non_finite")
    return BatchLogits(batch, start, end, failed)
