"""evaluate of outputs in which every record was asked several questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import batchqa

ASKED = {"why": "Why was the bridge closed?", "how": "How much do loaves cost?"}
DOCUMENTS = [
    {"id": "a", "context": "The old bridge over the river was closed for repairs in the spring of 1987."},
    {"id": "b", "context": "Our baker sells twelve kinds of bread; the rye loaf costs four dollars."},
    {"id": "c", "context": "A glacier moves a few metres a year."},
]


def _annotated(path: Path, bundle: Path, **options: Any) -> Path:
    inputs, output = path / "documents.jsonl", path / "answers.parquet"
    inputs.write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS))
    batchqa.run(inputs, output, model=bundle, ask=ASKED, device="cpu", in_process=True, **options)
    return output


def test_gold_answers_are_joined_by_id_and_the_questions_name(tmp_path: Path, tiny_bundle: Path) -> None:
    output = _annotated(tmp_path, tiny_bundle)
    rows = pq.read_table(output).to_pylist()
    gold = [{"id": row["id"], "qa_name": row["qa_name"], "answer": row["qa_answer"]} for row in rows]
    gold.reverse()
    wrong = next(row for row in gold if row["answer"])
    wrong["answer"] = "something else"
    truth = tmp_path / "gold.jsonl"
    truth.write_text("".join(json.dumps(row) + "\n" for row in gold))
    result = batchqa.evaluate(output, gold=truth)
    assert result.to_dict()["exact"] == pytest.approx(100 * 5 / 6)


def test_an_answer_below_the_least_score_counts_as_no_answer(tmp_path: Path, tiny_bundle: Path) -> None:
    output = _annotated(tmp_path, tiny_bundle, min_score=1.0)
    names = [(row["id"], name) for row in DOCUMENTS for name in ASKED]
    truth = tmp_path / "gold.jsonl"
    truth.write_text("".join(json.dumps({"id": i, "qa_name": n, "answer": None}) + "\n" for i, n in names))
    result = batchqa.evaluate(output, gold=truth)
    assert result.to_dict()["exact"] == 100


def test_a_wide_output_is_refused_with_the_way_to_rows(tmp_path: Path, tiny_bundle: Path) -> None:
    output = _annotated(tmp_path, tiny_bundle, layout="wide")
    truth = tmp_path / "gold.jsonl"
    truth.write_text('{"id": "a", "answer": "x"}\n')
    with pytest.raises(batchqa.InputError, match="convert --to long"):
        batchqa.evaluate(output, gold=truth)
