"""Parquet files as writers other than Arrow describe them: pages by Arrow, the schema by hand.

Numbers are those of parquet.thrift: of the fields of SchemaElement, of logical types, of converted types.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchqa import footer, thrift

TEXTS = {"context": ["It was built in 1894.", "The ferry leaves at seven."], "question": ["When?", "When?"]}

REPETITION, NAME, CONVERTED, LOGICAL = 3, 4, 6, 10
MICROS = {2: (thrift.STRUCT, {})}


def logical(number: int, detail: thrift.Struct | None = None) -> tuple[int, Any]:
    """A logical type as a field of an element."""
    return thrift.STRUCT, {number: (thrift.STRUCT, detail or {})}


def time_utc() -> dict[int, tuple[int, Any]]:
    """TIME in microseconds, adjusted to UTC."""
    return {LOGICAL: logical(7, {1: (thrift.TRUE, True), 2: (thrift.STRUCT, MICROS)})}


def write(
    path: Path,
    columns: dict[str, Any] | pa.Table,
    change: Callable[[list[thrift.Struct]], None],
    **options: Any,
) -> Path:
    """A file of the columns, whose schema elements (the root first) are `change`d."""
    path.parent.mkdir(exist_ok=True)
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, path, store_schema=False, **options)
    data = path.read_bytes()
    found = footer.decode_closing(data)
    change(found[footer.SCHEMA][1][1])
    size = int.from_bytes(data[-8:-4], "little") + 8
    path.write_bytes(data[:-size] + footer.closing(found))
    return path


def last_is(element: dict[int, tuple[int, Any]]) -> Callable[[list[thrift.Struct]], None]:
    """Describe the last leaf so, whatever Arrow said of it."""

    def change(elements: list[thrift.Struct]) -> None:
        plain = {
            number: value for number, value in elements[-1].items() if number not in (CONVERTED, LOGICAL)
        }
        elements[-1] = dict(sorted((plain | element).items()))

    return change


def elements(path: Path, column: str) -> footer.Column:
    """How a file describes a column."""
    return dict(footer.columns_of(footer.decode_closing(path.read_bytes())))[column]
