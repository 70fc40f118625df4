"""The limit: a bundle's ONNX file in onnxruntime, fed sorted batches that are ready in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
from contender import arguments, measure, read_rows

from batchqa.annotator import Annotator
from batchqa.records import Chunk, Cursor, Rows
from batchqa.settings import RunSettings
from batchqa.steps.batching import padded_batches

options = arguments()
rows = read_rows(options.rows)


def load() -> tuple[Any, list[Any]]:
    """The scorer, and all rows as batches."""
    settings = RunSettings.from_options(
        {"device": "cpu", "threads": options.threads, "batch_tokens": options.batch, "in_process": True}
    )
    annotator = Annotator(options.model, settings=settings)
    context = pa.array([row["context"] for row in rows])
    question = pa.array([row["question"] for row in rows])
    everything = Rows(
        pa.record_batch([context], ["context"]), context, question, {}, 0, lambda n: Cursor(0, n), str
    )
    windows = annotator.windows_of(Chunk(everything, 0, last_of_part=True))
    batches = list(padded_batches(windows, options.batch))
    # the first run of a session allocates what later ones reuse
    first = batches[0]
    annotator.scorer.score(first.input_ids, first.attention_mask, first.token_type_ids)
    return annotator.scorer, [replace(batch, windows=None) for batch in batches]  # type: ignore[arg-type]


def work(loaded: tuple[Any, list[Any]]) -> int:
    """Run the engine over the batches."""
    scorer, batches = loaded
    for batch in batches:
        scorer.score(batch.input_ids, batch.attention_mask, batch.token_type_ids)
    return len(rows)


measure(load, work)
