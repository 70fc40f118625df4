"""Where the parts of a job begin and end, without reading rows: what lets several processes share a job.

For Parquet and SQuAD the number of rows of each file is enough. JSONL and CSV are passed through once, block
by block with numpy: the ends of records are found, and no record is made. Every place is the one that a run,
which reads everything, writes down behind its parts.

A record of a table may take several lines, where a quotation mark is open at the end of one. This is known by
counting such marks, as long as they are where writers put them: at the ends of fields, and doubled inside. At
the first one that is elsewhere, the reader of rows (`table_text.records`) finds the next ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from batchqa.records import Bool, Cursor, Int64

from .input_files import MIB
from .streams import BOM, Readable
from .table_text import records

_NEWLINE, _RETURN, _QUOTE = (ord(mark) for mark in '\n\r"')
_MAY_BE_BLANK = np.isin(np.arange(256), [*b" \t\r\n", BOM[0]])
"""First bytes of lines that may be blank; any other line is a record."""

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_READ_AGAIN = 1000
"""Records that are found by the reader of rows before quotation marks are counted again."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a job: where each ends, which is where the next one begins, and the number of records.

    `ends[k]` is the cursor in the record of part k.
    """

    ends: tuple[Cursor, ...]
    records: int

    @property
    def begins(self) -> tuple[Cursor, ...]:
        """Where each part begins."""
        return (Cursor(), *self.ends[:-1]) if self.ends else ()


@dataclass(frozen=True, slots=True, eq=False)
class RecordEnds:
    """The places behind consecutive records of a file, as lines and bytes of its text; int64, (records,)."""

    line: Int64
    byte: Int64

    def __len__(self) -> int:
        return len(self.byte)


def parts_of(
    rows: Sequence[int | None],
    ends_of: Callable[[int], Iterator[RecordEnds]] | None,
    part_rows: int,
    limit: int | None = None,
) -> Parts:
    """The parts of files that have `rows` rows each, up to `limit` in all.

    `ends_of` gives the ends of a file's records; None where cursors count rows alone.
    """
    ends: list[Cursor] = []
    total = 0
    last = Cursor()
    for file, count in enumerate(rows):
        row = 0
        pieces = [None] if ends_of is None else ends_of(file)
        for piece in pieces:
            size = (count or 0) if piece is None else len(piece)
            if limit is not None:
                size = min(size, limit - total)
            # the numbers in this piece of the last records of parts, and of the last record of all
            wanted = [*range(part_rows - total % part_rows, size + 1, part_rows)]
            cursors = [_cursor(file, row, number, piece) for number in wanted]
            ends += cursors
            if size:
                last = _cursor(file, row, size, piece)
            row, total = row + size, total + size
            if total == limit:
                break
        if total == limit:
            break
    if total % part_rows:
        ends.append(last)
    return Parts(tuple(ends), total)


def _cursor(file: int, row: int, number: int, piece: RecordEnds | None) -> Cursor:
    """The place behind the first `number` records of a piece, before which the file has `row`."""
    if piece is None:
        return Cursor(file, row + number)
    return Cursor(file, row + number, int(piece.line[number - 1]), int(piece.byte[number - 1]))


def line_ends(stream: Readable, longest: int) -> Iterator[RecordEnds]:
    """The ends of the lines that are records: all but blank ones, and each line over `longest` bytes."""
    line = byte = 0
    held: list[bytes] = []  # the pieces of a line whose end has not come yet
    size = 0  # of that line so far; what is over the cap is not held
    while data := stream.read(MIB):
        first = data.find(b"\n") + 1
        if size + (first or len(data)) > longest + 1:  # its end counts when it has come
            held = []
            if not first:
                size += len(data)
                continue
            line, byte = line + 1, byte + size + first
            yield RecordEnds(np.array([line]), np.array([byte]))
            data, size = data[first:], 0
        data = b"".join([*held, data])
        text = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(text == _NEWLINE) + 1
        if len(ends):
            full = _not_blank(data, text, ends, longest)
            yield RecordEnds(line + full + 1, byte + ends[full])
            line, byte, data = line + len(ends), byte + int(ends[-1]), data[ends[-1] :]
        held, size = [data], len(data)
    if size > longest or not _is_blank(b"".join(held)):
        yield RecordEnds(np.array([line + 1]), np.array([byte + size]))


def _not_blank(data: bytes, text: Bytes, ends: Int64, longest: int) -> Int64:
    """The numbers of the lines that are records."""
    starts = np.concatenate(([0], ends[:-1]))
    blank = _MAY_BE_BLANK[text[starts]]
    for number in np.flatnonzero(blank):
        line = data[starts[number] : ends[number] - 1]
        blank[number] = len(line) <= longest and _is_blank(line)
    return np.flatnonzero(~blank)


def _is_blank(line: bytes) -> bool:
    return not line.removeprefix(BOM).strip(b" \t\r")


def table_ends(
    stream: Readable, delimiter: str, shown: str, longest: int, line: int, byte: int
) -> Iterator[RecordEnds]:
    """The ends of the records of a table as text, from its place behind the header on."""
    held, more = b"", b"-"
    while more:
        more = stream.read(MIB)
        data = held + more
        if not data:
            return
        # the last line may have no end
        whole = data if more or data.endswith(b"\n") else data + b"\n"
        found = _counted(np.frombuffer(whole, np.uint8), ord(delimiter), longest, last=not more)
        if len(found.ends):
            full = found.full
            byte_after = np.minimum(byte + found.ends[full], byte + len(data))
            yield RecordEnds(line + found.lines[full], byte_after)
            cut = min(int(found.ends[-1]), len(data))
            line, byte, data = line + int(found.lines[-1]), byte + cut, data[cut:]
        held = data
        if found.irregular:
            again = _Again(held, stream)
            read = list(islice(records(again, delimiter, shown, longest, line, byte), _READ_AGAIN))
            if read:
                yield RecordEnds(
                    np.array([each.line_after for each in read]), np.array([each.byte_after for each in read])
                )
            if len(read) < _READ_AGAIN:
                return
            held = bytes(again.given[read[-1].byte_after - byte :])
            line, byte, more = read[-1].line_after, read[-1].byte_after, b"-"


class _Again:
    """What was read of a stream already, and then the rest of it; `given` is all that was read here."""

    def __init__(self, held: bytes, stream: Readable) -> None:
        self._held = held
        self._stream = stream
        self.given = bytearray()

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; b"" at the end."""
        data, self._held = self._held[:size], self._held[size:]
        data = data or self._stream.read(size)
        self.given += data
        return data


@dataclass(frozen=True, slots=True, eq=False)
class _Counted:
    """The ends of the records of a text, the lines before these, and which are not blank.

    `irregular` says that what follows the last of them is to be found by the reader of rows.
    """

    ends: Int64
    lines: Int64
    full: Bool
    irregular: bool


def _counted(text: Bytes, delimiter: int, longest: int, *, last: bool) -> _Counted:
    """The ends of records by counting quotation marks, up to the first record where that may be wrong."""
    newlines = np.flatnonzero(text == _NEWLINE)
    quotes = np.flatnonzero(text == _QUOTE)
    closed = np.searchsorted(quotes, newlines) % 2 == 0
    lines = np.flatnonzero(closed) + 1
    ends = newlines[closed] + 1
    starts = np.concatenate(([0], ends))[: len(ends)]
    cut = int(ends[-1]) if len(ends) else 0
    odd = [
        *_first(starts, ends - starts > longest),
        *_first(quotes[::2], ~_opens_a_field(text, quotes[::2], delimiter)),
        *_first(quotes[1::2], ~_closes_a_field(text, quotes[1::2], delimiter)),
        *_first(*_lone_returns(text, quotes)),
        *([cut] if len(text) - cut > (0 if last else longest) else []),
    ]
    good = len(ends) if not odd else int(np.searchsorted(ends, min(odd), side="right"))
    length = ends - starts - 1  # without the line end
    blank = (length == 0) | ((length == 1) & (text[starts] == _RETURN))
    return _Counted(ends[:good], lines[:good], ~blank[:good], bool(odd))


def _first(places: Int64, chosen: Bool) -> list[int]:
    """The first of the places that are chosen, if any is."""
    return [int(places[np.argmax(chosen)])] if chosen.any() else []


def _opens_a_field(text: Bytes, quotes: Int64, delimiter: int) -> Bool:
    """Whether a mark behind an even number of them stands in front of a field, or is the second of a pair."""
    before = np.where(quotes > 0, text[quotes - 1], _NEWLINE)
    opens: Bool = (before == delimiter) | (before == _NEWLINE) | (before == _QUOTE)
    return opens


def _closes_a_field(text: Bytes, quotes: Int64, delimiter: int) -> Bool:
    """Whether a mark behind an odd number of them stands behind a field, or is the first of a pair."""
    end = len(text) - 1
    after, next_to_it = text[np.minimum(quotes + 1, end)], text[np.minimum(quotes + 2, end)]
    closes: Bool = (after == delimiter) | (after == _NEWLINE) | (after == _QUOTE) | (quotes == end)
    closes |= (after == _RETURN) & (next_to_it == _NEWLINE)
    return closes


def _lone_returns(text: Bytes, quotes: Int64) -> tuple[Int64, Bool]:
    """The carriage returns, and whether each stands alone and outside quotation marks."""
    returns = np.flatnonzero(text[:-1] == _RETURN)
    outside: Bool = np.searchsorted(quotes, returns) % 2 == 0
    return returns, outside & (text[returns + 1] != _NEWLINE)
