"""Tables as text (CSV, TSV): where records end, what separates their fields, and where the bad ones are.

Python's csv module splits the fields. It is given one line after the other and these are counted, so that the
place of every record is known, and a record that cannot be is given up at the end of its first line.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from batchqa.records import RowFault

from .lines import NOT_UTF8, blocks
from .streams import BOM, Readable

DELIMITERS = (",", "\t", ";", "|")

_SAMPLE_RECORDS = 20
_LONGEST_NAME = 200  # characters of a column's name, where the file's name does not say that it is a table


@dataclass(frozen=True, slots=True)
class Record:
    """The fields of a record (none where `fault` says why), and the place behind it: lines and bytes.

    `line` counts the lines before it. A field that is not UTF-8 is None.
    """

    fields: list[str | None]
    fault: RowFault | None
    line: int
    line_after: int
    byte_after: int


def looks_like_table(head: bytes, *, named: bool) -> bool:
    """Whether content that is nothing else is a table; its name may say so, else its first records must."""
    if b"\0" in head and not (named and _may_be_utf8(head)):
        return False
    if named:
        return True
    text = head.removeprefix(BOM).decode("utf-8", "replace")
    for delimiter in DELIMITERS:
        rows = _first_rows(text, delimiter)
        names = rows[0] if rows else []
        if len(names) > 1 < len(rows) and len({*map(len, rows)}) == 1 and len({*names}) == len(names):
            return all(name.strip() and len(name) <= _LONGEST_NAME for name in names)
    return False


def _may_be_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return True


def _first_rows(text: str, delimiter: str, *, strict: bool = True) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict):
            if row:
                rows.append(row)
            if len(rows) == _SAMPLE_RECORDS + 1:
                break
    except csv.Error:  # the head may end inside a field
        pass
    return rows[:_SAMPLE_RECORDS]


def choose_delimiter(first_line: str, wanted: Sequence[str]) -> str:
    """What separates the names of a header: what gives most of those that are wanted, then most names."""

    def names(delimiter: str) -> list[str]:
        return (_first_rows(first_line, delimiter, strict=False) or [[]])[0]

    return max(DELIMITERS, key=lambda d: (len({*wanted}.intersection(names(d))), len(names(d))))


class _Lines:
    """The lines of a stream as csv.reader takes them; those of the record at hand can be taken back."""

    def __init__(self, stream: Readable, line: int, byte: int, longest: int) -> None:
        self._lines = numbered_lines(stream, longest, line, byte)
        self._again: deque[tuple[bytes | None, int]] = deque()
        self._longest = longest
        self._taken: list[tuple[bytes | None, int]] = []
        self._size = 0
        self.line, self.byte = line, byte
        self.bad_utf8 = self.too_long = False

    def begin(self) -> None:
        """A record begins with the next line."""
        self._taken, self._size = [], 0
        self.bad_utf8 = self.too_long = False

    def give_back(self) -> None:
        """The record ends with its first line after all."""
        self._again.extendleft(reversed(self._taken[1:]))
        self.line -= len(self._taken) - 1
        self.byte = self._taken[0][1]

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line, after = self._again.popleft() if self._again else next(self._lines)
        self._taken.append((line, after))
        self.line, self.byte = self.line + 1, after
        self._size += len(line or b"")
        if line is None or self._size > self._longest:
            self.too_long = True
            raise csv.Error(f"it is longer than {self._longest} bytes (--max-line-bytes)")
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError:
            self.bad_utf8 = True
            return line.decode("utf-8", "surrogateescape") + "\n"


def numbered_lines(
    stream: Readable, longest: int, line: int = 0, byte: int = 0
) -> Iterator[tuple[bytes | None, int]]:
    """Each line, None where it is longer than `longest`, and the byte behind it."""
    for block in blocks(stream, line, byte, longest):
        yield from zip(block.lines, [*block.starts[1:], block.end], strict=True)


def records(
    stream: Readable, delimiter: str, shown: str, longest: int, line: int = 0, byte: int = 0
) -> Iterator[Record]:
    """The records from a place on; blank lines are none."""
    csv.field_size_limit(max(csv.field_size_limit(), longest))  # of the process: it can only grow
    lines = _Lines(stream, line, byte, longest)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line, fault = lines.line, None
        lines.begin()
        fields: list[str | None] = []
        try:
            fields = [*next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            # a quotation mark that is not closed takes what follows with it: only its line is given up
            code = "line_too_long" if lines.too_long else "type_field"
            lines.give_back()
            # what Python says of a carriage return is advice to programmers
            why = "a carriage return outside quotation marks" if "new-line" in str(error) else error
            fault = RowFault(code, f"{shown}:{line + 1}, byte {byte}: not a record: {why}")
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
        if lines.bad_utf8 and fault is None:
            fields = [field if field is None or _is_text(field) else None for field in fields]
            fault = RowFault("bad_utf8", f"{shown}:{line + 1}, byte {byte}: {NOT_UTF8}")
        byte = lines.byte
        if fields or fault:
            yield Record(fields, fault, line, lines.line, byte)


def _is_text(field: str) -> bool:
    try:
        field.encode()
    except UnicodeEncodeError:
        return False
    return True
