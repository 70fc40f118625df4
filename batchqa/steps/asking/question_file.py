"""`--questions FILE`: the entries of a TOML, JSONL, CSV or Parquet file, and the line of each."""

from __future__ import annotations

import csv
import io
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batchqa.errors import SettingsError

_TABLES = ("questions", "question")
"""What a TOML file may call its array of tables."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A question as a file has it, unchecked, and where: file and line, or row."""

    said: Mapping[str, Any]
    place: str


def read_question_file(name: str) -> list[Entry]:
    """The entries of a file, in order. Raises SettingsError, with the line, where it cannot be read."""
    path = Path(name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"--questions {name} cannot be read: {error.strerror}") from error
    if data.startswith(b"PAR1"):
        entries = list(_parquet(path))
    else:
        read = _READERS.get(path.suffix.lower())
        if read is None:
            raise SettingsError(
                f"--questions {name} is not a file of questions: write a name and a question in each row, "
                "as .csv, .tsv, .toml, .jsonl or .parquet"
            )
        try:
            entries = list(read(name, data.decode("utf-8-sig")))
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise SettingsError(f"{name}:{line}: this is not UTF-8; save the file as UTF-8") from error
    if not entries:
        raise SettingsError(f"--questions {name} has no questions")
    return entries


def _toml(name: str, text: str) -> Iterator[Entry]:
    """[[questions]] with name and question, or name = "question", or [name] with the question."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{name} is not valid TOML: {error}") from error
    lines = text.split("\n")
    for key, value in document.items():
        if key in _TABLES and isinstance(value, list):
            headers = _lines_like(lines, rf"\[\[\s*{key}\s*\]\]")
            for number, said in enumerate(value):
                place = f"{name}:{headers[number]}" if number < len(headers) else name
                if not isinstance(said, dict):
                    raise SettingsError(f"{place}: [[{key}]] must be tables with name and question")
                yield Entry(said, place)
            continue
        found = _lines_like(lines, rf"\[?\s*[\"']?{re.escape(key)}[\"']?\s*[\]=]")
        place = f"{name}:{found[0]}" if found else name
        said = value if isinstance(value, dict) else {"question": value}
        yield Entry(named(key, said, place), place)


def named(name: Any, said: Mapping[str, Any], place: str) -> dict[str, Any]:
    """An entry that stands behind its name. Raises SettingsError where it says another one."""
    if "name" in said:
        raise SettingsError(f"{place}: this is the question's name already; leave out `name`")
    return {"name": name, **said}


def _lines_like(lines: list[str], pattern: str) -> list[int]:
    """The numbers of the lines, from 1, that begin with what the pattern says."""
    return [number for number, line in enumerate(lines, 1) if re.match(rf"\s*{pattern}", line)]


def _jsonl(name: str, text: str) -> Iterator[Entry]:
    for number, line in enumerate(text.split("\n"), 1):  # others than "\n" may be in a question
        if not line.strip():
            continue
        place = f"{name}:{number}"
        try:
            said = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise SettingsError(f"{place}: this is not JSON: {error.msg}") from error
        if not isinstance(said, dict):
            raise SettingsError(f'{place}: this is not an object; write {{"name": ..., "question": ...}}')
        yield Entry(said, place)


def _json(name: str, text: str) -> Iterator[Entry]:
    """An array of objects, or lines of them."""
    if not text.lstrip().startswith("["):
        yield from _jsonl(name, text)
        return
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise SettingsError(f"{name}: this is not a JSON array: {error}") from error
    for number, said in enumerate(document, 1):
        place = f"{name}, question {number}"
        if not isinstance(said, dict):
            raise SettingsError(f'{place}: this is not an object; write {{"name": ..., "question": ...}}')
        yield Entry(said, place)


def _csv(name: str, text: str) -> Iterator[Entry]:
    # before the header: blank lines, and Excel's line that names the delimiter
    above = re.match(r"(\s*\n)*(sep=.\r?\n)?(\s*\n)*", text)
    skipped = above.end() if above else 0
    first_line = text.count("\n", 0, skipped) + 1
    header = text[skipped:].partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text[skipped:], newline=""), delimiter=delimiter, strict=True)
    try:
        names = [column.strip().lower() for column in next(reader, [])]
        while names and not names[-1]:  # a spreadsheet's columns that were used once
            names.pop()
        if not {"name", "question"}.issubset(names):
            has = ", ".join(names) or "none"
            raise SettingsError(
                f"{name}:{first_line}: the header must have the columns name and question; it has: {has}"
            )
        if twice := next((column for column in names if column and names.count(column) > 1), None):
            raise SettingsError(f"{name}:{first_line}: two columns are named {twice!r}; rename or remove one")
        for fields in reader:
            while len(fields) > len(names) and not fields[-1].strip():
                fields.pop()
            place = f"{name}:{first_line - 1 + reader.line_num}"
            if not any(field.strip() for field in fields):
                continue
            if len(fields) != len(names):
                raise SettingsError(f"{place}: {len(fields)} fields, and the header has {len(names)}")
            said = zip(names, (field.strip() for field in fields), strict=True)
            yield Entry(
                {column: field for column, field in said if column}, place
            )  # pandas' index has no name
    except csv.Error as error:
        raise SettingsError(f"{name}:{first_line - 1 + reader.line_num}: this is not CSV: {error}") from error


def _parquet(path: Path) -> Iterator[Entry]:
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise SettingsError(f"--questions {path} cannot be read as Parquet: {error}") from error
    for number, said in enumerate(rows, 1):
        yield Entry(said, f"{path}, row {number}")


_READERS: Mapping[str, Callable[[str, str], Iterator[Entry]]] = {
    ".toml": _toml,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
}
