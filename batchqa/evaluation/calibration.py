"""Calibration: how far a score can be read as the probability of being right, and a map that makes it so.

The map is isotonic regression (Zadrozny and Elkan 2002) on equal-mass bins, joined by straight lines: it is
monotone, so it never changes which of two rows is the surer, and it has few knots, so it does not follow the
noise of single rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchqa.records import Bool, Float64, Int64

BINS = 15
"""Bins of the expected calibration error (Guo et al. 2017), here of equal mass (Nixon et al. 2019)."""

LEAST_PER_KNOT = 40
MOST_KNOTS = 40


@dataclass(frozen=True, slots=True)
class Reliability:
    """Rows in bins of equal mass by their score: each bin's mean score, share that is right, and rows.

    `error` is the expected calibration error: the mean distance of the two over all rows.
    """

    error: float
    confidence: tuple[float, ...]
    right: tuple[float, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """A monotone map by linear interpolation: the knots, ascending in both."""

    raw: tuple[float, ...]
    probability: tuple[float, ...]

    def apply(self, raw: Float64) -> Float64:
        """The probabilities for raw scores; beyond the outer knots theirs."""
        return np.interp(raw, self.raw, self.probability)


IDENTITY = Curve((0.0, 1.0), (0.0, 1.0))
"""What a kind of decision gets of which there was nothing to learn from."""


def reliability(score: Float64, right: Bool | Float64, bins: int = BINS) -> Reliability | None:
    """Compare scores with how often they were right; None where there is no row."""
    if not len(score):
        return None
    order = np.argsort(score, kind="stable")
    pieces = [piece for piece in np.array_split(order, bins) if len(piece)]
    confidence = [float(score[piece].mean()) for piece in pieces]
    share = [float(np.mean(right[piece])) for piece in pieces]
    rows = [len(piece) for piece in pieces]
    error = sum(n * abs(c - s) for n, c, s in zip(rows, confidence, share, strict=True)) / len(score)
    return Reliability(error, tuple(confidence), tuple(share), tuple(rows))


def fit_curve(raw: Float64, right: Bool | Float64) -> Curve:
    """The monotone map from raw score to the share that is right; the identity where there are no rows."""
    if not len(raw):
        return IDENTITY
    order = np.argsort(raw, kind="stable")
    knots = int(np.clip(len(raw) // LEAST_PER_KNOT, 1, MOST_KNOTS))
    pieces = np.array_split(order, knots)
    mean = np.array([raw[piece].mean() for piece in pieces])
    hits = np.array([np.sum(right[piece]) for piece in pieces], dtype=np.float64)
    rows = np.array([len(piece) for piece in pieces], dtype=np.float64)
    # equal scores cannot be told apart: one knot for them
    mean, first = np.unique(mean, return_index=True)
    hits, rows = np.add.reduceat(hits, first), np.add.reduceat(rows, first)
    # one more row that is right as often as all: no probability is ever 0 or 1
    overall = hits.sum() / rows.sum()
    share = _ascending((hits + overall) / (rows + 1), rows)
    return Curve(tuple(mean.tolist()), tuple(np.clip(share, 0.0, 1.0).tolist()))


def folds_of(unit: Int64 | None, rows: int, folds: int, seed: int) -> Int64:
    """A fold for each row: all rows of a unit (an article) share it, and the folds are of like size."""
    random = np.random.default_rng(seed)
    if unit is None:
        return random.permutation(rows) % folds
    sizes = np.bincount(unit)
    fold_of_unit = np.zeros(len(sizes), dtype=np.int64)
    filled = np.zeros(folds)
    shuffled = random.permutation(len(sizes))
    # the large units first, each into the emptiest fold
    for at in shuffled[np.argsort(-sizes[shuffled], kind="stable")].tolist():
        fold_of_unit[at] = np.argmin(filled)
        filled[fold_of_unit[at]] += sizes[at]
    return fold_of_unit[unit]


def _ascending(values: Float64, weights: Float64) -> Float64:
    """The closest values that never descend (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        pool = (value, weight, 1)
        while pools and pools[-1][0] >= pool[0]:
            before = pools.pop()
            total = before[1] + pool[1]
            pool = ((before[0] * before[1] + pool[0] * pool[1]) / total, total, before[2] + pool[2])
        pools.append(pool)
    return np.concatenate([np.full(count, value) for value, _, count in pools])
