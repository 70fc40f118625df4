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

Bits = np.ndarray[Any, np.dtype[np.uint64]]
_ONE, _LAST = np.uint64(1), np.uint64(63)

_READ_AGAIN, _MOST_READ_AGAIN = 16, 1024
"""Records that are found by the reader of rows before marks are counted again: more where that is in vain."""

_COUNTED_BYTES = 256 * 1024
"""Of a table at once: arrays of this size stay in a core's cache, which doubles the speed."""

_READ_BYTES = 64 * 1024
"""Bytes that the reader of rows is given at once."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a job: where each ends, which is where the next one begins, and the number of records.

    `ends[k]` is the cursor in the record of part k. `sizes[k]` says how much work it is beside the others:
    the bytes of its text where they are known, else its records.
    """

    ends: tuple[Cursor, ...]
    records: int
    sizes: tuple[int, ...]

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
    places: list[int] = []  # of these ends among all records, in bytes where those are known
    total = before = 0
    last = Cursor()
    for file, count in enumerate(rows):
        row = byte = 0
        pieces = [None] if ends_of is None else ends_of(file)
        for piece in pieces:
            size = (count or 0) if piece is None else len(piece)
            if limit is not None:
                size = min(size, limit - total)
            # the numbers in this piece of the last records of parts, and of the last record of all
            wanted = [*range(part_rows - total % part_rows, size + 1, part_rows)]
            cursors = [_cursor(file, row, number, piece) for number in wanted]
            ends += cursors
            places += [before + (cursor.row if piece is None else cursor.byte) for cursor in cursors]
            if size:
                last = _cursor(file, row, size, piece)
                byte = last.row if piece is None else last.byte
            row, total = row + size, total + size
            if total == limit:
                break
        before += byte
        if total == limit:
            break
    if total % part_rows:
        ends.append(last)
        places.append(before)
    return Parts(tuple(ends), total, tuple(int(size) for size in np.diff(places, prepend=0)))


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
    data, at_end, short_of_data = b"", False, True
    read_again = _READ_AGAIN
    while True:
        if short_of_data and not at_end:
            more = stream.read(_COUNTED_BYTES)
            data, at_end = data + more, not more
        if at_end and not data:
            return
        # the last line may have no end
        whole = data + b"\n" if at_end and not data.endswith(b"\n") else data
        found = _counted(whole, ord(delimiter), longest, last=at_end)
        cut = 0
        if len(found.ends):
            full = found.full
            yield RecordEnds(line + found.lines[full], np.minimum(byte + found.ends[full], byte + len(data)))
            cut = min(int(found.ends[-1]), len(data))
            line, byte, data = line + int(found.lines[-1]), byte + cut, data[cut:]
        short_of_data = not found.irregular
        if not found.irregular:
            if at_end:
                return
            read_again = max(read_again // 2, _READ_AGAIN)
            continue
        again = _Again(data, stream)
        read = list(islice(records(again, delimiter, shown, longest, line, byte), read_again))
        if read:
            yield RecordEnds(
                np.array([each.line_after for each in read]), np.array([each.byte_after for each in read])
            )
        if len(read) < read_again:
            return
        data = again.all_from(read[-1].byte_after - byte)
        line, byte, short_of_data = read[-1].line_after, read[-1].byte_after, len(data) < _COUNTED_BYTES
        read_again = min(2 * read_again, _MOST_READ_AGAIN)


class _Again:
    """What was read of a stream already (`held`), and then the rest of it."""

    def __init__(self, held: bytes, stream: Readable) -> None:
        self._all = held
        self._given = 0
        self._stream = stream

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes, a few at a time: perhaps few are needed; b"" at the end."""
        if self._given == len(self._all):
            self._all += self._stream.read(size)
        data = self._all[self._given : self._given + min(size, _READ_BYTES)]
        self._given += len(data)
        return data

    def all_from(self, byte: int) -> bytes:
        """All that was read of the stream, here or before, from this byte of it on."""
        return self._all[byte:]


@dataclass(frozen=True, slots=True, eq=False)
class _Counted:
    """The ends of the records of a text, the lines before these, and which are not blank.

    `irregular` says that what follows the last of them is to be found by the reader of rows.
    """

    ends: Int64
    lines: Int64
    full: Bool
    irregular: bool


def _counted(data: bytes, delimiter: int, longest: int, *, last: bool) -> _Counted:
    """The ends of records by counting quotation marks, up to the first record where that may be wrong."""
    text = np.frombuffer(data, np.uint8)
    is_newline = text == _NEWLINE
    newlines = np.flatnonzero(is_newline)
    misplaced: list[int] = []
    if b'"' in data or _has_lone_returns(data, text, newlines):
        closed, misplaced = _marks(text, is_newline, newlines, delimiter)
        lines, ends = np.flatnonzero(closed) + 1, newlines[closed] + 1
    else:
        lines, ends = np.arange(1, len(newlines) + 1), newlines + 1
    starts = np.concatenate(([0], ends))[: len(ends)]
    cut = int(ends[-1]) if len(ends) else 0
    odd = [
        *_first(starts, ends - starts > longest),
        *misplaced,
        *([cut] if len(text) - cut > (0 if last else longest) else []),
    ]
    good = len(ends) if not odd else int(np.searchsorted(ends, min(odd), side="right"))
    length = ends - starts - 1  # without the line end
    blank = (length == 0) | ((length == 1) & (text[starts] == _RETURN))
    return _Counted(ends[:good], lines[:good], ~blank[:good], bool(odd))


def _has_lone_returns(data: bytes, text: Bytes, newlines: Int64) -> bool:
    if b"\r" not in data:
        return False
    before_newlines = text[newlines[newlines > 0] - 1] == _RETURN
    return int(np.count_nonzero(before_newlines)) != int(np.count_nonzero(text == _RETURN))


def _marks(text: Bytes, is_newline: Bool, newlines: Int64, delimiter: int) -> tuple[Bool, list[int]]:
    """Which of the newlines end a record, and the place of the first mark that is not where it should be.

    Quotation marks are where they should be if one behind an even number of them stands in front of a field,
    or is the second of a pair, and any other behind a field, or is the first of a pair; a return, if a
    newline follows. This is found for 64 bytes at once, a bit for each, as simdjson does (Langdale and
    Lemire 2019, Parsing gigabytes of JSON per second).
    """
    newline, quote, lone_return = (_bits(each) for each in (is_newline, text == _QUOTE, text == _RETURN))
    edge = newline | quote | _bits(text == delimiter)
    end = _bit(len(text) - 1, len(newline))
    inside = _running_parity(quote)  # a mark itself counts: it is inside if it opens
    line_end = lone_return & _of_next(newline)
    lone_return &= ~(line_end | inside | end)
    opens_well = _of_previous(edge) | _bit(0, len(newline))
    closes_well = _of_next(edge | line_end) | end
    wrong = quote & ~((inside & opens_well) | (~inside & closes_well))
    closed = (inside[newlines >> 6] >> (newlines & 63).astype(np.uint64)) & _ONE == 0
    return closed, _first_bit(wrong | lone_return)


def _first(places: Int64, chosen: Bool) -> list[int]:
    """The first of the places that are chosen, if any is."""
    return [int(places[np.argmax(chosen)])] if chosen.any() else []


def _bits(mask: Bool) -> Bits:
    """A bit for each byte of a text, the first one lowest."""
    words = np.zeros(-(-len(mask) // 64), "<u8")
    words.view(np.uint8)[: -(-len(mask) // 8)] = np.packbits(mask, bitorder="little")
    return words


def _bit(place: int, words: int) -> Bits:
    """The bit of one byte alone."""
    bits = np.zeros(words, "<u8")
    bits[place >> 6] = 1 << (place & 63)
    return bits


def _of_previous(bits: Bits) -> Bits:
    """For each byte the bit of the one before it."""
    moved = bits << _ONE
    moved[1:] |= bits[:-1] >> _LAST
    return moved


def _of_next(bits: Bits) -> Bits:
    """For each byte the bit of the one behind it."""
    moved = bits >> _ONE
    moved[:-1] |= bits[1:] << _LAST
    return moved


def _running_parity(bits: Bits) -> Bits:
    """For each byte whether an odd number of bits is set up to it, its own included."""
    parity = bits.copy()
    for step in (1, 2, 4, 8, 16, 32):
        parity ^= parity << np.uint64(step)
    odd_before = np.bitwise_xor.accumulate(parity >> _LAST)[:-1]
    parity[1:] ^= np.negative(odd_before)  # all ones where the words before are odd together
    return parity


def _first_bit(bits: Bits) -> list[int]:
    """The place of the first bit that is set, if any is."""
    word = int(np.argmax(bits != 0))
    value = int(bits[word])
    return [word * 64 + (value & -value).bit_length() - 1] if value else []
