"""Figures as tables that a terminal shows and Markdown understands, as model cards print them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from batchqa.evaluation.answer_lists import AnswerLists
from batchqa.evaluation.comparing import Comparison, Difference, Maker
from batchqa.evaluation.metrics import Best, Figures, Grouping, Subset
from batchqa.evaluation.tuning import Tuned, tuned_rows


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model that annotated the rows, as far as it was named; `megabytes` (10^6 bytes) are its file's."""

    name: str
    digest: str
    variant: str | None
    megabytes: float | None
    annotated: str | None


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with aligned columns: the first to the left, the figures to the right."""
    cells = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in [head, *rows]]
    widths = [max(3, *(len(row[at]) for row in cells)) for at in range(len(head))]

    def line(row: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(w) if not at else cell.rjust(w)
            for at, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = (
        "|"
        + "|".join(("-" * (w + 2)) if not at else ("-" * (w + 1) + ":") for at, w in enumerate(widths))
        + "|"
    )
    return "\n".join([line(cells[0]), rule, *(line(row) for row in cells[1:])])


def best_table(best: Best) -> str:
    """The official script's best thresholds."""
    rows = [
        ["best EM", f"{best.exact:.2f}", f"{best.exact_threshold:.4f}"],
        ["best F1", f"{best.f1:.2f}", f"{best.f1_threshold:.4f}"],
    ]
    return markdown(["on these rows themselves", "figure", "threshold"], rows)


def model_table(model: ModelFacts, figures: Figures) -> str:
    """The model, its figures and its size."""
    size = "" if model.megabytes is None else f"{model.megabytes:.2f}"
    name = f"{model.name} {model.variant}" if model.variant else model.name
    return markdown(
        ["model", "EM", "F1", "MB"], [[name, f"{figures.all.exact:.2f}", f"{figures.all.f1:.2f}", size]]
    )


def lists_table(lists: AnswerLists) -> str:
    """Figures of all answers of each row, by MultiSpanQA's and CUAD's definitions."""
    rows = [
        [name, f"{rates.precision:.2f}", f"{rates.recall:.2f}", f"{rates.f1:.2f}"]
        for name, rates in (("exact", lists.exact), ("partial", lists.partial))
    ]
    return (
        markdown(["all answers", "precision", "recall", "F1"], rows)
        + f"\n\nprecision at 80 % recall {lists.precision_at_80_recall:.2f}, area under precision and recall "
        f"{lists.area_under_curve:.2f} (each gold text of a row counts as an answer to be found)"
    )


def group_table(grouping: Grouping) -> str:
    """EM and F1 by group."""
    mixed = grouping.mixed
    head = [grouping.by, "n", "EM", "F1", "interval of F1"]
    rows = []
    for group in grouping.groups:
        all_of, between = group.figures.all, group.f1_interval
        row = [group.name, f"{all_of.total:,}", f"{all_of.exact:.2f}", f"{all_of.f1:.2f}"]
        row.append(f"{between.low:.2f} to {between.high:.2f}")
        if mixed:
            row += [*_pair(group.figures.has_answer), *_pair(group.figures.no_answer)[:1]]
        rows.append(row)
    return markdown([*head, *(["HasAns EM", "HasAns F1", "NoAns"] if mixed else [])], rows)


def _pair(subset: Subset | None) -> list[str]:
    return ["", ""] if subset is None else [f"{subset.exact:.2f}", f"{subset.f1:.2f}"]


def comparison_table(comparison: Comparison, figures: Figures) -> str:
    """Both sides of a comparison, as decided and on equal footing."""
    rows = comparison_rows(comparison, figures)
    table = markdown(["", "these", comparison.name, "difference", "interval"], rows)
    footing = (
        "On equal footing: each side at the threshold with its best F1 on these rows, so that a better "
        "threshold is not mistaken for a better model.\n\n"
        if comparison.equal_footing
        else ""
    )
    return (
        f"{table}\n\n{footing}{comparison.changed:,} answers differ; {len(comparison.gained):,} rows are "
        f"right only here, {len(comparison.lost):,} only there"
    )


def comparison_rows(comparison: Comparison, figures: Figures) -> list[list[str]]:
    """Models, thresholds and figures of both sides, as decided and on equal footing, as cells of a table."""
    here, there = comparison.made_by
    rows = [
        ["model", _maker(here), _maker(there), "", ""],
        ["threshold", _threshold_of(here), _threshold_of(there), "", ""],
        *_difference_rows("", figures, comparison.other, comparison.exact, comparison.f1),
    ]
    if footing := comparison.equal_footing:
        cells = ("always answers" if value is None else f"{value:.4f}" for value in footing.thresholds)
        rows.append(["best threshold", *cells, "", ""])
        rows += _difference_rows(" at the best", footing.here, footing.other, footing.exact, footing.f1)
    return rows


def _difference_rows(
    where: str, here: Figures, there: Figures, exact: Difference, f1: Difference
) -> list[list[str]]:
    rows = []
    for name, ours, theirs, difference in (
        ("EM", here.all.exact, there.all.exact, exact),
        ("F1", here.all.f1, there.all.f1, f1),
    ):
        between = difference.interval
        cells = [f"{ours:.2f}", f"{theirs:.2f}", f"{difference.value:+.2f}"]
        rows.append([name + where, *cells, f"{between.low:+.2f} to {between.high:+.2f}"])
    return rows


def _maker(maker: Maker | None) -> str:
    return "not recorded" if maker is None else f"{maker.model} {maker.variant}"


def _threshold_of(maker: Maker | None) -> str:
    if maker is None or (maker.threshold is None and maker.abstains is not False):
        return "not recorded"
    return "always answers" if maker.threshold is None else f"{maker.threshold:.4f}"


def tuned_table(tuned: Tuned) -> str:
    """What tuning gives and what it costs, on held-out rows."""
    table = markdown(["tuned", "before", "after (held out)"], tuned_rows(tuned))
    spread = ""
    if tuned.fold_thresholds:
        spread = (
            f" Thresholds of the folds: {min(tuned.fold_thresholds):.4f} to {max(tuned.fold_thresholds):.4f}."
        )
    prior = tuned.aim.prior
    reweighted = "" if prior is None else f" Both columns are for {prior:.1%} unanswerable rows (--prior)."
    return (
        f"{table}\n\nafter: each row judged by parameters fitted on the other {tuned.folds - 1} of "
        f"{tuned.folds} folds over {tuned.units:,} {tuned.unit}s; {tuned.bundle} holds the parameters fitted "
        f"on all {tuned.rows:,} rows.{spread}{reweighted}"
    )
