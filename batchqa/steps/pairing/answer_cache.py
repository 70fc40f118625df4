"""Which pairs a part has asked before, and their answers: bounded in pairs and in bytes.

What is forgotten is asked once more, which changes no answer. What is forgotten when depends on the rows
alone, never on how fast the model is, so a part that is made again is batched as it was the first time.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from batchqa.answer_columns import pair_schema
from batchqa.records import Bool, Int64

from .digests import UInt64
from .earlier import EarlierAnswers

MOST_PAIRS = 1_000_000
"""Distinct pairs of a part that later rows can be recognized as copies of."""

MOST_BYTES = 128 * 2**20
"""Memory of the answers that are kept; fewer pairs are remembered where candidates take more than that."""

DIGEST_BYTES = 24
"""What is kept of a pair: its digest and its number."""

ANSWER_BYTES, CANDIDATE_BYTES, ONE_OF_ANSWERS_BYTES = 24, 12, 20
"""What is kept of its answer, of each candidate, and of each of all answers: numbers only, since texts are
cut from the context."""

_LAST = np.full(1, 2**64 - 1, dtype=np.uint64)


def most_bytes(pairs: int, top_k: int, most_answers: int = 0) -> int:
    """About what the cache holds of a part with so many distinct pairs."""
    return min(pairs, _most_pairs(top_k, most_answers)) * _bytes_per_pair(top_k, most_answers)


def _most_pairs(top_k: int, most_answers: int) -> int:
    return min(MOST_PAIRS, MOST_BYTES // _bytes_per_pair(top_k, most_answers))


def _bytes_per_pair(top_k: int, most_answers: int) -> int:
    return DIGEST_BYTES + ANSWER_BYTES + CANDIDATE_BYTES * top_k + ONE_OF_ANSWERS_BYTES * most_answers


def _kept_schema(top_k: int, most_answers: int) -> pa.Schema:
    """What is kept of an answer: `pair_schema`, and whether the question was cut, the answer reused."""
    added = [pa.field(name, pa.bool_()) for name in ("question_cut", "reused")]
    return pa.schema([*pair_schema(top_k, most_answers), *added])


class AnswerCache:
    """Answers of a part's pairs, for the rows that ask the same again; a stream is cut into parts too.

    Two threads use it, each a side of its own: pairing numbers the pairs long before they are answered;
    chunk by chunk, in the same order, answers are kept and taken under those numbers.
    """

    def __init__(self, top_k: int = 0, most_answers: int = 0, earlier: EarlierAnswers | None = None) -> None:
        """`earlier` has answers of earlier outputs; it is not changed."""
        self.earlier = EarlierAnswers(top_k, most_answers) if earlier is None else earlier
        self._none = pa.RecordBatch.from_pylist([], _kept_schema(top_k, most_answers))
        self._numbers = PairNumbers(_most_pairs(top_k, most_answers))
        self._part = -1
        self._first: list[int] = []
        self._answers: list[pa.RecordBatch] = []

    def number(self, part: int, low: UInt64, high: UInt64) -> tuple[Int64, Bool, int]:
        """The number of each pair of a chunk, whether it is new, and the oldest number still remembered.

        low, high: uint64, (pairs,): the distinct pairs' digests, see `pair_digests`.
        """
        if part != self._part:
            self._part = part
            self._numbers.forget()
        numbers, is_new = self._numbers.number(low, high)
        return numbers, is_new, self._numbers.oldest

    def keep(self, first: int, answers: pa.RecordBatch, oldest: int) -> None:
        """Keep the answers of the numbers from `first` on, forget those of the numbers below `oldest`."""
        while self._first and self._first[0] < oldest:
            del self._first[0], self._answers[0]
        if len(answers):
            self._first.append(first)
            self._answers.append(answers)

    def take(self, numbers: Int64) -> pa.RecordBatch:
        """The answers of these numbers, in this order."""
        batch = np.searchsorted(np.array(self._first, dtype=np.int64), numbers, side="right") - 1
        # looked up batch by batch: joined anew for each chunk, a part's answers would take longer and longer
        found = [
            self._answers[at].take(pa.array(numbers[batch == at] - self._first[at]))
            for at in np.unique(batch).tolist()
        ]
        place = np.argsort(np.argsort(batch, kind="stable"))
        return pa.concat_batches([*found, self._none]).take(pa.array(place))

    @property
    def answers_kept(self) -> int:
        """How many answers are kept now."""
        return sum(map(len, self._answers))


class PairNumbers:
    """Numbers distinct pairs in the order in which they first come.

    A pair is known by 128 bits that its texts' digests make, in arrays: a dictionary of the texts would take
    500 bytes a pair, and its tables would leave holes in the heap.
    """

    def __init__(self, most: int) -> None:
        """`most` pairs are remembered, and up to a chunk's more."""
        self.count = 0
        self._most = most
        self.forget()

    def forget(self) -> None:
        """Know none of the pairs so far any more; no number is given twice."""
        self.oldest = self.count
        # sorted by the low half; the last entry is no pair, so that every search ends at an entry
        self._low, self._high = _LAST, _LAST
        self._number = np.full(1, -1, dtype=np.int64)

    def number(self, low: UInt64, high: UInt64) -> tuple[Int64, Bool]:
        """Each pair's number, and whether it is new; the pairs given are distinct."""
        if len(self._number) > self._most:
            self.forget()
        place = np.searchsorted(self._low, low)
        is_new = (self._low[place] != low) | (self._high[place] != high)
        new = np.flatnonzero(is_new)
        numbers = self._number[place]
        numbers[new] = self.count + np.arange(len(new))
        self.count += len(new)
        added = new[np.argsort(low[new])]
        self._low = np.insert(self._low, place[added], low[added])
        self._high = np.insert(self._high, place[added], high[added])
        self._number = np.insert(self._number, place[added], numbers[added])
        return numbers, is_new
