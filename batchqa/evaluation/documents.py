"""One JSON document -> columns: SQuAD, predictions by id, an n-best file, records, `evaluate`'s lists.

Columns that predictions become are those that the `evaluate` library takes (`id`, `prediction_text`,
`no_answer_probability`); an n-best file says more (`span_text`, `span_score`, `score`, `null_odds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from batchqa.documents import load
from batchqa.errors import InputError
from batchqa.gold import are_answers, as_list

from .places import Place, reading

PREDICTION = "prediction_text"
"""The column of predictions that no run wrote; "" and null say "no answer"."""

BOM = b"\xef\xbb\xbf"

_OF_RECORDS = ("context", "question", "answer", "answers", PREDICTION)
"""Keys by which a record is told from predictions by id."""

_KINDS = {dict: "an object", list: "an array", str: "a text", bool: "true or false", type(None): "null"}

_SHAPES = (
    'a SQuAD file (data[].paragraphs[]), predictions ({id: text}, "" or null for no answer), an n-best file '
    "({id: [{text, probability}, ...]}), or the lists of the `evaluate` library (predictions, references)"
)

_Row = dict[str, Any]

# what Arrow's own reader makes columns of, without a Python object for each question
_ANSWERS = pa.list_(pa.struct([("text", pa.string()), ("answer_start", pa.int64())]))
_QUESTIONS = pa.list_(pa.struct([("id", pa.string()), ("question", pa.string()), ("answers", _ANSWERS)]))
_PARAGRAPHS = pa.list_(pa.struct([("context", pa.string()), ("qas", _QUESTIONS)]))
_SQUAD = pa.schema([("data", pa.list_(pa.struct([("title", pa.string()), ("paragraphs", _PARAGRAPHS)])))])


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """The rows of a document, and those of its gold answers where it has both, to be joined by id."""

    rows: pa.Table
    references: pa.Table | None = None


def read_document(place: Place) -> Document | None:
    """The columns of a file that is one JSON object or array; None where it is an object that is one record.

    Raises InputError, saying what the file is, for a document of any other shape.
    """
    raw = _whole(place)
    table = _quickly(raw)
    if table is not None:
        return Document(table)
    document = _parse(place, raw)
    if isinstance(document, list) and any(
        "paragraphs" in each for each in document if isinstance(each, dict)
    ):
        document = {"data": document}
    if isinstance(document, list):
        return Document(_records(place, document, ""))
    if "data" in document and not isinstance(document["data"], str):
        return Document(_squad(place, document))
    if document.keys() & {"predictions", "references"}:
        return _lists(place, document)
    if document and all(_is_prediction(value) for value in document.values()):
        return Document(_by_id(document))
    if document and all(type(value) in (int, float) for value in document.values()):
        raise InputError(f"{place} holds numbers by id: null odds, it seems, which --null-odds takes")
    return _refuse(place, document)


def read_numbers(place: Place) -> tuple[pa.Array, pa.Array]:
    """Ids and numbers of `{id: number}` JSON: the official script's null odds, or run_qa's null_odds.json."""
    record = _parse(place, _whole(place))
    if not isinstance(record, dict) or not all(type(value) in (int, float) for value in record.values()):
        raise InputError(f"{place} is not a JSON object of numbers by id ({{id: null odds}})")
    return pa.array(list(record), pa.large_string()), pa.array(list(record.values()), pa.float64())


def columns_of(place: Place, records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> pa.Table:
    """Records as columns; numbers beside texts become texts, as ids of two makes are. Raises InputError."""
    arrays = []
    for name in names:
        values = [record.get(name) for record in records]
        try:
            arrays.append(pa.array(values))
        except (pa.ArrowException, OverflowError) as error:
            if not all(value is None or type(value) in (int, float, str) for value in values):
                raise InputError(
                    f"{place}: column {name!r} holds values of different types in rows up to {len(records)}; "
                    "make them one type"
                ) from error
            arrays.append(pa.array([None if value is None else str(value) for value in values]))
    return pa.table(arrays, names=list(names))


def _whole(place: Place) -> pa.Buffer:
    with reading(place), place.open_text() as stream:
        return stream.read_buffer()


def _parse(place: Place, raw: pa.Buffer) -> Any:
    try:
        return load(raw.to_pybytes().removeprefix(BOM))
    except orjson.JSONDecodeError as error:
        raise InputError(f"{place} is not valid JSON: {error}") from error


def _refuse(place: Place, document: Mapping[str, Any]) -> Document:
    what = "an empty JSON object"
    if document:
        key, value = next(iter(document.items()))
        what = f"one JSON object whose first value, {key!r}, is {_KINDS.get(type(value), 'a number')}"
    raise InputError(f"{place} is {what}: neither {_SHAPES}")


def _records(place: Place, records: list[Any], where: str) -> pa.Table:
    """The dicts of an array, as the `evaluate` library and `json.dump` of rows have them."""
    if not records:
        raise InputError(f"{place} is an empty JSON array: neither {_SHAPES}")
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            kind = _KINDS.get(type(record), "a number")
            raise InputError(
                f"{place}: {where}[{number}] is {kind}, not an object with an id and prediction_text, or an "
                "id and answers"
            )
    return columns_of(place, records, list(dict.fromkeys(name for record in records for name in record)))


def _lists(place: Place, document: Mapping[str, Any]) -> Document:
    """What the `evaluate` library's squad metrics are called with, saved as one object."""
    tables = {}
    for name in ("predictions", "references"):
        if document.get(name) is not None:
            if not isinstance(document[name], list):
                raise InputError(
                    f"{place}: {name!r} is {_KINDS.get(type(document[name]), 'a number')}, not a list"
                )
            tables[name] = _records(place, document[name], name)
    if not tables:
        return _refuse(place, document)
    if len(tables) == 2:
        return Document(tables["predictions"], tables["references"])
    return Document(next(iter(tables.values())))


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


def _of_best(value: Any) -> _Row:
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


# ------------------------------------------------------------------------------------------------ SQuAD


def _quickly(raw: pa.Buffer) -> pa.Table | None:
    """A SQuAD file's questions, straight from the text: Python objects would cost ten times the memory.

    None where it is none, or has anything that is not of the usual types: the slow road sees to that.
    """
    try:
        table = pj.read_json(
            pa.BufferReader(raw),
            read_options=pj.ReadOptions(use_threads=False, block_size=max(raw.size + 1, 1024)),
            parse_options=pj.ParseOptions(
                explicit_schema=_SQUAD, newlines_in_values=True, unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid:
        return None
    return _columns(table) if len(table) == 1 and table.column("data")[0].is_valid else None


def _columns(table: pa.Table) -> pa.Table | None:
    """The questions as columns id, title, context, question, answers (list of structs); None if some lack."""
    articles = pc.list_flatten(table.column("data")).combine_chunks()
    paragraph_lists = pc.struct_field(articles, "paragraphs")
    paragraphs = pc.list_flatten(paragraph_lists)
    question_lists = pc.struct_field(paragraphs, "qas")
    questions = pc.list_flatten(question_lists)
    paragraph = pc.list_parent_indices(question_lists)
    article = pc.list_parent_indices(paragraph_lists).take(paragraph)
    columns = {
        "id": pc.struct_field(questions, "id"),
        "title": pa.DictionaryArray.from_arrays(article.cast(pa.int32()), pc.struct_field(articles, "title")),
        "context": pa.DictionaryArray.from_arrays(
            paragraph.cast(pa.int32()), pc.struct_field(paragraphs, "context")
        ),
        "question": pc.struct_field(questions, "question"),
        "answers": pc.struct_field(questions, "answers"),
    }
    needed = (
        columns["id"],
        columns["answers"],
        pc.struct_field(paragraphs, "context"),
        question_lists,
        paragraph_lists,
    )
    return None if any(column.null_count for column in needed) else pa.table(columns)


def _squad(place: Place, document: Mapping[str, Any]) -> pa.Table:
    """The same from Python objects: ids of any type, or none; no answers where there can be none.

    An article without paragraphs and a paragraph without questions are passed over, where others have some.
    """
    without: InputError | None = None

    def listed(record: Any, key: str, at: str) -> list[Any]:
        nonlocal without
        try:
            return _get(place, record, key, list, at)  # type: ignore[no-any-return]
        except InputError as error:
            if not isinstance(record, dict) or record.get(key) is not None:
                raise
            without = without or error
            return []

    rows: list[_Row] = []
    for a, article in enumerate(_get(place, document, "data", list, "")):
        for p, paragraph in enumerate(listed(article, "paragraphs", f"data[{a}]")):
            at = f"data[{a}].paragraphs[{p}]"
            shared = {"title": article.get("title"), "context": _get(place, paragraph, "context", str, at)}
            for q, asked in enumerate(listed(paragraph, "qas", at)):
                rows.append(shared | _question(place, asked, f"{at}.qas[{q}]"))
    if without and not rows:
        raise without
    names = ("id", "title", "context", "question")
    columns: dict[str, Any] = {name: _texts([row[name] for row in rows]) for name in names}
    return pa.table(columns | {"answers": pa.array([row["answers"] for row in rows], _ANSWERS)})


def _get(place: Place, record: Any, key: str, kind: type, at: str) -> Any:
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        what = "list" if kind is list else "text"
        raise InputError(f"{place} is not of SQuAD's shape: {at or 'it'} has no {what} `{key}`")
    return value


def _question(place: Place, asked: Any, where: str) -> _Row:
    if not isinstance(asked, dict) or isinstance(asked.get("id"), (dict, list)):
        raise InputError(f"{place} is not of SQuAD's shape: {where} is no question with an id")
    answers = asked.get("answers")
    if answers is None and asked.get("is_impossible") is not True:
        raise InputError(
            f"{place} is not of SQuAD's shape: {where} has no list `answers` (empty where there is none)"
        )
    if not (isinstance(answers, str) or are_answers(answers)):
        answers = _get(place, asked, "answers", list, where)
    golds = [
        {
            "text": _text(_get(place, gold, "text", str, f"{where}.answers[{n}]")),
            "answer_start": _start(gold.get("answer_start")),
        }
        for n, gold in enumerate(as_list(answers))
    ]
    return {"id": asked.get("id"), "question": asked.get("question"), "answers": golds}


def _texts(values: list[Any]) -> pa.Array:
    return pa.array([None if value is None else _text(str(value)) for value in values], pa.large_string())


def _text(text: str) -> str:
    """The text with a question mark for half of a surrogate pair, which no column of texts can hold."""
    return text.encode("utf-8", "replace").decode()


def _start(value: Any) -> int | None:
    whole = type(value) in (int, float) and -(2**63) <= value < 2**63 and value == int(value)
    return int(value) if whole else None
