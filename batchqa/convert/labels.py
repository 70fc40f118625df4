"""What people labelled in Label Studio -> rows with gold answers, as `evaluate` and `train` read them.

Takes its exports JSON (tasks with `annotations`) and JSON-MIN (the task's data beside what was labelled).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from batchqa.errors import InputError
from batchqa.job.added_columns import DEFAULT_PREFIX
from batchqa.steps.reading import read_json_document
from batchqa.store.locations import public
from batchqa.text import trim


def gold_rows(given: str) -> Iterator[dict[str, Any]]:
    """Rows `id`, `qa_name` (of the question, if it has one), `question`, `context`, `answers`, in order.

    The answers of all annotators are gold; a task that was only skipped is left out; one that was submitted
    without a label is not answerable. Raises InputError.
    """
    where = public(given)
    try:
        tasks = orjson.loads(read_json_document(given))
    except orjson.JSONDecodeError as error:
        raise InputError(
            f"{where} is not an export of Label Studio as JSON or JSON-MIN: this is not valid JSON ({error})"
        ) from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise InputError(
            f"{where} is not an export of Label Studio (JSON or JSON-MIN): expected an array of tasks"
        )
    for number, task in enumerate(tasks, 1):
        at = f"{where}, task {number}"
        data = task["data"] if isinstance(task.get("data"), dict) else task
        spans = _spans(task, at)
        if spans is not None:
            yield _row(data, spans, at)


def _row(data: dict[str, Any], spans: list[dict[str, Any]], at: str) -> dict[str, Any]:
    context = data.get("context", data.get("text"))
    question = data.get("question", data.get("name"))
    if not isinstance(context, str) or not isinstance(question, str):
        raise InputError(
            f"{at} has no texts `context` and `question` in its data; label tasks that "
            "`batchqa convert --to label-studio` made"
        )
    places = sorted({_place(context, span, at) for span in spans})
    texts = [context[start:end] for start, end in places]
    answers = {"text": texts, "answer_start": [start for start, _ in places]}
    # by this name `evaluate` knows which of a document's questions it is
    named = {DEFAULT_PREFIX + "name": data["name"]} if data.get("name") is not None else {}
    return {"id": data.get("row_id"), **named, "question": question, "context": context, "answers": answers}


def _spans(task: dict[str, Any], at: str) -> list[dict[str, Any]] | None:
    """The labelled spans; None where nobody judged the task."""
    if "annotations" not in task:  # JSON-MIN: what is labelled is beside the data, and nothing if nothing is
        if task.keys().isdisjoint(("annotator", "annotation_id")):
            raise InputError(f"{at} is not labelled: export JSON or JSON-MIN from Label Studio")
        return [span for span in task.get("answers") or () if isinstance(span, dict)]
    given = [each for each in task["annotations"] or () if not each.get("was_cancelled")]
    if not given:
        return None
    results = [item for each in given for item in each.get("result") or ()]
    return [
        item["value"] for item in results if isinstance(item.get("value"), dict) and "start" in item["value"]
    ]


def _place(context: str, span: dict[str, Any], at: str) -> tuple[int, int]:
    """Where a span is, in code points, without white space at its ends; some versions count UTF-16."""
    start, end, text = span.get("start"), span.get("end"), span.get("text")
    if not isinstance(start, int) or not isinstance(end, int):
        raise InputError(
            f"{at}: a label has no whole numbers `start` and `end`; is it text that was labelled?"
        )
    if isinstance(text, str) and context[start:end] != text:
        units = context.encode("utf-16-le", "surrogatepass")
        before, inside = units[: 2 * start], units[2 * start : 2 * end]
        if inside.decode("utf-16-le", "replace") == text:
            start = len(before.decode("utf-16-le", "surrogatepass"))
            end = start + len(text)
    start, end = trim(context, start, min(end, len(context)))
    if start >= end:
        raise InputError(f"{at}: a label lies outside its text, or is blank")
    return start, end
