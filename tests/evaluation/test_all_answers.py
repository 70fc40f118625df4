"""`run --answers all`, and what `evaluate` says of the lists."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchqa import Annotator, evaluate, run
from batchqa.answer_columns import CANDIDATE_TYPE
from tests.evaluation.making import Row, table_of


def test_a_run_lists_all_answers_in_parquet_and_json_lines(
    bundles: Callable[..., Path], tmp_path: Path
) -> None:
    given = pa.table({"context": ["the river, the bridge and the river"], "question": ["What is there?"]})
    pq.write_table(given, tmp_path / "in.parquet")
    options = {"no_answer": "off", "max_answer_length": 2, "max_answers": 3, "device": "cpu", "threads": 1}
    for name in ("out.parquet", "out.jsonl"):
        run(tmp_path / "in.parquet", tmp_path / name, model=bundles(), answers="all", **options)
    (row,) = pq.read_table(tmp_path / "out.parquet").to_pylist()
    found = row["qa_answers"]
    assert len(found) == 3
    assert (found[0]["answer"], found[0]["start"]) == (row["qa_answer"], row["qa_start"])
    assert all(row["context"][one["start"] : one["end"]] == one["answer"] for one in found)
    assert b'"qa_answers":[{"answer":' in (tmp_path / "out.jsonl").read_bytes()


@pytest.mark.slow
def test_an_answer_that_a_document_names_twice_is_listed_at_both_places(
    squad_dev: list[dict[str, Any]],
) -> None:
    asked = [row for row in squad_dev if row["answers"]][::150]
    rows, behind = [], []
    for row, other in itertools.pairwise(asked):
        before = f"{row['context']}\n\n{other['context']}\n\n"
        rows.append({"context": before + row["context"], "question": row["question"]})
        behind.append(len(before))
    with Annotator("default", device="cpu", in_process=True, answers="all") as annotator:
        answered = annotator.annotate(rows)
    twice = []
    for row, further in zip(answered, behind, strict=True):
        found = row["qa_answers"]
        assert bool(found) == (row["qa_answer"] is not None)
        if found:
            assert (found[0]["start"], found[0]["end"]) == (row["qa_start"], row["qa_end"])
            places = {(each["start"], each["end"]) for each in found}
            by = further if row["qa_start"] < further else -further
            twice.append((row["qa_start"] + by, row["qa_end"] + by) in places)
    assert len(twice) > len(rows) / 2
    assert sum(twice) > 0.6 * len(twice), f"{sum(twice)} of {len(twice)}"


def test_evaluate_scores_the_lists_beside_the_best_answers(tmp_path: Path) -> None:
    rows = [Row(gold=("Paris", "Rome")), Row(gold=(), silent=True)]
    lists = [[("Paris", 0.9), ("Rome", 0.4), ("Italy", 0.2)], []]
    values = [
        [{"answer": text, "start": 0, "end": 1, "score": score} for text, score in row] for row in lists
    ]
    table = table_of(rows).append_column("qa_answers", pa.array(values, CANDIDATE_TYPE))
    pq.write_table(table, tmp_path / "a.parquet")
    found = evaluate(tmp_path / "a.parquet")
    assert found.lists is not None
    assert found.lists.exact.recall == pytest.approx(100)
    assert found.lists.exact.precision == pytest.approx(100 * 3 / 4)
    assert found.to_dict()["answer_lists"]["exact"]["precision"] == pytest.approx(75)
    assert "precision at 80 % recall 100.00" in found.table()
    pq.write_table(table_of(rows), tmp_path / "b.parquet")
    assert evaluate(tmp_path / "b.parquet").lists is None
