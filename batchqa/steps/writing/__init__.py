"""Answered chunk -> Arrow batch: the input's columns, unchanged, and the answer's columns beside them."""

from __future__ import annotations

import pyarrow as pa

from batchqa.records import AnsweredChunk, answer_schema

from .metadata import updated


def output_schema(columns: pa.Schema, prefix: str, top_k: int, most_answers: int = 0) -> pa.Schema:
    """The schema of the output: the pass-through columns with their metadata, then the added ones.

    What the metadata says of the columns, in other writers' words, is brought up to date.
    """
    added = [field.with_name(prefix + field.name) for field in answer_schema(top_k, most_answers)]
    schema = pa.schema([*columns, *added])
    return schema.with_metadata(updated(columns.metadata, schema) or None)


def output_batch(chunk: AnsweredChunk, schema: pa.Schema) -> pa.RecordBatch:
    """The rows of a chunk as they are written; `schema` is that of `output_schema`."""
    return pa.record_batch([*chunk.chunk.rows.columns.columns, *chunk.answers.columns], schema=schema)
