"""Spans that do not overlap: the best, then the best of those that share no character with it, and so on.

Exact with bounded memory: a span of at most L tokens overlaps spans that begin at fewer than 2 L tokens, and
at each of those at most L spans begin. So the N best without overlap are among the N * 2 * L * L best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from batchqa.records import Float64, Int32, Int64


@dataclass(frozen=True, slots=True)
class Candidate:
    """A span in characters and its z; `text` is case-folded."""

    z: float
    start: int
    end: int
    text: str


class SpanPool:
    """The best spans of a context so far, as many as choosing `most` of them may need."""

    def __init__(self, most: int, max_answer_length: int) -> None:
        self._kept = most * 2 * max_answer_length**2
        self._z = np.zeros(0)
        self._place = np.zeros((4, 0), dtype=np.int64)

    def add(self, z: Float64, first: Int64, last: Int64, begin: Int64 | Int32, end: Int64 | Int32) -> None:
        """Take spans of tokens (last one included), in reading order; later calls are of later spans.

        begin, end: what spans are known by to overlap, end excluded: places of characters or of tokens.
        """
        self._z = np.concatenate([self._z, z])
        self._place = np.concatenate([self._place, [first, last, begin, end]], axis=1)
        if len(self._z) > 2 * self._kept:
            kept = np.sort(largest(self._z, self._kept))
            self._z, self._place = self._z[kept], self._place[:, kept]

    def choose(
        self, most: int, candidate: Callable[[float, int, int], Candidate], *, distinct_texts: bool
    ) -> list[Candidate]:
        """Up to `most` candidates that do not overlap, best first. Ties: the earliest, then the shortest.

        `candidate` gives a span (z, first token, last token) its characters. With `distinct_texts` none has
        the text of a better one.
        """
        looked_at = 64 * most
        while True:
            chosen = self._greedy(largest(self._z, looked_at), most, candidate, distinct_texts)
            if len(chosen) == most or looked_at >= len(self._z):
                return chosen
            looked_at *= 4

    def _greedy(
        self,
        order: Int64,
        most: int,
        candidate: Callable[[float, int, int], Candidate],
        distinct_texts: bool,
    ) -> list[Candidate]:
        z, (first, last, begin, end) = self._z[order], self._place[:, order]
        free = np.ones(len(order), dtype=bool)
        chosen: list[Candidate] = []
        while len(chosen) < most and free.any():
            at = int(free.argmax())
            free[at] = False
            new = candidate(float(z[at]), int(first[at]), int(last[at]))
            # spans that are apart can share a letter and its marks
            if any(new.start < other.end and other.start < new.end for other in chosen):
                continue
            if distinct_texts and any(new.text == other.text for other in chosen):
                continue
            chosen.append(new)
            free &= (begin >= end[at]) | (end <= begin[at])
        return chosen


def largest(z: Float64, count: int) -> Int64:
    """The places of the `count` largest values, best first, equal ones in order and none of them cut off."""
    if count >= len(z):
        return np.argsort(-z, kind="stable")
    if not count:
        return np.zeros(0, dtype=np.int64)
    least = np.partition(z, len(z) - count)[len(z) - count]
    places = np.flatnonzero(z >= least)
    return places[np.argsort(-z[places], kind="stable")]
