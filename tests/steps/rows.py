"""Rows for the tests of the steps, made without reading a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from batchqa.records import Cursor, RowFault, Rows


def rows_of(
    pairs: Sequence[tuple[str | None, str | None]],
    faults: Mapping[int, RowFault] | None = None,
    first_record: int = 0,
) -> Rows:
    """(context, question) pairs as reading would hand them over."""
    context = pa.array([context for context, _ in pairs], pa.string())
    question = pa.array([question for _, question in pairs], pa.string())
    columns = pa.record_batch({"context": context, "question": question})

    def cursor_after(count: int) -> Cursor:
        return Cursor(row=first_record + count)

    def locate(row: int) -> str:
        return f"row {first_record + row + 1}"

    return Rows(columns, context, question, faults or {}, first_record, cursor_after, locate)
