"""Answered chunk -> Arrow batch: the input's columns, unchanged, and the answer's columns beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pyarrow as pa

from batchqa.answer_columns import ASKED_FIELDS, answer_schema
from batchqa.records import AnsweredChunk, Asked
from batchqa.taking import rows_of, taken

from .metadata import updated

REPEATED_BYTES = 128 * 2**20
"""Of columns that are repeated for each question, at most so much is written out at once."""


def output_schema(
    columns: pa.Schema,
    prefix: str,
    top_k: int,
    most_answers: int = 0,
    *,
    wide: Sequence[str] | None = None,
    asked: bool = False,
) -> pa.Schema:
    """The schema of the output: the pass-through columns with their metadata, then the added ones.

    `wide` names the questions of the wide layout, whose answers are a struct column each; `asked` says that
    there is a row for each question, with its name and text. What the metadata says of the columns, in other
    writers' words, is brought up to date.
    """
    answers = list(answer_schema(top_k, most_answers))
    if wide is not None:
        answers = [pa.field(name, pa.struct(answers)) for name in wide]
    elif asked:
        answers = [*ASKED_FIELDS, *answers]
    added = [field.with_name(prefix + field.name) for field in answers]
    schema = pa.schema([*columns, *added])
    return schema.with_metadata(updated(columns.metadata, schema) or None)


def output_batches(
    answered: AnsweredChunk, schema: pa.Schema, *, wide: bool = False, without: Collection[int] = ()
) -> Iterator[pa.RecordBatch]:
    """The rows of a chunk as they are written; `schema` is that of `output_schema`.

    With `wide` there is a row for each record, else one for each question that records were asked. Records
    of `without` are left out.
    """
    columns, answers, asked = answered.chunk.rows.columns, answered.answers, answered.asked
    if asked is not None and not wide:
        yield from _repeated(columns, answers, asked, schema, without)
        return
    added = answers.columns
    if asked is not None:
        count = len(schema) - columns.num_columns
        added = [_struct(answers, question, count) for question in range(count)]
    batch = pa.record_batch([*columns.columns, *added], schema=schema)
    kept = np.setdiff1d(np.arange(len(batch)), list(without))
    yield batch if len(kept) == len(batch) else rows_of(batch, pa.array(kept))


def _struct(answers: pa.RecordBatch, question: int, count: int) -> pa.StructArray:
    """The answers to every `count`-th question as one column."""
    own = answers.take(pa.array(np.arange(question, len(answers), count)))
    return pa.StructArray.from_arrays(own.columns, fields=list(answers.schema))


def _repeated(
    columns: pa.RecordBatch,
    answers: pa.RecordBatch,
    asked: Asked,
    schema: pa.Schema,
    without: Collection[int],
) -> Iterator[pa.RecordBatch]:
    """A row for each question, with the record's columns: written out only so many at a time."""
    kept = np.flatnonzero(~np.isin(asked.record, list(without)))
    at_once = max(REPEATED_BYTES // max(columns.nbytes, 1), 1)
    for begin in range(0, len(kept), at_once):
        rows = pa.array(kept[begin : begin + at_once])
        records = pa.array(asked.record).take(rows)
        own = [taken(column, records) for column in columns.columns]
        said = asked.columns.take(rows).columns
        yield pa.record_batch([*own, *said, *answers.take(rows).columns], schema=schema)
