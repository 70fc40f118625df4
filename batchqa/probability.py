"""From a raw score to the probability that a decision is right: how a bundle's calibration is read.

Each kind of decision, an answer and "no answer", has a map of its own: a monotone curve over the raw score,
or over a logistic regression on the score and the null odds (a calibrator, in the sense of Kamath et al.
2020). The two together tell what the score alone does not: whether other spans or null took the rest of it.
`batchqa.evaluation.calibration` fits the maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from batchqa.records import Bool, Float64

INTERCEPT = "intercept"

EDGE = 1e-4
"""Raw scores are taken to be this far from 0 and 1 at least: near 1 their logits would tell of rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """What is known of decisions when they get their probability: float64, (rows,).

    raw: the softmax probability of the decision, null included for a model that was trained to abstain.
    null_odds: NaN for a model that was not.
    """

    raw: Float64
    null_odds: Float64

    def take(self, rows: Bool) -> Decided:
        """The decisions marked."""
        return Decided(self.raw[rows], self.null_odds[rows])


def _logit(probability: Float64) -> Float64:
    inside = np.clip(probability, EDGE, 1 - EDGE)
    return np.log(inside) - np.log1p(-inside)


SCORE = "logit_score"
FEATURES: Mapping[str, Callable[[Decided], Float64]] = {
    SCORE: lambda decided: _logit(decided.raw),
    "null_odds": lambda decided: decided.null_odds,
}
"""What a regression may use. The score's weight is never negative: a higher score is never less sure."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A monotone map by linear interpolation: the knots, ascending in both."""

    raw: tuple[float, ...]
    probability: tuple[float, ...]

    def apply(self, raw: Float64) -> Float64:
        """The probabilities for raw scores; beyond the outer knots theirs."""
        return np.interp(raw, self.raw, self.probability)


@dataclass(frozen=True, slots=True)
class Estimator:
    """The probability for one kind of decision. Without weights the curve reads the raw score itself.

    `weights` are those of FEATURES by name, and INTERCEPT; the curve then reads the regression's probability.
    Raises ValueError for a feature that is not known here.
    """

    curve: Curve
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := self.weights.keys() - FEATURES.keys() - {INTERCEPT}:
            raise ValueError(f"its calibration reads {', '.join(sorted(unknown))}, which is not known here")

    def apply(self, decided: Decided) -> Float64:
        """The probability of each decision."""
        if not self.weights:
            return self.curve.apply(decided.raw)
        linear = np.full(len(decided.raw), self.weights.get(INTERCEPT, 0.0))
        for name, weight in self.weights.items():
            if name != INTERCEPT:
                linear += weight * FEATURES[name](decided)
        return self.curve.apply(1 / (1 + np.exp(-linear)))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Maps the raw softmax score to the probability of being right.

    `raw` and `probability` are the knots, both ascending within [0, 1], for rows that were answered;
    `raw_no_answer` and `probability_no_answer` for rows that were not. The weights are those of `Estimator`.
    """

    method: str
    fitted_on: str
    raw: tuple[float, ...]
    probability: tuple[float, ...]
    raw_no_answer: tuple[float, ...]
    probability_no_answer: tuple[float, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    weights_no_answer: Mapping[str, float] = field(default_factory=dict)

    @property
    def answered(self) -> Estimator:
        """For rows that have an answer."""
        return Estimator(Curve(self.raw, self.probability), self.weights)

    @property
    def refused(self) -> Estimator:
        """For rows that have none."""
        return Estimator(Curve(self.raw_no_answer, self.probability_no_answer), self.weights_no_answer)

    def apply(self, decided: Decided, silent: Bool) -> Float64:
        """The probability of each decision; `silent`, bool, (rows,), marks "no answer"."""
        with np.errstate(invalid="ignore", over="ignore"):
            return np.where(silent, self.refused.apply(decided), self.answered.apply(decided))
