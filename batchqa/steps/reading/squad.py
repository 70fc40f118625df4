"""SQuAD JSON: one document, read as a whole into columns that repeat a context only by number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.errors import InputError
from batchqa.records import Cursor, Rows
from batchqa.settings import ReadingSettings

from .columns import BATCH_BYTES, MAX_ROWS, ColumnPlan
from .files import MIB, Compression, Place, TextStream
from .recognise import BOM

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
class _Document:
    """The questions of a document; question q is asked of paragraphs[paragraph[q]] (int32, (questions,)).

    `titles` is parallel to `contexts`; all others to `paragraph`.
    """

    titles: pa.Array
    contexts: pa.Array
    paragraph: np.ndarray[Any, np.dtype[np.int32]]
    ids: pa.Array
    questions: pa.Array
    answers: pa.Array
    is_impossible: pa.Array

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
        self, places: Sequence[Place], compressions: Sequence[Compression], settings: ReadingSettings
    ) -> None:
        self._places = places
        self._plan = ColumnPlan.of(SCHEMA, settings, places[0].shown)
        self._documents = [_document(*file) for file in zip(places, compressions, strict=True)]
        self.rows: list[int | None] = [len(document.paragraph) for document in self._documents]
        self.schema = self._plan.schema
        self.notes: tuple[str, ...] = ()

    def read(self, start: Cursor, first_record: int) -> Iterator[Rows]:
        """The rows of one document from `start` to its end."""
        shown = self._places[start.file].shown
        document = self._documents[start.file]
        begin = start.row
        for end in _cuts(document, begin):
            yield self._rows(document.batch(begin, end), shown, Cursor(start.file, begin), first_record)
            first_record += end - begin
            begin = end

    def _rows(self, batch: pa.RecordBatch, shown: str, begin: Cursor, first_record: int) -> Rows:
        def locate(row: int) -> str:
            return f"{shown}, question {begin.row + row + 1}"

        return self._plan.rows(batch, locate, first_record, begin)


def _cuts(document: _Document, begin: int) -> Iterator[int]:
    """Where the batches from question `begin` on end, bounded in bytes and rows."""
    lengths = np.asarray(pc.binary_length(document.contexts))
    bytes_before = np.concatenate(([0], np.cumsum(lengths[document.paragraph], dtype=np.int64)))
    total = len(document.paragraph)
    while begin < total:
        fits = int(np.searchsorted(bytes_before, bytes_before[begin] + BATCH_BYTES, side="right")) - 1
        begin = min(max(fits, begin + 1), begin + MAX_ROWS, total)
        yield begin


def _document(place: Place, compression: Compression) -> _Document:
    try:
        document = orjson.loads(_text(place, compression))
    except orjson.JSONDecodeError as error:
        raise InputError(
            f"{place.shown} is no valid JSON document: {error.msg}, line {error.lineno}, column {error.colno}"
        ) from None
    return _Parser(place.shown).parse(document)


def _text(place: Place, compression: Compression) -> bytes:
    pieces: list[bytes] = []
    size = 0
    with TextStream(place, compression) as stream:
        while piece := stream.read(MIB):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BYTES:
                raise InputError(
                    f"{place.shown} is a SQuAD document of more than {MAX_BYTES // MIB} MiB, "
                    "which is read as a whole; convert it to JSONL or Parquet"
                )
    return b"".join(pieces).removeprefix(BOM)


class _Parser:
    """Walks a document; what is not as SQuAD has it is an InputError with the path inside the document."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._titles: list[str | None] = []
        self._contexts: list[str] = []
        self._paragraph: list[int] = []
        self._ids: list[str] = []
        self._questions: list[str] = []
        self._answers: list[dict[str, list[Any]]] = []
        self._is_impossible: list[bool | None] = []

    def parse(self, document: Any) -> _Document:
        """The columns of a parsed document."""
        for a, article in enumerate(self._get(document, "data", list, "")):
            at = f"data[{a}]"
            title = self._get(article, "title", str, at) if "title" in self._object(article, at) else None
            for p, paragraph in enumerate(self._get(article, "paragraphs", list, at)):
                self._titles.append(title)
                self._add_paragraph(paragraph, f"{at}.paragraphs[{p}]")
        return _Document(
            pa.array(self._titles, pa.string()),
            pa.array(self._contexts, pa.string()),
            np.array(self._paragraph, dtype=np.int32),
            pa.array(self._ids, pa.string()),
            pa.array(self._questions, pa.string()),
            pa.array(self._answers, ANSWERS_TYPE),
            pa.array(self._is_impossible, pa.bool_()),
        )

    def _add_paragraph(self, paragraph: Any, at: str) -> None:
        self._contexts.append(self._get(paragraph, "context", str, at))
        for q, entry in enumerate(self._get(paragraph, "qas", list, at)):
            where = f"{at}.qas[{q}]"
            self._paragraph.append(len(self._contexts) - 1)
            self._ids.append(self._get(entry, "id", str, where))
            self._questions.append(self._get(entry, "question", str, where))
            answers = self._get(entry, "answers", list, where) if "answers" in entry else []
            self._answers.append(self._answers_of(answers, where))
            # SQuAD 1.1 has no such key: whoever gives an answer says that there is one
            impossible = self._get(entry, "is_impossible", bool, where) if "is_impossible" in entry else None
            self._is_impossible.append(False if impossible is None and answers else impossible)

    def _answers_of(self, answers: list[Any], at: str) -> dict[str, list[Any]]:
        texts, starts = [], []
        for i, answer in enumerate(answers):
            where = f"{at}.answers[{i}]"
            texts.append(self._get(answer, "text", str, where))
            starts.append(self._get(answer, "answer_start", int, where))
            if not -(2**31) <= starts[-1] < 2**31:
                raise self._error(f"{where}.answer_start", "is no 32-bit integer")
        return {"text": texts, "answer_start": starts}

    def _get(self, record: Any, key: str, kind: type, at: str) -> Any:
        value = self._object(record, at).get(key)
        if type(value) is not kind:
            path = f"{at}.{key}" if at else key
            problem = f"is not {_KINDS[kind]}" if key in record else "is missing"
            raise self._error(path, problem)
        return value

    def _object(self, record: Any, at: str) -> dict[str, Any]:
        if type(record) is not dict:
            raise self._error(at or "the document", "is not an object")
        return record

    def _error(self, path: str, problem: str) -> InputError:
        return InputError(f"{self._shown} is no SQuAD file: {path} {problem}")


_KINDS = {str: "a string", list: "an array", int: "an integer", bool: "true or false"}
