"""`tune`: a new bundle with a better threshold and honest scores, judged on held-out rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from batchqa.bundle import open_bundle
from batchqa.errors import InputError, PreconditionError, SettingsError, StorageError
from batchqa.evaluation import evaluate
from batchqa.job import run
from batchqa.probability import Decided
from tests.evaluation.making import Row, simulated, write, write_squad


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("annotated") / "dev.parquet", simulated(4000))


def digests(bundle: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in bundle.iterdir()}


def test_tuning_finds_the_threshold_and_makes_the_scores_honest(
    annotated: Path, bundles: Callable[..., Path], tmp_path: Path
) -> None:
    found = evaluate(annotated, model=bundles(), tune=tmp_path / "new")
    tuned = found.tuned
    assert tuned is not None
    assert tuned.reliability_before is not None
    assert tuned.reliability_after is not None
    assert tuned.parameters.threshold == pytest.approx(-2.0, abs=1.0)
    assert tuned.after.all.f1 > found.figures.all.f1 + 3
    assert tuned.reliability_before.error > 0.1
    assert tuned.reliability_after.error <= 0.03
    # held-out figures cannot beat the best that the rows themselves allow
    assert found.best is not None
    assert tuned.after.all.f1 <= found.best.f1
    assert len(tuned.fold_thresholds) == tuned.folds == 5


def test_the_new_bundle_verifies_and_says_what_it_was_fitted_on(
    annotated: Path, bundles: Callable[..., Path], tmp_path: Path
) -> None:
    old = bundles()
    before = digests(old)
    evaluate(annotated, model=old, tune=tmp_path / "new")
    assert digests(old) == before  # never in place
    manifest = open_bundle(tmp_path / "new").manifest
    assert manifest.calibration is not None
    for text in (manifest.threshold.fitted_on, manifest.calibration.fitted_on):
        assert "dev.parquet: 4000 rows, 40 articles" in text
        assert "5 folds over articles" in text
    assert "calibration error" in manifest.calibration.fitted_on
    card = (tmp_path / "new" / "README.md").read_text()
    assert "## Tuned by `batchqa evaluate`" in card
    assert "held-out rows" in card
    assert (tmp_path / "new" / "model.fp32.onnx").read_bytes() == before["model.fp32.onnx"]


def test_a_bundle_tuned_twice_has_one_section_in_its_card(
    annotated: Path, bundles: Callable[..., Path], tmp_path: Path
) -> None:
    evaluate(annotated, model=bundles(), tune=tmp_path / "one")
    evaluate(annotated, model=tmp_path / "one", tune=tmp_path / "two", objective="exact")
    card = (tmp_path / "two" / "README.md").read_text()
    assert card.count("## Tuned by") == 1


def test_no_row_is_judged_by_parameters_that_were_fitted_on_it(
    bundles: Callable[..., Path], tmp_path: Path
) -> None:
    # odds without any meaning: a threshold fitted on the rows themselves would seem to help
    random = np.random.default_rng(3)
    rows = [replace(row, odds=float(random.normal()), title=str(at)) for at, row in enumerate(simulated(200))]
    found = evaluate(write(tmp_path / "a.parquet", rows), model=bundles(), tune=tmp_path / "new")
    assert found.tuned is not None
    assert found.best is not None
    assert found.tuned.after.all.f1 < found.best.f1


def test_a_run_with_the_new_bundle_decides_and_scores_as_tuned(
    bundles: Callable[..., Path], tmp_path: Path
) -> None:
    names = ("Paris", "Rome", "Berlin", "Madrid")
    rows = [
        Row(
            gold=(name,) if at % 3 else (),
            context=f"{name} is the capital of country {at}, and {names[(at + 1) % 4]} is not.",
            question=f"What is the capital of country {at}?",
            title=f"article {at % 12}",
        )
        for at in range(240)
        for name in (names[at % 4],)
    ]
    gold = write_squad(tmp_path / "gold.json", rows)
    options = {"threads": 1, "batch_tokens": 512}
    found = evaluate(
        gold, model=bundles(), tune=tmp_path / "new", annotated=tmp_path / "raw.parquet", **options
    )
    assert found.tuned is not None
    assert found.tuned.fitted_on.startswith("gold.json: 240 rows, 12 articles")
    parameters = found.tuned.parameters
    run(gold, tmp_path / "tuned.parquet", model=tmp_path / "new", top_k=1, **options)
    raw, tuned = pq.read_table(tmp_path / "raw.parquet"), pq.read_table(tmp_path / "tuned.parquet")
    odds = tuned["qa_null_odds"].to_numpy()
    silent = tuned["qa_no_answer"].to_numpy()
    assert parameters.threshold is not None
    assert (silent == (odds > parameters.threshold)).all()
    span = np.array([c[0]["score"] for c in raw["qa_candidates"].to_pylist()], dtype=np.float64)
    expected = np.where(
        silent,
        parameters.refused.apply(Decided(np.minimum(span * np.exp(odds), 1.0), odds)),
        parameters.answered.apply(Decided(span, odds)),
    )
    assert tuned["qa_score"].to_numpy() == pytest.approx(expected, abs=1e-4)
    # evaluated again, calibrated scores and all, the bundle is tuned to the same parameters
    again = evaluate(tmp_path / "tuned.parquet", model=tmp_path / "new", tune=tmp_path / "again").tuned
    assert again is not None
    assert again.parameters.threshold == pytest.approx(parameters.threshold, abs=1e-5)
    found_again, found_first = again.parameters.answered.curve, parameters.answered.curve
    assert found_again.probability == pytest.approx(found_first.probability, abs=1e-4)


def test_rows_that_all_have_an_answer_leave_the_threshold_alone(
    bundles: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [row for row in simulated(500) if row.gold]
    found = evaluate(
        write(tmp_path / "a.parquet", rows), model=bundles(threshold=-1.5), tune=tmp_path / "new"
    )
    assert found.tuned is not None
    assert found.tuned.parameters.threshold is None
    manifest = open_bundle(tmp_path / "new").manifest
    assert manifest.threshold.value == -1.5
    assert manifest.threshold.fitted_on == "chosen by the test"
    assert manifest.calibration is not None


def test_a_model_that_does_not_abstain_gets_a_calibration_only(
    bundles: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [
        replace(row, odds=None, silent=None, score=row.candidate_score) for row in simulated(500) if row.gold
    ]
    evaluate(write(tmp_path / "a.parquet", rows), model=bundles(abstains=False), tune=tmp_path / "new")
    calibration = open_bundle(tmp_path / "new").manifest.calibration
    assert calibration is not None
    assert len(calibration.raw) > 2
    assert calibration.raw_no_answer == calibration.probability_no_answer == (0.0, 1.0)


def test_the_report_of_the_figures_says_which_rows_were_used_for_what(
    annotated: Path, bundles: Callable[..., Path], tmp_path: Path
) -> None:
    found = evaluate(annotated, model=bundles(), tune=tmp_path / "new")
    assert "fitted on the other 4 of 5 folds over 40 articles" in found.table()
    record = json.loads(json.dumps(found.to_dict()))["tuned"]
    assert record["fitted_on"].startswith("dev.parquet: 4000 rows, 40 articles")
    assert record["after_held_out"]["total"] == 4000
    assert record["calibration_after_held_out"]["expected_calibration_error"] <= 0.03


def test_without_best_spans_nothing_is_tuned(bundles: Callable[..., Path], tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", simulated(200), top_k=0)
    with pytest.raises(SettingsError, match=r"--tune needs the best span of every row.*--top-k 1"):
        evaluate(file, model=bundles(), tune=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_too_few_rows_are_refused(bundles: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="99 judged rows are too few"):
        evaluate(write(tmp_path / "a.parquet", simulated(99)), model=bundles(), tune=tmp_path / "new")


@pytest.mark.parametrize("place", ["old", "old/inside", "taken", "nowhere/new"])
def test_nothing_is_ever_written_over(bundles: Callable[..., Path], tmp_path: Path, place: str) -> None:
    (tmp_path / "old").symlink_to(bundles())
    (tmp_path / "taken").mkdir()
    # refused before the work begins: the predictions are not even looked for
    with pytest.raises(PreconditionError):
        evaluate(tmp_path / "none.parquet", model=tmp_path / "old", tune=tmp_path / place)


def test_a_failed_write_leaves_nothing_behind(
    annotated: Path, bundles: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", no_space)
    with pytest.raises(StorageError, match="No space left"):
        evaluate(annotated, model=bundles(), tune=tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
