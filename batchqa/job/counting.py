"""What an estimate learns of an input by reading it: rows are counted, slices of them kept as a sample."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.answer_columns import QUESTION_CODES
from batchqa.records import Bool, Chunk, Cursor, Int64, RowFault, Rows
from batchqa.steps.pairing import EarlierAnswers

SLICES, SLICE_ROWS, SLICE_BYTES = 64, 128, 128 * 2**10
"""The sample has at most so many slices, a slice so many consecutive rows and (if it has several) bytes."""

BINS_PER_DOUBLING = 32
"""How finely contexts are counted by length: two per cent."""

NAMED_ROWS = 5
"""How many rows that cannot be judged an estimate names."""


@dataclass
class _Part:
    """What a part would take in memory: distinct contexts and pairs, by hash, and bytes to be written."""

    number: int = -1
    contexts: set[int] = field(default_factory=set)
    pairs: set[tuple[int, int]] = field(default_factory=set)
    context_bytes: int = 0
    column_bytes: int = 0


@dataclass
class Counted:
    """What is known of every row without a tokenizer.

    `rows` are those of the pipeline, one for each question that the `records` are asked.
    Distinct contexts and pairs are distinct within their part, as for the windower. `lengths`: of the
    distinct pairs, how many have a context of 2 ** (place / BINS_PER_DOUBLING) bytes.
    """

    earlier: EarlierAnswers = field(default_factory=EarlierAnswers)
    records: int = 0
    rows: int = 0
    reused_rows: int = 0
    chunks: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    named: list[RowFault] = field(default_factory=list)
    lengths: Int64 = field(default_factory=lambda: np.zeros(40 * BINS_PER_DOUBLING, dtype=np.int64))
    context_bytes: int = 0
    most_pairs: int = 0
    most_column_bytes: int = 0
    _part: _Part = field(default_factory=_Part)

    def add(self, chunk: Chunk) -> None:
        """Count a chunk; those of a part come in order."""
        if chunk.part != self._part.number:
            self._part = _Part(chunk.part)
        part, rows = self._part, chunk.rows
        self.rows += len(rows)
        self.chunks += 1
        if chunk.asked is None:
            self.records += len(rows)
        elif chunk.asked.last:
            self.records += len(chunk.asked.records.rows)
        faults = _faults(chunk)
        self.faults.update(fault.code for fault in faults)
        self.named += faults[: NAMED_ROWS - len(self.named)]
        before = part.context_bytes
        threshold = None if chunk.asked is None else chunk.asked.threshold
        self._count_pairs(part, rows, self.earlier.knows(rows.context, rows.question, threshold))
        part.column_bytes += rows.columns.nbytes
        if chunk.asked is not None:
            records = chunk.asked.records.rows
            part.column_bytes += records.columns.nbytes * len(rows) // len(records)
        self.context_bytes += part.context_bytes - before
        self.most_pairs = max(self.most_pairs, len(part.pairs))
        self.most_column_bytes = max(self.most_column_bytes, part.column_bytes)

    def _count_pairs(self, part: _Part, rows: Rows, is_reused: Bool) -> None:
        contexts, sizes = _hashes(rows.context)
        questions, _ = _hashes(rows.question)
        reused = set(np.flatnonzero(is_reused).tolist())
        self.reused_rows += len(reused.difference(rows.faults))
        new_sizes = []
        for row, pair in enumerate(zip(contexts, questions, strict=True)):
            context, question = pair
            if context is None or question is None or row in rows.faults or pair in part.pairs:
                continue
            if row in reused:
                continue
            part.pairs.add((context, question))
            new_sizes.append(sizes[row])
            if context not in part.contexts:
                part.contexts.add(context)
                part.context_bytes += sizes[row]
        self.lengths += np.bincount(_bins(np.array(new_sizes, dtype=np.int64)), minlength=len(self.lengths))


def _faults(chunk: Chunk) -> list[RowFault]:
    """The faults of a chunk in order; what is wrong with a record is one, however much it is asked."""
    faults = [(row, chunk.rows.faults[row]) for row in sorted(chunk.rows.faults)]
    if chunk.asked is None:
        return [fault for _, fault in faults]
    record = chunk.asked.record
    distinct = {
        (row if fault.code in QUESTION_CODES else -1 - int(record[row]), fault.code): fault
        for row, fault in faults
    }
    return list(distinct.values())


def _hashes(texts: pa.Array) -> tuple[list[int | None], list[int]]:
    """Each text's hash (None for null) and its size in bytes."""
    encoded = texts.dictionary_encode()
    of_distinct = [hash(text) for text in encoded.dictionary.to_pylist()]
    hashes = [None if code is None else of_distinct[code] for code in encoded.indices.to_pylist()]
    return hashes, _sizes(texts).tolist()


def _sizes(texts: pa.Array) -> Int64:
    """Each text's bytes, 0 for null: int64, (texts,)."""
    encoded = texts.dictionary_encode()
    sizes = pc.binary_length(encoded.dictionary).take(encoded.indices)
    bytes_of: Int64 = pc.fill_null(sizes, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return bytes_of


def _bins(sizes: Int64) -> Int64:
    return np.round(np.log2(np.maximum(sizes, 1)) * BINS_PER_DOUBLING).astype(np.int64)


class Slices:
    """Slices of rows from all over the input, evenly spread however long it turns out to be.

    Every `step`-th slice is kept. When there are too many, every second one of them goes and `step` doubles.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[int, Rows]] = []
        self._seen = 0
        self._step = 1

    def add(self, rows: Rows) -> None:
        """Look at the next rows."""
        texts = (rows.context, rows.question)
        size = max(sum(int(_sizes(text).sum()) for text in texts) // max(len(rows), 1), 1)
        count = max(min(SLICE_ROWS, SLICE_BYTES // size), 1)
        for begin in range(0, len(rows), count):
            if self._seen % self._step == 0:
                self._kept.append((self._seen, _copy(rows.slice(begin, min(begin + count, len(rows))))))
            self._seen += 1
            if len(self._kept) > SLICES:
                self._step *= 2
                self._kept = [kept for kept in self._kept if kept[0] % self._step == 0]

    def rows(self) -> list[Rows]:
        """The slices that were kept, in order."""
        return [rows for _, rows in self._kept]


def _copy(rows: Rows) -> Rows:
    """The texts of a slice alone: a view would keep the whole chunk in memory."""
    every = pa.array(range(len(rows)))
    places = [rows.locate(row) for row in range(len(rows))]
    return Rows(
        columns=pa.record_batch([pa.nulls(len(rows))], names=["none"]),
        context=_plain(rows.context.take(every)),
        question=_plain(rows.question.take(every)),
        faults=rows.faults,
        first_record=rows.first_record,
        cursor_after=lambda count: Cursor(row=count),
        locate=places.__getitem__,
    )


def _plain(texts: pa.Array) -> pa.Array:
    return texts.dictionary_decode() if pa.types.is_dictionary(texts.type) else texts
