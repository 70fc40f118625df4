"""Predictions of other programs in one JSON document: `{id: text}`, n-best files, the lists of `evaluate`.

Columns that predictions become are those that the `evaluate` library takes (`id`, `prediction_text`,
`no_answer_probability`); an n-best file says more (`span_text`, `span_score`, `score`, `null_odds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from batchqa.documents import load
from batchqa.errors import InputError
from batchqa.steps.reading import (
    Dataset,
    JsonDocumentError,
    open_dataset,
    parse_document,
    read_json_document,
    records_table,
)
from batchqa.store.locations import public

PREDICTION = "prediction_text"
"""The column of predictions that no run wrote; "" and null say "no answer"."""

_OF_ROWS = frozenset({"id", "context", "question", "answer", "answers", "qas", PREDICTION})
"""Keys by which the only record of a file is told from predictions by id."""

_KINDS = {dict: "an object", list: "an array", str: "a text", bool: "true or false", type(None): "null"}

_FORMS = (
    'a SQuAD file (data[].paragraphs[]), predictions ({id: text}, "" or null for no answer), an n-best file '
    "({id: [{text, probability}, ...]}), or the lists of the `evaluate` library (predictions, references)"
)


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """The rows of a file, and those of its gold answers where it has both, to be joined by id."""

    rows: Dataset
    references: Dataset | None = None


def open_rows(given: str) -> Opened:
    """Any input that `run` reads, or predictions in one JSON document. Raises InputError for others."""
    try:
        rows = open_dataset(given)
    except JsonDocumentError:
        return _document(given)
    if rows.format == "json" and not rows.names:
        raise InputError(f"{rows.path} is an empty JSON array: neither {_FORMS}")
    if rows.format == "jsonl" and _OF_ROWS.isdisjoint(rows.names) and rows.has_one_row():
        return _document(given)
    return Opened(rows)


def read_numbers(given: str) -> tuple[pa.Array, pa.Array]:
    """Ids and numbers of `{id: number}` JSON: the official script's null odds, or run_qa's null_odds.json."""
    record = _load(given)
    if not isinstance(record, dict) or not all(type(value) in (int, float) for value in record.values()):
        raise InputError(f"{public(given)} is not a JSON object of numbers by id ({{id: null odds}})")
    return pa.array(list(record), pa.large_string()), pa.array(list(record.values()), pa.float64())


def _load(given: str) -> Any:
    try:
        return load(read_json_document(given))
    except orjson.JSONDecodeError as error:
        raise InputError(f"{public(given)} is not valid JSON: {error}") from error


def _document(given: str) -> Opened:
    document = _load(given)
    path = public(given)
    if isinstance(document, list):
        return Opened(_records(given, document, ""))
    if not isinstance(document, dict):
        raise InputError(f"{path} is {_kind(document)}: neither {_FORMS}")
    if not isinstance(document.get("data", ""), str):  # says where it is not of SQuAD's form
        return Opened(Dataset.of_table(given, parse_document(path, document).table()))
    if document.keys() & {"predictions", "references"}:
        return _lists(given, document)
    if document and all(_is_prediction(value) for value in document.values()):
        return Opened(Dataset.of_table(given, _by_id(document)))
    if document and all(type(value) in (int, float) for value in document.values()):
        raise InputError(f"{path} holds numbers by id: apparently null odds; give them with --null-odds")
    raise _refused(path, document)


def _refused(path: str, document: Mapping[str, Any]) -> InputError:
    what = "an empty JSON object"
    if document:
        key, value = next(iter(document.items()))
        what = f"one JSON object whose first value, {key!r}, is {_kind(value)}"
    return InputError(f"{path} is {what}: neither {_FORMS}")


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")


def _records(given: str, records: list[Any], where: str) -> Dataset:
    """The dicts of an array, as the `evaluate` library and `json.dump` of rows have them."""
    path = public(given)
    if not records:
        raise InputError(f"{path} is an empty JSON array: neither {_FORMS}")
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise InputError(
                f"{path}: {where}[{number}] is {_kind(record)}, not an object with an id and "
                "prediction_text, or an id and answers"
            )
    names = list(dict.fromkeys(name for record in records for name in record))
    return Dataset.of_table(given, records_table(path, records, names))


def _lists(given: str, document: Mapping[str, Any]) -> Opened:
    """What the `evaluate` library's squad metrics are called with, saved as one object."""
    path = public(given)
    tables = {}
    for name in ("predictions", "references"):
        if document.get(name) is not None:
            if not isinstance(document[name], list):
                raise InputError(f"{path}: {name!r} is {_kind(document[name])}, not a list")
            tables[name] = _records(given, document[name], name)
    if not tables:
        raise _refused(path, document)
    if len(tables) == 2:
        return Opened(tables["predictions"], tables["references"])
    return Opened(next(iter(tables.values())))


def _is_prediction(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(each, dict) and _text_of(each) is not _ABSENT for each in value)
    if isinstance(value, dict):
        return _text_of(value) is not _ABSENT
    return value is None or isinstance(value, str)


_ABSENT = object()


def _text_of(entry: Mapping[str, Any]) -> Any:
    """The text of an n-best entry: run_qa's name, the pipeline's, or the `evaluate` library's."""
    value = next((entry[name] for name in ("text", "answer", PREDICTION) if name in entry), _ABSENT)
    return value if value is None or isinstance(value, str) or value is _ABSENT else _ABSENT


def _by_id(document: Mapping[str, Any]) -> pa.Table:
    """`{id: text}`, `{id: null}`, and n-best lists: the first entry decides, as in run_qa's predictions."""
    if all(value is None or isinstance(value, str) for value in document.values()):
        texts = pa.array(list(document.values()), pa.large_string())
        return pa.table({"id": pa.array(list(document), pa.large_string()), PREDICTION: texts})
    rows = [_of_best(value) for value in document.values()]
    table = pa.Table.from_pylist(
        rows,
        pa.schema(
            [(PREDICTION, pa.large_string()), ("span_text", pa.large_string())]
            + [(name, pa.float64()) for name in ("score", "span_score", "null_odds")]
        ),
    )
    return table.add_column(0, "id", pa.array(list(document), pa.large_string()))


def _of_best(value: Any) -> dict[str, Any]:
    entries = value if isinstance(value, list) else [value]
    entries = [each if isinstance(each, dict) else {"text": each} for each in entries]
    if not entries:
        return {}
    null = next((each for each in entries if not _text_of(each)), None)
    span = next((each for each in entries if _text_of(each)), None)
    nothing, best = (None if each is None else _logits(each) for each in (null, span))
    return {
        PREDICTION: _text_of(entries[0]),
        "span_text": _text_of(span) if span else None,
        "score": _probability(entries[0]),
        "span_score": _probability(span) if span else None,
        "null_odds": None if nothing is None or best is None else nothing - best,
    }


def _logits(entry: Mapping[str, Any]) -> float | None:
    start, end = entry.get("start_logit"), entry.get("end_logit")
    if isinstance(start, (int, float)) and isinstance(end, (int, float)):
        return float(start + end)
    return None


def _probability(entry: Mapping[str, Any]) -> float | None:
    """`probability` of run_qa, `score` of the pipeline; run_qa's `score` is a sum of logits."""
    value = entry.get("probability", entry.get("score") if "start_logit" not in entry else None)
    return float(value) if type(value) in (int, float) else None
