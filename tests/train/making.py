"""Rows that a tiny model can learn in seconds: the answer is one certain word, or there is none."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson

from tests.models import SENTENCES

ANSWER = "four dollars"
QUESTION = "how much does it cost?"


def rows(count: int, seed: int = 0, *, gold: bool = True) -> list[dict[str, Any]]:
    """`count` rows of ten articles; two of three contexts hold the answer, somewhere."""
    draw = random.Random(seed)
    words = [word.strip(".,;?") for sentence in SENTENCES[:6] for word in sentence.split()]
    words = [word for word in words if word not in ANSWER.split()]
    made = []
    for number in range(count):
        text = draw.choices(words, k=draw.randint(8, 30))
        place = draw.randrange(len(text)) if number % 3 else None
        if place is not None:
            text.insert(place, ANSWER)
        context = " ".join(text)
        row: dict[str, Any] = {"title": f"article {number % 10}", "context": context, "question": QUESTION}
        if gold:
            start = [context.index(ANSWER)] if place is not None else []
            row["answers"] = {"text": [ANSWER] * len(start), "answer_start": start}
        made.append(row)
    return made


def write(file: Path, records: list[dict[str, Any]]) -> Path:
    """JSONL."""
    file.write_bytes(b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records))
    return file
