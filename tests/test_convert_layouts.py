"""`convert --to wide` and `--to long`: no column of the user's is replaced, and a record stays one record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchqa
from batchqa.convert import convert
from batchqa.errors import InputError
from batchqa.evaluation import evaluate
from batchqa.review import open_output
from tests.models import SENTENCES
from tests.review.making import CONTEXT, said, write_rows, write_wide

CONTEXTS = list(SENTENCES[:3])
RUN: dict[str, Any] = {"device": "cpu", "in_process": True, "threads": 1, "batch_tokens": 512}
ASKED = {"a": "Why?", "b": "Who?"}


@pytest.mark.parametrize(
    ("layout", "other", "taken"), [("wide", "long", "qa_answer"), ("long", "wide", "qa_b")]
)
def test_a_column_of_the_user_s_is_not_replaced_by_one_of_the_other_layout(
    tmp_path: Path, tiny_bundle: Path, layout: str, other: str, taken: str
) -> None:
    pq.write_table(pa.table({"context": CONTEXTS, taken: ["mine"] * 3}), tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    batchqa.run(tmp_path / "in.parquet", out, model=tiny_bundle, ask=ASKED, layout=layout, **RUN)
    with pytest.raises(InputError, match=f"has a column '{taken}' of its own"):
        convert(str(out), tmp_path / "other.parquet", other)
    assert not (tmp_path / "other.parquet").exists()


def test_questions_without_names_cannot_be_columns(tmp_path: Path, tiny_bundle: Path) -> None:
    lists = pa.table({"context": CONTEXTS, "question": [["Why?", "Who?"]] * 3})
    pq.write_table(lists, tmp_path / "in.parquet")
    batchqa.run(tmp_path / "in.parquet", tmp_path / "out.parquet", model=tiny_bundle, **RUN)
    with pytest.raises(InputError, match="row 1: the question has no name"):
        convert(str(tmp_path / "out.parquet"), tmp_path / "wide.parquet", "wide")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_record_may_begin_in_one_piece_of_a_file_and_end_in_another(tmp_path: Path, kind: str) -> None:
    long = [
        {
            "id": record,
            "context": CONTEXT * (20_000 if kind == "jsonl" else 1),
            "qa_name": name,
            "said": answer,
        }
        for record in range(2)
        for name, answer in (
            ("a", said(CONTEXT, "steel")),
            ("b", said(CONTEXT, None)),
            ("c", said(CONTEXT, "York")),
        )
    ]
    file = write_rows(tmp_path / "long.parquet", long)
    if kind == "parquet":
        pq.write_table(pq.read_table(file), file, row_group_size=1)
    else:
        file, rows = tmp_path / "long.jsonl", pq.read_table(file).to_pylist()
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    convert(str(file), tmp_path / "wide.parquet", "wide")
    wide = pq.read_table(tmp_path / "wide.parquet").to_pylist()
    assert [row["id"] for row in wide] == [0, 1]
    assert [[row[f"qa_{name}"]["answer"] for name in "abc"] for row in wide] == [["steel", None, "York"]] * 2


def test_answers_to_questions_of_two_records_are_never_one_row(tmp_path: Path) -> None:
    asked = [("x", "a"), ("x", "b"), ("y", "a"), ("z", "b")]  # lists of several lengths that look alike
    long = [{"id": of, "qa_name": name, "said": said(CONTEXT, "steel")} for of, name in asked]
    file = write_rows(tmp_path / "long.parquet", long)
    with pytest.raises(InputError, match="rows 3 and 4: column 'id' differs"):
        convert(str(file), tmp_path / "wide.parquet", "wide")


def test_nan_in_a_column_does_not_make_two_records_of_one(tmp_path: Path) -> None:
    long = [{"n": float("nan"), "qa_name": name, "said": said(CONTEXT, "steel")} for name in "ab"]
    convert(str(write_rows(tmp_path / "long.parquet", long)), tmp_path / "wide.parquet", "wide")
    assert len(pq.read_table(tmp_path / "wide.parquet")) == 1


NAMES = ("name", "question", "answer", "start", "end", "score", "no_answer", "error", "answers", "candidates")


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_questions_may_be_called_like_columns_of_the_long_layout(
    tmp_path: Path, tiny_bundle: Path, kind: str
) -> None:
    pq.write_table(pa.table({"id": [1, 2], "context": CONTEXTS[:2]}), tmp_path / "in.parquet")
    out, long = tmp_path / f"out.{kind}", tmp_path / "long.parquet"
    asks = dict.fromkeys(NAMES, "Why?")
    batchqa.run(tmp_path / "in.parquet", out, model=tiny_bundle, ask=asks, layout="wide", **RUN)
    assert [row.name for row in open_output(str(out)).rows()] == [*NAMES] * 2
    convert(str(out), long, "long")
    assert pq.read_table(long)["qa_name"].to_pylist() == [*NAMES] * 2
    gold = tmp_path / "gold.jsonl"
    gold.write_text('{"id": 1, "answers": []}\n')
    with pytest.raises(InputError, match="convert --to long"):
        evaluate(out, gold=gold)


def test_gold_answers_are_not_taken_for_the_wide_layout(tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    gold.write_text('{"id": 1, "qa_name": "a", "answers": ["x"]}\n')
    with pytest.raises(InputError, match="`batchqa run` did not write it"):
        evaluate(gold)


def test_null_odds_of_predictions_that_were_replaced_do_not_stay(tmp_path: Path) -> None:
    def output(name: str, odds: float | None) -> str:
        answer = said(CONTEXT, "steel") | {"null_odds": odds}
        return str(write_rows(tmp_path / name, [{"id": "x", "context": CONTEXT, "said": answer}]))

    convert(output("a.parquet", 1.0), tmp_path / "p.json", "squad")
    assert (tmp_path / "p.null-odds.json").exists()
    convert(output("b.parquet", None), tmp_path / "p.json", "squad", overwrite=True)
    assert not (tmp_path / "p.null-odds.json").exists()


def test_wide_columns_of_string_views_become_long(tmp_path: Path) -> None:
    records = [{"id": at, "a": said(CONTEXT, "steel"), "b": said(CONTEXT, None)} for at in range(2)]
    file = write_wide(tmp_path / "wide.parquet", records, ["a", "b"])
    table = pq.read_table(file)
    pq.write_table(table.append_column("n", pa.array(["x", None], pa.string_view())), file)
    convert(str(file), tmp_path / "long.parquet", "long")
    assert pq.read_table(tmp_path / "long.parquet")["n"].to_pylist() == ["x", "x", None, None]


@pytest.mark.parametrize("form", ["long", "wide"])
def test_a_table_without_rows_has_its_header(tmp_path: Path, form: str) -> None:
    if form == "wide":
        file = write_rows(tmp_path / "in.parquet", [{"qa_name": "a", "said": said(CONTEXT, "steel")}])
    else:
        file = write_wide(tmp_path / "in.parquet", [{"a": said(CONTEXT, "steel")}], ["a"])
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    convert(str(file), tmp_path / "out.csv", form)
    if form == "long":
        assert (tmp_path / "out.csv").read_text().startswith('"qa_name","qa_question","qa_answer"')
        assert not list(open_output(str(tmp_path / "out.csv")).rows())
