"""SQuAD JSON: one document, read as a whole into columns that repeat a context only by number."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.documents import load
from batchqa.errors import InputError
from batchqa.records import Cursor, RowFault, Rows
from batchqa.settings import ReadingSettings

from .columns import BATCH_BYTES, MAX_ROWS, ColumnPlan
from .formats import FileFormat
from .input_files import MIB, Place
from .streams import read_whole

MAX_BYTES = 1024 * MIB
"""A larger document is refused: it is held in memory as a whole, several times over."""

ANSWERS_TYPE = pa.struct({"text": pa.list_(pa.string()), "answer_start": pa.list_(pa.int32())})

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("title", pa.string()),
        pa.field("context", pa.string()),
        pa.field("question", pa.string()),
        pa.field("answers", ANSWERS_TYPE),
        pa.field("is_impossible", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """The questions of a document; question q is asked of paragraphs[paragraph[q]] (int32, (questions,)).

    `titles` is parallel to `contexts`; all others to `paragraph`. `faults` has code and reason by question,
    `unlabelled` why nobody knows a question's gold answers, which then look like those of one without.
    """

    titles: pa.Array
    contexts: pa.Array
    paragraph: np.ndarray[Any, np.dtype[np.int32]]
    ids: pa.Array
    questions: pa.Array
    answers: pa.Array
    is_impossible: pa.Array
    faults: Mapping[int, tuple[str, str]]
    unlabelled: Mapping[int, str]

    def table(self) -> pa.Table:
        """All questions; titles and contexts, which repeat, are dictionaries: each is in memory once."""
        paragraph = pa.array(self.paragraph)
        columns = [
            self.ids,
            pa.DictionaryArray.from_arrays(paragraph, self.titles),
            pa.DictionaryArray.from_arrays(paragraph, self.contexts),
            self.questions,
            self.answers,
            self.is_impossible,
        ]
        return pa.table(columns, names=SCHEMA.names)

    def batch(self, begin: int, end: int) -> pa.RecordBatch:
        """The questions [begin, end) with their contexts written out."""
        paragraph = pa.array(self.paragraph[begin:end])
        columns = [
            self.ids[begin:end],
            self.titles.take(paragraph),
            self.contexts.take(paragraph),
            self.questions[begin:end],
            self.answers[begin:end],
            self.is_impossible[begin:end],
        ]
        return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


class SquadReader:
    """All SQuAD inputs of a job, parsed when the job is planned."""

    def __init__(
        self, places: Sequence[Place], kinds: Sequence[FileFormat], settings: ReadingSettings
    ) -> None:
        self._places = places
        self._plan = ColumnPlan.of(SCHEMA, settings, places[0].shown)
        self._documents = [
            read_document(place, kind, settings.max_zstd_window)
            for place, kind in zip(places, kinds, strict=True)
        ]
        self.rows: list[int | None] = [len(document.paragraph) for document in self._documents]
        self.schema = self._plan.schema
        self.notes: tuple[str, ...] = ()
        self.lists = self._plan.lists

    def read(self, start: Cursor, first_record: int) -> Iterator[Rows]:
        """The rows of one document from `start` to its end."""
        name = self._places[start.file].in_rows
        document = self._documents[start.file]
        begin = start.row
        for end in _cuts(document, begin):
            faults = {q: document.faults[q] for q in range(begin, end) if q in document.faults}
            yield self._rows(
                document.batch(begin, end), faults, name, Cursor(start.file, begin), first_record
            )
            first_record += end - begin
            begin = end

    def _rows(
        self,
        batch: pa.RecordBatch,
        faults: Mapping[int, tuple[str, str]],
        name: str,
        begin: Cursor,
        first_record: int,
    ) -> Rows:
        def locate(row: int) -> str:
            return f"{name}, question {begin.row + row + 1}"

        of_rows = {
            question - begin.row: RowFault(code, f"{locate(question - begin.row)}: {reason}")
            for question, (code, reason) in faults.items()
        }
        return self._plan.rows(batch, locate, first_record, begin, faults=of_rows)


def _cuts(document: Document, begin: int) -> Iterator[int]:
    """Where the batches from question `begin` on end, bounded in bytes and rows."""
    lengths = np.asarray(pc.fill_null(pc.binary_length(document.contexts), 0))
    bytes_before = np.concatenate(([0], np.cumsum(lengths[document.paragraph], dtype=np.int64)))
    total = len(document.paragraph)
    while begin < total:
        fits = int(np.searchsorted(bytes_before, bytes_before[begin] + BATCH_BYTES, side="right")) - 1
        begin = min(max(fits, begin + 1), begin + MAX_ROWS, total)
        yield begin


def read_document(place: Place, kind: FileFormat, max_window: int) -> Document:
    """A SQuAD file, read as a whole. Raises InputError where it is none, or too large for that."""
    try:
        text = read_whole(place, kind.compression, max_window, MAX_BYTES)
        if text is None:
            raise InputError(
                f"{place.shown} is a SQuAD document of more than {MAX_BYTES // MIB} MiB, "
                "which is read as a whole; convert it to JSONL or Parquet"
            )
        document = load(text)
    except orjson.JSONDecodeError as error:
        raise InputError(
            f"{place.shown} is not a valid JSON document: {error.msg}, line {error.lineno}, "
            f"column {error.colno}"
        ) from None
    return parse_document(place.shown, document)


def parse_document(shown: str, document: Any) -> Document:
    """The questions of a JSON value; `shown` names it in messages. Raises InputError with the path inside."""
    return _Parser(shown).parse(document)


class _MisfitError(Exception):
    """A value of one question is not what it should be; the message says where in the document, and what."""


class _Parser:
    """Walks a document. What is wrong with the document is an InputError with the path inside it.

    What is wrong with one question or its context is a fault of that row: a run needs these two only, and
    files without ids, titles or places of the answers are common.
    """

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._titles: list[str | None] = []
        self._contexts: list[str | None] = []
        self._paragraph: list[int] = []
        self._ids: list[str | None] = []
        self._questions: list[str | None] = []
        self._answers: list[dict[str, list[Any]]] = []
        self._is_impossible: list[bool | None] = []
        self._faults: dict[int, tuple[str, str]] = {}
        self._unlabelled: dict[int, str] = {}
        self._without: InputError | None = None  # where the first list is missing

    def parse(self, document: Any) -> Document:
        """The columns of a parsed document: SQuAD's, its articles, or simpletransformers' paragraphs."""
        at = ""
        if type(document) is not list:
            document, at = self._list(document, "data", ""), "data"
        if at or any("paragraphs" in article for article in document if type(article) is dict):
            for a, article in enumerate(document):
                paragraphs = self._list(article, "paragraphs", f"{at}[{a}]")
                self._add_paragraphs(paragraphs, article.get("title"), f"{at}[{a}].paragraphs")
        else:
            self._add_paragraphs(document, None, "")
        if self._without and not self._questions:
            raise self._without
        return Document(
            pa.array(self._titles, pa.string()),
            pa.array(self._contexts, pa.string()),
            np.array(self._paragraph, dtype=np.int32),
            pa.array(self._ids, pa.string()),
            pa.array(self._questions, pa.string()),
            pa.array(self._answers, ANSWERS_TYPE),
            pa.array(self._is_impossible, pa.bool_()),
            self._faults,
            self._unlabelled,
        )

    def _add_paragraphs(self, paragraphs: list[Any], title: Any, at: str) -> None:
        bad_title = None
        try:
            title = _name(title, "the article's title")
        except _MisfitError as error:
            title, bad_title = None, ("type_field", str(error))
        for p, paragraph in enumerate(paragraphs):
            where = f"{at}[{p}]"
            entries = self._list(paragraph, "qas", where)
            context, fault = _text_of(paragraph, "context", f"{where}.context")
            self._titles.append(title)
            self._contexts.append(context)
            for q, entry in enumerate(entries):
                self._paragraph.append(len(self._contexts) - 1)
                found = self._add_question(entry, f"{where}.qas[{q}]")
                if worst := fault or found or bad_title:
                    self._faults[len(self._paragraph) - 1] = worst

    def _add_question(self, entry: Any, at: str) -> tuple[str, str] | None:
        """Add an entry; returns what is wrong with it."""
        fault = None
        if type(entry) is not dict:
            entry, fault = {}, ("not_an_object", f"{at} is not an object")
        question, wrong = _text_of(entry, "question", f"{at}.question")
        fault = fault or wrong
        name, answers, impossible = None, None, None
        why = f"{at} has no list `answers` (empty where there is none)"
        try:
            name = _name(entry.get("id"), f"{at}.id")
            answers, wrong_start = _answers(entry.get("answers"), f"{at}.answers")
            fault = fault or wrong_start
            impossible = _flag(entry.get("is_impossible"), f"{at}.is_impossible")
        except _MisfitError as error:
            fault, why = fault or ("type_field", str(error)), str(error)
        if answers is None and not impossible:
            self._unlabelled[len(self._ids)] = why
        answers = answers or _NO_ANSWERS
        self._ids.append(name)
        self._questions.append(question)
        self._answers.append(answers)
        # SQuAD 1.1 has no such key: whoever gives an answer says that there is one
        self._is_impossible.append(False if impossible is None and answers["text"] else impossible)
        return fault

    def _list(self, record: Any, key: str, at: str) -> list[Any]:
        """A list of the document; an article or paragraph without one has no questions."""
        if type(record) is not dict:
            raise self._error(at or "the document", "is not an object")
        value = record.get(key)
        if value is None:
            self._without = self._without or self._error(f"{at}.{key}" if at else key, "is missing")
            return []
        if type(value) is not list:
            raise self._error(f"{at}.{key}" if at else key, "is not an array")
        return value

    def _error(self, path: str, problem: str) -> InputError:
        return InputError(f"{self._shown} is not a SQuAD file: {path} {problem}")


_HALF_A_PAIR = "an escaped half of a surrogate pair stands alone"
_SURROGATE = re.compile("[\ud800-\udfff]")

_NO_ANSWERS: dict[str, list[Any]] = {"text": [], "answer_start": []}


def _text_of(record: dict[str, Any], name: str, at: str) -> tuple[str | None, tuple[str, str] | None]:
    """The context or question, and what is wrong with it; null is judged with all other nulls."""
    if name not in record:
        return None, (f"missing_{name}", f"{at} is missing")
    value = record[name]
    if type(value) is str and not _is_text(value):
        return None, ("bad_utf8", f"{at}: {_HALF_A_PAIR}")
    if value is None or type(value) is str:
        return value, None
    return None, (f"type_{name}", f"{at} is not a string")


def _is_text(value: str) -> bool:
    """Whether a text can be written as UTF-8."""
    return value.isascii() or not _SURROGATE.search(value)


def _name(value: Any, at: str) -> str | None:
    """A title, an id or an answer as text: many files have numbers there, or nothing."""
    if type(value) is str and not _is_text(value):
        raise _MisfitError(f"{at}: {_HALF_A_PAIR}")
    if value is None or type(value) is str:
        return value
    if type(value) in (int, float):
        return str(value)
    raise _MisfitError(f"{at} is not a string")


def _flag(value: Any, at: str) -> bool | None:
    if value is None or type(value) is bool:
        return value
    if type(value) in (int, float) and value in (0, 1):
        return bool(value)
    raise _MisfitError(f"{at} is not true or false")


def _answers(value: Any, at: str) -> tuple[dict[str, list[Any]] | None, tuple[str, str] | None]:
    """Gold answers as columns: SQuAD's list of objects, one object, texts, or the columns of `datasets`.

    Also what is wrong with where they start. Raises _MisfitError where it is not known what they are.
    """
    if value is None:
        return None, None
    if type(value) is dict and type(value.get("text")) is list:
        texts = value["text"]
        starts = value.get("answer_start") or [None] * len(texts)
        if type(starts) is not list or len(starts) != len(texts):
            raise _MisfitError(f"{at}.answer_start is not as long as {at}.text")
    else:
        entries = [value] if type(value) in (dict, str) else value
        if type(entries) is not list:
            raise _MisfitError(f"{at} is not an array")
        entries = [{"text": entry} if type(entry) is str else entry for entry in entries]
        if any(type(entry) is not dict for entry in entries):
            raise _MisfitError(f"{at} holds something that is not an object")
        texts = [entry.get("text") for entry in entries]
        starts = [entry.get("answer_start") for entry in entries]
    texts = [_name(text, f"{at}: an answer's text") for text in texts]
    if None in texts:
        raise _MisfitError(f"{at} has an answer without a text")
    whole = [_start(start) for start in starts]
    columns = {"text": texts, "answer_start": whole}
    if whole == starts:
        return columns, None
    return columns, ("type_field", f"{at} has an answer_start that is not a 32-bit integer")


def _start(value: Any) -> int | None:
    """Where an answer starts; whole floats are what pandas makes of integers beside a null."""
    if type(value) not in (int, float) or value != value // 1 or not -(2**31) <= value < 2**31:
        return None
    return int(value)
