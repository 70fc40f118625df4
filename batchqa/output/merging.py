"""Join Parquet files of one schema into one by copying their bytes; only the footer is made anew.

Decoding and encoding the rows again would cost as much as writing the parts did. Pages know nothing of
where they stand in the file: only the footer does, so the pages are copied as they are, and the offsets in
the parts' footers are shifted to the new places. The same parts give the same bytes.
Format: apache/parquet-format, src/main/thrift/parquet.thrift (field numbers below are from there).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from batchqa import footer as footers
from batchqa import thrift
from batchqa.footer import MAGIC
from batchqa.output.table import OutputTable

_COPY_BYTES = 4 * 2**20

# FileMetaData, RowGroup, ColumnChunk, ColumnMetaData
_NUM_ROWS, _ROW_GROUPS, _KEY_VALUE = 3, 4, 5
_GROUP_COLUMNS, _GROUP_OFFSET, _GROUP_ORDINAL = 1, 5, 7
_CHUNK_META, _CHUNK_OFFSETS = 3, (2, 4, 6)  # the chunk, its offset index, its column index
_META_OFFSETS = (9, 10, 11, 14)  # data page, index page, dictionary page, bloom filter


class DamagedPartError(Exception):
    """A part whose bytes are not those that were written; `part` says which."""

    def __init__(self, part: int, why: str) -> None:
        super().__init__(f"part {part}: {why}")
        self.part = part
        self.why = why


class MissingPartError(DamagedPartError):
    """A part that is not there, or not to be seen for a moment."""


@dataclass(frozen=True, slots=True)
class MergePart:
    """A part to be copied: `data_bytes` stand before its footer, with this checksum (zlib.crc32)."""

    number: int
    path: Path
    data_bytes: int
    data_crc32: int


def merge(parts: Iterable[MergePart], table: OutputTable, metadata: Mapping[str, str], out: BinaryIO) -> int:
    """Write one Parquet file of all parts' row groups to `out`; returns its number of rows.

    All parts must have been written as `table`. Each part's bytes are checked against its checksum
    while they are copied; DamagedPartError names the one that does not match.
    """
    footer = table.empty_footer(metadata)
    rows = 0
    groups: list[thrift.Struct] = []
    out.write(MAGIC)
    place = len(MAGIC)
    for part in parts:
        with part.path.open("rb") as file:
            own = _read_footer(file, part)
            rows += own[_NUM_ROWS][1]
            for group in own[_ROW_GROUPS][1][1]:
                _shift(group, place - len(MAGIC))
                groups.append(group)
            _copy(file, part, out)
        place += part.data_bytes - len(MAGIC)
    footer[_NUM_ROWS] = (thrift.I64, rows)
    footer[_ROW_GROUPS] = (thrift.LIST, (thrift.STRUCT, groups))
    out.write(footers.closing(footer))
    return rows


def _read_footer(file: BinaryIO, part: MergePart) -> thrift.Struct:
    """The part's footer, which must stand right behind its data."""
    file.seek(part.data_bytes)
    tail = file.read()
    if tail[-4:] != MAGIC or len(tail) != int.from_bytes(tail[-8:-4], "little") + 8:
        raise DamagedPartError(part.number, "its footer is not where it was written")
    try:
        return thrift.decode(tail[:-8])
    except ValueError as error:
        raise DamagedPartError(part.number, "its footer cannot be read") from error


def _shift(group: thrift.Struct, by: int) -> None:
    """Move all file offsets of a row group by `by` bytes."""
    _shift_fields(group, (_GROUP_OFFSET,), by)
    # A number of 16 bits that only encrypted files need, and that a long file would overflow.
    group.pop(_GROUP_ORDINAL, None)
    for chunk in group[_GROUP_COLUMNS][1][1]:
        _shift_fields(chunk, _CHUNK_OFFSETS, by)
        _shift_fields(chunk[_CHUNK_META][1], _META_OFFSETS, by)


def _shift_fields(struct: thrift.Struct, numbers: tuple[int, ...], by: int) -> None:
    for number in numbers:
        kind, offset = struct.get(number, (thrift.I64, 0))
        if offset > 0:  # some writers say 0 for "none"
            struct[number] = (kind, offset + by)


def _copy(file: BinaryIO, part: MergePart, out: BinaryIO) -> None:
    """Copy everything between the leading magic and the footer, checking it on the way."""
    file.seek(0, os.SEEK_SET)
    checksum = zlib.crc32(file.read(len(MAGIC)))
    left = part.data_bytes - len(MAGIC)
    while left:
        piece = file.read(min(left, _COPY_BYTES))
        if not piece:
            raise DamagedPartError(part.number, "it is shorter than when it was written")
        checksum = zlib.crc32(piece, checksum)
        out.write(piece)
        left -= len(piece)
    if checksum != part.data_crc32:
        raise DamagedPartError(part.number, "its checksum does not match")
