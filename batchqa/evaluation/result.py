"""What an evaluation found: a typed result, as JSON for programs and as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from batchqa.domains import Percent, checked
from batchqa.errors import LimitError
from batchqa.evaluation.answer_lists import AnswerLists
from batchqa.evaluation.calibration import Reliability
from batchqa.evaluation.comparing import Comparison, Footing
from batchqa.evaluation.intervals import LEAST_UNITS
from batchqa.evaluation.joining import Examples
from batchqa.evaluation.metrics import (
    Best,
    Coverage,
    Figures,
    Grouping,
    Intervals,
)
from batchqa.evaluation.selective import Selective
from batchqa.evaluation.tables import (
    ModelFacts,
    best_table,
    comparison_table,
    group_table,
    lists_table,
    markdown,
    model_table,
    tuned_table,
)
from batchqa.evaluation.tuning import Tuned
from batchqa.squad import RowScores, Rules

NAMED_IDS = 1_000
"""How many ids a list in the JSON names at most; the counts are of all."""

SHOWN_IDS = 5
"""How many ids the table names."""

RULE_NAMES = {"squad1": "SQuAD 1.1", "squad2": "SQuAD 2.0"}


@dataclass(frozen=True, slots=True)
class Missing:
    """Questions without a prediction: they score 0. `without` are the figures of the other rows."""

    count: int
    ids: tuple[str, ...]
    codes: Mapping[str, int]
    without: Figures | None


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The figures of a set of predictions. `to_dict` has the official script's names; `table` is for people.

    `scores` and `examples` hold the rows themselves, for whoever wants to look further. Figures are in
    percent, thresholds in logits (null score minus best span score).
    """

    predictions: str
    gold: str
    rules: Rules
    language: str | None
    figures: Figures
    best: Best | None
    intervals: Intervals
    missing: Missing
    extra: int
    reliability: Reliability | None
    coverage: Coverage
    selective: Selective | None
    groups: tuple[Grouping, ...]
    comparison: Comparison | None
    tuned: Tuned | None
    lists: AnswerLists | None
    model: ModelFacts | None
    notes: tuple[str, ...]
    examples: Examples
    scores: RowScores

    @checked
    def require_f1(self, min_f1: Percent) -> None:
        """Raise LimitError (exit code 3) where F1, in percent, is below `min_f1`: a gate for pipelines."""
        if not self.figures.all.f1 >= min_f1:  # nothing that could be judged is no pass either
            raise LimitError(
                f"F1 is {self.figures.all.f1:.4f}, below --min-f1 {min_f1:g} ({self.predictions})"
            )

    def to_dict(self) -> dict[str, Any]:
        """Everything but the rows, ready for JSON."""
        record: dict[str, Any] = self.figures.to_dict()
        if self.rules == "squad1":
            record = {"exact_match": self.figures.all.exact, **record}
        if self.best:
            record |= self.best.to_dict()
        record |= {
            "predictions": self.predictions,
            "gold": self.gold,
            "rules": RULE_NAMES[self.rules],
            "language": self.language,
            "missing": {
                "count": self.missing.count,
                "ids": list(self.missing.ids),
                "codes": dict(self.missing.codes),
                "without": self.missing.without.to_dict() if self.missing.without else None,
            },
            "extra": self.extra,
            "intervals": _intervals(self.intervals),
            "calibration": _reliability(self.reliability),
            "coverage": _coverage(self.coverage),
            "selective": _selective(self.selective),
            "by": {grouping.by: _grouping(grouping) for grouping in self.groups},
            "compare": self._comparison(),
            "tuned": _tuned(self.tuned) if self.tuned else None,
            "answer_lists": asdict(self.lists) if self.lists else None,
            "model": asdict(self.model) if self.model else None,
            "notes": list(self.notes),
        }
        return record

    def table(self) -> str:
        """The figures as tables that a terminal shows and Markdown understands, as model cards print them."""
        blocks = [self.figures_table()]
        if self.best:
            blocks.append(best_table(self.best))
        if self.model:
            blocks.append(model_table(self.model, self.figures))
        if self.lists:
            blocks.append(lists_table(self.lists))
        blocks += [group_table(grouping) for grouping in self.groups]
        if self.comparison:
            blocks.append(comparison_table(self.comparison, self.figures))
        if self.tuned:
            blocks.append(tuned_table(self.tuned))
        blocks.append("\n".join(self.lines()))
        return "\n\n".join(blocks) + "\n"

    def lines(self) -> list[str]:
        """What has to be said beside the figures: what was counted how, what was found missing."""
        boot = self.intervals.bootstrap
        lines = [
            f"{self.predictions}: rules of {RULE_NAMES[self.rules]}"
            + (f", language {self.language} (MLQA's normalization)" if self.language else ""),
            f"intervals: {100 * boot.confidence:g} %, bootstrap over {boot.units:,} {boot.unit}s, "
            f"{boot.resamples:,} times, seed {boot.seed}" + self._small_groups(),
        ]
        if self.missing.count:
            lines.append(_missing_line(self.missing))
        if self.extra:
            lines.append(f"extra: {self.extra:,} predictions have no gold question and were left out")
        if self.reliability:
            lines.append(
                f"expected calibration error of qa_score: {self.reliability.error:.4f} (15 equal-mass bins)"
            )
        if self.selective:
            at = ", ".join(
                f"{accuracy} % right: {share:.1f} % of the rows"
                for accuracy, share in self.selective.coverage_at.items()
            )
            lines.append(
                f"the surest decisions by qa_score: {at}; area under risk and coverage "
                f"{self.selective.aurc:.4f}"
                + ("" if self.selective.auroc is None else f", AUROC {self.selective.auroc:.4f}")
            )
        return [*lines, *self.notes]

    def _small_groups(self) -> str:
        """What else the intervals of groups are made of."""
        if not self.groups or self.intervals.bootstrap.unit == "row":
            return ""
        return f" (over rows in groups with fewer than {LEAST_UNITS} {self.intervals.bootstrap.unit}s)"

    def figures_table(self) -> str:
        """EM and F1 of all rows, those with an answer and those without, with their intervals."""
        intervals = self.intervals.figures
        rows = []
        for name, prefix, subset in (
            ("all", "", self.figures.all),
            ("answerable (HasAns)", "HasAns_", self.figures.has_answer),
            ("unanswerable (NoAns)", "NoAns_", self.figures.no_answer),
        ):
            if subset is None:
                continue
            cells = []
            for figure, value in (("exact", subset.exact), ("f1", subset.f1)):
                between = intervals[prefix + figure]
                cells += [f"{value:.2f}", f"{between.low:.2f} to {between.high:.2f}"]
            rows.append([name, f"{subset.total:,}", *cells])
        return markdown(["", "n", "EM", "interval", "F1", "interval"], rows)

    def _comparison(self) -> dict[str, Any] | None:
        found = self.comparison
        if found is None:
            return None
        here, there = (None if maker is None else asdict(maker) for maker in found.made_by)
        return {
            "other": found.name,
            "made_by": here,
            "other_made_by": there,
            "figures": found.other.to_dict(),
            "exact_difference": found.exact.value,
            "exact_difference_interval": found.exact.interval.to_list(),
            "f1_difference": found.f1.value,
            "f1_difference_interval": found.f1.interval.to_list(),
            "at_best_thresholds": _footing(found.equal_footing),
            "changed": found.changed,
            "gained": len(found.gained),
            "lost": len(found.lost),
            "gained_ids": names_of_rows(self.examples, found.gained[:NAMED_IDS]),
            "lost_ids": names_of_rows(self.examples, found.lost[:NAMED_IDS]),
        }


def names_of_rows(examples: Examples, rows: Sequence[int] | Any) -> list[str]:
    """The ids of rows, or where there are none their numbers from 1 (`row 17`)."""
    if examples.ids is None:
        return [f"row {row + 1}" for row in rows]
    return [
        name if name is not None else f"row {row + 1}"
        for row, name in zip(rows, examples.ids.take(rows).to_pylist(), strict=True)
    ]


def _missing_line(missing: Missing) -> str:
    named = ", ".join(missing.ids[:SHOWN_IDS]) + (", ..." if missing.count > SHOWN_IDS else "")
    codes = "; ".join(f"{count:,} {code}" for code, count in missing.codes.items())
    line = f"missing: {missing.count:,} questions have no prediction and score 0 ({named})"
    if codes:
        line += f"; of them could not be judged: {codes}"
    if missing.without:
        line += f"; without them EM {missing.without.all.exact:.2f}, F1 {missing.without.all.f1:.2f}"
    return line


def _intervals(intervals: Intervals) -> dict[str, Any]:
    boot = intervals.bootstrap
    figures = {name: between.to_list() for name, between in intervals.figures.items()}
    return {
        "confidence": boot.confidence,
        "unit": boot.unit,
        "units": boot.units,
        "resamples": boot.resamples,
        "seed": boot.seed,
        **figures,
    }


def _reliability(measured: Reliability | None) -> dict[str, Any] | None:
    if measured is None:
        return None
    bins = [
        {"score": score, "right": right, "rows": rows}
        for score, right, rows in zip(measured.confidence, measured.right, measured.rows, strict=True)
    ]
    return {"expected_calibration_error": measured.error, "bins": bins}


def _selective(found: Selective | None) -> dict[str, Any] | None:
    return None if found is None else found.to_dict()


def _coverage(coverage: Coverage) -> dict[str, Any]:
    return {
        name: None
        if points is None
        else [{"coverage": point.coverage, "exact": point.exact, "at": point.at} for point in points]
        for name, points in (("answers", coverage.answers), ("decisions", coverage.decisions))
    }


def _grouping(grouping: Grouping) -> list[dict[str, Any]]:
    return [
        {"group": group.name, **group.figures.to_dict(), "f1_interval": group.f1_interval.to_list()}
        for group in grouping.groups
    ]


def _tuned(tuned: Tuned) -> dict[str, Any]:
    return {
        "bundle": str(tuned.bundle),
        "objective": tuned.aim.objective if tuned.aim.precision is None else None,
        "target_precision": tuned.aim.precision,
        "prior": tuned.aim.prior,
        "threshold_before": tuned.old_threshold,
        "threshold": tuned.parameters.threshold,
        "fold_thresholds": list(tuned.fold_thresholds),
        "fitted_on": tuned.fitted_on,
        "folds": tuned.folds,
        "unit": tuned.unit,
        "units": tuned.units,
        "rows": tuned.rows,
        "before": tuned.before.to_dict(),
        "after_held_out": tuned.after.to_dict(),
        "answered_before": asdict(tuned.answered_before),
        "answered_after_held_out": asdict(tuned.answered_after),
        "selective_before": _selective(tuned.selective_before),
        "selective_after_held_out": _selective(tuned.selective_after),
        "calibration_before": _reliability(tuned.reliability_before),
        "calibration_raw_held_out": _reliability(tuned.reliability_raw),
        "calibration_after_held_out": _reliability(tuned.reliability_after),
    }


def _footing(footing: Footing | None) -> dict[str, Any] | None:
    if footing is None:
        return None
    return {
        "thresholds": list(footing.thresholds),
        "these": footing.here.to_dict(),
        "other": footing.other.to_dict(),
        "exact_difference": footing.exact.value,
        "exact_difference_interval": footing.exact.interval.to_list(),
        "f1_difference": footing.f1.value,
        "f1_difference_interval": footing.f1.interval.to_list(),
    }
