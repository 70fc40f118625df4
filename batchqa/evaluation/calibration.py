"""Calibration: how far a score can be read as the probability of being right, and a map that makes it so.

The map ends in isotonic regression (Zadrozny and Elkan 2002) on equal-mass bins, joined by straight lines: it
is monotone and has few knots, so it does not follow the noise of single rows. It reads the raw score, or what
a logistic regression makes of the score and the null odds (a calibrator in the sense of Kamath et al. 2020),
whichever predicts held-out rows better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchqa.probability import FEATURES, INTERCEPT, SCORE, Curve, Decided, Estimator
from batchqa.records import Bool, Float64, Int64

BINS = 15
"""Bins of the expected calibration error (Guo et al. 2017), here of equal mass (Nixon et al. 2019)."""

LEAST_PER_KNOT = 40
MOST_KNOTS = 40

CHOOSING_FOLDS = 3
"""Folds on which the two forms of the map are chosen between."""

LEAST_FOR_REGRESSION = 500
"""Fewer rows of a kind get the curve alone."""

RIDGE = 1.0
"""Weight of the penalty on the regression's squared weights, its features scaled: as one more row."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """Rows in bins of equal mass by their score: each bin's mean score, share that is right, and rows.

    `error` is the expected calibration error: the mean distance of the two over all rows.
    """

    error: float
    confidence: tuple[float, ...]
    right: tuple[float, ...]
    rows: tuple[int, ...]


IDENTITY = Curve((0.0, 1.0), (0.0, 1.0))
"""What a kind of decision gets of which there was nothing to learn from."""


def reliability(
    score: Float64, right: Bool | Float64, weight: Float64 | None = None, bins: int = BINS
) -> Reliability | None:
    """Compare scores with how often they were right; None without rows. `weight`: what each row counts."""
    if not len(score):
        return None
    weight = np.ones(len(score)) if weight is None else weight
    order = np.argsort(score, kind="stable")
    pieces = [piece for piece in _equal_mass(weight[order], bins, order) if weight[piece].sum() > 0]
    mass = np.array([weight[piece].sum() for piece in pieces])
    confidence = [float(weight[piece] @ score[piece] / m) for piece, m in zip(pieces, mass, strict=True)]
    share = [float(weight[piece] @ right[piece] / m) for piece, m in zip(pieces, mass, strict=True)]
    error = float(mass @ np.abs(np.subtract(confidence, share)) / mass.sum())
    return Reliability(error, tuple(confidence), tuple(share), tuple(len(piece) for piece in pieces))


def _equal_mass(weight: Float64, pieces: int, order: Int64) -> list[Int64]:
    """`order` cut into pieces of like weight; `weight` is in that order."""
    if np.ptp(weight) == 0:
        return [piece for piece in np.array_split(order, pieces) if len(piece)]
    middle = np.cumsum(weight) - weight / 2
    place = np.minimum((pieces * middle / weight.sum()).astype(np.int64), pieces - 1)
    return np.split(order, np.flatnonzero(np.diff(place)) + 1)


def fit_curve(raw: Float64, right: Bool | Float64, weight: Float64 | None = None) -> Curve:
    """The monotone map from raw score to the share that is right; the identity where there are no rows."""
    if not len(raw):
        return IDENTITY
    weight = np.ones(len(raw)) if weight is None else weight
    order = np.argsort(raw, kind="stable")
    knots = int(np.clip(len(raw) // LEAST_PER_KNOT, 1, MOST_KNOTS))
    pieces = np.array_split(order, knots)
    rows = np.array([weight[piece].sum() for piece in pieces])
    mean = np.array([weight[piece] @ raw[piece] for piece in pieces]) / rows
    hits = np.array([weight[piece] @ right[piece] for piece in pieces])
    # equal scores cannot be told apart: one knot for them
    mean, first = np.unique(mean, return_index=True)
    hits, rows = np.add.reduceat(hits, first), np.add.reduceat(rows, first)
    # one more row that is right as often as all: no probability is ever 0 or 1
    overall = hits.sum() / rows.sum()
    share = _ascending((hits + overall) / (rows + 1), rows)
    return Curve(tuple(mean.tolist()), tuple(np.clip(share, 0.0, 1.0).tolist()))


def fit_estimator(decided: Decided, right: Float64, weight: Float64, unit: Int64, seed: int) -> Estimator:
    """The map for one kind of decision: over the regression if that clearly predicts held-out rows better."""
    plain = Estimator(fit_curve(decided.raw, right, weight))
    few = len(right) < LEAST_FOR_REGRESSION
    if few or right.min() == right.max() or np.isnan(decided.null_odds).any():
        return plain
    fold = folds_of(np.unique(unit, return_inverse=True)[1], len(right), CHOOSING_FOLDS, seed)
    gain = np.zeros(len(right))
    for held_out in range(CHOOSING_FOLDS):
        here, rest = fold == held_out, fold != held_out
        given, judged = (decided.take(rest), right[rest], weight[rest]), decided.take(here)
        curve, regression = Estimator(fit_curve(given[0].raw, *given[1:])), fit_regression(*given)
        losses = (_log_loss(form.apply(judged), right[here]) for form in (curve, regression))
        gain[here] = weight[here] * np.subtract(*losses)
    # by more than one standard error: what is as good as the curve is not worth being less simple
    is_better = gain.sum() > np.sqrt(gain @ gain)
    return fit_regression(decided, right, weight) if is_better else plain


def fit_regression(decided: Decided, right: Float64, weight: Float64) -> Estimator:
    """Logistic regression on FEATURES, and the curve over what it gives."""
    features = {name: of(decided) for name, of in FEATURES.items()}
    weights = fit_logistic(features, right, weight)
    if weights[SCORE] < 0:
        # a higher score must not count against a decision: fitted again without it
        del features[SCORE]
        weights = fit_logistic(features, right, weight)
    linear = Estimator(IDENTITY, weights)
    return Estimator(fit_curve(linear.apply(decided), right, weight), weights)


def fit_logistic(features: dict[str, Float64], right: Float64, weight: Float64) -> dict[str, float]:
    """Weights by name, and the intercept, of a weighted logistic regression with a ridge penalty (Newton)."""
    columns = np.stack(list(features.values()), axis=1) if features else np.zeros((len(right), 0))
    mean, spread = columns.mean(axis=0), columns.std(axis=0)
    spread[spread == 0] = 1.0
    x = np.hstack([(columns - mean) / spread, np.ones((len(right), 1))])
    penalty = np.diag([RIDGE] * len(features) + [1e-9])
    w = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -35, 35)))
        gradient = x.T @ (weight * (p - right)) + penalty @ w
        step = np.linalg.solve((x.T * (weight * p * (1 - p))) @ x + penalty, gradient)
        w -= step
        if np.abs(step).max() < 1e-9:
            break
    scaled = w[:-1] / spread
    named = dict(zip(features, scaled.tolist(), strict=True))
    return named | {INTERCEPT: float(w[-1] - scaled @ mean)}


def _log_loss(probability: Float64, right: Float64) -> Float64:
    inside = np.clip(probability, 1e-6, 1 - 1e-6)
    return -(right * np.log(inside) + (1 - right) * np.log1p(-inside))


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
