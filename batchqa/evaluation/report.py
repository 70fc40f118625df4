"""One HTML page about an evaluation: no scripts, no network, everything escaped (extra `report`)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from batchqa.errors import SettingsError
from batchqa.evaluation.comparing import made_by
from batchqa.evaluation.files import File
from batchqa.evaluation.result import RULE_NAMES, Evaluation
from batchqa.evaluation.shown_rows import shown_rows
from batchqa.evaluation.tables import comparison_rows
from batchqa.evaluation.tuning import tuned_rows
from batchqa.html_pages import style, write_whole
from batchqa.side_files import PAGE, check_side_file
from batchqa.version import VERSION

NULL_ODDS = (
    "Null odds: the model’s score for “no answer” minus that of its best answer, in logits. “No answer” is "
    "said where they are above the threshold; far below it, the model is sure of its answer."
)

_TEMPLATE = "report.html"
_NEEDED = ("jinja2", "matplotlib")


def check_report(path: Path, taken: Iterable[str | Path]) -> None:
    """Find out before the work whether the report can be written and replaces none of the files `taken`.

    Raises SettingsError.
    """
    lacking = [name for name in _NEEDED if find_spec(name) is None]
    if lacking:
        raise SettingsError(f"--report needs {' and '.join(lacking)}: pip install 'batchqa[report]'")
    check_side_file("--report", path, taken, PAGE)


def write_report(evaluation: Evaluation, path: Path, predictions: File) -> None:
    """Write the page; an old one is replaced once the new one is complete. Raises StorageError."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    # autoescape: a context with tags in it stays text
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = resources.files("batchqa.evaluation").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        e=evaluation,
        rules=RULE_NAMES[evaluation.rules],
        comparison_rows=(
            comparison_rows(evaluation.comparison, evaluation.figures) if evaluation.comparison else []
        ),
        tuned_rows=tuned_rows(evaluation.tuned) if evaluation.tuned else [],
        plots=_plots(evaluation),
        rows=shown_rows(evaluation, predictions.prefix),
        maker=made_by(predictions.record),
        null_odds=NULL_ODDS,
        today=datetime.now(tz=UTC).date().isoformat(),
        style=Markup(style()),  # noqa: S704 - our own file
        version=VERSION,
    )
    write_whole(path, page)


def _plots(evaluation: Evaluation) -> list[Any]:
    """The plots there are data for, marked as HTML (they hold no text of rows)."""
    from markupsafe import Markup

    from batchqa.evaluation.plots import coverage_plot, reliability_plot, risk_plot, score_plot

    tuned = evaluation.tuned
    predictions = evaluation.examples.predictions
    right = evaluation.scores.exact > 0
    scored = ~np.isnan(predictions.score) & ~evaluation.examples.missing
    answered, refused = scored & ~predictions.silent, scored & predictions.silent
    said = ~predictions.silent & ~evaluation.examples.missing
    as_decided = (100 * float(said.mean()), 100 * float(right[said].mean())) if said.any() else None
    reliabilities = [("qa_score as it is", evaluation.reliability)]
    risks = [("qa_score as it is", evaluation.selective)]
    if tuned:
        reliabilities.append(("tuned, held-out rows", tuned.reliability_after))
        risks.append(("tuned, held-out rows", tuned.selective_after))
    drawn = (
        coverage_plot(evaluation.coverage, as_decided if evaluation.coverage.answers else None),
        reliability_plot(reliabilities),
        risk_plot(risks),
        score_plot("Scores of answers", predictions.score[answered], right[answered]),
        score_plot("Scores of “no answer”", predictions.score[refused], right[refused]),
    )
    return [Markup(plot) for plot in drawn if plot]  # noqa: S704 - made by matplotlib from numbers and our labels
