"""Rows as CSV or TSV: a header line, then a line for each row; what `steps/reading` reads back.

All texts are in quotation marks, so that null (an empty field) and the empty text ("") differ. Numbers, true
and false are written as Arrow writes them. Everything else is the text that it is in JSON lines: dates and
times ISO 8601, lists and structs JSON. Texts are not altered: one that begins like a formula stays one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import csv

from batchqa.output.jsonlines import blocks_of, json_form, values_of

DELIMITERS: Mapping[str, str] = {"csv": ",", "tsv": "\t"}


def header(names: Sequence[str], delimiter: str) -> bytes:
    """The line with the columns' names."""
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    return (delimiter.join(quoted) + "\n").encode()


def lines(batch: pa.RecordBatch, delimiter: str) -> Iterator[bytes]:
    """The rows of a batch as blocks of whole lines, each line with its line end."""
    options = csv.WriteOptions(include_header=False, delimiter=delimiter)
    for block in blocks_of(batch):
        columns = [_writable(column) for column in block.columns]
        sink = pa.BufferOutputStream()
        csv.write_csv(pa.RecordBatch.from_arrays(columns, names=block.schema.names), sink, options)
        yield sink.getvalue().to_pybytes()


def _writable(column: pa.Array) -> pa.Array:
    """The column as it is where Arrow writes it, else as texts."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    kind = column.type
    as_it_is = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
    if any(test(kind) for test in as_it_is) or kind in (pa.float32(), pa.float64()):
        return column
    return pa.array([_text(value) for value in values_of(column)], pa.large_string())


def _text(value: Any) -> str | None:
    """A value as JSON; what is a text there, without its quotation marks."""
    if value is None or type(value) is str:
        return value
    text = orjson.dumps(value, json_form)
    return orjson.loads(text) if text.startswith(b'"') else text.decode()
