"""The quality of a bundle's answers on public data, as a section of its model card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from batchqa.bundle import CARD, open_bundle, write_manifest
from batchqa.errors import InputError
from batchqa.evaluation import Evaluation, evaluate
from batchqa.evaluation.calibration import Reliability
from batchqa.evaluation.metrics import CoveragePoint
from batchqa.evaluation.tables import best_table, group_table, markdown

HEADING = "## Quality of the answers"

XQUAD = ("en", "es", "ar", "zh")
BY = ("question_word", "context_length")
ENGINE = "onnxruntime"
"""The one that every user has."""

SHARES = range(10, 101, 10)
"""Of the rows, in percent."""


def add_figures(folder: Path, data: Path) -> None:
    """Evaluate the bundle in `folder` on SQuAD 2.0 dev and XQuAD in `data`; its card tells the result.

    Only the card and its digest change; figures that stand there already are replaced. Raises InputError
    where the data is missing.
    """
    dev = data / "squad-v2.0-dev.json"
    others = [data / "xquad" / f"xquad.{language}.json" for language in XQUAD]
    for file in (dev, *others):
        if not file.is_file():
            raise InputError(f"{file} is missing; set BATCHQA_DATA to the folder that holds it")
    bundle = open_bundle(folder)
    with TemporaryDirectory(prefix="batchqa-figures-") as work:
        found = evaluate(
            dev,
            model=folder,
            annotated=Path(work) / "dev.parquet",
            by=BY,
            # a bundle that is calibrated shows its own scores; else what a calibrated copy would have
            tune=None if bundle.manifest.calibration else Path(work) / "tuned",
            engine=ENGINE,
        )
        languages = [
            evaluate(
                file,
                model=folder,
                language=language,
                annotated=Path(work) / f"{language}.parquet",
                engine=ENGINE,
            )
            for language, file in zip(XQUAD, others, strict=True)
        ]
    card = (folder / CARD).read_text(encoding="utf-8").partition(HEADING)[0].rstrip()
    (folder / CARD).write_text(f"{card}\n\n{_section(found, languages)}\n", encoding="utf-8")
    write_manifest(folder, bundle.manifest)


def _section(dev: Evaluation, languages: Sequence[Evaluation]) -> str:
    assert dev.best is not None
    parts = [
        HEADING,
        f"""
By `batchqa evaluate`, whose figures equal those of the official scripts. Intervals: 95 %, bootstrap over
articles. SQuAD 2.0 dev (CC BY-SA 4.0), all {dev.figures.all.total:,} questions, at its own threshold:""",
        dev.figures_table(),
        "The official script's best thresholds are fitted on the very rows that they are reported for:",
        best_table(dev.best),
        *(group_table(grouping) for grouping in dev.groups),
        """
Accuracy when fewer rows are used: those that are answered at a lower no-answer threshold, and those with the
highest `qa_score`, "no answer" included:""",
        _curve(dev.coverage.answers, dev.coverage.decisions),
        *_scores(dev),
        """
XQuAD (CC BY-SA 4.0; every question has an answer), with MLQA's normalization per language. The model knows
English only; the figures show that it is not for the other languages.""",
        _by_language(languages),
    ]
    return "\n\n".join(part.strip() for part in parts)


def _by_language(languages: Sequence[Evaluation]) -> str:
    rows = []
    for found in languages:
        all_of = found.figures.all
        rows.append([f"{found.language}", f"{all_of.total:,}", f"{all_of.exact:.2f}", f"{all_of.f1:.2f}"])
    return markdown(["XQuAD", "n", "EM", "F1"], rows)


def _curve(answers: Sequence[CoveragePoint] | None, decisions: Sequence[CoveragePoint] | None) -> str:
    rows = []
    for share in SHARES:
        cells = []
        for points in (answers, decisions):
            near = min(points or (), key=lambda point: abs(point.coverage - share), default=None)
            cells.append("" if near is None else f"{near.exact:.2f}")
        rows.append([f"{share} %", *cells])
    return markdown(["rows taken", "right of the answers", "right of the decisions"], rows)


def _scores(dev: Evaluation) -> tuple[str, str]:
    """How far `qa_score` can be read as a probability: the bundle's own, and a tuned copy's."""
    tuned, own = dev.tuned, dev.reliability
    said = "`qa_score` against how often the decision is right, in bins of equal size."
    if tuned is None:
        return f"{said} Expected calibration error: {_error(own)}.", _reliability(own)
    return (
        f"""
{said} The bundle is not calibrated; `batchqa evaluate --tune` makes a copy that is. "After" is such a copy's
score, each row by parameters fitted on the other {tuned.folds - 1} of {tuned.folds} folds over {tuned.units}
{tuned.unit}s. Expected calibration error: {_error(own)} before, {_error(tuned.reliability_after)} after.""",
        _reliability(own, tuned.reliability_after),
    )


def _reliability(*known: Reliability | None) -> str:
    columns = [column for one in known if one for column in (one.confidence, one.right)]
    heads = ("score before", "right", "score after", "right") if len(known) > 1 else ("score", "right")
    rows = [
        [f"{number}", *(f"{value:.3f}" for value in values)]
        for number, values in enumerate(zip(*columns, strict=True), 1)
    ]
    return markdown(["bin", *heads], rows)


def _error(measured: Reliability | None) -> str:
    return "not known" if measured is None else f"{measured.error:.4f}"
