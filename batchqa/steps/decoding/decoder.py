"""Logits -> answers of pairs: the exact best span of every pair, by the rules of `docs/decoding.md`.

    z(span) = max over the pair's windows of (start logit + end logit)
    z(null) = min over the pair's windows of the null token's start + end logit
    no answer  when  z(null) - max z(span) > threshold
    score   = softmax of the decision over all distinct spans and null

as transformers' run_qa (utils_qa.py) does, but over every span instead of an n-best list. The windows of a
batch are decoded together (`batched`). A pair whose tokens share characters, or of which several spans are
wanted, waits until all its windows are there, and is decoded by itself in memory for one window (`search`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from batchqa.answer_columns import PAIR_ANSWERS_TYPE, PAIR_CANDIDATE_TYPE, pair_schema
from batchqa.probability import Decided
from batchqa.records import BatchLogits, Bool, Float64, Int32, PairAnswers, Windows
from batchqa.text import widen

from .batched import BatchedSearch, BestSpans
from .rules import DecodingRules
from .search import Span, SpanSearch
from .spans import Candidate


class _Pairs:
    """What is known so far of a chunk's pairs; those of `batched` are not in the dictionaries."""

    def __init__(self, windows: Windows, rules: DecodingRules) -> None:
        self.batched = BatchedSearch(windows, rules)
        self.null = np.full(len(windows.pair_first), np.inf)
        self.failed: dict[int, str] = {}
        self.waiting: dict[int, list[tuple[Float64, Float64] | None]] = {}
        self.found: dict[int, tuple[Span, float]] = {}
        self.candidates: dict[int, list[Candidate]] = {}
        self.answers: dict[int, list[Candidate]] = {}

    def best(self) -> BestSpans:
        """The best span of each pair, all of whose windows are there."""
        best = self.batched.of_pairs()
        for pair, (span, log_sum) in self.found.items():
            best.z[pair], best.log_sum[pair] = span.z, log_sum
            best.first[pair], best.last[pair] = span.first, span.last
        return best


class Decoder:
    """Takes the scored batches of one chunk after the other; judges its pairs when they are complete."""

    def __init__(self, rules: DecodingRules) -> None:
        self._rules = rules
        self._pairs: _Pairs | None = None

    def add(self, logits: BatchLogits) -> PairAnswers | None:
        """Decode a batch; returns the answers of its chunk's pairs if this was the chunk's last batch."""
        windows = logits.batch.windows
        if self._pairs is None:
            self._pairs = _Pairs(windows, self._rules)
        pairs = self._pairs
        self._take(pairs, logits)
        if not logits.batch.last:
            return None
        self._pairs = None
        return PairAnswers(windows, self._judge(windows, pairs))

    def _take(self, pairs: _Pairs, logits: BatchLogits) -> None:
        """Decode the plain windows of a batch at once, and put the others aside or finish their pair."""
        batch, windows = logits.batch, logits.batch.windows
        if not len(batch.index):
            return
        pair = windows.pair[batch.index]
        for row, code in logits.failed.items():
            pairs.failed.setdefault(int(pair[row]), code)
        start, end = logits.start, logits.end
        at_null = windows.layout.null_position
        null = np.add(start[:, at_null], end[:, at_null], dtype=np.float64)
        good = np.ones(len(pair), dtype=bool)
        good[list(logits.failed)] = False
        np.minimum.at(pairs.null, pair[good], null[good])

        plain = good & pairs.batched.plain[pair]
        rows = np.flatnonzero(plain)
        if len(rows):
            some = start.take(rows, axis=0), end.take(rows, axis=0)
            pairs.batched.add(batch.index[rows], *some, batch.context_at[rows])
        for row in np.flatnonzero(good & ~plain).tolist():
            window = int(batch.index[row])
            at = slice(int(batch.context_at[row]), int(batch.context_at[row]) + int(windows.size[window]))
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
        pairs.found[pair] = best, search.log_sum
        if rules.top_k:
            pairs.candidates[pair] = search.candidates()
        if rules.most_answers:
            pairs.answers[pair] = search.answers()

    def _judge(self, windows: Windows, pairs: _Pairs) -> pa.RecordBatch:
        """The answers of the pairs, all of whose windows are there."""
        rules, best = self._rules, pairs.best()
        good = np.isfinite(best.z)
        good[list(pairs.failed)] = False
        with np.errstate(invalid="ignore", over="ignore"):
            odds = pairs.null - best.z
            abstained = good & rules.abstains & (odds > _thresholds(windows, rules.threshold))
            with_null = np.logaddexp(best.log_sum, pairs.null)
            total = with_null if rules.abstains else best.log_sum
            chosen = np.where(abstained, pairs.null, best.z)
            score = np.exp(chosen - total)
            if rules.calibrate is not None:
                # it was fitted to the model as it was trained, which --no-answer does not change
                if rules.trained_to_abstain:
                    decided = Decided(np.exp(chosen - with_null), odds)
                else:
                    decided = Decided(np.exp(chosen - best.log_sum), np.full_like(odds, np.nan))
                score = rules.calibrate(decided, abstained)
        answered = good & ~abstained
        may_abstain = rules.abstains or rules.min_score is not None
        failed: list[str | None] = [pairs.failed.get(pair) for pair in range(len(good))]
        if rules.min_score is not None:
            low = answered & (score.astype(np.float32) < np.float32(rules.min_score))
            answered, abstained = answered & ~low, abstained | low
            for pair in np.flatnonzero(low).tolist():
                failed[pair] = "low_score"
        starts, ends = _spans_of(windows, best, answered)
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


def _spans_of(windows: Windows, best: BestSpans, answered: Bool) -> tuple[Int32, Int32]:
    """The characters of the pairs that have an answer."""
    starts = np.zeros(len(answered), dtype=np.int32)
    ends = np.zeros(len(answered), dtype=np.int32)
    of, first, last = windows.pair_context.tolist(), best.first.tolist(), best.last.tolist()
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
