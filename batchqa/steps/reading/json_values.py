"""What is at a path of JSON records: questions in lists, and the values that questions hold."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from batchqa.answer_columns import QUESTIONS_TYPE
from batchqa.records import RowFault

from .cells import Path
from .json_types import json_text
from .lines import Parsed, kind_of

MISSING, INSIDE = object(), object()


def value_at(record: Any, path: Path) -> Any:
    """The value at a path; null below null, INSIDE below a text, say, MISSING where no such key is."""
    for name in path:
        if type(record) is not dict:
            return record if record is None or record is MISSING else INSIDE
        record = record.get(name, MISSING)
    return record


def question_lists(path: Path, parsed: Parsed) -> pa.Array:
    """The lists of questions at a path, null with a fault where it is none; a text is a list of one."""
    lists: list[list[dict[str, Any]] | None] = []
    for row, record in enumerate(parsed.records):
        given = value_at(record, path)
        questions = given if type(given) is list else [given]
        items = [item if type(item) is dict else {"name": None, "question": item} for item in questions]
        texts = [item.get(key) for item in items for key in ("name", "question")]
        strange = next((text for text in texts if text is not None and type(text) is not str), None)
        lists.append(None)
        if row in parsed.faults or given is None:
            continue
        if given is MISSING:
            detail = f"{parsed.locate(row)}: the record has no key {'.'.join(path)!r}"
            parsed.faults[row] = RowFault("missing_question", detail)
        elif strange is not None:
            what = "inside what is not an object" if strange is INSIDE else kind_of(strange)
            detail = f"{parsed.locate(row)}: a question of {'.'.join(path)!r} is {what}, not a string"
            parsed.faults[row] = RowFault("type_question", detail)
        else:
            lists[-1] = [{"name": item.get("name"), "question": item.get("question")} for item in items]
    return pa.array(lists, QUESTIONS_TYPE)


def held_values(path: Path, parsed: Parsed) -> pa.Array:
    """The values at a path that questions hold, as texts; null where there is none, or it is blank."""
    texts: list[str | None] = []
    for row, record in enumerate(parsed.records):
        value = value_at(record, path)
        text = value if type(value) is str else None
        if type(value) in (int, float, bool):
            text = json_text(value)
        elif type(value) in (list, dict) or value is INSIDE:
            what = "inside what is not an object" if value is INSIDE else kind_of(value)
            detail = f"{parsed.locate(row)}: {'.'.join(path)!r}, which a question holds, is {what}"
            parsed.faults.setdefault(row, RowFault("type_question", detail))
        texts.append(text if text and text.strip() else None)
    return pa.array(texts, pa.string())
