"""Rows of Arrow columns by number, whatever their types: pyarrow itself takes from most of them alone."""

from __future__ import annotations

from typing import TypeVar

import pyarrow as pa

Rows = TypeVar("Rows", pa.RecordBatch, pa.Table)


def taken(column: pa.Array, rows: pa.Array) -> pa.Array:
    """The values at these places: int, (rows,), null for a null."""
    try:
        return column.take(rows)
    except pa.ArrowNotImplementedError:  # pyarrow 26: views, run-end encoding, and what holds these
        if rows.null_count:
            column, rows = pa.concat_arrays([column, pa.nulls(1, column.type)]), rows.fill_null(len(column))
        pieces = [column.slice(row, 1) for row in rows.to_pylist()]
        return pa.concat_arrays(pieces) if pieces else column.slice(0, 0)


def rows_of(table: Rows, rows: pa.Array) -> Rows:
    """The rows of a table or record batch at these places."""
    try:
        return table.take(rows)
    except pa.ArrowNotImplementedError:
        columns = [
            taken(pa.concat_arrays(each.chunks) if isinstance(each, pa.ChunkedArray) else each, rows)
            for each in table.columns
        ]
        return type(table).from_arrays(columns, schema=table.schema)
