"""Logits -> answers of pairs: the exact best span of every pair, by the rules of `docs/decoding.md`.

    z(span) = max over the pair's windows of (start logit + end logit)
    z(null) = min over the pair's windows of the null token's start + end logit
    no answer  when  z(null) - max z(span) > threshold
    score   = softmax of the decision over all distinct spans and null

as transformers' run_qa (utils_qa.py) does, but over every span instead of an n-best list. A pair with one
window and ordinary tokens is decoded together with its whole batch; the others wait until all their
windows are there, and are decoded window by window with memory for one window only.

Sums are made in float64, where a sum of two float32 logits is exact: so a tie is a tie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa

from batchqa.answer_columns import PAIR_ANSWERS_TYPE, PAIR_CANDIDATE_TYPE, pair_schema
from batchqa.probability import Decided
from batchqa.records import BatchLogits, Bool, Float32, Float64, Int32, Int64, PairAnswers, Windows
from batchqa.text import widen

from .rules import DecodingRules
from .search import SpanSearch
from .spans import Candidate

Floats = TypeVar("Floats", Float32, Float64)


class _Pairs:
    """What is known so far of a chunk's pairs, one entry each; `at_once` are those with one plain window."""

    def __init__(self, windows: Windows) -> None:
        count = len(windows.pair_first)
        regular = np.array([context.regular for context in windows.contexts], dtype=bool)
        self.at_once = regular[windows.pair_context] & (windows.pair_count == 1)
        self.best = np.full(count, -np.inf)
        self.null = np.full(count, np.inf)
        self.log_sum = np.full(count, -np.inf)
        self.first = np.zeros(count, dtype=np.int64)
        self.last = np.zeros(count, dtype=np.int64)
        self.failed: dict[int, str] = {}
        self.waiting: dict[int, list[tuple[Float64, Float64] | None]] = {}
        self.candidates: dict[int, list[Candidate]] = {}
        self.answers: dict[int, list[Candidate]] = {}


class Decoder:
    """Takes the scored batches of one chunk after the other; judges its pairs when they are complete."""

    def __init__(self, rules: DecodingRules) -> None:
        self._rules = rules
        self._pairs: _Pairs | None = None

    def add(self, logits: BatchLogits) -> PairAnswers | None:
        """Decode a batch; returns the answers of its chunk's pairs if this was the chunk's last batch."""
        windows = logits.batch.windows
        if self._pairs is None:
            self._pairs = _Pairs(windows)
        pairs = self._pairs
        self._take(pairs, logits)
        if not logits.batch.last:
            return None
        self._pairs = None
        return PairAnswers(windows, self._judge(windows, pairs))

    def _take(self, pairs: _Pairs, logits: BatchLogits) -> None:
        """Decode the simple windows of a batch at once, and put the others aside or finish their pair."""
        batch, windows = logits.batch, logits.batch.windows
        if not len(batch.index):
            return
        pair = windows.pair[batch.index]
        size = windows.size[batch.index]
        for row, code in logits.failed.items():
            pairs.failed.setdefault(int(pair[row]), code)
        start, end = logits.start, logits.end
        at_null = windows.layout.null_position
        null = np.add(start[:, at_null], end[:, at_null], dtype=np.float64)
        good = np.ones(len(pair), dtype=bool)
        good[list(logits.failed)] = False
        np.minimum.at(pairs.null, pair[good], null[good])

        simple = good & pairs.at_once[pair] & (not self._rules.lists_spans)
        rows = np.flatnonzero(simple)
        if len(rows):
            found = best_spans(
                start.take(rows, axis=0),
                end.take(rows, axis=0),
                batch.context_at[rows],
                size[rows],
                self._rules.max_answer_length,
            )
            pairs.best[pair[rows]], pairs.log_sum[pair[rows]] = found.z, found.log_sum
            pairs.first[pair[rows]], pairs.last[pair[rows]] = found.first, found.last
            # the quick sum underflows where the best start and the best end are far apart and extreme
            simple[rows[~np.isfinite(found.log_sum)]] = False
        for row in np.flatnonzero(good & ~simple).tolist():
            at = slice(int(batch.context_at[row]), int(batch.context_at[row]) + int(size[row]))
            window = int(batch.index[row])
            self._put_aside(
                pairs, windows, window, start[row, at].astype(np.float64), end[row, at].astype(np.float64)
            )

    def _put_aside(self, pairs: _Pairs, windows: Windows, window: int, start: Float64, end: Float64) -> None:
        pair = int(windows.pair[window])
        first, count = int(windows.pair_first[pair]), int(windows.pair_count[pair])
        waiting = pairs.waiting.setdefault(pair, [None] * count)
        waiting[window - first] = (start, end)
        if any(logits is None for logits in waiting):
            return
        del pairs.waiting[pair]
        context = windows.contexts[windows.pair_context[pair]]
        rules = self._rules
        search = SpanSearch(context, rules)
        for at, logits in enumerate(waiting):
            assert logits is not None
            search.add(int(windows.begin[first + at]), *logits)
        best = search.finish()
        pairs.best[pair], pairs.log_sum[pair] = best.z, search.log_sum
        pairs.first[pair], pairs.last[pair] = best.first, best.last
        if rules.top_k:
            pairs.candidates[pair] = search.candidates()
        if rules.most_answers:
            pairs.answers[pair] = search.answers()

    def _judge(self, windows: Windows, pairs: _Pairs) -> pa.RecordBatch:
        """The answers of the pairs, all of whose windows are there."""
        rules = self._rules
        good = np.isfinite(pairs.best)
        good[list(pairs.failed)] = False
        with np.errstate(invalid="ignore", over="ignore"):
            odds = pairs.null - pairs.best
            abstained = good & rules.abstains & (odds > _thresholds(windows, rules.threshold))
            with_null = np.logaddexp(pairs.log_sum, pairs.null)
            total = with_null if rules.abstains else pairs.log_sum
            chosen = np.where(abstained, pairs.null, pairs.best)
            score = np.exp(chosen - total)
            if rules.calibrate is not None:
                # it was fitted to the model as it was trained, which --no-answer does not change
                if rules.trained_to_abstain:
                    decided = Decided(np.exp(chosen - with_null), odds)
                else:
                    decided = Decided(np.exp(chosen - pairs.log_sum), np.full_like(odds, np.nan))
                score = rules.calibrate(decided, abstained)
        answered = good & ~abstained
        may_abstain = rules.abstains or rules.min_score is not None
        failed: list[str | None] = [pairs.failed.get(pair) for pair in range(len(good))]
        if rules.min_score is not None:
            low = answered & (score.astype(np.float32) < np.float32(rules.min_score))
            answered, abstained = answered & ~low, abstained | low
            for pair in np.flatnonzero(low).tolist():
                failed[pair] = "low_score"
        starts, ends = _spans_of(windows, pairs, answered)
        missing = ~good
        columns: list[pa.Array] = [
            pa.array(starts, pa.int32(), mask=~answered),
            pa.array(ends, pa.int32(), mask=~answered),
            pa.array(score.astype(np.float32), mask=missing),
            pa.array(abstained, mask=missing | (not may_abstain)),
            pa.array(odds.astype(np.float32), mask=missing | (not rules.abstains)),
            pa.array(failed, pa.string()),
        ]
        if rules.top_k:
            columns.append(_lists_of(pairs.candidates, pairs, good, total, PAIR_CANDIDATE_TYPE))
        if rules.most_answers:
            columns.append(_lists_of(pairs.answers, pairs, good, total, PAIR_ANSWERS_TYPE))
        return pa.record_batch(columns, schema=pair_schema(rules.top_k, rules.most_answers))


def _thresholds(windows: Windows, default: float) -> Float64:
    """The no-answer threshold of each asked pair: float64, (asked,)."""
    pairs = windows.pairs
    if pairs.threshold is None:
        return np.full(len(pairs.to_ask), default)
    own = pairs.threshold[pairs.question[pairs.to_ask]]
    return np.where(np.isnan(own), default, own)


@dataclass(frozen=True, slots=True)
class BestSpans:
    """The best span of each window of a batch.

    z, log_sum (log of the sum over all spans of exp z): float64, (windows,); first, last: int64, (windows,),
    token positions in the context part of the window.
    """

    z: Float64
    log_sum: Float64
    first: Int64
    last: Int64


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
    with np.errstate(divide="ignore"):
        log_sum = np.log((np.exp(start - top_start) * reachable).sum(axis=1))
    return BestSpans(
        z=sums[row, first],
        log_sum=log_sum + top_start[:, 0] + top_end[:, 0],
        first=first - context_at,
        last=last - context_at,
    )


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


def _spans_of(windows: Windows, pairs: _Pairs, answered: Bool) -> tuple[Int32, Int32]:
    """The characters of the pairs that have an answer."""
    starts = np.zeros(len(answered), dtype=np.int32)
    ends = np.zeros(len(answered), dtype=np.int32)
    of, first, last = windows.pair_context.tolist(), pairs.first.tolist(), pairs.last.tolist()
    for pair in np.flatnonzero(answered).tolist():
        context = windows.contexts[of[pair]]
        # what the tokens cover, and the rest of a letter that they share
        starts[pair], ends[pair] = widen(context.text, *context.characters(first[pair], last[pair]))
    return starts, ends


def _lists_of(
    listed: Mapping[int, Sequence[Candidate]], pairs: _Pairs, good: Bool, total: Float64, kind: pa.DataType
) -> pa.Array:
    """The spans that are listed of each pair: candidates, or all answers.

    Each has its own odds against null where `kind` has: which of them pass a threshold is the row's to say.
    """

    def entry(pair: int, one: Candidate) -> dict[str, float]:
        score = float(np.exp(one.z - total[pair]))
        return {"start": one.start, "end": one.end, "score": score, "null_odds": pairs.null[pair] - one.z}

    rows = [
        [entry(pair, one) for one in listed[pair]] if is_good else None
        for pair, is_good in enumerate(good.tolist())
    ]
    return pa.array(rows, kind)
