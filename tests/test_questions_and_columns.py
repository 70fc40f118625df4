"""Questions as Python gives them, and columns of every type beside them: right answers or one clear error."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchqa
from batchqa import Annotator, InputError, SettingsError
from batchqa.settings import AskingSettings
from batchqa.steps.asking import Questions
from tests.models import SENTENCES

CONTEXTS = list(SENTENCES[:3])
MADE: dict[str, Any] = {"device": "cpu", "in_process": True, "threads": 1, "batch_tokens": 512}


@pytest.fixture(scope="module")
def annotator(tiny_bundle: Path) -> Iterator[Annotator]:
    with Annotator(tiny_bundle, **MADE) as loaded:
        yield loaded


def test_a_run_takes_questions_as_annotate_does(
    tmp_path: Path, tiny_bundle: Path, annotator: Annotator
) -> None:
    table = pa.table({"context": CONTEXTS})
    pq.write_table(table, tmp_path / "in.parquet")
    asks = {"never": {"question": "Why?", "threshold": -1000}, "usual": "Who?"}
    out = tmp_path / "out.parquet"
    batchqa.run(tmp_path / "in.parquet", out, model=tiny_bundle, questions=asks, **MADE)
    asked = annotator.annotate(table, asks)
    for name in ("qa_name", "qa_question", "qa_answer", "qa_no_answer"):
        assert pq.read_table(out)[name].to_pylist() == asked[name].to_pylist()
    file = tmp_path / "questions.toml"
    file.write_text('usual = "Who?"\n')
    again = batchqa.run(
        tmp_path / "in.parquet", tmp_path / "f.parquet", model=tiny_bundle, questions=file, **MADE
    )
    same = {"usual": "Who?"}
    assert batchqa.run(
        tmp_path / "in.parquet", tmp_path / "f.parquet", model=tiny_bundle, questions=same, **MADE
    ).already_done
    assert again.rows == 3
    with pytest.raises(SettingsError, match="there are no questions to ask"):
        batchqa.run(tmp_path / "in.parquet", tmp_path / "g.parquet", model=tiny_bundle, questions={}, **MADE)


def test_a_question_has_the_name_that_it_was_given(tmp_path: Path, annotator: Annotator) -> None:
    table = pa.table({"context": CONTEXTS})
    with pytest.raises(SettingsError, match=r"questions\['a'\]: .* leave out `name`"):
        annotator.annotate(table, {"a": {"question": "Why?", "name": "b"}})
    file = tmp_path / "q.toml"
    file.write_text('[a]\nname = "b"\nquestion = "Why?"\n')
    with pytest.raises(SettingsError, match=r"q\.toml:1: .* leave out `name`"):
        Questions.of(AskingSettings(questions=str(file)))
    with pytest.raises(SettingsError, match=r"ask\['a=b'\]: .* no ="):
        Annotator(load=False, ask={"a=b": "Why?"})


def test_a_question_with_half_of_a_surrogate_pair_is_refused(annotator: Annotator) -> None:
    with pytest.raises(SettingsError, match="question 'a' cannot be written as UTF-8"):
        annotator.annotate(pa.table({"context": CONTEXTS}), {"a": "Why \ud800?"})


VIEWS = pa.array(["a", None, "a text of more than twelve bytes"], pa.string_view())
TYPES: dict[str, pa.Array] = {
    "views": VIEWS,
    "structs of views": pa.StructArray.from_arrays([VIEWS], ["x"]),
    "runs": pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"]),
}


@pytest.mark.parametrize("kind", list(TYPES))
def test_columns_that_pyarrow_takes_no_rows_of_are_repeated_for_each_question(
    annotator: Annotator, kind: str
) -> None:
    column = TYPES[kind]
    long = annotator.annotate(pa.table({"context": CONTEXTS, "n": column}), {"a": "Why?", "b": "Who?"})
    assert long["n"].type == column.type
    assert [long["n"][at].as_py() for at in range(6)] == [column[at // 2].as_py() for at in range(6)]


def test_rows_with_such_a_column_are_rejected_and_asked_in_a_job(tmp_path: Path, tiny_bundle: Path) -> None:
    contexts = [CONTEXTS[0].encode(), b"\xff", CONTEXTS[2].encode()]
    pq.write_table(pa.table({"context": contexts, "n": VIEWS}), tmp_path / "in.parquet")
    for layout, rows in (("long", 4), ("wide", 2)):
        out = tmp_path / f"{layout}.parquet"
        asks: dict[str, Any] = {"ask": {"a": "Why {n}?", "b": "Who?"}, "layout": layout}
        done = batchqa.run(
            tmp_path / "in.parquet", out, model=tiny_bundle, on_error="reject", max_errors=1, **asks, **MADE
        )
        assert (done.rejected, pq.read_metadata(out).num_rows) == (1, rows)


def test_a_time_in_a_zone_that_the_machine_does_not_know_is_asked_in_utc(annotator: Annotator) -> None:
    at = dt.datetime(2020, 1, 1, 12, tzinfo=dt.UTC)
    column = pa.array([at], pa.timestamp("s", "UTC")).cast(pa.int64()).cast(pa.timestamp("s", "Mars/Base"))
    asked = annotator.annotate(pa.table({"context": CONTEXTS[:1], "at": column}), {"a": "What at {at}?"})
    assert asked["qa_question"].to_pylist() == ["What at 2020-01-01 12:00:00Z?"]


def test_an_interval_cannot_be_in_a_question(annotator: Annotator) -> None:
    column = pa.array([(1, 2, 3)], pa.month_day_nano_interval())
    with pytest.raises(InputError, match="'n' is month_day_nano_interval, which is not a single text"):
        annotator.annotate(pa.table({"context": CONTEXTS[:1], "n": column}), {"a": "Is it {n}?"})


def test_a_list_of_questions_that_is_no_utf8_is_the_error_of_its_row(annotator: Annotator) -> None:
    lists = pa.array([[b"Why?"], [b"Who?", b"\xff"], None])
    asked = annotator.annotate(pa.table({"context": CONTEXTS, "question": lists}))
    assert asked["qa_error"].to_pylist() == [None, "bad_utf8", "bad_utf8", "null_question"]
    assert asked["qa_question"].to_pylist() == ["Why?", "Who?", None, None]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_of_questions_that_pandas_wrote_is_read(tmp_path: Path, kind: str) -> None:
    frame = pd.DataFrame({"name": ["a", "b"], "question": ["Why?", "Who?"]})
    frame["answers"], frame["threshold"] = [2, None], [None, 1.5]
    file = tmp_path / f"questions.{kind}"
    write = frame.to_csv if kind == "csv" else frame.to_parquet
    write(file)
    questions = Questions.of(AskingSettings(questions=str(file)))
    assert questions is not None
    assert [(item.name, item.answers, item.threshold) for item in questions.items] == [
        ("a", 2, None),
        ("b", None, 1.5),
    ]


def test_half_an_answer_cannot_be_listed(tmp_path: Path) -> None:
    file = tmp_path / "questions.csv"
    file.write_text("name,question,answers\na,Why?,2.5\n")
    with pytest.raises(SettingsError, match="answers must be best, all or a number"):
        Questions.of(AskingSettings(questions=str(file)))
