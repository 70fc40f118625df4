"""Which rows of an output are looked at."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.errors import SettingsError
from batchqa.records import Bool, Int64
from batchqa.review.outputs import Output

_NAMED = 10


@dataclass(frozen=True, slots=True)
class Choice:
    """Filters; a row must pass all of them. Empty or None: all rows.

    where: some of answered, no-answer, error and low-score, one of which a row must be; the last overlaps
    with the others. questions: names or texts, one of which it must have.
    search: a text, in any case, in its id, question, context or answer. below: scores that are low.
    """

    where: Sequence[str] = ()
    questions: Sequence[str] = ()
    search: str | None = None
    below: float = 0.5


def choose(output: Output, choice: Choice) -> tuple[Int64, int]:
    """The numbers of the rows that pass, for `Output.take`, and how many rows there are.

    Only the columns that the filters need are read. Raises SettingsError for a question that no row asks.
    """
    columns = ["answer", "no_answer", "score", "error"]
    if choice.questions:
        columns += ["name", "question"]
    if choice.search:
        columns += ["id", "question", "context"]
    found: list[Int64] = []
    asked: dict[str, None] = {}
    total = 0
    for table in output.tables(list(dict.fromkeys(columns))):
        passed = _passing(table, choice)
        found.append(np.flatnonzero(passed) + total)
        total += len(table)
        if choice.questions and len(asked) < 1000:
            for name in ("name", "question"):
                asked |= dict.fromkeys(text for text in table[name].unique().to_pylist() if text)
    numbers = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
    if not len(numbers):
        _check_questions(choice.questions, list(asked), output)
    return numbers.astype(np.int64), total


def _passing(table: pa.Table, choice: Choice) -> Bool:
    passed = np.ones(len(table), dtype=bool)
    if choice.where:
        states = _states(table, choice.below)
        passed &= np.logical_or.reduce([states[name] for name in choice.where])
    if choice.questions:
        wanted = pa.array(list(choice.questions), pa.large_string())
        passed &= _is(pc.is_in(table["name"], wanted)) | _is(pc.is_in(table["question"], wanted))
    if choice.search:
        columns = ("id", "question", "context", "answer")
        passed &= np.logical_or.reduce(
            [_is(pc.match_substring(table[name], choice.search, ignore_case=True)) for name in columns]
        )
    return passed


def _states(table: pa.Table, below: float) -> dict[str, Bool]:
    answered = _is(pc.is_valid(table["answer"]))
    low = _is(pc.equal(table["error"], "low_score"))
    faulty = _is(pc.is_valid(table["error"])) & ~low
    return {
        "answered": answered,
        "error": faulty & ~answered,
        "no-answer": ~answered & ~faulty,
        "low-score": low | _is(pc.less(table["score"], below)),
    }


def _is(mask: Any) -> Bool:
    """A mask as numpy; null is no."""
    return np.asarray(pc.fill_null(mask, False).to_numpy(), dtype=bool)


def _check_questions(wanted: Sequence[str], asked: list[str], output: Output) -> None:
    for text in wanted:
        if text not in asked:
            near = difflib.get_close_matches(text, asked, n=1)
            rest = f"did you mean {near[0]!r}?" if near else f"it asks: {', '.join(asked[:_NAMED])}"
            raise SettingsError(f"--question {text!r} is not asked in {output.source.path}; {rest}")
