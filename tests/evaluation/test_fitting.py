"""What `--tune` can be asked for: a precision, another prior, scores by more than the raw score."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from batchqa.bundle import open_bundle, write_manifest
from batchqa.errors import LimitError, ModelError, SettingsError
from batchqa.evaluation import evaluate
from batchqa.evaluation.calibration import fit_estimator, fit_logistic, reliability
from batchqa.evaluation.selective import selective
from batchqa.probability import EDGE, Calibration, Curve, Decided, Estimator
from tests.evaluation.making import simulated, write


def _told(rows: int, seed: int = 0) -> tuple[Decided, np.ndarray]:
    """Decisions whose null odds tell more than their raw scores, and which are right."""
    random = np.random.default_rng(seed)
    raw, odds = random.uniform(0.05, 0.95, rows), random.normal(-3.0, 2.0, rows)
    chance = 1 / (1 + np.exp(-(0.5 * np.log(raw / (1 - raw)) - odds - 2.0)))
    return Decided(raw, odds), (random.random(rows) < chance).astype(np.float64)


def test_a_regression_finds_the_weights_that_made_the_rows() -> None:
    decided, right = _told(40_000)
    features = {"score": np.log(decided.raw / (1 - decided.raw)), "odds": decided.null_odds}
    found = fit_logistic(features, right, np.ones(len(right)))
    assert found == pytest.approx({"score": 0.5, "odds": -1.0, "intercept": -2.0}, abs=0.06)


def test_null_odds_are_used_where_they_tell_more_than_the_score_and_left_where_they_do_not() -> None:
    decided, right = _told(6000)
    unit, even = np.arange(6000) % 60, np.ones(6000)
    used = fit_estimator(decided, right, even, unit, 0)
    assert used.weights
    others, truth = _told(6000, seed=1)
    measured = reliability(used.apply(others), truth)
    assert measured is not None
    assert measured.error < 0.03
    by_score = (np.random.default_rng(2).random(6000) < decided.raw).astype(np.float64)
    assert not fit_estimator(decided, by_score, even, unit, 0).weights
    assert not fit_estimator(
        decided.take(np.arange(6000) < 300), right[:300], even[:300], unit[:300], 0
    ).weights


def test_a_higher_score_is_never_less_sure() -> None:
    decided, right = _told(6000)
    against = fit_estimator(
        Decided(1 - decided.raw, decided.null_odds), right, np.ones(6000), np.arange(6000), 0
    )
    assert against.weights
    probability = against.apply(Decided(np.linspace(EDGE, 1 - EDGE, 99), np.full(99, -2.0)))
    assert (np.diff(probability) >= 0).all()


def test_a_calibration_by_several_things_is_kept_in_the_bundle_and_an_unknown_one_refused(
    bundles: Callable[..., Path], tmp_path: Path
) -> None:
    weights = {"logit_score": 0.5, "null_odds": -1.0, "intercept": -2.0}
    knots = (0.0, 1.0), (0.1, 0.9), (0.0, 1.0), (0.2, 0.8)
    calibration = Calibration("by the test", "nothing", *knots, weights=weights)
    bundle = bundles(calibration=calibration)
    manifest = open_bundle(bundle).manifest
    assert manifest.calibration == calibration
    decided = Decided(np.array([0.5, 0.7]), np.array([-2.0, 3.0]))
    found = manifest.calibration.apply(decided, np.array([False, True]))
    assert found == pytest.approx([0.1 + 0.8 / (1 + math.exp(0.0)), 0.2 + 0.6 * 0.7])
    older = {"calibration": {k: v for k, v in _record(bundle)["calibration"].items() if "weights" not in k}}
    assert open_bundle(_rewritten(bundle, tmp_path / "old", **older)).manifest.calibration == Calibration(
        "by the test", "nothing", *knots
    )
    newer = {"calibration": {**_record(bundle)["calibration"], "weights": {"phase_of_the_moon": 1.0}}}
    with pytest.raises(ModelError, match=r"phase_of_the_moon, which is not known here"):
        open_bundle(_rewritten(bundle, tmp_path / "new", **newer))


def _record(bundle: Path) -> dict[str, object]:
    return json.loads((bundle / "bundle.json").read_text())  # type: ignore[no-any-return]


def _rewritten(bundle: Path, target: Path, **changes: object) -> Path:
    """A copy with another bundle.json, sealed as it should be."""
    from batchqa.bundle import sealed

    target.mkdir()
    for file in bundle.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    record = _record(bundle)
    del record["seal"]
    (target / "bundle.json").write_bytes(sealed(record | changes))
    return target


def test_a_target_precision_is_kept_on_held_out_rows_and_its_cost_is_told(
    bundles: Callable[..., Path], tmp_path: Path
) -> None:
    file = write(tmp_path / "a.parquet", simulated(4000))
    found = evaluate(file, model=bundles(), tune=tmp_path / "new", target_precision=0.68)
    tuned = found.tuned
    assert tuned is not None
    assert tuned.answered_after.precision == pytest.approx(68, abs=2.5)
    assert tuned.answered_after.coverage < tuned.answered_before.coverage
    assert tuned.after.has_answer is not None
    assert tuned.before.has_answer is not None
    assert tuned.after.has_answer.f1 < tuned.before.has_answer.f1
    assert open_bundle(tmp_path / "new").manifest.threshold.value == tuned.parameters.threshold
    assert "68.0% of them right" in open_bundle(tmp_path / "new").manifest.threshold.fitted_on
    for text in (found.table(), (tmp_path / "new" / "README.md").read_text()):
        assert "right, % of the answers" in text
        assert "answered, % of the rows" in text


def test_a_precision_that_cannot_be_had_is_a_limit_not_met_and_nothing_is_written(
    bundles: Callable[..., Path], tmp_path: Path
) -> None:
    file = write(tmp_path / "a.parquet", simulated(1000))
    with pytest.raises(
        LimitError, match=r"--target-precision 0\.99: no threshold .* at best, with [\d,]+ ans"
    ):
        evaluate(file, model=bundles(), tune=tmp_path / "new", target_precision=0.99)
    assert not (tmp_path / "new").exists()


def test_a_prior_moves_threshold_and_scores_to_rows_with_other_shares(
    bundles: Callable[..., Path], tmp_path: Path
) -> None:
    rows = simulated(12_000)
    answerable = [row for row in rows[:6000] if row.gold]
    unanswerable = [row for row in rows[:6000] if not row.gold]
    mostly = write(tmp_path / "mostly.parquet", answerable + unanswerable[: len(answerable) // 4])
    even = write(tmp_path / "even.parquet", rows[6000:])
    found = {}
    for prior in (None, 0.5):
        target = tmp_path / f"tuned-{prior}"
        evaluate(mostly, model=bundles(), tune=target, prior=prior)
        manifest = open_bundle(target).manifest
        assert manifest.calibration is not None
        decided, right, silent = _decisions(rows[6000:], manifest.threshold.value)
        found[prior] = (
            manifest.threshold.value,
            reliability(manifest.calibration.apply(decided, silent), right),
        )
    assert found[0.5][0] < found[None][0]
    wrong, fitting = found[None][1], found[0.5][1]
    assert wrong is not None
    assert fitting is not None
    assert fitting.error < 0.04
    assert fitting.error < wrong.error / 2
    assert "to 50.0% unanswerable ones" in open_bundle(tmp_path / "tuned-0.5").manifest.threshold.fitted_on
    # where the rows are what is expected, a prior changes nothing
    plain = evaluate(even, model=bundles(), tune=tmp_path / "plain").tuned
    assert plain is not None
    assert plain.answered_after.precision is not None


def _decisions(rows: list, threshold: float) -> tuple[Decided, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    odds = np.array([row.odds for row in rows])
    span = np.array([row.candidate_score for row in rows])
    silent = odds > threshold
    right = np.array([bool(row.gold) and row.span in row.gold for row in rows])
    right = np.where(silent, [not row.gold for row in rows], right).astype(np.float64)
    return Decided(np.where(silent, np.minimum(span * np.exp(odds), 1.0), span), odds), right, silent


def test_aims_that_cannot_be_are_refused(bundles: Callable[..., Path], tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", [row for row in simulated(500) if row.gold])
    new = tmp_path / "new"
    with pytest.raises(SettingsError, match="--prior needs rows of both kinds, and no row is unanswerable"):
        evaluate(file, model=bundles(), tune=new, prior=0.5)
    with pytest.raises(SettingsError, match="cannot be combined"):
        evaluate(file, model=bundles(), tune=new, target_precision=0.5, objective="exact")
    with pytest.raises(SettingsError, match="--prior says what --tune is for"):
        evaluate(file, prior=0.5)
    with pytest.raises(
        SettingsError, match="--target-precision must be a number above 0 and below 1, not 90"
    ):
        evaluate(file, model=bundles(), tune=new, target_precision=90)
    always = [replace(row, odds=None, silent=None) for row in simulated(300)]
    file = write(tmp_path / "always.parquet", always)
    with pytest.raises(SettingsError, match="does not abstain"):
        evaluate(file, model=bundles(abstains=False), tune=new, target_precision=0.5)
    with pytest.raises(SettingsError, match="without --no-answer off"):
        evaluate(file, model=bundles(), tune=new)
    with pytest.raises(SettingsError, match="without --no-answer on"):
        evaluate(write(file, simulated(300)), model=bundles(abstains=False), tune=new)
    assert not new.exists()


def test_risk_and_coverage_of_a_case_worked_out_by_hand() -> None:
    found = selective(np.array([0.9, 0.8, 0.8, 0.1]), np.array([1.0, 1.0, 0.0, 0.0]))
    assert found is not None
    # taken: 1 of 1 right; 2 of 3, the two of equal score together; 2 of 4
    assert found.coverage_at == {80: 25.0, 90: 25.0}
    assert found.aurc == pytest.approx((0 + 1 / 3 + 1 / 3 + 1 / 2) / 4)
    assert found.auroc == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert found.points[-1] == (100.0, 50.0)
    assert selective(np.zeros(0), np.zeros(0)) is None
    sure = selective(np.array([0.5, 0.6]), np.ones(2))
    assert sure is not None
    assert (sure.auroc, sure.aurc, sure.coverage_at[90]) == (None, 0.0, 100.0)


def test_weights_stand_for_as_many_rows() -> None:
    random = np.random.default_rng(0)
    score, right = random.random(300), (random.random(300) < 0.6).astype(np.float64)
    weight = random.integers(1, 4, 300)
    once = selective(score, right, weight.astype(np.float64))
    repeated = selective(np.repeat(score, weight), np.repeat(right, weight))
    assert once is not None
    assert repeated is not None
    assert once.aurc == pytest.approx(repeated.aurc)
    assert once.auroc == pytest.approx(repeated.auroc)
    assert once.coverage_at == pytest.approx(repeated.coverage_at)
    first = reliability(score, right, weight.astype(np.float64))
    second = reliability(np.repeat(score, weight), np.repeat(right, weight))
    assert first is not None
    assert second is not None
    assert first.error == pytest.approx(second.error, abs=0.02)


def test_a_curve_alone_reads_the_score_itself() -> None:
    assert (
        Estimator(Curve((0.0, 1.0), (0.0, 0.5))).apply(Decided(np.array([0.5]), np.array([math.nan]))) == 0.25
    )


def test_a_bundle_of_format_two_is_still_read(bundles: Callable[..., Path], tmp_path: Path) -> None:
    old = _rewritten(bundles(), tmp_path / "old", format=2)
    assert open_bundle(old).manifest.format == 2
    write_manifest(old, open_bundle(old).manifest)
    assert open_bundle(old).manifest.format == 3
