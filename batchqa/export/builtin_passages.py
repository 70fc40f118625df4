"""The package's own short passages with questions, in English, Spanish, Chinese and Arabic.

They calibrate and verify an export where the user gives no file, and show whether a model abstains: a
question about one passage, asked of the next one in its language, plainly has no answer there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import orjson
import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Passage:
    """A context and its questions with the answer that stands in it; `language` is a two-letter code."""

    language: str
    context: str
    questions: Mapping[str, str]


_Row = tuple[Passage, str, str, str | None]


@cache
def passages() -> tuple[Passage, ...]:
    """All passages, those of a language side by side."""
    raw = resources.files("batchqa.export").joinpath("builtin_passages.json").read_bytes()
    return tuple(Passage(**record) for record in orjson.loads(raw))


def answerable() -> pa.Table:
    """Every question with its own passage: context, question, answers (as SQuAD has them), language."""
    return _table(
        [(p, p.context, question, answer) for p in passages() for question, answer in p.questions.items()]
    )


def unanswerable() -> pa.Table:
    """Every question with the next passage of its language, which does not answer it."""
    rows: list[_Row] = []
    for language in dict.fromkeys(p.language for p in passages()):
        same = [p for p in passages() if p.language == language]
        for at, passage in enumerate(same):
            other = same[(at + 1) % len(same)]
            rows += [(passage, other.context, question, None) for question in passage.questions]
    return _table(rows)


def long_rows() -> pa.Table:
    """Questions about all passages at once: several windows for any model; a third of each language's."""
    rows: list[_Row] = []
    for at, passage in enumerate(passages()):
        if at % 3 == 0:
            # the passage itself comes in the middle, so that its answer is in a window between others
            others = [*passages()[at + 1 :], *passages()[:at]]
            middle = len(others) // 2
            context = "\n".join(each.context for each in [*others[:middle], passage, *others[middle:]])
            question, answer = next(iter(passage.questions.items()))
            rows.append((passage, context, question, answer))
    return _table(rows)


def all_rows() -> pa.Table:
    """Answerable and unanswerable pairs."""
    return pa.concat_tables([answerable(), unanswerable()])


def _table(rows: list[_Row]) -> pa.Table:
    answers: list[dict[str, list[Any]]] = [
        {"text": [answer], "answer_start": [context.index(answer)]}
        if answer
        else {"text": [], "answer_start": []}
        for _, context, _, answer in rows
    ]
    return pa.table(
        {
            "context": [context for _, context, _, _ in rows],
            "question": [question for _, _, question, _ in rows],
            "answers": pa.array(
                answers, pa.struct({"text": pa.list_(pa.string()), "answer_start": pa.list_(pa.int32())})
            ),
            "language": [passage.language for passage, *_ in rows],
        }
    )
