"""Files that are there complete or not at all: JSON arrays, JSONL, CSV, Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batchqa.errors import InputError, SettingsError
from batchqa.html_pages import replacing
from batchqa.output import delimited, jsonlines


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


def write_tables(path: Path, tables: Callable[[], Iterator[pa.Table]]) -> int:
    """Tables with the same columns as Parquet, JSONL, CSV or TSV, as the suffix says; how many rows.

    `tables` is called twice for Parquet, whose types must be known first: JSON lines that come later may need
    wider ones. Raises InputError where a column has types that do not go together.
    """
    delimiter = delimited.DELIMITERS.get(path.suffix.removeprefix("."))
    if path.suffix not in (".jsonl", ".parquet") and delimiter is None:
        raise SettingsError(f"-o {path}: end the name in .parquet, .jsonl, .csv or .tsv")
    count, first = 0, True
    if path.suffix != ".parquet":
        with replacing(path) as tmp, tmp.open("wb") as file:
            for table in tables():
                if delimiter and first and table.schema.names:
                    file.write(delimited.header(table.schema.names, delimiter))
                    first = False
                for batch in table.to_batches():
                    file.writelines(
                        delimited.lines(batch, delimiter) if delimiter else jsonlines.lines(batch)
                    )
                count += len(table)
        return count
    schema = _unified(tables())
    with replacing(path) as tmp, pq.ParquetWriter(tmp, schema, compression="zstd") as writer:
        for table in tables():
            writer.write_table(_widened(table, schema))
            count += len(table)
    return count


def _unified(tables: Iterator[pa.Table]) -> pa.Schema:
    schema: pa.Schema | None = None
    for table in tables:
        try:
            own = [schema, table.schema] if schema else [table.schema]
            schema = pa.unify_schemas(own, promote_options="permissive")
        except pa.ArrowException as error:
            raise InputError(
                f"a column has values of several types: {error}; convert them to one type"
            ) from error
    return schema or pa.schema([])


def _widened(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.concat_tables([schema.empty_table(), table], promote_options="permissive").select(schema.names)
