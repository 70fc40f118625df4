"""`--compare`: two sets of predictions for the same rows, as they were decided and on equal footing.

A model whose threshold suits the rows seems better than a better model whose threshold does not. So both are
also compared at the threshold that is best for each on these rows: optimistic, but for both in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from batchqa.evaluation.files import Predictions
from batchqa.evaluation.intervals import Bootstrap, Interval, resampled, sums_by_unit
from batchqa.evaluation.joining import Examples
from batchqa.evaluation.metrics import Figures, best_of, figures_of, ratio_interval
from batchqa.output import JobRecord
from batchqa.records import Float64, Int64
from batchqa.squad import RowScores


@dataclass(frozen=True, slots=True)
class Maker:
    """What made a file of predictions, as its own record says.

    `threshold` (raw logits) is None where the model always answers, or where an older run did not write it.
    """

    model: str
    variant: str
    abstains: bool | None
    threshold: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One of the two sets of predictions: the scores of its decisions, and of its best spans.

    `record` is that of the run that made it, None where no run did.
    """

    name: str
    record: JobRecord | None
    examples: Examples
    scores: RowScores
    spans: RowScores


@dataclass(frozen=True, slots=True)
class Difference:
    """This minus the other, in percent points, with its interval."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Footing:
    """Both sides at the threshold with their best F1 on these rows; None for one that always answers."""

    thresholds: tuple[float | None, float | None]
    here: Figures
    other: Figures
    exact: Difference
    f1: Difference


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Two sets of predictions for the same rows.

    gained: rows right (exact) here and wrong there; lost: the other way round. int64, row numbers.
    `changed` counts rows whose answers differ as texts. `made_by`: these, and the other; None where a file
    does not say. `equal_footing` is None where a best threshold cannot be found.
    """

    name: str
    made_by: tuple[Maker | None, Maker | None]
    other: Figures
    exact: Difference
    f1: Difference
    equal_footing: Footing | None
    changed: int
    gained: Int64
    lost: Int64
    predictions: Predictions
    scores: RowScores


def compare_sides(here: Side, there: Side, unit: Int64 | None, bootstrap: Bootstrap) -> Comparison:
    """The paired difference: both are drawn together, so what is hard for both widens no interval."""
    exact, f1 = _differences(here.scores, there.scores, unit, bootstrap)
    change = here.scores.exact - there.scores.exact
    ours, theirs = here.examples.predictions.text, there.examples.predictions.text
    equal = pc.fill_null(pc.equal(ours, theirs), False).to_numpy(zero_copy_only=False)
    both_missing = ours.is_null().to_numpy(False) & theirs.is_null().to_numpy(False)
    return Comparison(
        name=there.name,
        made_by=(made_by(here.record), made_by(there.record)),
        other=figures_of(there.scores, here.examples.has_answer),
        exact=exact,
        f1=f1,
        equal_footing=_equal_footing(here, there, unit, bootstrap),
        changed=int((~equal & ~both_missing).sum()),
        gained=np.flatnonzero(change > 0),
        lost=np.flatnonzero(change < 0),
        predictions=there.examples.predictions,
        scores=there.scores,
    )


def made_by(job: JobRecord | None) -> Maker | None:
    """Which model, precision and threshold a run says that it used; None for what no run wrote."""
    if job is None or "model" not in (totals := job.outcome.get("totals", {})):
        return None
    given = job.fields["options"]["decoding"]["no_answer_threshold"]
    return Maker(
        totals["model"], job.resolved["variant"], totals.get("abstains"), totals.get("threshold", given)
    )


def _differences(
    here: RowScores, there: RowScores, unit: Int64 | None, bootstrap: Bootstrap
) -> tuple[Difference, Difference]:
    """Of exact match and of F1."""
    changes = (here.exact - there.exact, here.f1 - there.f1)
    values = np.stack([np.ones(len(here.exact)), *changes], axis=1)
    totals = resampled(sums_by_unit(values, unit), bootstrap)

    def difference(change: Float64, at: int) -> Difference:
        return Difference(100 * float(change.mean()), ratio_interval(totals, at, 0, bootstrap.confidence))

    return difference(changes[0], 1), difference(changes[1], 2)


def _equal_footing(here: Side, there: Side, unit: Int64 | None, bootstrap: Bootstrap) -> Footing | None:
    best, other_best = _at_best(here), _at_best(there)
    if best is None or other_best is None:
        return None
    (ours, threshold), (theirs, other_threshold) = best, other_best
    has_answer = here.examples.has_answer
    return Footing(
        (threshold, other_threshold),
        figures_of(ours, has_answer),
        figures_of(theirs, has_answer),
        *_differences(ours, theirs, unit, bootstrap),
    )


def _at_best(side: Side) -> tuple[RowScores, float | None] | None:
    """The scores at the threshold with the best F1; as they are for a model that always answers."""
    predictions, known = side.examples.predictions, ~side.examples.missing
    if np.isnan(predictions.null_odds[known]).all() and not predictions.silent[known].any():
        return side.scores, None
    best = best_of(side.examples, side.spans)
    if best is None:
        return None
    silent = known & (predictions.null_odds > best.f1_threshold)
    empty = np.where(side.examples.has_answer, 0.0, 1.0)
    return (
        RowScores(
            np.where(silent, empty, side.spans.exact),
            np.where(silent, empty, side.spans.f1),
        ),
        best.f1_threshold,
    )
