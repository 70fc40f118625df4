"""Lines of JSON: where they end, what is on them, and where the bad ones are.

Lines end at newline bytes only. A line is parsed by orjson, which refuses what RFC 8259 refuses; a line
with a number of 19 digits or more is parsed again with integers of any size, which orjson would round.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import orjson

from batchqa.records import RowFault

from .input_files import MIB
from .streams import BOM, Readable

_DIGITS = bytes(ord("0") if chr(c) in "0123456789" else ord(" ") for c in range(256))
NOT_UTF8 = "invalid UTF-8 (if it is Latin-1: iconv -f WINDOWS-1252 -t UTF-8)"
_LONG_NUMBER = b"0" * 19  # the shortest that a 64-bit integer may not hold


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive whole lines. `line` and `byte` are those before it, `end` is the byte after it.

    A line is None where it is longer than the cap; it then stands alone in its block. `long_number` says
    that some line may hold 19 digits in a row.
    """

    line: int
    byte: int
    lines: list[bytes | None]
    end: int
    long_number: bool = False

    @cached_property
    def starts(self) -> list[int]:
        """The byte at which each line begins."""
        return list(accumulate((len(line or b"") + 1 for line in self.lines[:-1]), initial=self.byte))

    def split(self, rows: int) -> Iterator[Block]:
        """Blocks of at most `rows` lines."""
        if len(self.lines) <= rows:
            yield self
            return
        starts = [*self.starts, self.end]
        for i in range(0, len(self.lines), rows):
            lines = self.lines[i : i + rows]
            yield Block(self.line + i, starts[i], lines, starts[i + len(lines)], self.long_number)


def blocks(stream: Readable, line: int, byte: int, longest: int) -> Iterator[Block]:
    """The lines of a stream from its place on, about a MiB at a time; a line over `longest` is None."""
    held: list[bytes] = []  # the pieces of a line whose end has not come yet
    size = 0  # of that line so far; what is over the cap is not held
    while data := stream.read(MIB):
        first, last = data.find(b"\n"), data.rfind(b"\n")
        if size + (len(data) if first < 0 else first) > longest:
            held.clear()
            if first < 0:
                size += len(data)
                continue
            size += first + 1
            yield Block(line, byte, [None], byte + size)
            line, byte, size = line + 1, byte + size, 0
            data = data[first + 1 :]
            last -= first + 1
        if last >= 0:
            text = b"".join([*held, data[:last]])
            held.clear()
            lines: list[bytes | None] = [*text.split(b"\n")]
            yield Block(line, byte, lines, byte + len(text) + 1, _may_have_long_number(text))
            line, byte, size = line + len(lines), byte + len(text) + 1, 0
        held.append(data[last + 1 :])
        size += len(held[-1])
    if size > longest:
        yield Block(line, byte, [None], byte + size)
    elif size:
        yield Block(line, byte, [b"".join(held)], byte + size, long_number=True)


def _may_have_long_number(text: bytes) -> bool:
    """Whether 4 groups of 4 bytes in a row are all digits, as there must be within any 19 digits in a row."""
    digits = (np.frombuffer(text, np.uint8) - np.uint8(ord("0"))) < 10
    groups = digits[: len(digits) // 4 * 4].view(np.uint32) == 0x01010101
    return bool(np.any(groups[:-3] & groups[1:-2] & groups[2:-1] & groups[3:])) if len(groups) > 3 else False


@dataclass(frozen=True, slots=True, eq=False)
class Parsed:
    """The records of a block; `records[i]` stands on line `at[i]` of the block, empty where it is faulty.

    `where` goes in front of a line's number in messages.
    """

    where: str
    block: Block
    records: list[dict[str, Any]]
    at: list[int]
    faults: dict[int, RowFault]

    def locate(self, row: int) -> str:
        """The place of a record for messages: file, line (from 1), byte at which the line begins."""
        line = self.at[row]
        return f"{self.where}{self.block.line + line + 1}, byte {self.block.starts[line]}"

    def after(self, count: int) -> tuple[int, int]:
        """The lines and bytes of the text before the record that follows the first `count` ones."""
        lines = self.at[count - 1] + 1 if count else 0
        return self.block.line + lines, [*self.block.starts, self.block.end][lines]


class _LineError(Exception):
    """A line is no record: the code of the fault and the reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def parse(block: Block, where: str, longest: int) -> Parsed:
    """The records of a block; blank lines are none. `where` goes in front of a line's number."""
    lines = _capped(block.lines, longest)
    records: list[dict[str, Any]] = []
    at: list[int] = []
    faults: dict[int, RowFault] = {}
    parsed = Parsed(where, block, records, at, faults)
    loads = orjson.loads
    starts: list[int] | None = None
    for number, line in enumerate(lines):
        try:
            record = loads(line)  # type: ignore[arg-type]  # None is a JSONDecodeError too
            if block.long_number or type(record) is not dict:
                record = _exact_object(record, line or b"")
        except (orjson.JSONDecodeError, _LineError):
            starts = starts or block.starts
            if line is not None:  # the mark is no part of the line; it is inside where files were joined
                line = line.removeprefix(BOM)  # noqa: PLW2901
            if line is not None and not line.strip(b" \t\r"):
                continue
            try:
                record = _second_look(line, longest)
            except _LineError as error:
                record = {}
                place = f"{where}{block.line + number + 1}, byte {starts[number]}"
                faults[len(records)] = RowFault(error.code, f"{place}: {error}")
        records.append(record)
        at.append(number)
    return parsed


def _capped(lines: list[bytes | None], longest: int) -> list[bytes | None]:
    if max(map(len, filter(None, lines)), default=0) <= longest:
        return lines
    return [None if line is None or len(line) > longest else line for line in lines]


def _second_look(line: bytes | None, longest: int) -> dict[str, Any]:
    """A line that was not taken as an object at first: an object after all, or the reason why it is none."""
    if line is None:
        raise _LineError("line_too_long", f"the line is longer than {longest} bytes (--max-line-bytes)")
    try:
        return _exact_object(orjson.loads(line), line)
    except orjson.JSONDecodeError as error:
        try:
            line.decode()
        except UnicodeDecodeError as bad:
            raise _LineError("bad_utf8", f"{NOT_UTF8}, {bad.start} bytes into the line") from None
        if _has_lone_surrogate(line):
            raise _LineError("bad_utf8", "an escaped half of a surrogate pair stands alone") from None
        reason = _constant_in(line) or error.msg
        raise _LineError("bad_json", f"{reason}, {error.pos} characters into the line") from None


def _exact_object(record: Any, line: bytes) -> dict[str, Any]:
    """The record with its integers exact. Raises _LineError where it is not an object."""
    if type(record) is not dict:
        raise _LineError("not_an_object", f"the line is {_KINDS[type(record)]}, not an object")
    if _LONG_NUMBER not in line.translate(_DIGITS):
        return record
    try:
        exact: dict[str, Any] = json.loads(line)
    except RecursionError:
        raise _LineError("bad_json", "nested too deeply") from None
    except ValueError:  # Python reads no integer of more than 4,300 digits
        raise _LineError("bad_json", "a number with too many digits") from None
    return exact


_KINDS = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def _has_lone_surrogate(line: bytes) -> bool:
    """Whether a line that orjson refuses is JSON but for a surrogate escape without its other half."""
    if b"\\ud" not in line.lower():
        return False
    try:
        json.dumps(json.loads(line, parse_constant=_refuse), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def _constant_in(line: bytes) -> str | None:
    """What is to be said of a line that would be JSON but for NaN or an infinity, as Python writes them."""
    try:
        json.loads(line, parse_constant=_refuse)
    except _ConstantError as error:
        return f"{error}, which JSON does not have (write null)"
    except (ValueError, RecursionError):
        pass
    return None


class _ConstantError(ValueError):
    """NaN, Infinity or -Infinity."""


def _refuse(constant: str) -> None:
    raise _ConstantError(constant)


def is_utf8(text: bytes) -> bool:
    """Whether bytes are valid UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def kind_of(value: object) -> str:
    """What a JSON value is, for messages."""
    return _KINDS.get(type(value), "an object")
