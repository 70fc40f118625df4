"""Selective answering: how right the decisions are when only the surest are taken.

Risk is the share of the taken that is wrong, coverage the share that is taken (El-Yaniv and Wiener 2010). The
area under the risk-coverage curve and the coverage at 80 and 90 % accuracy are the figures of Kamath et al.
2020; AUROC tells how well the score parts right decisions from wrong ones, whatever it is worth by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from batchqa.records import Bool, Float64

ACCURACIES = (80, 90)
"""In percent."""

POINTS = 100


@dataclass(frozen=True, slots=True)
class Selective:
    """`aurc`: the mean risk over all coverages, 0 to 1. `auroc`: None where all are right, or all wrong.

    coverage_at: by accuracy, the largest share of the rows of which so many are right. points: coverage and
    risk of the curve. All shares in percent.
    """

    aurc: float
    auroc: float | None
    coverage_at: dict[int, float]
    points: tuple[tuple[float, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        at = {str(accuracy): coverage for accuracy, coverage in self.coverage_at.items()}
        return {"aurc": self.aurc, "auroc": self.auroc, "coverage_at_accuracy": at}


def selective(score: Float64, right: Bool | Float64, weight: Float64 | None = None) -> Selective | None:
    """The figures of decisions by their scores; None where there is none. `weight`: what each row counts.

    Rows of equal score are taken together, since no floor under the score can part them.
    """
    if not len(score):
        return None
    weight = np.ones(len(score)) if weight is None else weight
    _, group = np.unique(-score, return_inverse=True)
    mass: Float64 = np.bincount(group, weight).astype(np.float64)
    hits: Float64 = np.bincount(group, weight * right).astype(np.float64)
    taken, hit = np.cumsum(mass), np.cumsum(hits)
    accuracy = hit / taken
    coverage = 100 * taken / taken[-1]
    at = {wanted: _last(coverage, accuracy >= wanted / 100) for wanted in ACCURACIES}
    places = np.unique(np.searchsorted(coverage, np.arange(1, POINTS + 1) - 1e-9).clip(max=len(mass) - 1))
    points = zip(coverage[places].tolist(), (100 * (1 - accuracy[places])).tolist(), strict=True)
    return Selective(float(mass @ (1 - accuracy) / taken[-1]), _auroc(mass, hits), at, tuple(points))


def _last(coverage: Float64, reached: Bool) -> float:
    places = np.flatnonzero(reached)
    return float(coverage[places[-1]]) if len(places) else 0.0


def _auroc(mass: Float64, hits: Float64) -> float | None:
    """The chance that a right decision has the higher score; equal ones count half. Surest groups first."""
    misses = mass - hits
    if hits.sum() <= 0 or misses.sum() <= 1e-12:
        return None
    below = misses.sum() - np.cumsum(misses) + misses / 2
    return float(hits @ below / (hits.sum() * misses.sum()))
