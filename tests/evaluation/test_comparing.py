"""`compare`: what made both sides is named, and a threshold is not taken for a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from batchqa.errors import InputError, SettingsError
from batchqa.evaluation import evaluate
from batchqa.job import run
from tests.evaluation.making import Row, simulated, write, write_jsonl, write_squad


def decided_at(threshold: float, rows: list[Row]) -> list[Row]:
    return [replace(row, silent=row.odds is not None and row.odds > threshold) for row in rows]


def test_the_same_model_at_another_threshold_is_no_better_at_equal_footing(tmp_path: Path) -> None:
    rows = simulated(600)
    here = write(tmp_path / "here.parquet", decided_at(-2.0, rows))
    there = write(tmp_path / "there.parquet", decided_at(2.0, rows))
    found = evaluate(here, compare=there)
    assert found.comparison is not None
    assert found.comparison.f1.value > 5
    footing = found.comparison.equal_footing
    assert footing is not None
    assert footing.thresholds[0] == footing.thresholds[1] < 0
    assert footing.f1.value == footing.exact.value == 0.0
    assert footing.here.all.f1 == pytest.approx(found.best.f1 if found.best else None)
    assert "best threshold" in found.table()


def test_models_precisions_and_thresholds_are_named_wherever_a_run_wrote_them(
    bundles: Callable[..., Path], tmp_path: Path
) -> None:
    gold = write_squad(tmp_path / "gold.json", [Row(context=f"Paris is city {at}.") for at in range(12)])
    bundle = bundles()
    made = {}
    for name, threshold in (("a.parquet", None), ("b.jsonl", -1.25), ("folder/", 2.5)):
        made[name] = tmp_path / name
        options = {"threads": 1, "batch_tokens": 512, "top_k": 1, "no_answer_threshold": threshold}
        run(gold, f"{tmp_path}/{name}", model=bundle, **options)
    by_name = {}
    for name, file in made.items():
        found = evaluate(made["a.parquet"], gold=gold, compare=file)
        assert found.comparison is not None
        ours, by_name[name] = found.comparison.made_by
        assert ours is not None
        assert (ours.model, ours.variant, ours.threshold) == ("tiny-bert-uncased", "fp32", 0.0)
    assert {name: maker and maker.threshold for name, maker in by_name.items()} == {
        "a.parquet": 0.0, "b.jsonl": -1.25, "folder/": 2.5,
    }  # fmt: skip
    assert "tiny-bert-uncased fp32" in found.table()
    assert "2.5000" in found.table()


def test_a_model_that_always_answers_is_compared_as_it_is(
    bundles: Callable[..., Path], tmp_path: Path
) -> None:
    always = [replace(row, odds=None, silent=None) for row in simulated(300)]
    here = write(tmp_path / "here.parquet", always)
    found = evaluate(here, compare=write(tmp_path / "there.parquet", simulated(300)))
    assert found.comparison is not None
    assert found.comparison.equal_footing is not None
    assert found.comparison.equal_footing.thresholds[0] is None
    assert found.comparison.equal_footing.here == found.figures


def test_without_best_spans_or_records_the_comparison_says_so(tmp_path: Path) -> None:
    rows = simulated(50)
    here = write_jsonl(tmp_path / "here.jsonl", rows, top_k=0)
    found = evaluate(here, compare=write(tmp_path / "there.parquet", rows))
    assert found.comparison is not None
    assert found.comparison.equal_footing is None
    assert found.comparison.made_by == (None, None)
    assert "not recorded" in found.table()
    assert found.to_dict()["compare"]["at_best_thresholds"] is None


def test_rows_without_ids_are_compared_only_where_they_are_the_same_rows(tmp_path: Path) -> None:
    rows = [Row(question=f"What is capital {at}?", span=f"Paris{'s' * at}") for at in range(4)]
    here = write(tmp_path / "here.parquet", rows)
    table = pq.read_table(here)
    for name, order in (("same", [0, 1, 2, 3]), ("turned", [1, 0, 2, 3])):
        pq.write_table(table.drop_columns(["id"]).take(order), tmp_path / f"{name}.parquet")
    same = evaluate(here, compare=tmp_path / "same.parquet").comparison
    assert same is not None
    assert same.changed == 0
    with pytest.raises(InputError, match=r"turned\.parquet, row 1: its question is not that of"):
        evaluate(here, compare=tmp_path / "turned.parquet")
    pq.write_table(table.take([3, 2, 1, 0]), tmp_path / "with_ids.parquet")
    by_id = evaluate(here, compare=tmp_path / "with_ids.parquet").comparison
    assert by_id is not None
    assert by_id.changed == 0


@pytest.mark.parametrize("wrong", [{"rules": "squad3"}, {"objective": "em"}])
def test_a_choice_that_there_is_not_is_refused_in_python_too(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="must be one of"):
        evaluate(write(tmp_path / "here.parquet", [Row()]), **wrong)
