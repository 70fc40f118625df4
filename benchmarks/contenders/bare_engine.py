"""The limit of an engine: batches that are ready in memory, sorted by length; nothing else is done.

`--model` is a bundle and `--batch` the budget in tokens, as for `batchqa_run.py`; `--engine` chooses the
engine. With `--precision bf16` OpenVINO runs the fp32 variant in bfloat16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from contender import arguments, measure, read_rows

from batchqa.annotator import Annotator
from batchqa.bundle import open_bundle
from batchqa.records import Chunk, Cursor, Rows
from batchqa.settings import RunSettings
from batchqa.steps.batching import padded_batches

options = arguments()
rows = read_rows(options.rows)


def load() -> tuple[Any, list[Any]]:
    """The scorer, and all rows as batches."""
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
    windows = annotator.windows_of(Chunk(everything, 0, last_of_part=True))
    batches = [
        (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        for batch in padded_batches(windows, options.batch)
    ]
    score = annotator.scorer.score if options.engine == "onnxruntime" else _openvino(options.model)
    score(*batches[0])  # the first run of a session allocates what later ones reuse
    return score, batches


def _openvino(folder: Path) -> Any:
    """OpenVINO by itself, on the bundle's fp32 file."""
    import openvino as ov

    bundle = open_bundle(folder)
    variant = next(variant for variant in bundle.manifest.variants if variant.precision == "fp32")
    precision = {"fp32": "f32", "bf16": "bf16"}[options.precision]
    compiled = ov.Core().compile_model(
        str(bundle.model(variant)),
        "CPU",
        {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": options.threads},
    )
    request = compiled.create_infer_request()
    names = ("input_ids", "attention_mask", "token_type_ids")
    wanted = [names.index(name) for name in bundle.manifest.inputs]

    def score(*arrays: Any) -> None:
        request.infer({names[at]: arrays[at] for at in wanted})

    return score


def work(loaded: tuple[Any, list[Any]]) -> int:
    """Run the engine over the batches."""
    score, batches = loaded
    for batch in batches:
        score(*batch)
    return len(rows)


measure(load, work)
