"""`--tune`: the best threshold and calibration for these rows, judged on rows they were not fitted on.

The figures after tuning are cross-fitted: the articles are split into folds, and each fold is judged by a
threshold and curves fitted on the other folds. What goes into the new bundle is fitted on all rows, in the
same way. So no figure is ever reported on the rows that its parameters were fitted on.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from batchqa.bundle import CARD, Bundle, Calibration, Threshold, open_bundle, write_manifest
from batchqa.errors import InputError, PreconditionError, SettingsError, StorageError
from batchqa.evaluation.calibration import Curve, Reliability, fit_curve, folds_of, reliability
from batchqa.evaluation.gold import Examples
from batchqa.evaluation.metrics import Figures, figures_of
from batchqa.records import Bool, Float64, Int64
from batchqa.squad import RowScores

Objective = Literal["f1", "exact"]

LEAST_ROWS = 100
"""Fewer judged rows than this cannot fit anything worth having."""

METHOD = "isotonic regression on equal-mass bins, linear between them"
_SECTION = "## Tuned by `batchqa evaluate`"


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is fitted: the threshold on the null odds, and a curve for each kind of decision.

    `threshold` is None where it cannot be fitted: the model does not abstain, or all rows are of one kind.
    """

    threshold: float | None
    answered: Curve
    refused: Curve


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """The parameters of the new bundle, and what they are worth on held-out rows.

    `before`: figures and reliability as the file has them. `after`: each row judged by the parameters of the
    folds that it is not in. `fold_thresholds` shows how far the threshold depends on the rows.
    `raw`: reliability of the uncalibrated scores at the held-out thresholds.
    """

    parameters: Parameters
    objective: Objective
    old_threshold: float
    fold_thresholds: tuple[float, ...]
    folds: int
    unit: str
    units: int
    rows: int
    before: Figures
    after: Figures
    reliability_before: Reliability | None
    reliability_raw: Reliability | None
    reliability_after: Reliability | None
    fitted_on: str
    bundle: Path
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class _Evidence:
    """What decides about each judged row, as columns of the same length.

    span, null: raw probabilities of the best span and of "no answer"; odds: null odds (NaN: no abstaining);
    exact, f1: what the best span scores; answerable: whether the row has gold answers.
    """

    span: Float64
    null: Float64
    odds: Float64
    exact: Float64
    f1: Float64
    answerable: Bool

    def take(self, rows: Bool) -> _Evidence:
        return _Evidence(
            self.span[rows],
            self.null[rows],
            self.odds[rows],
            self.exact[rows],
            self.f1[rows],
            self.answerable[rows],
        )


def tune_bundle(
    examples: Examples,
    scores: RowScores,
    spans: RowScores,
    *,
    bundle: Bundle,
    target: Path,
    data: str,
    unit: tuple[str, Int64 | None],
    objective: Objective,
    folds: int,
    seed: int,
) -> Tuned:
    """Fit, judge on held-out folds, and write the new bundle into `target`; `data` is the rows' name there.

    Raises SettingsError where the rows do not carry what is needed, PreconditionError where `target` exists.
    """
    check_target(bundle, target)
    judged = ~examples.missing
    evidence = _evidence(examples, spans, judged)
    rows = len(evidence.span)
    if rows < LEAST_ROWS:
        raise InputError(
            f"{examples.gold.path}: {rows} judged rows are too few to tune on; {LEAST_ROWS} are needed"
        )
    unit_name, unit_of_row = unit
    unit_here = None if unit_of_row is None else np.unique(unit_of_row[judged], return_inverse=True)[1]
    units = rows if unit_here is None else int(unit_here.max()) + 1
    folds = min(folds, units)
    if folds < 2:
        raise SettingsError("--folds must be at least 2 for tuning")
    fold = folds_of(unit_here, rows, folds, seed)

    silent = np.zeros(rows, dtype=bool)
    probability, raw = np.zeros(rows), np.zeros(rows)
    thresholds = []
    default = bundle.manifest.threshold.value
    for held_out in range(folds):
        here = fold == held_out
        parameters = _fit(evidence.take(~here), objective, default)
        if parameters.threshold is not None:
            thresholds.append(parameters.threshold)
        silent[here], raw[here], probability[here] = _judge(evidence.take(here), parameters, default)
    after = _decided(evidence, silent)

    as_decided = examples.predictions.score
    scored = judged & ~np.isnan(as_decided)
    fitted_on = (
        f"{data}: {rows} rows, {units} {unit_name}s; "
        f"held-out figures by {folds} folds over {unit_name}s, seed {seed}"
    )
    tuned = Tuned(
        parameters=_fit(evidence, objective, default),
        objective=objective,
        old_threshold=default,
        fold_thresholds=tuple(thresholds),
        folds=folds,
        unit=unit_name,
        units=units,
        rows=rows,
        before=figures_of(scores, examples.has_answer, judged),
        after=figures_of(after, evidence.answerable),
        reliability_before=reliability(as_decided[scored], scores.exact[scored]),
        reliability_raw=reliability(raw, after.exact),
        reliability_after=reliability(probability, after.exact),
        fitted_on=fitted_on,
        bundle=target,
        source=bundle.manifest.name,
    )
    _write(bundle, target, tuned)
    return tuned


def check_target(bundle: Bundle, target: Path) -> None:
    """Refuse to write over anything: called before the work begins as well. Raises PreconditionError."""
    if target.resolve() == bundle.path.resolve() or target.resolve().is_relative_to(bundle.path.resolve()):
        raise PreconditionError(f"--output {target} is the bundle that is tuned; name a new folder")
    if target.exists():
        raise PreconditionError(f"{target} exists already; name a new folder for the tuned bundle")
    if not target.parent.is_dir():
        raise PreconditionError(f"{target.parent} is not a folder; make it first")


def _evidence(examples: Examples, spans: RowScores, judged: Bool) -> _Evidence:
    predictions = examples.predictions
    span, odds = predictions.span_score[judged], predictions.null_odds[judged]
    if np.isnan(span).any():
        raise SettingsError(
            '--tune needs the best span of every row, also where the decision is "no answer": '
            "annotate with --top-k 1, or let evaluate annotate (--model)"
        )
    # span and null share the soft-max's denominator, so their ratio is exp(null odds); a span whose
    # probability is no longer a number above 0 in float32 leaves all of it to null
    with np.errstate(over="ignore", invalid="ignore"):
        null = np.where(span > 1e-35, np.minimum(span * np.exp(odds), 1.0), 1.0)
    return _Evidence(span, null, odds, spans.exact[judged], spans.f1[judged], examples.has_answer[judged])


def _fit(evidence: _Evidence, objective: Objective, default: float) -> Parameters:
    threshold = _fit_threshold(evidence, objective)
    silent = _silent(evidence, default if threshold is None else threshold)
    return Parameters(
        threshold,
        fit_curve(evidence.span[~silent], evidence.exact[~silent]),
        fit_curve(evidence.null[silent], ~evidence.answerable[silent]),
    )


def _fit_threshold(evidence: _Evidence, objective: Objective) -> float | None:
    """The middle between the two null odds where answering stops to pay; None where that has no meaning."""
    if np.isnan(evidence.odds).any() or evidence.answerable.all() or not evidence.answerable.any():
        return None
    gain = np.where(evidence.answerable, evidence.f1 if objective == "f1" else evidence.exact, -1.0)
    order = np.argsort(evidence.odds, kind="stable")
    odds = evidence.odds[order]
    totals = np.concatenate([[0.0], np.cumsum(gain[order])])
    # a threshold cannot part equal odds
    possible = np.concatenate([[True], odds[1:] != odds[:-1], [True]])
    best = int(np.argmax(np.where(possible, totals, -np.inf)))
    below = odds[best - 1] if best else odds[0] - 2.0
    above = odds[best] if best < len(odds) else odds[-1] + 2.0
    return float((below + above) / 2)


def _silent(evidence: _Evidence, threshold: float) -> Bool:
    """Where the decision is "no answer"; never where there are no null odds (NaN)."""
    return np.asarray(evidence.odds > threshold)


def _judge(evidence: _Evidence, parameters: Parameters, default: float) -> tuple[Bool, Float64, Float64]:
    """The decision, its raw score and its calibrated one."""
    silent = _silent(evidence, default if parameters.threshold is None else parameters.threshold)
    raw = np.where(silent, evidence.null, evidence.span)
    answered, refused = parameters.answered.apply(raw), parameters.refused.apply(raw)
    return silent, raw, np.where(silent, refused, answered)


def _decided(evidence: _Evidence, silent: Bool) -> RowScores:
    empty = (~evidence.answerable).astype(np.float64)
    return RowScores(np.where(silent, empty, evidence.exact), np.where(silent, empty, evidence.f1))


def _write(bundle: Bundle, target: Path, tuned: Tuned) -> None:
    """The new bundle, complete or not at all: a folder beside it is renamed once it verifies."""
    manifest = bundle.manifest
    parameters = tuned.parameters
    threshold = manifest.threshold
    if parameters.threshold is not None:
        threshold = Threshold(parameters.threshold, f"{tuned.fitted_on}; best {tuned.objective}")
    before, after = _error(tuned.reliability_before), _error(tuned.reliability_after)
    errors = f"expected calibration error {before} before, {after} after"
    calibration = Calibration(
        method=METHOD,
        fitted_on=f"{tuned.fitted_on}; {errors} (15 equal-mass bins, held-out rows)",
        raw=parameters.answered.raw,
        probability=parameters.answered.probability,
        raw_no_answer=parameters.refused.raw,
        probability_no_answer=parameters.refused.probability,
    )
    staging = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        staging.mkdir()
        for name in manifest.files:
            shutil.copyfile(bundle.path / name, staging / name)
        _write_card(staging / CARD, tuned)
        write_manifest(staging, replace(manifest, threshold=threshold, calibration=calibration))
        open_bundle(staging)
        staging.rename(target)
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_card(card: Path, tuned: Tuned) -> None:
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {tuned.source}\n"
    # a bundle that is tuned again says only what holds now
    text = re.split(rf"^{re.escape(_SECTION)}$", text, maxsplit=1, flags=re.MULTILINE)[0]
    card.write_text(text.rstrip() + "\n\n" + tuned_section(tuned), encoding="utf-8")


def tuned_section(tuned: Tuned) -> str:
    """What the model card says about the tuning, in Markdown."""
    threshold = tuned.parameters.threshold
    new = "unchanged" if threshold is None else f"{threshold:.4f}"
    lines = [
        _SECTION,
        "",
        (
            f"Fitted on {tuned.fitted_on}. The figures below are of held-out rows: each row was judged by a "
            "threshold and a calibration that were fitted on the other folds. The bundle's own were fitted "
            "on all rows."
        ),
        "",
        "| | before | after |",
        "|---|---|---|",
        f"| threshold (null odds) | {tuned.old_threshold:.4f} | {new} |",
    ]
    before, after = tuned.before.to_dict(), tuned.after.to_dict()
    lines += [
        f"| {name} | {_figure(before, name)} | {_figure(after, name)} |"
        for name in after
        if "total" not in name
    ]
    lines.append(
        f"| expected calibration error (15 equal-mass bins) | {_error(tuned.reliability_before)} | "
        f"{_error(tuned.reliability_after)} |"
    )
    return "\n".join(lines) + "\n"


def _figure(figures: Mapping[str, float], name: str) -> str:
    return f"{figures[name]:.2f}" if name in figures else ""


def _error(measured: Reliability | None) -> str:
    return "unknown" if measured is None else f"{measured.error:.4f}"
