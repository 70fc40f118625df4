"""The best spans of many windows at once: for contexts whose token spans all cover different characters.

A span that two neighbouring windows show counts with the larger of its two sums. So the best span of a pair
is the best one of any of its windows; and the sum over all its spans is that of its windows less, for each
span that two of them show, the smaller one: max(a, b) = a + b - min(a, b). At most half is subtracted, so no
digits are lost.

Sums are made in float64, where a sum of two float32 logits is exact: so a tie is a tie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from batchqa.records import Float32, Float64, Int32, Int64, Windows

from .rules import DecodingRules

Floats = TypeVar("Floats", Float32, Float64)

AT_ONCE = 8
"""Neighbours whose shared spans are looked at together: so few that these stay in the processor's cache."""

FAINT = 1e-290
"""A sum of exponentials that is smaller has lost digits, or all of them."""


@dataclass(frozen=True, slots=True)
class BestSpans:
    """The best span of each of some windows, or of some pairs.

    z, log_sum (log of the sum over all spans of exp z): float64; first, last: int64, token positions, in
    the context of a pair, or in a window's part of it.
    """

    z: Float64
    log_sum: Float64
    first: Int64
    last: Int64


class BatchedSearch:
    """The best spans of the `plain` ones among a chunk's pairs, whose windows come in any order.

    plain: bool, (asked,): no two spans of the context cover the same characters, no token is in more than two
    windows, and only the best span is wanted.
    """

    def __init__(self, windows: Windows, rules: DecodingRules) -> None:
        self._windows = windows
        self._width = rules.max_answer_length
        pair, begin, end = windows.pair, windows.begin, windows.begin + windows.size
        regular = [context.regular and not rules.lists_spans for context in windows.contexts]
        self.plain = np.array(regular, dtype=bool)[windows.pair_context]
        self.plain[pair[2:][(pair[2:] == pair[:-2]) & (begin[2:] < end[:-2])]] = False
        # how many tokens a window shares with the one after it
        self._shared = np.zeros(len(windows), dtype=np.int32)
        self._shared[:-1] = np.where(pair[1:] == pair[:-1], end[:-1] - begin[1:], 0)
        self._shared[~self.plain[pair]] = 0
        self._shares = self._shared > 0
        self._slot = np.cumsum(self._shares) - 1
        # of both windows, start and end
        shape = np.count_nonzero(self._shares), 4, self._shared.max(initial=0)
        self._twice = np.full(shape, -np.inf, dtype=np.float32)
        self._z, self._log_sum = np.full((2, len(windows)), -np.inf)
        self._first, self._last = np.zeros((2, len(windows)), dtype=np.int64)

    def add(self, window: Int32, start: Float32, end: Float32, context_at: Int32) -> None:
        """Take the logits of some windows of plain pairs: start, end: float32, (some, tokens)."""
        size, begin = self._windows.size[window], self._windows.begin[window]
        found = best_spans(start, end, context_at, size, self._width)
        self._z[window], self._log_sum[window] = found.z, found.log_sum
        self._first[window], self._last[window] = begin + found.first, begin + found.last
        before, after = np.flatnonzero(self._shares[window]), np.flatnonzero(self._shares[window - 1])
        tail = context_at + size - self._shared[window]
        self._keep(0, window[before], start[before], end[before], tail[before])
        self._keep(2, window[after] - 1, start[after], end[after], context_at[after])

    def _keep(self, side: int, left: Int32, start: Float32, end: Float32, at: Int32) -> None:
        """Keep what each window shares with its neighbour, from token `at` on."""
        ahead = np.arange(self._twice.shape[2])
        token = np.minimum(at[:, None] + ahead, start.shape[1] - 1)
        beyond = ahead >= self._shared[left][:, None]
        for number, logits in enumerate((start, end), side):
            shared = np.take_along_axis(logits, token, axis=1)
            shared[beyond] = -np.inf
            self._twice[self._slot[left], number] = shared

    def of_pairs(self) -> BestSpans:
        """The best span of each asked pair; z is -inf where it has none or is not plain."""
        count = self._windows.pair_count
        has = np.flatnonzero(count)
        z, log_sum = np.full((2, len(count)), -np.inf)
        spans = np.zeros((2, len(count)), dtype=np.int64)
        if len(has):
            begin, of = self._windows.pair_first[has], np.repeat(np.arange(len(has)), count[has])
            best, largest = (np.maximum.reduceat(each, begin) for each in (self._z, self._log_sum))
            # of equals the earliest, then the shortest
            tokens = int(self._last.max()) + 1
            rank = np.where(self._z == best[of], self._first * tokens + self._last, tokens**2)
            spans[:, has] = np.divmod(np.minimum.reduceat(rank, begin), tokens)
            with np.errstate(invalid="ignore", divide="ignore"):
                once = np.exp(self._log_sum - largest[of])
                once[self._shares] -= np.exp(self._log_smaller() - largest[of[self._shares]])
                z[has], log_sum[has] = best, largest + np.log(np.add.reduceat(once, begin))
        return BestSpans(z, log_sum, *spans)

    def _log_smaller(self) -> Float64:
        """For each two neighbours, log of the sum of exp z over the spans of both, with the smaller z."""
        found = np.zeros(len(self._twice))
        for at in range(0, len(found), AT_ONCE):
            start, end, other_start, other_end = self._twice[at : at + AT_ONCE].swapaxes(0, 1)
            z = _all_spans(start, end, self._width)
            np.minimum(z, _all_spans(other_start, other_end, self._width), out=z)
            found[at : at + AT_ONCE] = _log_sum_exp(z)
        return found


def best_spans(
    start: Float32, end: Float32, context_at: Int32, size: Int32, max_answer_length: int
) -> BestSpans:
    """The best of all spans of at most `max_answer_length` tokens, for a whole batch at once.

    start, end: float32, (windows, tokens); context_at, size: int32, (windows,): where the context stands.
    Work grows with tokens * log(max_answer_length). Ties: the earliest start, then the earliest end.
    """
    place = np.arange(start.shape[1], dtype=np.int32)
    outside = (place < context_at[:, None]) | (place >= (context_at + size)[:, None])
    start = np.where(outside, np.float32(-np.inf), start)
    end = np.where(outside, np.float32(-np.inf), end)
    row = np.arange(len(start))

    sums = np.add(start, _sliding(end, max_answer_length, np.maximum, -np.inf), dtype=np.float64)
    first = sums.argmax(axis=1)
    reach = np.minimum(first[:, None] + np.arange(max_answer_length), start.shape[1] - 1)
    last = reach[row, end[row[:, None], reach].argmax(axis=1)]

    top_start = start.max(axis=1, keepdims=True).astype(np.float64)
    top_end = end.max(axis=1, keepdims=True).astype(np.float64)
    reachable = _sliding(np.exp(end - top_end), max_answer_length, np.add, 0.0)
    total = (np.exp(start - top_start) * reachable).sum(axis=1)
    with np.errstate(divide="ignore"):
        log_sum = np.log(total) + top_start[:, 0] + top_end[:, 0]
    # where the best start and the best end are far apart and extreme
    faint = np.flatnonzero(total < FAINT)
    log_sum[faint] = _log_sum_exp(_all_spans(start[faint], end[faint], max_answer_length))
    return BestSpans(z=sums[row, first], log_sum=log_sum, first=first - context_at, last=last - context_at)


def _all_spans(start: Float32, end: Float32, width: int) -> Float64:
    """The z of the spans from every token on: float64, (windows, tokens, width); -inf past the end."""
    windows, tokens = end.shape
    padded = np.full((windows, tokens + width - 1), -np.inf)
    padded[:, :tokens] = end
    ahead: Float64 = np.lib.stride_tricks.sliding_window_view(padded, width, axis=1)
    return start[:, :, None] + ahead


def _log_sum_exp(z: Float64) -> Float64:
    """Log of the sum of exp z for each window: z: float64, (windows, tokens, width), is changed."""
    largest: Float64 = z.max(axis=(1, 2), initial=-np.inf)
    z -= largest[:, None, None]
    log_sum: Float64 = largest + np.log(np.exp(z, out=z).sum(axis=(1, 2)))
    return log_sum


def _sliding(values: Floats, width: int, combine: np.ufunc, neutral: float) -> Floats:
    """`combine` over values[:, i : i + width] for every i, in log(width) steps of widths 1, 2, 4, ..."""
    done = np.full_like(values, neutral)
    reach = 0
    power, block = 1, values
    while True:
        if width & power:
            done = _joined(combine, done, block, reach, out=done)
            reach += power
        if 2 * power > width:
            return done
        block = _joined(combine, block, block, power, out=block.copy())
        power *= 2


def _joined(combine: np.ufunc, values: Floats, ahead: Floats, by: int, out: Floats) -> Floats:
    """`combine` of values[:, i] and ahead[:, i + by] for every i; past the end `out` as it is."""
    within = max(values.shape[1] - by, 0)
    combine(values[:, :within], ahead[:, by:], out=out[:, :within])
    return out
