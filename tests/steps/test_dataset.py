"""A `Dataset`: columns of any input by name, and single rows by their numbers."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from batchqa.errors import InputError, StorageError
from batchqa.steps.reading import Dataset, open_dataset

ROWS = [
    {
        "id": f"q{n}",
        "context": f"The answer to question {n} is {n * n}, «said» he.\nYes.",
        "question": f"What is {n}?",
        "answers": {"text": [str(n * n)] if n % 3 else [], "answer_start": [26] if n % 3 else []},
    }
    for n in range(4_200)
]


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(row | {"answers": json.dumps(row["answers"])} for row in rows)
    return text.getvalue().encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    raw = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), raw, row_group_size=1_000)
    return raw.getvalue()


def _squad(rows: list[dict[str, Any]]) -> bytes:
    qas = [
        {"id": row["id"], "question": row["question"], "answers": [
            {"text": text, "answer_start": 26} for text in row["answers"]["text"]
        ]}
        for row in rows
    ]  # fmt: skip
    paragraphs = [{"context": row["context"], "qas": [asked]} for row, asked in zip(rows, qas, strict=True)]
    return json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}).encode()


FORMATS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "x.jsonl": _jsonl,
    "x.jsonl.gz": lambda rows: gzip.compress(_jsonl(rows), 1),
    "x.jsonl.zst": lambda rows: zstandard.compress(_jsonl(rows), 1),
    "x.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "x.csv": _csv,
    "x.parquet": _parquet,
    "squad.json": _squad,
}


def _open(path: Path, content: bytes) -> Dataset:
    path.write_bytes(content)
    return open_dataset(str(path))


def _ids(table: pa.Table) -> list[str]:
    found: list[str] = table["id"].to_pylist()
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_named_columns_of_all_rows_and_single_rows_by_number(
    tmp_path: Path, name: str
) -> None:
    dataset = _open(tmp_path / name, FORMATS[name](ROWS))
    assert {"id", "context", "question", "answers"} <= {*dataset.names}
    batches = list(dataset.batches(["question", "id"]))
    assert [batch.column_names for batch in batches] == [["question", "id"]] * len(batches)
    assert [id_ for batch in batches for id_ in _ids(batch)] == [row["id"] for row in ROWS]
    wanted = np.array([4_199, 0, 2_321, 0])
    taken = dataset.take(["id", "context"], wanted)
    assert taken["id"].to_pylist() == [ROWS[n]["id"] for n in wanted]
    assert taken["context"].to_pylist() == [ROWS[n]["context"] for n in wanted]


@pytest.mark.parametrize("name", FORMATS)
def test_rows_beyond_the_end_are_an_error_and_no_rows_are_none(tmp_path: Path, name: str) -> None:
    dataset = _open(tmp_path / name, FORMATS[name](ROWS[:3]))
    assert len(dataset.take(["id"], np.array([], dtype=np.int64))) == 0
    with pytest.raises(IndexError, match="has 3 rows, and row 3 was asked for"):
        dataset.take(["id"], np.array([0, 3]))


def test_taking_a_row_of_parquet_reads_its_row_group_alone(tmp_path: Path) -> None:
    content = bytearray(_parquet(ROWS))
    metadata = pq.read_metadata(io.BytesIO(content))
    group = metadata.row_group(3)
    for leaf in range(group.num_columns):
        column = group.column(leaf)
        start = column.dictionary_page_offset or column.data_page_offset
        content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    dataset = _open(tmp_path / "x.parquet", bytes(content))
    assert _ids(dataset.take(["id"], np.array([2_999, 4_000]))) == ["q2999", "q4000"]
    with pytest.raises(StorageError, match=r"row group 3: the data is damaged"):
        dataset.take(["id"], np.array([3_000]))


def test_a_column_that_some_files_do_not_have_is_null_there(tmp_path: Path) -> None:
    for number, rows in enumerate(([{"id": 1}], [{"id": "b", "more": [1.5]}])):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{number}.parquet")
    dataset = open_dataset(str(tmp_path / "*.parquet"))
    assert dataset.names == ("id", "more")
    assert dataset.read("id").to_pylist() == ["1", "b"]
    assert dataset.read("more").to_pylist() == [None, [1.5]]


def test_answers_that_come_after_thousands_of_empty_ones_are_read(tmp_path: Path) -> None:
    nothing = {"answers": {"text": [], "answer_start": []}, "score": None, "lists": []}
    found = {"answers": {"text": ["x"], "answer_start": [3]}, "score": 0.5, "lists": [{"a": 1}]}
    dataset = _open(tmp_path / "x.jsonl", _jsonl([nothing] * 5_000 + [found]))
    for name in ("answers", "score", "lists"):
        column = dataset.read(name)
        assert (len(column), column[5_000].as_py()) == (5_001, found[name])
    assert dataset.read("answers.text")[5_000].as_py() == ["x"]


def test_an_empty_field_of_a_table_as_text_is_null(tmp_path: Path) -> None:
    dataset = _open(tmp_path / "x.csv", b'id,answer\n1,\n2,""\n3,x\n')
    assert dataset.read("answer").to_pylist() == [None, None, "x"]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("x.jsonl", b'{"id": 1}\n{"id": \n', r"x\.jsonl:2, byte 10: "),
        ("x.json", b'[{"id": 1},\n{"id": }]', r"x\.json, record 2, byte 1\d: "),
        ("x.csv", b"id,answer\n1,a\n2,b,c\n", r"x\.csv:3: 3 fields, and the header has 2"),
    ],
)
def test_a_row_that_cannot_be_read_is_an_error_with_its_place(
    tmp_path: Path, name: str, content: bytes, place: str
) -> None:
    dataset = _open(tmp_path / name, content)
    with pytest.raises(InputError, match=place):
        dataset.read("id")


def test_standard_input_which_can_be_read_only_once_is_refused() -> None:
    with pytest.raises(InputError, match="can be read only once, but is needed more often here; give a file"):
        open_dataset("-")
