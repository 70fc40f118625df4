"""The rows that contenders work off: SQuAD, four scripts, long contexts, one question to a context."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

Row = dict[str, str]

LONG_WORDS = 2000
XQUAD = ("en", "es", "ar", "zh")

MIXES = ("squad", "scripts", "long", "single")
"""SQuAD 2.0 dev; XQuAD in four scripts; contexts of 2,000 words and more; a context for each question."""


def write_mix(name: str, data: Path, count: int, folder: Path) -> Path:
    """A JSONL file of `count` rows of a mix, the same every time."""
    squad = data / "squad-v2.0-dev.json"
    if name == "squad":
        rows = list(_questions(squad))
    elif name == "scripts":
        each = [list(_questions(data / "xquad" / f"xquad.{language}.json")) for language in XQUAD]
        rows = [row for rows in zip(*each, strict=True) for row in rows]
    elif name == "long":
        rows = list(_long(squad))
    else:
        rows = list(_first_of_each(_questions(squad)))
    file = folder / f"{name}-{count}.jsonl"
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:count])
    file.write_text(text, encoding="utf-8")
    return file


def _paragraphs(squad: Path) -> list[dict[str, object]]:
    """In random order, always the same."""
    articles = json.loads(squad.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    random.Random(0).shuffle(paragraphs)
    return paragraphs


def _questions(squad: Path) -> Iterator[Row]:
    """Consecutive questions of random paragraphs, as a user's file has them."""
    for paragraph in _paragraphs(squad):
        for question in paragraph["qas"]:  # type: ignore[attr-defined]
            yield {
                "id": question["id"],
                "context": str(paragraph["context"]),
                "question": question["question"],
            }


def _first_of_each(rows: Iterable[Row]) -> Iterator[Row]:
    seen: set[str] = set()
    for row in rows:
        if row["context"] not in seen:
            seen.add(row["context"])
            yield row


def _long(squad: Path) -> Iterator[Row]:
    """Paragraphs joined until they have LONG_WORDS words; the question is the first one's."""
    joined: list[str] = []
    first: Row | None = None
    for row in _first_of_each(_questions(squad)):
        first = first or row
        joined.append(row["context"])
        if sum(len(text.split()) for text in joined) >= LONG_WORDS:
            yield {**first, "context": "\n\n".join(joined)}
            joined, first = [], None
