"""The sample data: as varied as the README says, and answered by the model in the package."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import batchqa
from batchqa.answer_columns import ROW_ERRORS, ROW_STATUSES
from batchqa.bundle import BUNDLED, open_bundle

SAMPLE = Path(__file__).parent.parent / "sample_data"

BAD_ROWS = {
    2: "bad_json",
    3: "missing_question",
    4: "missing_context",
    5: "not_an_object",
    6: "type_context",
    7: "type_question",
    8: "null_context",
    9: "null_question",
    10: "empty_context",
    11: "empty_question",
    12: "bad_utf8",
    13: "bad_utf8",
    14: "bad_json",
    15: "bad_json",
}
"""What is wrong with each line of bad_rows.jsonl, by line number from 1."""


ROUNDING = 0.5
"""How far null odds differ between engines and processors: this near to the threshold either may be right."""


def plainly_decided(row: dict[str, Any]) -> bool:
    return abs(row["qa_null_odds"] - open_bundle(BUNDLED).manifest.threshold.value) > ROUNDING


def sample_rows() -> list[dict[str, Any]]:
    lines = (SAMPLE / "sample.jsonl").read_bytes().rstrip(b"\n").split(b"\n")
    return [json.loads(line) for line in lines]


def test_the_sample_has_many_rows_domains_languages_and_unanswerable_questions() -> None:
    rows = sample_rows()
    contexts = [row["context"] for row in rows]
    assert len(rows) >= 40
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({row["domain"] for row in rows}) >= 8
    assert {row["lang"] for row in rows} == {"en", "es", "zh", "ar"}
    assert len(set(contexts)) < len(contexts) / 3
    assert max(len(context.split()) for context in contexts) > 2000
    assert sum(row["expected"] is None for row in rows) >= 8
    assert any(ord(character) > 0x1F300 for context in contexts for character in context)


def test_every_expected_answer_stands_in_its_context() -> None:
    for row in sample_rows():
        assert row["expected"] is None or row["expected"] in row["context"], row["id"]


def test_the_parquet_sample_holds_the_same_rows() -> None:
    assert pq.read_table(SAMPLE / "sample.parquet").to_pylist() == sample_rows()


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLE / name).read_bytes().rstrip(b"\n").split(b"\n")]


def test_the_documents_are_of_several_kinds_and_lengths_and_each_question_has_an_expected_answer() -> None:
    documents, expected = _lines("documents.jsonl"), _lines("expected.jsonl")
    questions = tomllib.loads((SAMPLE / "questions.toml").read_text(encoding="utf-8"))["questions"]
    assert len(documents) == 12
    assert {document["kind"] for document in documents} == {"contract", "product", "report"}
    assert {document["lang"] for document in documents} == {"en", "es"}
    assert sum(len(document["context"].split()) > 3000 for document in documents) == 2
    assert len(questions) == 8
    assert any("{subject}" in question["question"] for question in questions)
    pairs = [(document["id"], question["name"]) for document in documents for question in questions]
    assert sorted((row["id"], row["qa_name"]) for row in expected) == sorted(pairs)
    contexts = {document["id"]: document["context"] for document in documents}
    assert all(row["expected"] is None or row["expected"] in contexts[row["id"]] for row in expected)
    assert 0 < sum(row["expected"] is None for row in expected) < len(expected) / 2


def test_the_model_in_the_package_gets_the_answers_of_the_documents_that_are_marked(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    batchqa.run(SAMPLE / "documents.jsonl", out, questions=str(SAMPLE / "questions.toml"))
    rows = [row for row in pq.read_table(out).to_pylist() if plainly_decided(row)]
    answers = {(row["id"], row["qa_name"]): row["qa_answer"] for row in rows}
    known = [row for row in _lines("expected.jsonl") if (row["id"], row["qa_name"]) in answers]
    marked = [row for row in known if row["model_gets_it"]]
    assert len(marked) > 20
    assert not [row for row in marked if answers[row["id"], row["qa_name"]] != row["expected"]]


def test_each_bad_row_gets_its_code_and_the_good_ones_are_answered(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    summary = batchqa.run(
        str(SAMPLE / "bad_rows.jsonl"), str(out), model=str(tiny_bundle), max_errors=len(BAD_ROWS)
    )
    codes = pq.read_table(out)["qa_error"].to_pylist()
    # line 16 is blank: it is no record, but it is counted as a line
    lines = [line for line in range(1, 18) if line != 16]
    assert {line: code for line, code in zip(lines, codes, strict=True) if code} == BAD_ROWS
    said = summary.to_dict()
    assert set(said["errors"]) <= set(ROW_ERRORS)
    assert set(said["statuses"]) <= set(ROW_STATUSES)
    assert sum(said["errors"].values()) + sum(said["statuses"].values()) == len(BAD_ROWS)


def test_the_model_in_the_package_gets_the_answers_that_are_marked(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    batchqa.run(str(SAMPLE / "sample.jsonl"), str(out))
    wrong = {
        row["id"]: row["qa_answer"]
        for row in pq.read_table(out).to_pylist()
        if row["model_gets_it"] and plainly_decided(row) and row["qa_answer"] != row["expected"]
    }
    assert not wrong


@pytest.mark.parametrize("name", ["sample.jsonl", "sample.parquet"])
def test_answers_stand_where_their_offsets_say_in_every_script(
    name: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    batchqa.run(str(SAMPLE / name), str(out), model=str(tiny_bundle), no_answer="off")
    for row in pq.read_table(out).to_pylist():
        assert row["context"][row["qa_start"] : row["qa_end"]] == row["qa_answer"], row["id"]
