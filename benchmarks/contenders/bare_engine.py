"""The limit of an engine: batches that are ready in memory, sorted by length; nothing else is done.

`--model` is a bundle and `--batch` the budget in tokens, as for `batchqa_run.py`; `--engine` chooses the
engine. With `--precision bf16` OpenVINO runs the fp32 variant in bfloat16, with `int8` that of int8, and
around its products what the processor does best.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from contender import arguments, measure, read_rows

from batchqa.annotator import Annotator
from batchqa.bundle import open_bundle
from batchqa.engines.openvino import best_compute_dtype
from batchqa.records import LENGTH_BUCKET, Chunk, Cursor, Rows
from batchqa.settings import RunSettings
from batchqa.steps.batching import padded_batches
from batchqa.steps.pairing import AnswerCache, pairs_of
from batchqa.steps.scoring import micro_batches
from batchqa.telemetry import import_openvino

options = arguments()
rows = read_rows(options.rows)


Batch = tuple[Any, ...]


def load() -> tuple[Callable[[list[Batch]], object], list[Batch]]:
    """What works off batches, as many at once as the engine has workers, and all rows as batches."""
    annotator = Annotator(
        options.model,
        settings=RunSettings.from_options(
            {
                "device": options.device,
                "engine": "onnxruntime",
                "threads": options.threads,
                "batch_tokens": options.batch,
                "in_process": True,
            }
        ),
    )
    context = pa.array([row["context"] for row in rows])
    question = pa.array([row["question"] for row in rows])
    everything = Rows(
        pa.record_batch([context], ["context"]), context, question, {}, 0, lambda n: Cursor(0, n), str
    )
    pairs = pairs_of(Chunk(everything, 0, last_of_part=True), AnswerCache())
    windows = annotator.pipeline.windower.windows(pairs)
    (whole,) = padded_batches(windows, budget=10**9)
    arrays = (whole.input_ids, whole.attention_mask, whole.token_type_ids)
    scorer: Any = annotator.engine.scorer
    (first, *_) = getattr(scorer, "members", (scorer,))
    bucket = LENGTH_BUCKET if options.engine == "openvino" else 1 if first.unpadded else None
    batches = [
        tuple(np.ascontiguousarray(array[part]) for array in arrays)
        for part in micro_batches(whole.attention_mask, options.batch, length_bucket=bucket)
    ]
    score_all = _openvino(options.model) if options.engine == "openvino" else _onnxruntime(annotator)
    score_all(batches[: 2 * options.threads])  # the first run of a session allocates what later ones reuse
    return score_all, batches


def _onnxruntime(annotator: Annotator) -> Callable[[list[Batch]], object]:
    workers = ThreadPoolExecutor(annotator.resolved.workers)
    return lambda batches: list(workers.map(lambda batch: annotator.engine.scorer.score(*batch), batches))


def _openvino(folder: Path) -> Callable[[list[Batch]], object]:
    """OpenVINO by itself, on one of the bundle's files: a stream for each thread, fed asynchronously."""
    ov = import_openvino()
    bundle = open_bundle(folder)
    variant = bundle.choose("cpu", "openvino", "int8" if options.precision == "int8" else "fp32")
    arithmetic = {"fp32": "f32", "bf16": "bf16", "int8": best_compute_dtype()}[options.precision]
    compiled = ov.Core().compile_model(
        str(bundle.model(variant)),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": arithmetic,
            "INFERENCE_NUM_THREADS": options.threads,
            "NUM_STREAMS": options.threads,
        },
    )
    queue = ov.AsyncInferQueue(compiled, options.threads)
    names = ("input_ids", "attention_mask", "token_type_ids")
    wanted = [names.index(name) for name in bundle.manifest.inputs]

    def score_all(batches: list[Batch]) -> None:
        for batch in batches:
            queue.start_async({names[at]: batch[at] for at in wanted})
        queue.wait_all()

    return score_all


def work(loaded: tuple[Callable[[list[Batch]], object], list[Batch]]) -> int:
    """Run the engine over the batches."""
    score_all, batches = loaded
    score_all(batches)
    return len(rows)


measure(load, work)
