"""Rows of data frames and lists come back as they were given, whatever Arrow would have made of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from batchqa import Annotator, InputError, SettingsError
from tests.models import SENTENCES

CONTEXTS = list(SENTENCES[:3])
ASKED = {"why": "Why?", "who": "Who?"}
MADE: dict[str, Any] = {"device": "cpu", "in_process": True, "threads": 1, "batch_tokens": 512}


@pytest.fixture(scope="module")
def annotator(tiny_bundle: Path) -> Iterator[Annotator]:
    with Annotator(tiny_bundle, **MADE) as loaded:
        yield loaded


COLUMNS: dict[str, Any] = {
    "whole numbers beside none": pd.Series([1, None, 2**53 + 1], dtype=object),
    "dicts of several shapes": [{"a": 1}, {"b": 2}, None],
    "tuples": [(1, 2), (3,), None],
    "periods": pd.period_range("2020-01", periods=3, freq="M"),
    "categories": pd.Categorical(["b", None, "a"], categories=["b", "a", "c"], ordered=True),
}


@pytest.mark.parametrize("layout", ["long", "wide"])
@pytest.mark.parametrize("kind", list(COLUMNS))
def test_columns_of_a_data_frame_keep_values_and_types(annotator: Annotator, kind: str, layout: Any) -> None:
    frame = pd.DataFrame({"context": CONTEXTS, "n": COLUMNS[kind]})
    out = annotator.annotate(frame, ASKED, layout)
    rows = [0, 1, 2] if layout == "wide" else [0, 0, 1, 1, 2, 2]
    pd.testing.assert_frame_equal(out[["context", "n"]], frame.iloc[rows])


INDICES: list[Any] = [
    pd.RangeIndex(5, 8),
    pd.Index(["x", "y", "y"], name="key"),
    pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")]),
    pd.date_range("2020-01-01", periods=3, freq="D", tz="Europe/Paris"),
]


@pytest.mark.parametrize("index", INDICES)
def test_each_row_of_the_long_layout_has_the_index_of_its_record(annotator: Annotator, index: Any) -> None:
    frame = pd.DataFrame({"context": CONTEXTS}, index=index)
    long = annotator.annotate(frame, ASKED)
    assert long.index.tolist() == [each for each in index for _ in ASKED]
    pd.testing.assert_index_equal(annotator.annotate(frame, ASKED, "wide").index, index)
    lists = frame.assign(question=[["Why?"], ["Who?", "When?"], None])
    assert annotator.annotate(lists).index.tolist() == [index[at] for at in (0, 1, 1, 2)]


def test_a_class_that_inherits_from_a_data_frame_comes_back_as_one(annotator: Annotator) -> None:
    class Frame(pd.DataFrame):
        pass

    assert isinstance(annotator.annotate(Frame({"context": CONTEXTS}), ASKED), pd.DataFrame)


@pytest.mark.parametrize("options", [{"keep": ["id", "context"]}, {"drop": ["n"]}])
def test_columns_that_are_left_out_of_a_frame_or_list_are_gone(
    tiny_bundle: Path, options: dict[str, Any]
) -> None:
    frame = pd.DataFrame({"id": [1, 2, 3], "context": CONTEXTS, "n": [7, 8, 9]}, index=["x", "y", "z"])
    with Annotator(tiny_bundle, **options, **MADE) as own:
        out = own.annotate(frame, ASKED)
        assert out.columns.tolist()[:3] == ["id", "context", "qa_name"]
        assert out.index.tolist() == ["x", "x", "y", "y", "z", "z"]
        for each in (frame.to_dict("records"), pl.from_pandas(frame)):
            row = own.annotate(each, ASKED)[0]
            assert list(row if isinstance(row, dict) else row.columns)[:3] == ["id", "context", "qa_name"]


def test_values_of_a_list_of_dicts_are_not_made_alike(annotator: Annotator) -> None:
    day, moment = dt.date(2020, 1, 1), dt.datetime(2020, 1, 1, 14, 30, tzinfo=dt.UTC)
    given = [
        {"context": CONTEXTS[0], "at": day, "of": {"a": 1}, "raw": b"a", "n": 1},
        {"context": CONTEXTS[1], "at": moment, "of": {"b": 2}, "raw": "a", "n": 2.5},
    ]
    for row, own in zip(annotator.annotate(given, ASKED, "wide"), given, strict=True):
        assert {name: (type(row[name]), row[name]) for name in own} == {
            name: (type(value), value) for name, value in own.items()
        }


def test_nan_where_a_text_is_missing_is_null(annotator: Annotator) -> None:
    records = pd.DataFrame({"context": [CONTEXTS[0], None, CONTEXTS[1]]}).to_dict("records")
    records[1]["context"] = float("nan")  # as pandas wrote it before version 3
    errors = [row["qa_error"] for row in annotator.annotate(records, {"why": "Why?"})]
    assert errors == [None, "null_context", None]


@pytest.mark.parametrize("kind", ["frame", "list"])
def test_what_cannot_be_a_column_is_said_without_its_values(annotator: Annotator, kind: str) -> None:
    rows: list[Any] = [{"context": CONTEXTS[0], "n": 1}, {"context": CONTEXTS[1], "n": "a secret"}]
    with pytest.raises(InputError, match=r"column 'n' cannot become .*of type int, str; convert") as raised:
        annotator.annotate(pd.DataFrame(rows) if kind == "frame" else rows, ASKED)
    assert "secret" not in str(raised.value)


def test_objects_of_polars_are_refused_and_not_written_as_pointers(annotator: Annotator) -> None:
    frame = pl.DataFrame({"context": CONTEXTS[:1], "n": pl.Series([object()], dtype=pl.Object)})
    with pytest.raises(InputError, match="column 'n' holds Python objects"):
        annotator.annotate(frame, ASKED)


def test_a_name_with_half_of_a_surrogate_pair_is_an_error_of_the_input(annotator: Annotator) -> None:
    with pytest.raises(InputError, match="surrogates"):
        annotator.annotate([{"context": CONTEXTS[0], "\ud800": 1}], ASKED)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (({"context": text} for text in CONTEXTS), "generator; make a list of it first"),
        ([{"context": CONTEXTS[0]}, None], "a list whose item 1 is of type NoneType"),
    ],
)
def test_what_is_almost_a_list_of_dicts_is_told_what_is_missing(
    annotator: Annotator, given: Any, said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        annotator.annotate(given, ASKED)


def test_the_wide_layout_needs_questions_and_takes_those_of_the_annotator(
    annotator: Annotator, tiny_bundle: Path
) -> None:
    table = pa.table({"context": CONTEXTS, "question": ["Why?"] * 3})
    with pytest.raises(SettingsError, match="layout 'wide' makes a column for each question"):
        annotator.annotate(table, layout="wide")
    with Annotator(tiny_bundle, ask=ASKED, **MADE) as own:
        assert own.annotate(table, layout="wide").column_names[2:] == ["qa_why", "qa_who"]
        assert own.annotate(table).column_names[2:4] == ["qa_name", "qa_question"]
    with Annotator(tiny_bundle, ask=ASKED, layout="wide", **MADE) as own:
        assert own.schema(table.schema).names[2:] == ["qa_why", "qa_who"]
