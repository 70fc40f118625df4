"""All spans of one context over its windows: where two cover the same characters, or several are wanted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchqa.records import EncodedContext, Float64, Int64
from batchqa.text import widen

from .rules import DecodingRules
from .spans import Candidate, SpanPool, largest


@dataclass(frozen=True, slots=True)
class Span:
    """A span of context tokens (last one included) and its z."""

    z: float
    first: int
    last: int


class SpanSearch:
    """All spans of one context over its windows: the best, the sum, the top candidates.

    Windows are added in order. z(span) is final once no later window shows its first token; until then it
    waits in a band of shape (first tokens, max_answer_length), so memory does not grow with the context.
    """

    def __init__(self, context: EncodedContext, rules: DecodingRules) -> None:
        self._context = context
        self._rules = rules
        self._width = rules.max_answer_length
        self._band = np.full((0, self._width), -np.inf)
        self._band_at = 0
        self._best = Span(-np.inf, 0, 0)
        self._top: dict[str, Candidate] = {}
        self._top_k = rules.top_k if rules.overlapping_candidates else 0
        apart = max(rules.most_answers, rules.top_k - self._top_k)
        self._pool = SpanPool(apart, self._width) if apart else None
        self.log_sum = -np.inf

    def candidates(self) -> list[Candidate]:
        """The top_k best spans that differ in case-folded text and, unless overlaps are wanted, are apart."""
        if self._rules.overlapping_candidates or self._pool is None:
            return sorted(self._top.values(), key=_rank)
        return self._pool.choose(self._rules.top_k, self._candidate, distinct_texts=True)

    def answers(self) -> list[Candidate]:
        """The best spans that are apart, best first; a text that is found at two places comes twice."""
        if self._pool is None:
            return []
        return self._pool.choose(self._rules.most_answers, self._candidate, distinct_texts=False)

    def add(self, begin: int, start: Float64, end: Float64) -> None:
        """Take a window that shows context tokens [begin, begin + len(start))."""
        self._settle(begin)
        padded = np.append(end, np.full(self._width - 1, -np.inf))
        # row i of this view is padded[i : i + width]; numpy's sliding_window_view takes longer than the sum
        ahead = np.ndarray((len(start), self._width), np.float64, padded, strides=2 * padded.strides)
        band = start[:, None] + ahead
        kept, shared = self._band[: begin - self._band_at], self._band[begin - self._band_at :]
        np.maximum(band[: len(shared)], shared, out=band[: len(shared)])
        # in most contexts all that comes before this window is settled, and there is nothing to copy
        self._band = np.concatenate([kept, band]) if len(kept) else band

    def finish(self) -> Span:
        """The best span; z is -inf where the context has no visible character."""
        self._settle(self._band_at + len(self._band))
        return self._best

    def _settle(self, until: int) -> None:
        """Judge the spans that begin before token `until`: no later window shows them."""
        count = until - self._band_at
        if not self._context.regular and until < len(self._context.ids):
            # tokens that start at the same character begin the same spans: they are judged together
            starts, _ = self._context.trimmed_offsets()
            while count and starts[self._band_at + count - 1] == starts[self._band_at + count]:
                count -= 1
        final, self._band = self._band[:count], self._band[count:]
        z, place = self._spans(final.ravel())
        place += self._band_at * self._width
        self._band_at += count
        if not len(z):
            return
        top = int(z.argmax())
        if z[top] > self._best.z:
            self._best = Span(float(z[top]), *self._tokens(int(place[top])))
        largest = float(z[top])
        self.log_sum = float(np.logaddexp(self.log_sum, largest + np.log(np.exp(z - largest).sum())))
        if self._top_k:
            self._keep_top(z, place)
        if self._pool is not None:
            first, further = np.divmod(place, self._width)
            last = first + further
            if self._context.regular:
                self._pool.add(z, first, last, first, last + 1)
            else:  # a token that shares its characters, or has none, makes no overlap of those
                starts, ends = self._context.trimmed_offsets()
                self._pool.add(z, first, last, starts[first], ends[last])

    def _spans(self, flat: Float64) -> tuple[Float64, Int64]:
        """The z of the spans in a flat band, and their places in it: those within the context, each once."""
        within = np.isfinite(flat)
        if not self._context.regular:
            place = self._distinct(flat, np.flatnonzero(within))
        elif (
            within.all()
        ):  # everywhere but at the context's end: picking all of them out would take as long again
            return flat, np.arange(len(flat))
        else:
            place = np.flatnonzero(within)
        return flat[place], place

    def _tokens(self, place: int) -> tuple[int, int]:
        """First and last token of the span at a place of the band, counted from the context's first token."""
        first, further = divmod(place, self._width)
        return first, first + further

    def _distinct(self, z: Float64, place: Int64) -> Int64:
        """Those of the spans at `place` in a flat band that cover distinct characters, in reading order."""
        starts, ends = self._context.trimmed_offsets()
        first, further = np.divmod(place, self._width)
        start = starts[self._band_at + first]
        end = ends[self._band_at + first + further]
        visible = start < end
        place, start, end = place[visible], start[visible], end[visible]
        order = np.lexsort((-z[place], end, start))
        place, start, end = place[order], start[order], end[order]
        new = np.ones(len(place), dtype=bool)
        new[1:] = (start[1:] != start[:-1]) | (end[1:] != end[:-1])
        return place[new]

    def _keep_top(self, z: Float64, place: Int64) -> None:
        """Merge the best spans of a settled band into the candidates."""
        looked_at = 0
        wanted = 4 * self._top_k
        while True:
            order = largest(z, wanted)
            for at in order[looked_at:].tolist():
                if len(self._top) == self._top_k and z[at] < max(self._top.values(), key=_rank).z:
                    return
                self._offer(float(z[at]), *self._tokens(int(place[at])))
            if len(order) == len(z):
                return
            looked_at, wanted = len(order), 4 * wanted

    def _offer(self, z: float, first: int, last: int) -> None:
        candidate = self._candidate(z, first, last)
        text = candidate.text
        if text not in self._top or _rank(candidate) < _rank(self._top[text]):
            self._top[text] = candidate
        if len(self._top) > self._top_k:
            del self._top[max(self._top.values(), key=_rank).text]

    def _candidate(self, z: float, first: int, last: int) -> Candidate:
        start, end = widen(self._context.text, *self._context.characters(first, last))
        return Candidate(z, start, end, self._context.text[start:end].casefold())


def _rank(candidate: Candidate) -> tuple[float, int, int]:
    """Sorts candidates: best first, then earliest, then shortest."""
    return -candidate.z, candidate.start, candidate.end
