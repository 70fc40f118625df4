"""The report's plots, drawn by matplotlib (extra `report`) as SVG that stands inside the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import numpy as np

from batchqa.evaluation.calibration import Reliability
from batchqa.evaluation.metrics import Coverage
from batchqa.evaluation.selective import Selective
from batchqa.records import Bool, Float64

BLUE, GREEN, RED, GREY = "#2563a8", "#2e7d4f", "#c2453b", "#8a8f98"

_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#b6bac1",
    "axes.grid": True,
    "axes.labelcolor": "#3b4048",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "font.size": 10.5,
    "grid.color": "#e6e8eb",
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
    "svg.hashsalt": "batchqa",  # the same figures make the same page
    "text.color": "#23272e",
    "xtick.color": "#5b616b",
    "ytick.color": "#5b616b",
}
_SIZE = (5.4, 3.6)
P = ParamSpec("P")


def _styled(draw: Callable[P, str | None]) -> Callable[P, str | None]:
    """Draw with our style, and leave that of the caller's process alone."""

    @wraps(draw)
    def drawn(*args: P.args, **named: P.kwargs) -> str | None:
        import matplotlib as mpl

        with mpl.rc_context(rc=_STYLE):
            return draw(*args, **named)

    return drawn


@_styled
def coverage_plot(coverage: Coverage, answered: tuple[float, float] | None) -> str | None:
    """How exact at which share of rows; `answered`: (share answered, exact) as decided, in percent."""
    if not coverage.answers and not coverage.decisions:
        return None
    figure, axes = _new()
    for points, colour, label in (
        (coverage.answers, BLUE, "answers, by no-answer threshold"),
        (coverage.decisions, GREEN, "all decisions, by floor under qa_score"),
    ):
        if points:
            axes.plot(
                [p.coverage for p in points], [p.exact for p in points], color=colour, lw=2, label=label
            )
    if answered:
        axes.plot(*answered, "o", color=BLUE, ms=7, mec="white", label="answers as decided")
    axes.set(
        xlabel="share of rows taken, surest first (%)", ylabel="exact match (%)", xlim=(0, 100), ylim=(0, 101)
    )
    axes.set_title("Precision and coverage")
    axes.legend(loc="lower left")
    return _svg(figure)


@_styled
def reliability_plot(curves: Sequence[tuple[str, Reliability | None]]) -> str | None:
    """How often rows of a score are right, in 15 bins of equal mass."""
    known = [(label, measured) for label, measured in curves if measured is not None]
    if not known:
        return None
    figure, axes = _new()
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    for (label, measured), colour in zip(known, (BLUE, GREEN), strict=False):
        text = f"{label}: error {measured.error:.3f}"
        axes.plot(
            measured.confidence, measured.right, "o-", color=colour, lw=1.5, ms=5, mec="white", label=text
        )
    axes.set(xlabel="mean score", ylabel="share right", xlim=(0, 1), ylim=(0, 1.01))
    axes.set_title("Reliability of the score")
    axes.legend(loc="upper left")
    return _svg(figure)


@_styled
def risk_plot(curves: Sequence[tuple[str, Selective | None]]) -> str | None:
    """How many of the decisions are wrong when only the surest are taken."""
    known = [(label, found) for label, found in curves if found is not None]
    if not known:
        return None
    figure, axes = _new()
    for (label, found), colour in zip(known, (BLUE, GREEN), strict=False):
        coverage, risk = zip(*found.points, strict=True)
        separates = "" if found.auroc is None else f", AUROC {found.auroc:.3f}"
        axes.plot(coverage, risk, color=colour, lw=2, label=f"{label}: area {found.aurc:.3f}{separates}")
    axes.set(
        xlabel="coverage: share of decisions taken, surest first (%)",
        ylabel="risk: share of them that is wrong (%)",
        xlim=(0, 100),
    )
    axes.set_ylim(bottom=0)
    axes.set_title("Risk and coverage")
    axes.legend(loc="upper left")
    return _svg(figure)


@_styled
def score_plot(title: str, score: Float64, right: Bool) -> str | None:
    """How many rows have which score, right ones and wrong ones on top of each other."""
    if not len(score):
        return None
    figure, axes = _new()
    edges = np.linspace(0, 1, 26)
    axes.hist(
        [score[right], score[~right]],
        bins=edges.tolist(),
        stacked=True,
        color=[GREEN, RED],
        label=["right", "wrong"],
    )
    axes.set(xlabel="score", ylabel="rows", xlim=(0, 1))
    axes.set_title(f"{title} ({len(score):,} rows)")
    axes.legend(loc="best")
    return _svg(figure)


def _new() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE)
    return figure, figure.subplots()


def _svg(figure: Any) -> str:
    """The figure as an element of an HTML page: without the head of a file, and without addresses."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    head, body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL).split(
        ">", 1
    )
    # the page's style gives the size, viewBox the proportions
    return re.sub(r' (?:xmlns(?::\w+)?|version|width|height)="[^"]*"', "", head) + ">" + body
