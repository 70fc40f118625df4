"""Answers with their texts, as rows have them, and without, as pairs have them: places in the context."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.records import CANDIDATE_TYPE, Float64, Int32, answer_schema


def with_texts(
    answers: pa.RecordBatch, contexts: Sequence[str], context: Int32, limits: Float64
) -> pa.RecordBatch:
    """The columns of `answer_schema`: answers and candidates with their texts, cut from the contexts.

    context: int32, (answers,): each answer's place in `contexts`. Of all answers, those remain whose odds
    are not above their pair's of `limits`: float64, (answers,).
    """

    def with_their_texts(lists: pa.ListArray) -> pa.ListArray:
        start, end, score = (lists.flatten().field(name) for name in ("start", "end", "score"))
        texts = _cut(contexts, context[pc.list_parent_indices(lists).to_numpy()], start, end)
        return _lists_like(lists, [texts, start, end, score], CANDIDATE_TYPE)

    added = {
        "answer": _cut(contexts, context, answers.column("start"), answers.column("end")),
        "error_detail": pa.nulls(len(answers), pa.string()),
    }
    if "candidates" in answers.schema.names:
        added["candidates"] = with_their_texts(answers.column("candidates"))
    if "answers" in answers.schema.names:
        added["answers"] = with_their_texts(_passing(answers.column("answers"), limits))
    schema = answer_schema("candidates" in added, "answers" in added)
    columns = [added[name] if name in added else answers.column(name) for name in schema.names]
    return pa.record_batch(columns, schema=schema)


def without_texts(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column of answers as `pair_schema` has it, whatever integers, floats and lists a file made of it.

    Answers that were written have passed the threshold: their odds, which are not written, are -inf.
    """
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), kind)
    if not pa.types.is_list(kind):
        return column.cast(kind)
    values = column.flatten()
    if pa.types.is_null(values.type):
        values = pa.nulls(len(values), kind.value_type)
    written = [field.name for field in values.type]
    fields = [
        without_texts(values.field(field.name), field.type)
        if field.name in written
        else pa.array(np.full(len(values), -np.inf), field.type)
        for field in kind.value_type
    ]
    return _lists_like(column, fields, kind)


def _lists_like(lists: pa.Array, fields: list[pa.Array], kind: pa.DataType) -> pa.ListArray:
    """Lists as long as those given, of structs with these fields."""
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    offsets = pa.array(np.cumsum([0, *counts]), pa.int32())
    structs = pa.StructArray.from_arrays(fields, [field.name for field in kind.value_type])
    return pa.ListArray.from_arrays(offsets, structs, type=kind, mask=lists.is_null())


def _passing(lists: pa.ListArray, limits: Float64) -> pa.ListArray:
    """The lists without the answers that lose against null by more than their pair's limit."""
    if np.isposinf(limits).all():
        return lists
    parent = pc.list_parent_indices(lists).to_numpy()
    passed = pc.less_equal(lists.flatten().field("null_odds"), pa.array(limits[parent]))
    row = parent[passed.to_numpy(zero_copy_only=False)]
    offsets = np.searchsorted(row, np.arange(len(lists) + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), lists.flatten().filter(passed), type=lists.type, mask=lists.is_null()
    )


def _cut(contexts: Sequence[str], context: Int32, start: pa.Array, end: pa.Array) -> pa.Array:
    """The text of each span, given in characters of its context; null where there is no span."""
    missing = start.is_null().to_numpy(zero_copy_only=False)
    starts, ends = (pc.fill_null(places, 0).to_numpy().tolist() for places in (start, end))
    texts = [contexts[at][begin:end] for at, begin, end in zip(context.tolist(), starts, ends, strict=True)]
    return pa.array(texts, pa.string(), mask=missing)
