"""Rows as JSON lines: one object per row, the columns' names its keys.

The first column may hold the input's lines themselves, each the text of a JSON object. They are not parsed:
their bytes are in the output as they were, with the other columns added behind the last member.

What JSON has no type for: decimals are numbers with all their digits; dates and times ISO 8601 text; times
in nanoseconds, and dates beyond Python's (year 9999), the text that Arrow gives them; times of a zone that
this machine does not know are in UTC; durations whole numbers in their unit; binary base64; NaN and
infinities null.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

_BLOCK_BYTES = 8 * 2**20
_BLOCK_ROWS = 10_000


def lines(batch: pa.RecordBatch, *, originals: bool = False) -> Iterator[bytes]:
    """The rows of a batch as blocks of whole lines, each line with its line end.

    With `originals` the first column has the input's lines.
    """
    for block in blocks_of(batch):
        names = block.schema.names
        if originals:
            texts = block.column(0).cast(pa.large_binary()).to_pylist()
            added = _objects(names[1:], block.columns[1:], len(texts))
            yield b"".join(map(_spliced, texts, added))
        else:
            yield b"".join(_objects(names, block.columns, block.num_rows, orjson.OPT_APPEND_NEWLINE))


def blocks_of(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in slices of a few MB, so that the Python objects of few rows exist at a time."""
    if not batch.num_rows:
        return
    rows = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES * batch.num_rows // max(batch.nbytes, 1)))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _objects(names: list[str], columns: list[pa.Array], rows: int, option: int = 0) -> list[bytes]:
    values = [values_of(column) for column in columns]
    dicts = (
        dict(zip(names, row, strict=True)) for row in (zip(*values, strict=True) if values else [()] * rows)
    )
    return [orjson.dumps(row, json_form, option) for row in dicts]


def _spliced(original: bytes | None, added: bytes) -> bytes:
    """A line: the original object, byte for byte, with the members of `added` behind its own."""
    text = (original or b"").strip(b" \t\r\n")
    if not text:
        return added + b"\n"
    if not text[1:-1].strip(b" \t\r\n"):
        return added + b"\n"
    return text[:-1] + _behind(added)


def _behind(added: bytes) -> bytes:
    """The members of an object as they stand behind others, with the closing brace and the line end."""
    return (b"," + added[1:] if added != b"{}" else b"}") + b"\n"


def json_form(value: Any) -> Any:
    """What orjson does not know: decimals keep their digits, binary becomes base64."""
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value)) if value.is_finite() else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    raise TypeError(f"no JSON form of {type(value).__name__}")


def values_of(column: pa.Array) -> list[Any]:
    """The column as Python values that have a JSON form.

    float32 goes by way of its shortest text, because 0.1 as float32 is to be written 0.1 and not as the
    float64 next to it, 0.10000000149011612.
    """
    known = _map_type(column.type, _in_a_known_zone)
    if known != column.type:
        column = column.cast(known)
    text = _map_type(column.type, _as_text)
    if text != column.type:
        column = column.cast(text).cast(_map_type(column.type, _as_number))
    try:
        return _to_list(column)
    except (OverflowError, ValueError):
        return _to_list(column.cast(_map_type(column.type, _all_times_as_text)))


def _to_list(column: pa.Array) -> list[Any]:
    """The column's values; by way of numpy, five times as quick as `to_pylist`, where types allow it."""
    kind = column.type
    values: list[Any]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_floating(kind):
        # Here numpy has NaN for the nulls of floats: both are null in JSON.
        values = column.to_numpy(zero_copy_only=False).tolist()
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        values = column.fill_null(pa.scalar(0).cast(kind)).to_numpy(zero_copy_only=False).tolist()
        for index in pc.indices_nonzero(column.is_null()).to_pylist():
            values[index] = None
    else:
        values = column.to_pylist()
    return values


def _in_a_known_zone(kind: pa.DataType) -> pa.DataType:
    unknown = pa.types.is_timestamp(kind) and kind.tz is not None and not _is_known(kind.tz)
    return pa.timestamp(kind.unit, "UTC") if unknown else kind


@functools.cache
def _is_known(zone: str) -> bool:
    """Whether this machine has the rules of a time zone: Arrow asks the system for them, and Python does."""
    try:
        pa.scalar(0, pa.timestamp("ns", zone)).cast(pa.string())
        pa.scalar(0, pa.timestamp("us", zone)).as_py()
    except (pa.ArrowException, KeyError, ValueError):
        return False
    return True


def _as_text(kind: pa.DataType) -> pa.DataType:
    # orjson 3.13 writes the fraction of a time without its leading zeros, hence no times of day.
    nanoseconds = pa.types.is_timestamp(kind) and kind.unit == "ns"
    if nanoseconds or pa.types.is_time(kind) or pa.types.is_float32(kind):
        return pa.string()
    return pa.int64() if pa.types.is_duration(kind) else kind


def _as_number(kind: pa.DataType) -> pa.DataType:
    return pa.float64() if pa.types.is_float32(kind) else _as_text(kind)


def _all_times_as_text(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_timestamp(kind) or pa.types.is_date(kind) else kind


def _map_type(kind: pa.DataType, leaf: Any) -> pa.DataType:
    """The type with `leaf` applied to every type in it that holds no others."""
    if pa.types.is_dictionary(kind):
        return _map_type(kind.value_type, leaf)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_map_type(field.type, leaf)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_map_type(kind.key_type, leaf), _map_type(kind.item_type, leaf))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_map_type(kind.value_type, leaf)), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_map_type(kind.value_type, leaf)))
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_map_type(kind.value_type, leaf)))
    return leaf(kind)
