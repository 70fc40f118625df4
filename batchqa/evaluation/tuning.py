"""`--tune`: the best threshold and calibration for these rows, judged on rows they were not fitted on.

The figures after tuning are cross-fitted: the articles are split into folds, and each fold is judged by a
threshold and curves fitted on the other folds. What goes into the new bundle is fitted on all rows, in the
same way. So no figure is ever reported on the rows that its parameters were fitted on.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from batchqa.bundle import CARD, Bundle, Threshold, open_bundle, write_manifest
from batchqa.errors import InputError, PreconditionError, SettingsError, StorageError
from batchqa.evaluation.calibration import BINS, Reliability, folds_of, reliability
from batchqa.evaluation.fitting import Aim, Evidence, Parameters, check_precision, fit, judge
from batchqa.evaluation.joining import Examples
from batchqa.evaluation.metrics import Figures, at_prior, figures_of
from batchqa.evaluation.selective import Selective, selective
from batchqa.probability import Calibration
from batchqa.records import Bool, Float64, Int64
from batchqa.squad import RowScores

LEAST_ROWS = 100
"""Fewer judged rows than this cannot fit anything worth having."""

CURVE = "isotonic regression on equal-mass bins, linear between them"
REGRESSION = "logistic regression on the score's logit and the null odds, then "
_SECTION = "## Tuned by `batchqa evaluate`"


@dataclass(frozen=True, slots=True)
class Answered:
    """The share of the rows that are answered, and of the answers the share that is right, in percent.

    `precision` is None where no row is answered. Right means exact match with any gold answer.
    """

    coverage: float
    precision: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """The parameters of the new bundle, and what they are worth on held-out rows.

    `before`: figures and reliability as the file has them. `after`: each row judged by the parameters of the
    folds that it is not in. `fold_thresholds` shows how far the threshold depends on the rows.
    `raw`: reliability of the uncalibrated scores at the held-out thresholds. With a prior all of them are
    what rows with that share of unanswerable ones would give.
    """

    parameters: Parameters
    aim: Aim
    old_threshold: float
    fold_thresholds: tuple[float, ...]
    folds: int
    unit: str
    units: int
    rows: int
    before: Figures
    after: Figures
    answered_before: Answered
    answered_after: Answered
    reliability_before: Reliability | None
    reliability_raw: Reliability | None
    reliability_after: Reliability | None
    selective_before: Selective | None
    selective_after: Selective | None
    fitted_on: str
    bundle: Path
    source: str


def tune_bundle(
    examples: Examples,
    scores: RowScores,
    spans: RowScores,
    *,
    bundle: Bundle,
    target: Path,
    data: str,
    unit: tuple[str, Int64 | None],
    aim: Aim,
    folds: int,
    seed: int,
) -> Tuned:
    """Fit, judge on held-out folds, and write the new bundle into `target`; `data` is the rows' name there.

    Raises SettingsError where the rows do not carry what is needed, PreconditionError where `target` exists.
    """
    check_target(bundle, target)
    judged = ~examples.missing
    rows = int(judged.sum())
    if rows < LEAST_ROWS:
        raise InputError(
            f"{examples.gold.path}: {rows} judged rows are too few to tune on; give at least {LEAST_ROWS}"
        )
    unit_name, unit_of_row = unit
    unit_here = None if unit_of_row is None else np.unique(unit_of_row[judged], return_inverse=True)[1]
    units = rows if unit_here is None else int(unit_here.max()) + 1
    folds = min(folds, units)
    if folds < 2:
        raise SettingsError("--folds must be at least 2 for tuning")
    evidence = _evidence(examples, spans, judged, unit_here, aim)
    _check_abstaining(bundle, evidence)
    if aim.precision is not None:
        check_precision(evidence, aim.precision)
    fold = folds_of(unit_here, rows, folds, seed)

    silent = np.zeros(rows, dtype=bool)
    probability, raw = np.zeros(rows), np.zeros(rows)
    thresholds = []
    default = bundle.manifest.threshold.value
    for held_out in range(folds):
        here = fold == held_out
        parameters = fit(evidence.take(~here), aim, default, seed)
        if parameters.threshold is not None:
            thresholds.append(parameters.threshold)
        found = judge(evidence.take(here), parameters, default)
        silent[here], raw[here], probability[here] = found.silent, found.raw, found.probability
    after, weight, answerable = evidence.scores(silent), evidence.weight, evidence.answerable

    as_decided, was_silent = examples.predictions.score[judged], examples.predictions.silent[judged]
    right_before = scores.exact[judged]
    scored = ~np.isnan(as_decided)
    before = as_decided[scored], right_before[scored], weight[scored]
    fitted_on = (
        f"{data}: {rows} rows, {units} {unit_name}s{aim.reweighted(answerable)}; "
        f"held-out figures by {folds} folds over {unit_name}s, seed {seed}"
    )
    tuned = Tuned(
        parameters=fit(evidence, aim, default, seed),
        aim=aim,
        old_threshold=default,
        fold_thresholds=tuple(thresholds),
        folds=folds,
        unit=unit_name,
        units=units,
        rows=rows,
        before=at_prior(figures_of(scores, examples.has_answer, judged), aim.prior),
        after=at_prior(figures_of(after, answerable), aim.prior),
        answered_before=_answered(was_silent, right_before * answerable, weight),
        answered_after=_answered(silent, after.exact * answerable, weight),
        reliability_before=reliability(*before),
        reliability_raw=reliability(raw, after.exact, weight),
        reliability_after=reliability(probability, after.exact, weight),
        selective_before=selective(*before),
        selective_after=selective(probability, after.exact, weight),
        fitted_on=fitted_on,
        bundle=target,
        source=bundle.manifest.name,
    )
    _write(bundle, target, tuned)
    return tuned


def check_target(bundle: Bundle, target: Path) -> None:
    """Refuse to write over anything: called before the work begins as well. Raises PreconditionError."""
    if target.resolve() == bundle.path.resolve() or target.resolve().is_relative_to(bundle.path.resolve()):
        raise PreconditionError(f"--output {target} is the bundle that is tuned; choose a new folder")
    if target.exists():
        raise PreconditionError(f"{target} already exists; choose a new folder for the tuned bundle")
    if not target.parent.is_dir():
        raise PreconditionError(f"{target.parent} is not a folder; make it first")


def _evidence(examples: Examples, spans: RowScores, judged: Bool, unit: Int64 | None, aim: Aim) -> Evidence:
    predictions = examples.predictions
    span, odds = predictions.span_score[judged], predictions.null_odds[judged]
    if np.isnan(span).any():
        raise SettingsError(
            '--tune needs the best span of every row, also where the decision is "no answer": '
            "annotate with --top-k 1, or let evaluate annotate (--model)"
        )
    # span and null share the softmax's denominator, so their ratio is exp(null odds); a span whose
    # probability is no longer a number above 0 in float32 leaves all of it to null
    with np.errstate(over="ignore", invalid="ignore"):
        null = np.where(span > 1e-35, np.minimum(span * np.exp(odds), 1.0), 1.0)
    answerable = examples.has_answer[judged]
    return Evidence(
        span,
        null,
        odds,
        spans.exact[judged],
        spans.f1[judged],
        answerable,
        aim.weights(answerable),
        np.arange(len(span)) if unit is None else unit,
    )


def _check_abstaining(bundle: Bundle, evidence: Evidence) -> None:
    """A calibration is for the model as it was trained, whatever --no-answer a run has."""
    abstains, unknown = bundle.manifest.abstains.value, np.isnan(evidence.odds)
    if abstains and unknown.any():
        raise SettingsError("--tune needs null odds: annotate these rows without --no-answer off")
    if not abstains and not unknown.all():
        raise SettingsError("--tune needs rows of the model as it was trained: without --no-answer on")


def _answered(silent: Bool, right: Float64, weight: Float64) -> Answered:
    said = weight * ~silent
    share = said.sum() / weight.sum()
    return Answered(100 * float(share), 100 * float(said @ right / said.sum()) if share else None)


def _write(bundle: Bundle, target: Path, tuned: Tuned) -> None:
    """The new bundle, complete or not at all: a folder beside it is renamed once it verifies."""
    manifest = bundle.manifest
    parameters = tuned.parameters
    threshold = manifest.threshold
    if parameters.threshold is not None:
        threshold = Threshold(parameters.threshold, f"{tuned.fitted_on}; {tuned.aim.of_threshold}")
    before, after = _error(tuned.reliability_before), _error(tuned.reliability_after)
    answered, refused = parameters.answered, parameters.refused
    errors = f"expected calibration error {before} before, {after} after"
    calibration = Calibration(
        method=_method(parameters),
        fitted_on=f"{tuned.fitted_on}; {errors} (15 equal-mass bins, held-out rows)",
        raw=answered.curve.raw,
        probability=answered.curve.probability,
        raw_no_answer=refused.curve.raw,
        probability_no_answer=refused.curve.probability,
        weights=answered.weights,
        weights_no_answer=refused.weights,
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


def _method(parameters: Parameters) -> str:
    """How each kind of decision gets its probability."""
    kinds = (("answers", parameters.answered), ('"no answer"', parameters.refused))
    return "; ".join(f"{kind}: {REGRESSION if estimator.weights else ''}{CURVE}" for kind, estimator in kinds)


def _write_card(card: Path, tuned: Tuned) -> None:
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {tuned.source}\n"
    # a bundle that is tuned again says only what holds now
    text = re.split(rf"^{re.escape(_SECTION)}$", text, maxsplit=1, flags=re.MULTILINE)[0]
    card.write_text(text.rstrip() + "\n\n" + tuned_section(tuned), encoding="utf-8")


def tuned_section(tuned: Tuned) -> str:
    """What the model card says about the tuning, in Markdown."""
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
        *(f"| {name} | {first} | {second} |" for name, first, second in tuned_rows(tuned)),
    ]
    return "\n".join(lines) + "\n"


def tuned_rows(tuned: Tuned) -> list[tuple[str, str, str]]:
    """What tuning gives and what it costs: name, before, after on held-out rows; for tables."""
    before, after = tuned.before.to_dict(), tuned.after.to_dict()
    rows = [
        (name, f"{before[name]:.2f}", f"{after[name]:.2f}")
        for name in after
        if name in before and "total" not in name
    ]
    said, says = tuned.answered_before, tuned.answered_after
    threshold = tuned.parameters.threshold
    rows += [
        ("answered, % of the rows", _shown(said.coverage, 2), _shown(says.coverage, 2)),
        ("right, % of the answers", _shown(said.precision, 2), _shown(says.precision, 2)),
        (
            "threshold (null odds)",
            _shown(tuned.old_threshold, 4),
            "unchanged" if threshold is None else _shown(threshold, 4),
        ),
    ]
    first, second = tuned.reliability_before, tuned.reliability_after
    rows.append((f"expected calibration error ({BINS} equal-mass bins)", _error(first), _error(second)))
    if tuned.selective_before and tuned.selective_after:
        old, new = tuned.selective_before, tuned.selective_after
        rows.append(("area under risk and coverage", _shown(old.aurc, 4), _shown(new.aurc, 4)))
        rows += [
            (f"% of the rows with {at} % right", _shown(old.coverage_at[at], 2), _shown(now, 2))
            for at, now in new.coverage_at.items()
        ]
    return rows


def _shown(number: float | None, digits: int) -> str:
    return "" if number is None else f"{number:.{digits}f}"


def _error(measured: Reliability | None) -> str:
    return "unknown" if measured is None else f"{measured.error:.4f}"
