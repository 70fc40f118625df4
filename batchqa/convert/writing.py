"""Files that are there complete or not at all: JSON arrays, JSONL, Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batchqa.errors import SettingsError
from batchqa.html_pages import replacing


def write_records(path: Path, records: Iterable[Mapping[str, Any]], *, lines: bool) -> int:
    """Records as a JSON array, or one a line; how many there were. Raises StorageError."""
    count = 0
    with replacing(path) as tmp, tmp.open("wb") as file:
        file.write(b"" if lines else b"[")
        for record in records:
            file.write(b"" if lines else b",\n" if count else b"\n")
            file.write(orjson.dumps(record) + (b"\n" if lines else b""))
            count += 1
        file.write(b"" if lines else b"\n]\n")
    return count


def write_object(path: Path, record: Mapping[str, Any]) -> int:
    """One JSON object; how many keys it has."""
    with replacing(path) as tmp:
        tmp.write_bytes(orjson.dumps(record) + b"\n")
    return len(record)


def write_tables(path: Path, tables: Iterable[pa.Table]) -> int:
    """Tables of one kind as a Parquet or JSONL file, as the suffix says; how many rows there were."""
    if path.suffix == ".jsonl":
        return write_records(path, (row for table in tables for row in table.to_pylist()), lines=True)
    if path.suffix != ".parquet":
        raise SettingsError(f"-o {path}: a table is written as .parquet or .jsonl")
    count = 0
    with replacing(path) as tmp:
        writer: pq.ParquetWriter | None = None
        for table in tables:
            writer = writer or pq.ParquetWriter(tmp, table.schema, compression="zstd")
            writer.write_table(table.cast(writer.schema))
            count += len(table)
        if writer is not None:
            writer.close()
    return count
