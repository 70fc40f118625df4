"""Figures of a set of rows, and of its groups: what the tables of this field show, in percent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.evaluation.intervals import Bootstrap, Interval, interval, resampled, sums_by_unit
from batchqa.evaluation.joining import Examples
from batchqa.evaluation.row_languages import Languages
from batchqa.records import Bool, Float64, Int64
from batchqa.squad import RowScores, Rules, best_threshold, score_rows


@dataclass(frozen=True, slots=True)
class Subset:
    """Exact match and F1 of some rows, in percent, and how many rows."""

    exact: float
    f1: float
    total: int


@dataclass(frozen=True, slots=True)
class Figures:
    """The official figures of all rows, of those with a gold answer and of those without (None: no rows)."""

    all: Subset
    has_answer: Subset | None
    no_answer: Subset | None

    def to_dict(self) -> dict[str, float]:
        """By the official script's names: exact, f1, total, HasAns_exact, ..."""
        named = {"": self.all, "HasAns_": self.has_answer, "NoAns_": self.no_answer}
        return {
            prefix + name: getattr(subset, name)
            for prefix, subset in named.items()
            if subset is not None
            for name in ("exact", "f1", "total")
        }


@dataclass(frozen=True, slots=True)
class Best:
    """The best figures that a threshold on the null odds could give on these rows, by the official method."""

    exact: float
    exact_threshold: float
    f1: float
    f1_threshold: float

    def to_dict(self) -> dict[str, float]:
        """By the official script's names."""
        return {
            "best_exact": self.exact,
            "best_exact_thresh": self.exact_threshold,
            "best_f1": self.f1,
            "best_f1_thresh": self.f1_threshold,
        }


@dataclass(frozen=True, slots=True)
class Intervals:
    """Intervals of the figures, by the official script's names, and how they were made."""

    bootstrap: Bootstrap
    figures: dict[str, Interval]


def score(texts: pa.Array, answers: pa.Array, rules: Rules, languages: Languages) -> RowScores:
    """`squad.score_rows`, each row by the rules of its language."""
    if len(languages.codes) == 1:
        return score_rows(texts, answers, rules, languages.codes[0])
    exact, f1 = np.zeros(len(texts)), np.zeros(len(texts))
    for number, code in enumerate(languages.codes):
        rows = np.flatnonzero(languages.row == number)
        scores = score_rows(texts.take(rows), answers.take(rows), rules, code)
        exact[rows], f1[rows] = scores.exact, scores.f1
    return RowScores(exact, f1)


def figures_of(scores: RowScores, has_answer: Bool, rows: Bool | None = None) -> Figures:
    """The figures of all rows, or of the rows marked."""
    chosen = np.ones(len(has_answer), dtype=bool) if rows is None else rows
    return Figures(
        all=_subset(scores, chosen) or Subset(0.0, 0.0, 0),
        has_answer=_subset(scores, chosen & has_answer),
        no_answer=_subset(scores, chosen & ~has_answer),
    )


def at_prior(figures: Figures, prior: float | None) -> Figures:
    """The figures if so large a share of the rows were unanswerable; as they are for None."""
    has, no = figures.has_answer, figures.no_answer
    if prior is None or has is None or no is None:
        return figures
    exact, f1 = ((1 - prior) * h + prior * n for h, n in ((has.exact, no.exact), (has.f1, no.f1)))
    return Figures(Subset(exact, f1, figures.all.total), has, no)


def best_of(examples: Examples, spans: RowScores) -> Best | None:
    """The best thresholds; None where null odds or best spans are not known. Missing rows always score 0."""
    known = ~examples.missing
    odds = examples.predictions.null_odds
    span = examples.predictions.span
    if not known.any() or np.isnan(odds[known]).any() or (span.is_null().to_numpy(False) & known).any():
        return None
    said = np.array(pc.not_equal(span.fill_null(""), "").to_numpy(zero_copy_only=False))[known]
    has_answer, odds = examples.has_answer[known], odds[known]
    exact = best_threshold(spans.exact[known], has_answer, said, odds)
    f1 = best_threshold(spans.f1[known], has_answer, said, odds)
    rows = len(examples)
    return Best(100 * exact.total / rows, exact.threshold, 100 * f1.total / rows, f1.threshold)


def intervals_of(scores: RowScores, has_answer: Bool, unit: Int64 | None, bootstrap: Bootstrap) -> Intervals:
    """Intervals of exact and F1, of all rows and of those with and without a gold answer."""
    has = has_answer.astype(np.float64)
    columns = []
    names = []
    for prefix, weight in (("", np.ones(len(has))), ("HasAns_", has), ("NoAns_", 1 - has)):
        if weight.any():
            names += [prefix + "exact", prefix + "f1"]
            columns += [weight, weight * scores.exact, weight * scores.f1]
    totals = resampled(sums_by_unit(np.stack(columns, axis=1), unit), bootstrap)
    figures = {}
    for number, name in enumerate(names):
        subset, figure = divmod(number, 2)
        value, weight_at = 3 * subset + 1 + figure, 3 * subset
        figures[name] = ratio_interval(totals, value, weight_at, bootstrap.confidence)
    return Intervals(bootstrap, figures)


@dataclass(frozen=True, slots=True)
class Group:
    """The figures of the rows of one group, with the interval of its F1."""

    name: str
    figures: Figures
    f1_interval: Interval


@dataclass(frozen=True, slots=True)
class Grouping:
    """The figures by the values of one column, in order."""

    by: str
    groups: tuple[Group, ...]

    @property
    def mixed(self) -> bool:
        """Whether some group has rows with and rows without a gold answer."""
        return any(group.figures.has_answer and group.figures.no_answer for group in self.groups)


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Which group each row is in: `names` in the order of the table, `row` their numbers, int64, (rows,)."""

    by: str
    names: tuple[str, ...]
    row: Int64


def figures_by(
    labels: Labels, scores: RowScores, has_answer: Bool, unit: Int64 | None, bootstrap: Bootstrap
) -> Grouping:
    """The table by group."""
    has = pl.col("has")
    table = (
        pl.DataFrame({"group": labels.row, "exact": scores.exact, "f1": scores.f1, "has": has_answer})
        .group_by("group")
        .agg(
            *(
                expression
                for prefix, rows in (("", pl.lit(value=True)), ("has_", has), ("no_", ~has))
                for expression in (
                    (100 * pl.col("exact").filter(rows).mean()).alias(prefix + "exact"),
                    (100 * pl.col("f1").filter(rows).mean()).alias(prefix + "f1"),
                    pl.col("has").filter(rows).len().alias(prefix + "total"),
                )
            )
        )
        .sort("group")
    )
    order = np.argsort(labels.row, kind="stable")
    ends = np.cumsum(np.bincount(labels.row, minlength=len(labels.names)))
    groups = []
    for row in table.iter_rows(named=True):
        number = row["group"]
        members = order[(ends[number - 1] if number else 0) : ends[number]]
        values = np.stack([np.ones(len(members)), scores.f1[members]], axis=1)
        units = None if unit is None else np.unique(unit[members], return_inverse=True)[1]
        totals = resampled(sums_by_unit(values, units), bootstrap)
        figures = Figures(
            Subset(row["exact"], row["f1"], row["total"]),
            Subset(row["has_exact"], row["has_f1"], row["has_total"]) if row["has_total"] else None,
            Subset(row["no_exact"], row["no_f1"], row["no_total"]) if row["no_total"] else None,
        )
        groups.append(
            Group(labels.names[number], figures, ratio_interval(totals, 1, 0, bootstrap.confidence))
        )
    return Grouping(labels.by, tuple(groups))


@dataclass(frozen=True, slots=True)
class CoveragePoint:
    """When only the surest rows are taken: their share of all, and how many are right, both in percent."""

    coverage: float
    exact: float
    at: float


@dataclass(frozen=True, slots=True)
class Coverage:
    """Two ways to take fewer rows: a lower no-answer threshold, and a floor under `qa_score`.

    `answers`: rows that are answered at a threshold (`at`), of all rows; None without null odds.
    `decisions`: rows whose `qa_score` is at least `at`, whatever their decision; None without scores.
    """

    answers: tuple[CoveragePoint, ...] | None
    decisions: tuple[CoveragePoint, ...] | None


COVERAGE_POINTS = 100


def coverage_of(examples: Examples, scores: RowScores, spans: RowScores) -> Coverage:
    """The precision/coverage curves, at 1 %, 2 %, ... of the rows."""
    predictions = examples.predictions
    span_known = ~predictions.span.is_null().to_numpy(zero_copy_only=False)
    # an answer where there is none to be found is wrong, whatever the official rules make of an empty span
    right = spans.exact * examples.has_answer
    return Coverage(
        _curve(predictions.null_odds, right, span_known, ascending=True),
        _curve(predictions.score, scores.exact, ~examples.missing, ascending=False),
    )


def _curve(
    values: Float64, right: Float64, known: Bool, *, ascending: bool
) -> tuple[CoveragePoint, ...] | None:
    rows = np.flatnonzero(known & ~np.isnan(values))
    if not len(rows):
        return None
    order = rows[np.argsort(values[rows] if ascending else -values[rows], kind="stable")]
    exact = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    # a cut between equal values cannot be had: the curve has points only where the value changes
    cuts = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))
    wanted = np.ceil(np.arange(1, COVERAGE_POINTS + 1) / COVERAGE_POINTS * len(order)).astype(np.int64) - 1
    cuts = np.unique(cuts[np.searchsorted(cuts, wanted)])
    return tuple(
        CoveragePoint(100 * (cut + 1) / len(values), 100 * float(exact[cut]), float(values[order[cut]]))
        for cut in cuts.tolist()
    )


def names_of(values: Sequence[object]) -> tuple[str, ...]:
    """Values as the labels of groups; null has a name too."""
    return tuple("(none)" if value is None else str(value) for value in values)


def _subset(scores: RowScores, rows: Bool) -> Subset | None:
    total = int(rows.sum())
    if not total:
        return None
    return Subset(
        100 * float(scores.exact[rows].sum()) / total, 100 * float(scores.f1[rows].sum()) / total, total
    )


def ratio_interval(totals: Float64, value: int, weight: int, confidence: float) -> Interval:
    """The interval of column `value` over column `weight`, in percent."""
    return interval(totals, lambda drawn: 100 * drawn[:, value] / drawn[:, weight], confidence)
