"""Thrift's compact protocol, as far as a Parquet footer needs it: bytes to a tree and back.

A struct becomes `{field id: (type, value)}`, a list `(element type, [values])`; integers are ints, binary is
bytes. Unknown fields survive a round trip, so that footers of newer writers pass through unharmed.
Protocol: apache/thrift, doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

from typing import Any

Struct = dict[int, tuple[int, Any]]

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)


def decode(data: bytes, last: int | None = None) -> Struct:
    """Read one struct, up to its field `last` where that is given; damaged data is a ValueError."""
    try:
        return _Reader(data).struct(last)
    except (IndexError, RecursionError) as error:
        raise ValueError("not a Thrift struct") from error


def encode(struct: Struct) -> bytes:
    """Write one struct."""
    out = bytearray()
    _write_struct(out, struct)
    return bytes(out)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def byte(self) -> int:
        value = self.data[self.at]
        self.at += 1
        return value

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def integer(self) -> int:
        coded = self.varint()
        return (coded >> 1) ^ -(coded & 1)

    def raw(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise IndexError
        self.at += size
        return self.data[self.at - size : self.at]

    def struct(self, until: int | None = None) -> Struct:
        fields: Struct = {}
        last = 0
        while last != until and (header := self.byte()):
            kind = header & 0x0F
            last = last + (header >> 4) if header >> 4 else self.integer()
            fields[last] = (kind, kind == TRUE if kind in (TRUE, FALSE) else self.value(kind))
        return fields

    def value(self, kind: int) -> Any:
        if kind in (I16, I32, I64):
            return self.integer()
        if kind == BINARY:
            return self.raw(self.varint())
        if kind == STRUCT:
            return self.struct()
        if kind in (LIST, SET):
            header = self.byte()
            size = self.varint() if header >> 4 == 15 else header >> 4
            element = header & 0x0F
            return element, [self.value(element) for _ in range(size)]
        if kind in (BYTE, TRUE, FALSE):
            return self.byte()  # within a list a boolean is a byte of its own
        if kind == DOUBLE:
            return self.raw(8)
        raise ValueError(f"Thrift type {kind} has no place in a Parquet footer")


def _write_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _write_integer(out: bytearray, value: int) -> None:
    _write_varint(out, value << 1 if value >= 0 else (-value << 1) - 1)


def _write_struct(out: bytearray, struct: Struct) -> None:
    last = 0
    for number, (kind, value) in struct.items():
        code = kind if kind not in (TRUE, FALSE) else TRUE if value else FALSE
        if 0 < number - last <= 15:
            out.append((number - last) << 4 | code)
        else:
            out.append(code)
            _write_integer(out, number)
        last = number
        if kind not in (TRUE, FALSE):
            _write_value(out, kind, value)
    out.append(0)


def _write_value(out: bytearray, kind: int, value: Any) -> None:
    if kind in (I16, I32, I64):
        _write_integer(out, value)
    elif kind == BINARY:
        _write_varint(out, len(value))
        out += value
    elif kind == STRUCT:
        _write_struct(out, value)
    elif kind in (LIST, SET):
        element, values = value
        if len(values) < 15:
            out.append(len(values) << 4 | element)
        else:
            out.append(0xF0 | element)
            _write_varint(out, len(values))
        for item in values:
            _write_value(out, element, item)
    elif kind == DOUBLE:
        out += value
    else:
        out.append(value)
