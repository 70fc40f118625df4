"""Parquet parts joined into one file by their bytes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchqa import thrift
from batchqa.output import (
    merging,
)
from batchqa.output.table import OutputTable
from batchqa.records import Cursor
from tests.output.looking import (
    open_commit,
)


def table_of(number: int, rows: int) -> pa.Table:
    """A table with every kind of column whose pages are written differently."""
    numbers = range(number, number + rows)
    return pa.table(
        {
            "a": pa.array(numbers, pa.int64()),
            "text": pa.array([None if n % 7 == 0 else "x" * (n % 50) for n in numbers], pa.large_string()),
            "view": pa.array([str(n) for n in numbers], pa.string_view()),
            "dictionary": pa.array([f"{number}-{n % 3}" for n in numbers]).dictionary_encode(),
            "nested": pa.array(
                [[{"u": n, "v": str(n)}] * (n % 3) for n in numbers],
                pa.list_(pa.struct([("u", pa.int32()), ("v", pa.string())])),
            ),
            "time": pa.array(numbers, pa.timestamp("ns", "Europe/Berlin")),
            "nothing": pa.nulls(rows),
            "flag": pa.array([n % 2 == 0 for n in numbers]),
        }
    )


def merge_part(path: Path) -> merging.MergePart:
    data = path.read_bytes()
    size = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return merging.MergePart(0, path, size, merging.zlib.crc32(data[:size]))


@pytest.mark.parametrize(
    "options", [{}, {"compression": "none"}, {"write_page_index": True}, {"use_dictionary": False}]
)
def test_merged_files_read_as_if_written_at_once(tmp_path: Path, options: dict[str, Any]) -> None:
    tables = [table_of(0, 3000), table_of(3000, 1), table_of(3001, 1).slice(0, 0), table_of(3001, 777)]
    found = []
    for index, table in enumerate(tables):
        path = tmp_path / f"{index}.parquet"
        pq.write_table(table, path, row_group_size=100, write_page_checksum=True, **options)
        found.append(merge_part(path))
    merged = tmp_path / "merged.parquet"
    with merged.open("wb") as out:
        assert merging.merge(found, OutputTable(tables[0].schema), {"key": "value"}, out) == 3778
    expected = pa.concat_tables(tables)
    opened = pq.ParquetFile(merged, page_checksum_verification=True)
    assert opened.metadata.num_row_groups == 30 + 1 + 1 + 8
    assert opened.metadata.metadata[b"key"] == b"value"
    assert opened.schema_arrow == tables[0].schema
    assert opened.read().combine_chunks().equals(expected.combine_chunks())
    assert opened.read_row_group(35)["a"].to_pylist() == expected["a"].to_pylist()[3301:3401]
    assert pl.scan_parquet(merged).filter(pl.col("a") > 3700).select("text").collect().height == 77
    assert pq.read_table(merged, columns=["a"], filters=[("a", "==", 3500)]).num_rows == 1


def test_a_footer_survives_decoding_and_encoding(tmp_path: Path) -> None:
    pq.write_table(table_of(0, 500), tmp_path / "a.parquet", row_group_size=10)
    data = (tmp_path / "a.parquet").read_bytes()
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    assert thrift.encode(thrift.decode(footer)) == footer


@given(st.binary(max_size=200))
def test_damaged_footers_are_value_errors(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        thrift.decode(data)


def test_dictionaries_that_differ_between_batches_are_written(tmp_path: Path) -> None:
    schema = pa.schema([("d", pa.dictionary(pa.int32(), pa.string()))])
    with open_commit(str(tmp_path / "out.parquet"), schema=schema, part_rows=4) as commit:
        commit.begin({})
        with commit.part(0) as part:
            part.write(pa.record_batch([pa.array(["a", "b"]).dictionary_encode()], schema=schema))
            part.write(pa.record_batch([pa.array(["c", None]).dictionary_encode()], schema=schema))
            part.commit(4, Cursor(), errors={}, counts={}, versions={}, device="")
        commit.publish({})
    assert pq.read_table(tmp_path / "out.parquet")["d"].to_pylist() == ["a", "b", "c", None]
