"""The package's model on real data: its figures are where they should be, and its scores become honest."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchqa.bundle import BUNDLED, MANIFEST
from batchqa.evaluation import Evaluation, evaluate


@pytest.fixture(scope="module")
def dev(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """SQuAD 2.0 dev, annotated by the package's model, tuned and grouped."""
    if not (BUNDLED / MANIFEST).is_file():
        pytest.skip("this checkout has no model in the package")
    folder = tmp_path_factory.mktemp("dev")
    return evaluate(
        data_dir / "squad-v2.0-dev.json",
        model="default",
        annotated=folder / "dev.parquet",
        by=["question_word", "context_length", "windows"],
        tune=folder / "tuned",
        report=folder / "report.html",
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_folds_over_articles_make_the_scores_honest(dev: Evaluation) -> None:
    assert dev.tuned is not None
    assert (dev.tuned.folds, dev.tuned.unit, dev.tuned.units) == (5, "article", 35)
    assert dev.tuned.reliability_after is not None
    assert dev.tuned.reliability_after.error <= 0.03


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_held_out_thresholds_help_but_not_more_than_the_rows_allow(dev: Evaluation) -> None:
    assert dev.tuned is not None
    assert dev.best is not None
    assert dev.figures.all.total == 11873
    assert dev.figures.all.f1 - 1 < dev.tuned.after.all.f1 <= dev.best.f1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_table_has_every_row(dev: Evaluation) -> None:
    for grouping in dev.groups:
        assert sum(group.figures.all.total for group in grouping.groups) == 11873
