"""What `--tune` fits: the no-answer threshold, and a map from score to probability for each kind of decision.

Rows can be given weights, so that they stand for rows of which another share is unanswerable (`prior`): with
weights P(y) / Q(y) means over rows of prior Q are those over rows of prior P, as long as rows of a kind are
the same in both (label shift; Saerens et al. 2002).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from batchqa.errors import LimitError, SettingsError
from batchqa.evaluation.calibration import fit_estimator
from batchqa.probability import Decided, Estimator
from batchqa.records import Bool, Float64, Int64
from batchqa.squad import RowScores

Objective = Literal["f1", "exact"]

LEAST_ANSWERS = 50
"""A precision is not taken from fewer answers than this."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What a tuning is for.

    objective: what the threshold is best for; not looked at where `precision` is given: the share of the
    answers that are to be right (exact match). prior: the share of unanswerable rows that is expected;
    None means that of the rows.
    """

    objective: Objective = "f1"
    precision: float | None = None
    prior: float | None = None

    def weights(self, answerable: Bool) -> Float64:
        """What each row counts: 1 on average. Raises SettingsError for a prior where all are of one kind."""
        if self.prior is None:
            return np.ones(len(answerable))
        share = float(np.mean(~answerable))
        if share in (0.0, 1.0):
            kind = "no row is" if share == 0.0 else "all rows are"
            raise SettingsError(f"--prior needs rows of both kinds, and {kind} unanswerable")
        return np.where(answerable, (1 - self.prior) / (1 - share), self.prior / share)

    @property
    def of_threshold(self) -> str:
        """What the threshold is best for, in words."""
        if self.precision is None:
            return f"best {self.objective}"
        return f"as many answers as can be with {self.precision:.1%} of them right"

    def reweighted(self, answerable: Bool) -> str:
        """What the rows were taken to stand for, in words; "" for themselves."""
        if self.prior is None:
            return ""
        return f", reweighted from {np.mean(~answerable):.1%} to {self.prior:.1%} unanswerable ones"


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is fitted: the threshold on the null odds, and a map for each kind of decision.

    `threshold` is None where it cannot be fitted: the model does not abstain, or all rows are of one kind.
    """

    threshold: float | None
    answered: Estimator
    refused: Estimator


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What decides about each judged row, as columns of the same length.

    span, null: raw probabilities of the best span and of "no answer"; odds: null odds (NaN: no abstaining);
    exact, f1: what the best span scores; answerable: whether the row has gold answers; weight: what it
    counts; unit: the article that it is from.
    """

    span: Float64
    null: Float64
    odds: Float64
    exact: Float64
    f1: Float64
    answerable: Bool
    weight: Float64
    unit: Int64

    def take(self, rows: Bool) -> Evidence:
        """The rows marked."""
        return Evidence(*(getattr(self, name)[rows] for name in self.__slots__))

    def decided(self, silent: Bool) -> Decided:
        """What a calibration reads of the decisions."""
        return Decided(np.where(silent, self.null, self.span), self.odds)

    def scores(self, silent: Bool) -> RowScores:
        """What the rows score where `silent` marks those without an answer."""
        empty = (~self.answerable).astype(np.float64)
        return RowScores(np.where(silent, empty, self.exact), np.where(silent, empty, self.f1))


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Decisions by some parameters: "no answer" or not, the raw score and the calibrated one."""

    silent: Bool
    raw: Float64
    probability: Float64


def fit(evidence: Evidence, aim: Aim, default: float, seed: int) -> Parameters:
    """The parameters for these rows; `default` is the threshold where none can be fitted."""
    threshold = _threshold(evidence, aim)
    silent = _silent(evidence, default if threshold is None else threshold)

    def estimator(rows: Bool, right: Float64) -> Estimator:
        decided = evidence.take(rows)
        return fit_estimator(decided.decided(silent[rows]), right[rows], decided.weight, decided.unit, seed)

    return Parameters(
        threshold,
        estimator(~silent, evidence.exact),
        estimator(silent, (~evidence.answerable).astype(np.float64)),
    )


def judge(evidence: Evidence, parameters: Parameters, default: float) -> Judged:
    """What the parameters make of rows."""
    silent = _silent(evidence, default if parameters.threshold is None else parameters.threshold)
    decided = evidence.decided(silent)
    with np.errstate(invalid="ignore", over="ignore"):
        probability = np.where(silent, parameters.refused.apply(decided), parameters.answered.apply(decided))
    return Judged(silent, decided.raw, probability)


def check_precision(evidence: Evidence, wanted: float) -> None:
    """Raise LimitError where no threshold makes so many of the answers right, and say what can be had."""
    if np.isnan(evidence.odds).any():
        raise SettingsError("--target-precision needs null odds: this model does not abstain")
    cuts, precision, _ = _precisions(evidence)
    if not len(cuts) or precision.max() < wanted:
        best = int(precision.argmax()) if len(cuts) else 0
        can = f"{precision[best]:.1%} at best, with {cuts[best]:,} answers" if len(cuts) else "not known"
        raise LimitError(
            f"--target-precision {wanted:g}: no threshold makes that share of the answers right on these "
            f"rows "
            f"({can}; fewer than {LEAST_ANSWERS} do not count). Nothing was written"
        )


def _threshold(evidence: Evidence, aim: Aim) -> float | None:
    """The middle between the two null odds where answering stops to pay; None where that has no meaning."""
    if np.isnan(evidence.odds).any():
        return None
    if aim.precision is not None:
        cuts, precision, odds = _precisions(evidence)
        reached = cuts[precision >= aim.precision]
        return _between(odds, int(reached[-1]) if len(reached) else 0)
    if evidence.answerable.all() or not evidence.answerable.any():
        return None
    gain = np.where(evidence.answerable, evidence.f1 if aim.objective == "f1" else evidence.exact, -1.0)
    order = np.argsort(evidence.odds, kind="stable")
    odds = evidence.odds[order]
    totals = np.concatenate([[0.0], np.cumsum((evidence.weight * gain)[order])])
    return _between(odds, int(np.argmax(np.where(_possible(odds), totals, -np.inf))))


def _precisions(evidence: Evidence) -> tuple[Int64, Float64, Float64]:
    """How many answers can be given, the share of them that is right, and the null odds in order."""
    order = np.argsort(evidence.odds, kind="stable")
    odds, weight = evidence.odds[order], evidence.weight[order]
    right = np.cumsum(weight * (evidence.exact * evidence.answerable)[order]) / np.cumsum(weight)
    cuts = np.flatnonzero(_possible(odds))
    cuts = cuts[cuts >= LEAST_ANSWERS]
    return cuts, right[cuts - 1], odds


def _possible(odds: Float64) -> Bool:
    """After how many rows, 0 to all, a threshold can cut: it cannot part equal odds."""
    return np.concatenate([[True], odds[1:] != odds[:-1], [True]])


def _between(odds: Float64, answers: int) -> float:
    """The threshold that answers the first `answers` rows."""
    below = odds[answers - 1] if answers else odds[0] - 2.0
    above = odds[answers] if answers < len(odds) else odds[-1] + 2.0
    return float((below + above) / 2)


def _silent(evidence: Evidence, threshold: float) -> Bool:
    """Where the decision is "no answer"; never where there are no null odds (NaN)."""
    return np.asarray(evidence.odds > threshold)
