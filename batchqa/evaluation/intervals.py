"""Confidence intervals by the bootstrap: how far a figure could be off by the luck of the sample.

Questions about one article share their difficulty, so the articles are drawn where they are known (a cluster
bootstrap: Field and Welsh 2007), else the rows. The figures are ratios of sums, so a draw needs only how
often each *distinct* unit is drawn: a multinomial over distinct units, which is the same bootstrap at a cost
that does not grow with duplicates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from batchqa.records import Float64, Int64

LEAST_UNITS = 10
"""With fewer articles than this the rows are drawn: a few articles cannot show how much articles differ."""

RESAMPLES_AT_ONCE = 2_000_000
"""Drawn counts that are held at the same time."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The bounds between which a figure lies with the stated confidence; in the figure's own unit."""

    low: float
    high: float

    def to_list(self) -> list[float]:
        """As JSON: [low, high]."""
        return [self.low, self.high]


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals are made: the unit that is drawn, how many there are, how often, and the seed."""

    unit: str
    units: int
    resamples: int
    confidence: float
    seed: int


def sums_by_unit(values: Float64, unit: Int64 | None) -> Float64:
    """Sums of the rows' values, (rows, values), for each unit: float64, (units, values).

    Each row is its own unit where `unit` is None or has fewer than LEAST_UNITS units.
    """
    if unit is None:
        return values
    units = int(unit.max(initial=-1)) + 1
    if units < LEAST_UNITS:
        return values
    return np.stack([np.bincount(unit, weights=column, minlength=units) for column in values.T], axis=1)


def resampled(units: Float64, settings: Bootstrap) -> Float64:
    """The sums over all units, drawn with replacement: float64, (resamples, values)."""
    distinct, counts = _distinct(units)
    random = np.random.default_rng(settings.seed)
    share = counts / counts.sum()
    at_once = max(1, RESAMPLES_AT_ONCE // len(distinct))
    totals = np.empty((settings.resamples, units.shape[1]))
    for first in range(0, settings.resamples, at_once):
        size = min(at_once, settings.resamples - first)
        drawn = random.multinomial(counts.sum(), share, size=size)
        totals[first : first + size] = drawn @ distinct
    return totals


def interval(totals: Float64, figure: Callable[[Float64], Float64], confidence: float) -> Interval:
    """The middle of the resampled figures that holds `confidence` of them (percentile method)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        figures = figure(totals)
    tail = (1 - confidence) / 2
    figures = figures[np.isfinite(figures)]
    if not len(figures):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(figures, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _distinct(units: Float64) -> tuple[Float64, Int64]:
    """The distinct rows of a matrix, and how often each occurs; distinct values are numbered by column."""
    code = np.zeros(len(units), dtype=np.int64)
    for column in units.T:
        values, number = np.unique(column, return_inverse=True)
        _, code = np.unique(code * len(values) + number, return_inverse=True)
    _, first, counts = np.unique(code, return_index=True, return_counts=True)
    return units[first], counts
