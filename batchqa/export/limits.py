"""When a variant is good enough: one default for every export, judged by intervals and all at once.

A share or a mean of a few hundred rows is known to a few points only, so a variant is refused where it is
certainly below a limit: where the whole 95 % interval is. Where the rows have gold answers, F1 decides: an
answer that differs from the original's may be as right. Only where the original itself finds hardly any gold
answer (`LEAST_F1`), as on passages in languages that it does not know, does the agreement decide as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from batchqa.records import Float64

MIN_AGREEMENT = 0.97
"""Share of the original's answers that a variant gives too."""

MAX_F1_DROP = 0.5
"""Points of F1 that a variant may lose."""

LEAST_F1 = 20.0
"""Of the original: below it F1 says too little."""

_Z = 1.959964
"""Of the normal distribution: 95 % lie within."""

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Limits:
    """What is required. `min_agreement` None: MIN_AGREEMENT, and only where F1 does not decide."""

    min_agreement: float | None = None
    max_f1_drop: float = MAX_F1_DROP

    def misses(self, found: MeasuredAgreement) -> list[Miss]:
        """All the limits that a variant certainly misses; none where it is good enough."""
        return [*self._too_few_equal(found), *self._too_much_lost(found)]

    def _too_few_equal(self, found: MeasuredAgreement) -> list[Miss]:
        least = MIN_AGREEMENT if self.min_agreement is None else self.min_agreement
        if self.min_agreement is None and found.f1_decides:
            return []
        low, high = found.agreement_interval
        if high >= least:
            return []
        return [
            Miss(
                f"gives the original's answer on {found.agreement:.2%} of {found.rows} rows (95 % interval "
                f"{low:.2%} to {high:.2%}), below --min-agreement {least:g}",
                f"--min-agreement {math.floor(high * 1000) / 1000:g}",
            )
        ]

    def _too_much_lost(self, found: MeasuredAgreement) -> list[Miss]:
        if found.f1_drop is None or found.f1_drop_interval is None:
            return []
        low, high = found.f1_drop_interval
        if low <= self.max_f1_drop:
            return []
        return [
            Miss(
                f"loses {found.f1_drop:.2f} points of F1 (95 % interval {low:.2f} to {high:.2f}), more than "
                f"--max-f1-drop {self.max_f1_drop:g}",
                f"--max-f1-drop {math.ceil(low * 100) / 100:g}",
            )
        ]


@dataclass(frozen=True, slots=True)
class Miss:
    """A limit that a variant misses, and the option that would accept it ("" where none would)."""

    why: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class MeasuredAgreement:
    """What is judged: how many of `rows` answers are the original's, and what is lost against gold answers.

    `f1_drop` in points, None without gold answers; `f1_decides`: those are the user's own, and the original
    finds enough of them.
    """

    rows: int
    equal: int
    f1_drop: float | None = None
    f1_drop_interval: Interval | None = None
    f1_decides: bool = False

    @property
    def agreement(self) -> float:
        """Share of equal answers; 1 without rows."""
        return self.equal / self.rows if self.rows else 1.0

    @property
    def agreement_interval(self) -> Interval:
        """Where the share is with 95 % certainty (Wilson 1927)."""
        return wilson(self.equal, self.rows)


def said(misses: Sequence[Miss]) -> str:
    """All misses in one line."""
    return ", and ".join(miss.why for miss in misses)


def accepted_by(misses: Sequence[Miss]) -> str:
    """The options that would accept a variant with these misses; "" where none would."""
    if not misses or not all(miss.advice for miss in misses):
        return ""
    return f"; {' '.join(miss.advice for miss in misses)} would accept it"


def wilson(equal: int, rows: int) -> Interval:
    """Wilson's score interval of a share."""
    if not rows:
        return 0.0, 1.0
    share, weight = equal / rows, _Z**2 / rows
    middle = (share + weight / 2) / (1 + weight)
    half = _Z * math.sqrt(share * (1 - share) / rows + weight / (4 * rows)) / (1 + weight)
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return (0.0 if equal == 0 else low), (1.0 if equal == rows else high)


def mean_interval(differences: Float64) -> Interval:
    """Where the mean of paired differences, (rows,), is with 95 % certainty (normal approximation)."""
    mean = float(differences.mean())
    half = (
        _Z * float(np.std(differences, ddof=1)) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    )
    return mean - half, mean + half
