"""Columns as a Parquet footer describes them, and how to describe them so again.

Arrow's types are fewer than Parquet's: it reads ENUM, BSON, GEOMETRY and INTERVAL as plain bytes, VARIANT as
a struct, forgets that a TIME is adjusted to UTC, and writes every list and map in one layout. The pages know
nothing of that. They depend on each leaf's physical type and on which of the nodes above it may be null or
repeated; where these agree, the footer of what Arrow has written can take the input's description, word for
word. Format: apache/parquet-format, src/main/thrift/parquet.thrift (all numbers below are from there).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from batchqa import thrift

MAGIC = b"PAR1"

Column = tuple[thrift.Struct, ...]
"""The SchemaElements of one top-level column, depth first."""

# FileMetaData
_SCHEMA, _ROW_GROUPS, _KEY_VALUE, _ORDERS = 2, 4, 5, 7
# RowGroup, ColumnChunk, ColumnMetaData
_CHUNKS, _META, _PATH, _STATISTICS = 1, 3, 3, 12
# SchemaElement
_TYPE, _LENGTH, _REPETITION, _NAME, _CHILDREN, _CONVERTED = 1, 2, 3, 4, 5, 6
_SCALE, _PRECISION, _FIELD_ID, _LOGICAL = 7, 8, 9, 10

_REQUIRED = 0
_INT96 = 3
_PHYSICAL = ("BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")

_LOGICAL_NAMES = {
    1: "STRING",
    2: "MAP",
    3: "LIST",
    4: "ENUM",
    6: "DATE",
    11: "UNKNOWN",
    12: "JSON",
    13: "BSON",
    14: "UUID",
    15: "FLOAT16",
    16: "VARIANT",
    17: "GEOMETRY",
    18: "GEOGRAPHY",
}
_DECIMAL, _TIME, _TIMESTAMP, _INTEGER = 5, 7, 8, 10
_UNITS = {1: "MILLIS", 2: "MICROS", 3: "NANOS"}

# What files said before there were logical types. DECIMAL (5) has its digits beside it.
_CONVERTED_NAMES = (
    *("STRING", "MAP", "MAP", "LIST", "ENUM", "DECIMAL", "DATE", "TIME(MILLIS, UTC)", "TIME(MICROS, UTC)"),
    *("TIMESTAMP(MILLIS, UTC)", "TIMESTAMP(MICROS, UTC)", "UINT_8", "UINT_16", "UINT_32", "UINT_64"),
    *("INT_8", "INT_16", "INT32", "INT64", "JSON", "BSON", "INTERVAL"),
)

_NESTING = ("", "LIST", "MAP")
_UNORDERED = ("INTERVAL", "VARIANT", "GEOMETRY", "GEOGRAPHY", "logical type")
"""Types whose values have no order, or one that Arrow does not know: its smallest and largest do not hold."""


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A leaf of a column: its place in it, its names, and the repetitions down to it but `required`."""

    at: int
    path: tuple[bytes, ...]
    levels: tuple[int, ...]
    element: thrift.Struct


def columns_of(footer: thrift.Struct) -> list[tuple[str, Column]]:
    """The top-level columns by name, in order. Raises ValueError for a schema that is no tree."""
    elements = _elements(footer)
    columns = []
    at = 1
    while at < len(elements):
        end = _end(elements, at)
        columns.append((elements[at][_NAME][1].decode("utf-8", "replace"), tuple(elements[at:end])))
        at = end
    return columns


def types_of(column: Column) -> list[str]:
    """What a column's leaves are, and the groups above them that are more than lists, maps and structs.

    A leaf without a logical type is its physical one: `STRING`, `TIME(MICROS, UTC)`, `DOUBLE`.
    """
    return [name for element in column if (name := type_name(element)) not in _NESTING]


def described(column: Column) -> str:
    """A column's types in a message: `INTERVAL`, or `INT32, INTERVAL` where it holds several."""
    return ", ".join(dict.fromkeys(types_of(column))) or "an empty group"


def type_name(element: thrift.Struct) -> str:
    """The logical type of a node, or its physical one; "" for a plain group."""
    if _LOGICAL in element:
        number, (_, detail) = next(iter(element[_LOGICAL][1].items()))
        return _logical_name(number, detail if isinstance(detail, dict) else {})
    if _CONVERTED in element:
        number = _value(element, _CONVERTED, 0)
        name = _CONVERTED_NAMES[number] if number < len(_CONVERTED_NAMES) else f"converted type {number}"
        if name == "DECIMAL":
            return f"DECIMAL({_value(element, _PRECISION, 0)}, {_value(element, _SCALE, 0)})"
        return name
    if _TYPE not in element:
        return ""
    name = _PHYSICAL[element[_TYPE][1]] if element[_TYPE][1] < len(_PHYSICAL) else "an unknown physical type"
    return f"{name}({_value(element, _LENGTH, 0)})" if name == "FIXED_LEN_BYTE_ARRAY" else name


def _logical_name(number: int, detail: thrift.Struct) -> str:
    if number == _DECIMAL:
        return f"DECIMAL({_value(detail, 2, 0)}, {_value(detail, 1, 0)})"
    if number in (_TIME, _TIMESTAMP):
        unit = _UNITS.get(next(iter(_value(detail, 2, {1: None}))), "an unknown unit")
        adjusted = ", UTC" if _value(detail, 1, False) else ""
        return f"{'TIME' if number == _TIME else 'TIMESTAMP'}({unit}{adjusted})"
    if number == _INTEGER:
        bits, signed = _value(detail, 1, 32), _value(detail, 2, True)
        return f"INT{bits}" if signed and bits >= 32 else f"{'' if signed else 'U'}INT_{bits}"
    return _LOGICAL_NAMES.get(number, f"logical type {number}")


def has_int96(column: Column) -> bool:
    """Whether a leaf holds the old timestamps of 12 bytes."""
    return any(_value(element, _TYPE, -1) == _INT96 for element in column)


def has_integer_decimals(column: Column) -> bool:
    """Whether a leaf holds decimals as integers, as Spark and DuckDB write the short ones."""
    return any(
        _value(element, _TYPE, -1) in (1, 2) and type_name(element).startswith("DECIMAL")
        for element in column
    )


def writer_options(columns: Mapping[str, Column]) -> dict[str, bool]:
    """How Arrow is to write columns that were described so."""
    return {"store_decimal_as_integer": any(map(has_integer_decimals, columns.values()))}


def described_as(given: Column, written: Column) -> Column | None:
    """What `written`, which Arrow would write, has to say to be as `given`; None where the pages differ.

    Two physical types may become others without another meaning: a decimal's, and INT96, which is written
    as the timestamp that Arrow read.
    """
    leaves = list(zip(_leaves(given), _leaves(written), strict=False))
    if len(_leaves(given)) != len(_leaves(written)):
        return None
    elements = list(given)
    for mine, own in leaves:
        if mine.levels != own.levels:
            return None
        if _storage(mine.element) == _storage(own.element):
            continue
        if not _same_meaning(type_name(mine.element), type_name(own.element)):
            return None
        kept = {
            number: mine.element[number]
            for number in (_REPETITION, _NAME, _FIELD_ID)
            if number in mine.element
        }
        elements[mine.at] = dict(sorted(({**own.element, **kept}).items()))
    return tuple(elements)


def _same_meaning(given: str, written: str) -> bool:
    if given == "INT96":
        return written.startswith("TIMESTAMP")
    return given == written and given.startswith(("DECIMAL", "UNKNOWN"))


def restore(footer: thrift.Struct, columns: Mapping[str, Column]) -> None:
    """Describe the columns of a file that Arrow has written as `columns` says, in schema and row groups."""
    own = columns_of(footer)
    elements = [_elements(footer)[0]]
    leaves: list[_Leaf] = []
    for name, column in own:
        given = columns.get(name, column)
        elements += given
        leaves += _leaves(given)
    footer[_SCHEMA] = (thrift.LIST, (thrift.STRUCT, elements))
    unordered = _unordered(columns)
    names = [name for name, column in own for _ in _leaves(column)]
    for group in _row_groups(footer):
        for chunk, leaf, name in zip(group[_CHUNKS][1][1], leaves, names, strict=True):
            meta = chunk[_META][1]
            meta[_PATH] = (thrift.LIST, (thrift.BINARY, list(leaf.path)))
            if name in unordered:
                meta.pop(_STATISTICS, None)


def _unordered(columns: Mapping[str, Column]) -> set[str]:
    return {
        name
        for name, column in columns.items()
        if any(type_.startswith(_UNORDERED) for type_ in types_of(column))
    }


def without(footer: thrift.Struct, names: Collection[str], *, rows: bool = True) -> bytes:
    """A file's footer, as a whole file without data, that has not these columns nor Arrow's own schema.

    Without `rows` it has no row groups.
    """
    copy = dict(footer)
    kept: list[bool] = []
    elements = [dict(_elements(footer)[0])]
    count = 0
    for name, column in columns_of(footer):
        kept += [name not in names] * len(_leaves(column))
        if name not in names:
            elements += column
            count += 1
    elements[0][_CHILDREN] = (thrift.I32, count)
    copy[_SCHEMA] = (thrift.LIST, (thrift.STRUCT, elements))
    groups = []
    for group in _row_groups(footer) if rows else ():
        chunks = [chunk for chunk, keep in zip(group[_CHUNKS][1][1], kept, strict=True) if keep]
        groups.append({**group, _CHUNKS: (thrift.LIST, (thrift.STRUCT, chunks))})
    copy[_ROW_GROUPS] = (thrift.LIST, (thrift.STRUCT, groups))
    if _ORDERS in copy:
        orders = [order for order, keep in zip(copy[_ORDERS][1][1], kept, strict=True) if keep]
        copy[_ORDERS] = (thrift.LIST, (thrift.STRUCT, orders))
    if _KEY_VALUE in copy:
        pairs = [pair for pair in copy[_KEY_VALUE][1][1] if pair[1][1] != b"ARROW:schema"]
        copy[_KEY_VALUE] = (thrift.LIST, (thrift.STRUCT, pairs))
    return as_file(copy)


def as_file(footer: thrift.Struct) -> bytes:
    """A Parquet file of this footer and no data."""
    return MAGIC + closing(footer)


def closing(footer: thrift.Struct) -> bytes:
    """A footer as it ends a file."""
    data = thrift.encode(footer)
    return data + len(data).to_bytes(4, "little") + MAGIC


def decode_closing(file: bytes, last: int | None = None) -> thrift.Struct:
    """The footer at the end of a file's bytes. Raises ValueError where there is none."""
    size = int.from_bytes(file[-8:-4], "little")
    if file[-4:] != MAGIC or size + 8 > len(file):
        raise ValueError("no Parquet footer")
    return thrift.decode(file[len(file) - 8 - size : -8], last)


def without_rows(footer: thrift.Struct) -> bytes:
    """A footer, as a whole file without data or row groups, otherwise as it is."""
    return as_file({**footer, _ROW_GROUPS: (thrift.LIST, (thrift.STRUCT, []))})


SCHEMA = _SCHEMA
"""The footer's field to read up to where only the schema is wanted."""


def _value(element: thrift.Struct, number: int, default: Any) -> Any:
    return element[number][1] if number in element else default


def _elements(footer: thrift.Struct) -> list[thrift.Struct]:
    if _SCHEMA not in footer:
        raise ValueError("a footer without a schema")
    elements: list[thrift.Struct] = footer[_SCHEMA][1][1]
    return elements


def _row_groups(footer: thrift.Struct) -> list[thrift.Struct]:
    groups: list[thrift.Struct] = footer[_ROW_GROUPS][1][1] if _ROW_GROUPS in footer else []
    return groups


def _end(elements: list[thrift.Struct], at: int) -> int:
    """Where the subtree that begins at `at` ends."""
    if at >= len(elements):
        raise ValueError("a schema that ends too early")
    end = at + 1
    for _ in range(_value(elements[at], _CHILDREN, 0)):
        end = _end(elements, end)
    return end


def _storage(element: thrift.Struct) -> tuple[int, int]:
    return _value(element, _TYPE, -1), _value(element, _LENGTH, 0)


def _leaves(column: Column) -> list[_Leaf]:
    found: list[_Leaf] = []

    def walk(at: int, path: tuple[bytes, ...], levels: tuple[int, ...]) -> int:
        element = column[at]
        path = (*path, element[_NAME][1])
        repetition = _value(element, _REPETITION, _REQUIRED)
        levels = levels if repetition == _REQUIRED else (*levels, repetition)
        if _TYPE in element:
            found.append(_Leaf(at, path, levels, element))
            return at + 1
        end = at + 1
        for _ in range(_value(element, _CHILDREN, 0)):
            end = walk(end, path, levels)
        return end

    walk(0, (), ())
    return found
