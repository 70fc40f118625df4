"""`Annotator.ask`: questions and contexts in the shapes of transformers' former pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from batchqa.errors import InputError


def as_pairs(question: str | Sequence[str], context: str | Sequence[str]) -> pa.Table:
    """Columns `question` and `context`; a single text beside a list goes with each of the list.

    Raises TypeError for anything but texts, ValueError for lists of different lengths, InputError for texts
    that are not Unicode.
    """
    given = {"question": question, "context": context}
    lists: dict[str, list[Any]] = {
        name: [texts] if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
        for name, texts in given.items()
    }
    for name, texts in lists.items():
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise TypeError(f"{name} must be a text or a list of texts, not of {type(wrong).__name__}")
    if isinstance(question, str):
        lists["question"] *= len(lists["context"])
    elif isinstance(context, str):
        lists["context"] *= len(lists["question"])
    if len(lists["question"]) != len(lists["context"]):
        sizes = " and ".join(f"{len(texts)} {name}s" for name, texts in lists.items())
        raise ValueError(f"each question needs its context, but there are {sizes}")
    try:
        return pa.table({name: pa.array(texts, pa.large_string()) for name, texts in lists.items()})
    except UnicodeEncodeError as error:
        raise InputError(f"a question or context cannot be written as UTF-8: {error}") from error


def as_asked(rows: Sequence[Mapping[str, Any]], top_k: int, *, single: bool) -> Any:
    """The answers of annotated rows: a dict each, or with `top_k` above 1 a list of dicts, best first."""
    shaped = [list(_ranked(row))[:top_k] if top_k > 1 else _decided(row) for row in rows]
    return shaped[0] if single else shaped


def _ranked(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The decision, then the other candidates."""
    decided = _decided(row)
    yield decided
    for each in row["qa_candidates"] or ():
        if (each["start"], each["end"]) != (decided["start"], decided["end"]):
            yield {**each, "no_answer": None if row["qa_no_answer"] is None else False}


def _decided(row: Mapping[str, Any]) -> dict[str, Any]:
    answer = {name: row["qa_" + name] for name in ("answer", "start", "end", "score", "no_answer")}
    return answer if row["qa_error"] is None else answer | {"error": row["qa_error"]}
