"""Parquet files of which pyarrow can read some columns but not all: which those are, and the rest.

polars is imported where it is needed: rarely, and it takes longer than all of reading.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchqa import footer as footers
from batchqa.store.locations import read_at

if TYPE_CHECKING:
    import polars as pl


def readable_part(raw: pa.NativeFile) -> tuple[pq.FileMetaData, dict[str, str]] | None:
    """The metadata of a file without the columns that pyarrow refuses, and those columns with their types.

    None where it is not a column that makes the file unreadable.
    """
    size = raw.size()
    length = int.from_bytes(read_at(raw, max(size - 8, 0), 4), "little")
    try:
        footer = footers.decode_closing(read_at(raw, max(size - 8 - length, 0), min(length + 8, size)))
        columns = footers.columns_of(footer)
    except ValueError:
        return None
    names = [name for name, _ in columns]
    refused = {
        name: footers.described(column)
        for name, column in columns
        if _schema(footers.without(footer, {*names} - {name}, rows=False)) is None
    }
    refused = refused or _refused_by_arrow(footer, names)
    if not refused:
        return None
    try:
        return pq.read_metadata(pa.BufferReader(footers.without(footer, refused))), refused
    except (OSError, pa.ArrowException):
        return None


def _schema(file: bytes) -> pa.Schema | None:
    try:
        return pq.read_schema(pa.BufferReader(file))
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return None


def _refused_by_arrow(footer: dict[int, Any], names: list[str]) -> dict[str, str]:
    """Columns whose Arrow type, as the writer left it in the file, pyarrow has not; polars names them."""
    import polars as pl

    try:
        schema = pl.read_parquet_schema(io.BytesIO(footers.without_rows(footer)))
    except pl.exceptions.PolarsError:
        return {}
    return {name: str(kind) for name, kind in schema.items() if name in names and not _has_arrow_type(kind)}


def _has_arrow_type(kind: pl.DataType) -> bool:
    import polars as pl

    try:
        pl.Series([], dtype=kind).to_arrow()
    except (pa.ArrowException, pl.exceptions.PolarsError, NotImplementedError):
        return False
    return True
