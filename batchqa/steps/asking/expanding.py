"""A chunk of records -> chunks with a row for each record and question; and their answers -> the records'.

Only numbers are repeated for each question of a record: the texts are dictionary arrays, and the columns that
pass through stay with the records until they are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.answer_columns import ASKED_FIELDS, QUESTIONS_TYPE
from batchqa.records import AnsweredChunk, Asked, Chunk, Float64, Int64, RowFault, Rows

from .questions import Questions

MOST_ROWS = 8192
MOST_BYTES = 16 * 2**20
"""Questions of a chunk at most, and bytes of the contexts that they are asked of, each time counted: what the
windows of a chunk take must not grow with the number of questions. One record alone can have more."""


def asked(chunks: Iterable[Chunk], questions: Questions | None) -> Iterator[Chunk]:
    """The chunks with a row for each question that their records are asked.

    `questions` are asked of every record; where it is None, those of a row's own list, or its only one. A
    record without any question has one row, of which it is said that there is none.
    """
    for chunk in chunks:
        rows = chunk.rows
        if questions is not None:
            whole_chunk = _of_all(rows, questions)
        elif rows.question.type == QUESTIONS_TYPE:
            whole_chunk = _of_own(rows)
        else:
            yield chunk
            continue
        yield from whole_chunk.pieces(chunk)


class _Expanded:
    """All rows of a chunk's records: texts by number, -1 where there is none.

    context, question, name: int64, (rows,): places in `contexts`, `texts`, `names`; record: as in `Asked`.
    """

    def __init__(
        self,
        rows: Rows,
        record: Int64,
        texts: pa.Array,
        name: pa.Array,
        missing: dict[int, str],
        threshold: Float64 | None = None,
        most_answers: Int64 | None = None,
    ) -> None:
        self._rows = rows
        self._record = record
        self._texts = texts
        self._name = name
        self._missing = missing
        self._threshold = threshold
        self._most_answers = most_answers

    def pieces(self, chunk: Chunk) -> Iterator[Chunk]:
        """The rows as chunks of a bounded size."""
        contexts = self._rows.context.dictionary_encode()
        sizes = pc.fill_null(pc.binary_length(self._rows.context), 0).to_numpy().astype(np.int64)
        bytes_before = np.concatenate(([0], np.cumsum(sizes[self._record])))
        begin, total = 0, len(self._record)
        while True:
            fits = int(np.searchsorted(bytes_before, bytes_before[begin] + MOST_BYTES, side="right")) - 1
            end = min(max(fits, begin + 1), begin + MOST_ROWS, total)
            yield self._piece(chunk, contexts, begin, end)
            begin = end
            if begin >= total:
                return

    def _piece(self, chunk: Chunk, contexts: pa.DictionaryArray, begin: int, end: int) -> Chunk:
        rows, record = self._rows, self._record[begin:end]
        name, texts = (column.slice(begin, end - begin) for column in (self._name, self._texts))
        columns = pa.record_batch([name, texts], schema=pa.schema(ASKED_FIELDS))

        def locate(row: int) -> str:
            asked_as = name[row].as_py()
            place = rows.locate(int(record[row]))
            return place if asked_as is None else f"{place}, question {asked_as!r}"

        faults = {
            row: RowFault("null_question", f"{locate(row)}: {self._missing[begin + row]}")
            for row in range(end - begin)
            if begin + row in self._missing
        }
        if rows.faults:
            for row, at in enumerate(record.tolist()):
                if at in rows.faults:
                    faults[row] = rows.faults[at]
        at_fault = np.zeros(end - begin, dtype=bool)
        at_fault[list(faults)] = True
        mask = pa.array(at_fault)
        context, questions = contexts.indices.take(pa.array(record)), texts.dictionary_encode()
        asked_rows = Rows(
            columns=columns,
            context=_dictionary(context, contexts.dictionary, mask),
            question=_dictionary(questions.indices, questions.dictionary, mask),
            faults=faults,
            first_record=rows.first_record + int(record[0]),
            cursor_after=rows.cursor_after,
            locate=locate,
        )
        last = end == len(self._record)
        threshold = None if self._threshold is None else self._threshold[begin:end]
        most_answers = None if self._most_answers is None else self._most_answers[begin:end]
        return Chunk(
            asked_rows,
            chunk.part,
            chunk.last_of_part and last,
            Asked(chunk, record, columns, threshold, most_answers, last),
        )


def _dictionary(codes: pa.Array, texts: pa.Array, at_fault: pa.Array) -> pa.DictionaryArray:
    """The texts by their codes, null for rows at fault."""
    return pa.DictionaryArray.from_arrays(pc.if_else(at_fault, pa.scalar(None, codes.type), codes), texts)


def _of_all(rows: Rows, questions: Questions) -> _Expanded:
    """Each record is asked all questions, in their order."""
    count = len(questions)
    record = np.repeat(np.arange(len(rows)), count)
    names = pa.array([item.name for item in questions.items], pa.string())
    name = names.take(pa.array(np.tile(np.arange(count), len(rows))))
    values = pa.record_batch({}) if rows.values is None else rows.values
    columns = [
        item.texts(values) if item.columns else pa.repeat(item.parts[0], len(rows))
        for item in questions.items
    ]
    # column after column becomes record after record
    order = np.arange(len(rows) * count).reshape(count, len(rows)).T.ravel()
    texts = pa.concat_arrays(columns).take(pa.array(order))
    missing = {}
    for row in np.flatnonzero(texts.is_null()).tolist():
        item = questions.items[row % count]
        empty = [column for column in item.columns if not values.column(column)[row // count].is_valid]
        missing[row] = f"it holds {', '.join(empty)}, which is null"
    own = [np.nan if item.threshold is None else item.threshold for item in questions.items]
    threshold = None if np.isnan(own).all() else np.tile(np.array(own, dtype=np.float64), len(rows))
    most = [item.answers for item in questions.items]
    most_answers = None if None in most else np.tile(np.array(most, dtype=np.int64), len(rows))
    return _Expanded(rows, record, texts, name, missing, threshold, most_answers)


def _of_own(rows: Rows) -> _Expanded:
    """Each record is asked the questions of its list; one without any has a row that says so."""
    lengths = pc.fill_null(pc.list_value_length(rows.question), 0).to_numpy().astype(np.int64)
    record = np.repeat(np.arange(len(rows)), np.maximum(lengths, 1))
    first = np.cumsum(np.maximum(lengths, 1)) - np.maximum(lengths, 1)
    items = pc.list_flatten(rows.question)
    place = np.arange(len(record)) - first[record] + (np.cumsum(lengths) - lengths)[record]
    empty = lengths[record] == 0
    taken = items.take(pa.array(np.where(empty, 0, place), mask=empty))
    name, texts = (pc.struct_field(taken, name) for name in ("name", "question"))
    missing = {
        row: "the list of questions is empty" if empty[row] else "the question is null"
        for row in np.flatnonzero(texts.is_null()).tolist()
    }
    return _Expanded(rows, record, texts, name, missing)


def whole(answered: Iterable[AnsweredChunk]) -> Iterator[AnsweredChunk]:
    """The answers to chunks of `asked`, put together again for each chunk of records."""
    held: list[AnsweredChunk] = []
    for piece in answered:
        of = piece.chunk.asked
        if of is None:
            yield piece
            continue
        held.append(piece)
        if of.last:
            yield _joined(held)
            held = []


def _joined(pieces: list[AnsweredChunk]) -> AnsweredChunk:
    parts = [piece.chunk.asked for piece in pieces]
    known = [part for part in parts if part is not None]
    records = known[0].records
    together = Asked(
        records,
        np.concatenate([part.record for part in known]),
        pa.concat_batches([part.columns for part in known]),
        None,
        None,
        last=True,
    )
    return AnsweredChunk(
        records,
        pa.concat_batches([piece.answers for piece in pieces]),
        sum(piece.windows for piece in pieces),
        sum(piece.questions_cut for piece in pieces),
        sum(piece.reused_rows for piece in pieces),
        together,
    )
