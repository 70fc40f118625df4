"""CSV and TSV outputs: what they hold, and that it is read back."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchqa import evaluate, run
from batchqa.output.delimited import DELIMITERS, header, lines
from batchqa.steps.reading import open_dataset

TEXTS = st.none() | st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


def _file(columns: dict[str, pa.Array], kind: str = "csv") -> bytes:
    batch = pa.record_batch(columns)
    delimiter = DELIMITERS[kind]
    return header(batch.schema.names, delimiter) + b"".join(lines(batch, delimiter))


def _fields(columns: dict[str, pa.Array]) -> list[str]:
    """The first row as another reader gives it."""
    return next(iter(csv.reader(io.StringIO(_file(columns).decode().split("\n", 1)[1], newline=""))))


@pytest.mark.parametrize("kind", DELIMITERS)
@given(rows=st.lists(st.tuples(st.integers(), TEXTS, TEXTS), min_size=1, max_size=9))
def test_every_text_is_read_back_by_batchqa_and_by_others(
    tmp_path_factory: pytest.TempPathFactory, kind: str, rows: list[tuple[int, str | None, str | None]]
) -> None:
    numbers, first, second = map(list, zip(*rows, strict=True))
    named = {"n": pa.array(list(map(str, numbers))), 'a,"b"': pa.array(first, pa.string())}
    written = _file(named | {"c\td": pa.array(second, pa.large_string())}, kind)
    path = tmp_path_factory.mktemp("written") / f"x.{kind}"
    path.write_bytes(written)
    found = pa.concat_tables(open_dataset(str(path)).batches(["n", 'a,"b"', "c\td"])).to_pydict()
    assert [list(map(int, found["n"])), found['a,"b"'], found["c\td"]] == [
        numbers, [text or None for text in first], [text or None for text in second],
    ]  # fmt: skip
    others = pl.read_csv(path, separator=DELIMITERS[kind], infer_schema=False)
    assert others["c\td"].to_list() == second


def test_values_of_other_types_are_the_texts_that_they_are_in_json(tmp_path: Path) -> None:
    day = dt.datetime(2024, 2, 29, 12, 30)  # noqa: DTZ001 -- a time without a zone
    columns: dict[str, Any] = {
        "list": pa.array([["a", None]]),
        "struct": pa.array([{"x": 1.5, "day": day}]),
        "day": pa.array([day.date()]),
        "time": pa.array([day], pa.timestamp("us")),
        "decimal": pa.array([Decimal("1.20")]),
        "bytes": pa.array([b"\xff"]),
        "word": pa.array(["w"]).dictionary_encode(),
        "f4": pa.array([0.1], pa.float32()),
        "f2": pa.array([1.5], pa.float32()).cast(pa.float16()),
        "yes": pa.array([True]),
        "none": pa.nulls(1),
    }
    assert dict(zip(columns, _fields(columns), strict=True)) == {
        "list": '["a",null]',
        "struct": '{"x":1.5,"day":"2024-02-29T12:30:00"}',
        "day": "2024-02-29",
        "time": "2024-02-29T12:30:00",
        "decimal": "1.20",
        "bytes": "/w==",
        "word": "w",
        "f4": "0.1",
        "f2": "1.5",
        "yes": "true",
        "none": "",
    }


def test_null_is_an_empty_field_in_columns_of_every_kind_of_number() -> None:
    numbers = pa.array([None, float("nan"), 1.5], pa.float32())
    columns = {"f4": numbers, "f2": numbers.cast(pa.float16()), "code": numbers.dictionary_encode()}
    assert _file(columns).decode().splitlines()[1:] == [",,", "nan,nan,nan", "1.5,1.5,1.5"]


def test_a_text_that_begins_like_a_formula_is_not_altered() -> None:
    assert _fields({"a": pa.array(["=1+1"]), "b": pa.array(["@x"])}) == ["=1+1", "@x"]


def test_a_table_is_annotated_into_a_table_and_evaluated(tmp_path: Path, tiny_bundle: Path) -> None:
    source = tmp_path / "in.csv"
    with source.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "context", "question", "answers"])
        for number in range(7):
            rows.writerow([number, f"It was\nbuilt, in {number}.", "When?", json.dumps([str(number)])])
    for name in ("out.csv", "out.parquet", "parts.csv/"):
        run(source, f"{tmp_path}/{name}", model=tiny_bundle, part_rows=3, top_k=2, in_process=True)
    found, parts, wanted = (
        evaluate(tmp_path / name).figures for name in ("out.csv", "parts.csv", "out.parquet")
    )
    assert found == parts == wanted
