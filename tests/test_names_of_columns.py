"""Columns of the user's that are called like those of a run: what reads an output goes by its record."""

from __future__ import annotations

import datetime as dt
import decimal
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchqa
from batchqa.convert.converting import convert
from batchqa.errors import InputError
from batchqa.evaluation import evaluate
from batchqa.review import open_output
from tests.models import SENTENCES

RUN: dict[str, Any] = {
    "device": "cpu",
    "engine": "onnxruntime",
    "threads": 1,
    "batch_tokens": 256,
    "in_process": True,
    "no_answer": "off",
}

CONTEXTS = list(SENTENCES[:3])
QUESTIONS = ["When was it closed?", "Who repaired it?", "What does he sell?"]
OTHERS = ["Which town?", "How much?", "Which loaf?"]


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def answers(path: Path, prefix: str = "qa_") -> list[str]:
    texts: list[str] = pq.read_table(path)[prefix + "answer"].to_pylist()
    return texts


@pytest.fixture
def with_own_names(tmp_path: Path, tiny_bundle: Path) -> Path:
    """An output whose input had columns `qa_name` and `qa_question` that nobody asked."""
    data = write(
        tmp_path / "in.parquet",
        id=["a", "b", "c"],
        context=CONTEXTS,
        question=QUESTIONS,
        qa_name=["x", "y", "z"],
        qa_question=OTHERS,
    )
    out = tmp_path / "out.parquet"
    batchqa.run(data, out, model=tiny_bundle, **RUN)
    return out


def test_reuse_recognizes_rows_by_what_was_asked_and_not_by_a_column_of_that_name(
    with_own_names: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    other = write(tmp_path / "others.parquet", context=CONTEXTS, question=OTHERS)
    reused = batchqa.run(
        other, tmp_path / "re.parquet", model=tiny_bundle, reuse=[str(with_own_names)], **RUN
    )
    batchqa.run(other, tmp_path / "anew.parquet", model=tiny_bundle, **RUN)
    assert reused.reused_rows == 0
    assert answers(tmp_path / "re.parquet") == answers(tmp_path / "anew.parquet")
    same = write(tmp_path / "same.parquet", context=CONTEXTS, question=QUESTIONS)
    assert (
        batchqa.run(
            same, tmp_path / "2.parquet", model=tiny_bundle, reuse=[str(with_own_names)], **RUN
        ).reused_rows
        == 3
    )


def test_show_and_evaluate_take_the_question_and_id_of_the_run(with_own_names: Path, tmp_path: Path) -> None:
    assert [row.question for row in open_output(str(with_own_names)).rows()] == QUESTIONS
    gold = write(tmp_path / "gold.parquet", id=["a", "b", "c"], answers=[[text] for text in CONTEXTS])
    assert evaluate(with_own_names, gold=gold).figures.all.total == 3


@pytest.mark.parametrize("name", ["lists.parquet", "lists.jsonl"])
def test_questions_of_a_row_s_own_list_are_still_found_by_their_names(
    tmp_path: Path, tiny_bundle: Path, name: str
) -> None:
    data = write(tmp_path / "in.parquet", context=CONTEXTS[:2], question=[QUESTIONS[:2], QUESTIONS[2:]])
    out = tmp_path / name
    batchqa.run(data, out, model=tiny_bundle, **RUN)
    assert [row.question for row in open_output(str(out)).rows()] == QUESTIONS
    asked = write(tmp_path / "pairs.parquet", context=[CONTEXTS[0], CONTEXTS[1]], question=QUESTIONS[::2])
    again = batchqa.run(asked, tmp_path / "re.parquet", model=tiny_bundle, reuse=[str(out)], **RUN)
    assert again.reused_rows == 2


def test_an_output_is_read_under_its_own_prefix_where_an_earlier_one_passed_through(
    with_own_names: Path, tmp_path: Path, bundles: Callable[..., Path]
) -> None:
    out = tmp_path / "second.parquet"
    batchqa.run(with_own_names, out, model=bundles("roberta"), output_prefix="new_", **RUN)
    expected = answers(out, "new_")
    assert expected != answers(out, "qa_")
    assert [row.answers[0].text for row in open_output(str(out)).rows()] == expected
    convert(str(out), tmp_path / "squad.json", "squad")
    assert list(json.loads((tmp_path / "squad.json").read_bytes()).values()) == expected
    gold = write(tmp_path / "gold.parquet", id=["a", "b", "c"], answers=[[text] for text in expected])
    assert evaluate(out, gold=gold).figures.all.exact == 100.0


def test_wide_answers_are_shown_where_those_of_an_earlier_run_passed_through(
    with_own_names: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    out = tmp_path / "wide.parquet"
    batchqa.run(
        with_own_names,
        out,
        model=tiny_bundle,
        ask=["town=Which town?"],
        layout="wide",
        drop=["question"],
        **RUN,
    )
    shown = list(open_output(str(out)).rows())
    assert [row.name for row in shown] == ["town"] * 3
    assert [row.answers[0].text for row in shown] == [
        each["answer"] for each in pq.read_table(out)["qa_town"].to_pylist()
    ]


def test_a_stopped_job_that_would_replace_an_output_does_not_describe_it(
    with_own_names: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a", "question": "b"}\nno json\n')
    with pytest.raises(batchqa.LimitError):
        batchqa.run(bad, with_own_names, model=tiny_bundle, context="text", overwrite=True, **RUN)
    shown = open_output(str(with_own_names))
    assert [row.context for row in shown.rows()] == CONTEXTS
    assert shown.maker is not None
    same = write(tmp_path / "same.parquet", context=CONTEXTS, question=QUESTIONS)
    again = batchqa.run(same, tmp_path / "re.parquet", model=tiny_bundle, reuse=[str(with_own_names)], **RUN)
    assert again.reused_rows == 3


def test_an_output_that_was_edited_is_not_reused(tmp_path: Path, tiny_bundle: Path) -> None:
    data = write(tmp_path / "in.parquet", context=CONTEXTS, question=QUESTIONS)
    out = tmp_path / "out.jsonl"
    batchqa.run(data, out, model=tiny_bundle, **RUN)
    out.write_text(out.read_text().replace(QUESTIONS[0], OTHERS[0]))
    with pytest.raises(InputError, match="it was changed after its run"):
        batchqa.run(data, tmp_path / "re.parquet", model=tiny_bundle, reuse=[str(out)], **RUN)


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.jsonl"])
def test_candidates_and_all_answers_are_reused_from_outputs_of_text(
    tmp_path: Path, tiny_bundle: Path, name: str
) -> None:
    data = write(tmp_path / "in.parquet", context=CONTEXTS, question=QUESTIONS)
    more = {**RUN, "model": tiny_bundle, "top_k": 2, "answers": "all"}
    batchqa.run(data, tmp_path / name, **more)
    again = batchqa.run(data, tmp_path / "re.parquet", reuse=[str(tmp_path / name)], **more)
    batchqa.run(data, tmp_path / "anew.parquet", **more)
    assert again.reused_rows == 3
    ours, expected = (pq.read_table(tmp_path / each) for each in ("re.parquet", "anew.parquet"))
    for column in ("qa_answer", "qa_start"):
        assert ours[column].to_pylist() == expected[column].to_pylist()
    for column in ("qa_candidates", "qa_answers"):
        spans = [
            [[each["start"] for each in row] for row in table[column].to_pylist()]
            for table in (ours, expected)
        ]
        assert spans[0] == spans[1]


VALUES: dict[str, pa.Array] = {
    "blank": pa.array(["steel", " ", None]),
    "number": pa.array([1.5, float("nan"), 3.0]),
    "price": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("2.00")]),
    "day": pa.array([dt.date(2020, 1, 2), None, dt.date(1999, 12, 31)]),
    "nested": pa.array([{"a.b": "x"}, None, {"a.b": None}]),
    "raw": pa.array([b"a", None, b"c"]),
}


@pytest.mark.parametrize("held", ["blank", "number", "price", "day", "nested.a.b"])
def test_the_layouts_are_made_of_each_other_with_every_column_and_question_as_a_run_writes_them(
    tmp_path: Path, tiny_bundle: Path, held: str
) -> None:
    data = write(tmp_path / "in.parquet", context=CONTEXTS, qa_reviewer=["me", "you", None], **VALUES)
    ask = {"model": tiny_bundle, "ask": [f"one=What is {{{held}}}?", "two=Where?"], **RUN}
    for layout in ("long", "wide"):
        batchqa.run(data, tmp_path / f"{layout}.parquet", layout=layout, **ask)
    for layout, source in (("long", "wide"), ("wide", "long")):
        expected = pq.read_table(tmp_path / f"{layout}.parquet").replace_schema_metadata()
        made = tmp_path / f"made-{layout}.parquet"
        convert(str(tmp_path / f"{source}.parquet"), made, layout)
        assert pq.read_table(made).schema == expected.schema
        assert repr(pq.read_table(made).to_pylist()) == repr(expected.to_pylist())  # NaN equals itself here
        convert(str(tmp_path / f"{source}.parquet"), tmp_path / f"{layout}.jsonl", layout)
        lines = (tmp_path / f"{layout}.jsonl").read_text().splitlines()
        assert len(lines) == len(expected)


def test_types_of_json_lines_that_only_show_late_do_not_end_a_conversion(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    data = tmp_path / "in.jsonl"
    late = {"grade": 1.5, "note": "x", "more": {"a": 1, "b": "x"}}
    rows = [{"context": CONTEXTS[0], "grade": 1, "note": None, "more": {"a": 1}}] * 10_000
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"context": None, **late}]))
    out, made = tmp_path / "out.jsonl", tmp_path / "long.parquet"
    batchqa.run(data, out, model=tiny_bundle, ask=["one=When?"], layout="wide", **RUN)
    convert(str(out), made, "long")
    last = pq.read_table(made).slice(10_000).to_pylist()[0]
    assert {name: last[name] for name in late} == late
    assert last["qa_error"] == "null_context"


def test_predictions_of_questions_by_name_are_scored_against_their_gold_answers(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    data = write(tmp_path / "in.parquet", id=["d0", "d1"], context=CONTEXTS[:2])
    out = tmp_path / "out.parquet"
    batchqa.run(data, out, model=tiny_bundle, ask=["when=When?", "who=Who?"], **RUN)
    convert(str(out), tmp_path / "p.json", "squad")
    long = pq.read_table(out)
    answered = [[text] for text in long["qa_answer"].to_pylist()]
    gold = write(tmp_path / "gold.parquet", id=long["id"], qa_name=long["qa_name"], answers=answered)
    assert evaluate(tmp_path / "p.json", gold=gold).figures.all.exact == 100.0
