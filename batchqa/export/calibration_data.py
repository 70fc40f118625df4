"""Calibration: rows as batches of the model's inputs, and what its matrix products read on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from batchqa.bundle import Bundle
from batchqa.records import Chunk, Cursor, Float32, Float64, Int64
from batchqa.settings import DEFAULT_MAX_LENGTH, ReadingSettings, WindowSettings
from batchqa.steps.batching import padded_batches
from batchqa.steps.chunking import chunks
from batchqa.steps.pairing import AnswerCache, pairs_of
from batchqa.steps.reading import ColumnPlan, pieces
from batchqa.steps.scoring import micro_batches
from batchqa.steps.windowing import Windower, open_tokenizer

from .editing import products
from .extras import load

BUDGET = 768
"""Tokens per batch: near the fastest on CPUs, and the same for every variant."""

Feed = Mapping[str, Int64]
"""One padded batch: the model's inputs by name, int64, (windows, tokens)."""


def batches_of(bundle: Bundle, table: pa.Table, max_length: int = DEFAULT_MAX_LENGTH) -> list[Feed]:
    """Rows of (context, question) as batches of the model's inputs: unpadded where the model runs so."""
    plan = ColumnPlan.of(table.schema, ReadingSettings(keep=()), "the calibration's rows")
    rows = [
        plan.rows(piece, str, 0, Cursor())
        for batch in table.combine_chunks().to_batches()
        for piece in pieces(batch)
    ]
    manifest = bundle.manifest
    longest = min(max_length, manifest.max_length)
    windower = Windower(open_tokenizer(bundle.tokenizer), manifest.layout, WindowSettings(), longest)
    cache = AnswerCache()
    bucket = 1 if manifest.runs_unpadded else None

    def batches(chunk: Chunk) -> Iterator[Feed]:
        for batch in padded_batches(windower.windows(pairs_of(chunk, cache)), BUDGET):
            given = {
                "input_ids": batch.input_ids,
                "attention_mask": batch.attention_mask,
                "token_type_ids": batch.token_type_ids,
            }
            for part in micro_batches(batch.attention_mask, batch.input_ids.size, length_bucket=bucket):
                yield {name: given[name][part] for name in manifest.inputs}

    return [feed for chunk in chunks(rows, part_rows=2**62) for feed in batches(chunk)]


@dataclass(slots=True)
class Observed:
    """What calibration saw of one input of matrix products, x, (tokens, width).

    gram: float64, (width, width), sum over tokens of x x^T; total: float64, (width,), of x; largest: float32,
    (width,), of |x|. The input itself is (windows, tokens, width); others are not observed.
    """

    gram: Float64
    total: Float64
    tokens: int
    largest: Float32

    @classmethod
    def of(cls, x: Float32) -> Observed:
        """Of float32, (tokens, width)."""
        wide = x.astype(np.float64)
        return cls(wide.T @ x, wide.sum(axis=0), len(x), np.abs(x).max(axis=0))

    def __add__(self, other: Observed) -> Observed:
        """Of the tokens of both."""
        return Observed(
            self.gram + other.gram,
            self.total + other.total,
            self.tokens + other.tokens,
            np.maximum(self.largest, other.largest),
        )

    @property
    def mean(self) -> Float64:
        """Float64, (width,)."""
        return self.total / self.tokens

    @property
    def centred_gram(self) -> Float64:
        """The sum of (x - mean) (x - mean)^T, float64, (width, width)."""
        centred: Float64 = self.gram - np.outer(self.total, self.mean)
        return centred


def observe(model: Any, feeds: Iterable[Feed]) -> dict[str, Observed]:
    """Run `model` (ModelProto) on `feeds` and gather what its matrix products read, by activation name.

    Padding is left out: feeds have an attention_mask.
    """
    onnx, ort = load("onnx"), load("onnxruntime")
    names = list(dict.fromkeys(product.activation for product in products(model.graph)))
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = [node.name for node in session.get_inputs()]
    seen: dict[str, Observed] = {}
    for feed in feeds:
        real = feed["attention_mask"].reshape(-1) > 0
        values = session.run(names, {key: feed[key] for key in wanted})
        for name, value in zip(names, values, strict=True):
            if value.shape[:-1] != feed["attention_mask"].shape:
                continue  # not one vector per token
            observed = Observed.of(value.reshape(-1, value.shape[-1])[real])
            seen[name] = seen[name] + observed if name in seen else observed
    return seen
