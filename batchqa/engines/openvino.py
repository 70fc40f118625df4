"""The SpanScorer on OpenVINO (extra `openvino`), on the CPU.

Two things are not OpenVINO's defaults, and both are there so that a row's answer does not depend on its
neighbours (measured with OpenVINO 2026.4 on AVX-512; `docs/decisions/0002-openvino.md`):

- A window is padded to the next multiple of ALIKE tokens, and only windows for which that is the same go
  together. So what a window's logits are computed from is decided by its own length: the last bits of a
  soft-max depend on how many tokens it goes over, and in bfloat16 such a bit grows to 0.1 in a logit.
- What the model computes in (`arithmetic`) is asked for by name, and checked.

A model is tried out when it is loaded: one whose logits depend on the batch all the same is not used.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from batchqa.errors import DeviceError, ModelError
from batchqa.machine import cpu_flags
from batchqa.records import ALIKE, Float32, Int64
from batchqa.steps.scoring import OutOfMemoryError, score_in_portions
from batchqa.telemetry import import_openvino

Arithmetic = Literal["f32", "bf16"]
"""What the matrix products' factors are: float32, or bfloat16 with sums in float32."""

TOLERANCE = 1e-4
"""By how much a logit may depend on the batch (docs/contract.md, Equality)."""

PROBED_LENGTHS = (7, 41, 44, 47, 90, 110, 111, 131)
"""Windows with which the dependence is looked for: some that go together, none a multiple of anything."""

_OUT_OF_MEMORY = re.compile(r"allocate|out of memory|bad_alloc", re.IGNORECASE)


def openvino_is_installed() -> bool:
    """Whether the extra `openvino` is there; imports nothing."""
    return importlib.util.find_spec("openvino") is not None


def best_arithmetic() -> Arithmetic:
    """bfloat16 where the processor multiplies it (AMX, AVX-512 BF16), else float32."""
    return "bf16" if cpu_flags() & {"amx_bf16", "avx512_bf16"} else "f32"


class OpenVinoScorer:
    """A bundle's ONNX file in OpenVINO, on the CPU."""

    engine = "openvino"
    device = "cpu"
    at_once = 1

    def __init__(
        self,
        model: Path,
        inputs: Sequence[str],
        outputs: Sequence[str],
        threads: int,
        arithmetic: Arithmetic,
        longest: int | None = None,
        *,
        unpadded: bool = False,
    ) -> None:
        """Load `model`, to be run with `threads` threads; it takes at most `longest` tokens.

        `unpadded`: its logits change with padding, so that only windows of one length go together.

        Raises DeviceError where OpenVINO is not installed or the processor does not have `arithmetic`,
        ModelError where the file is no model for it or its logits depend on the batch.
        """
        self.arithmetic = arithmetic
        self._longest = longest
        self._alike = 1 if unpadded else ALIKE
        self._inputs = list(inputs)
        graph, compiled = _compiled(model, inputs, outputs, threads, arithmetic)
        self._vocabulary = _vocabulary(graph)
        self._request = compiled.create_infer_request()
        self._outputs = [compiled.output(name) for name in outputs]
        worst = self._dependence()
        if worst > TOLERANCE:
            raise ModelError(
                f"{model} in {arithmetic} on openvino gives logits that differ by {worst:.2g} with the batch "
                "that a row is in; take --engine onnxruntime"
            )

    def score(
        self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64, budget: int | None = None
    ) -> tuple[Float32, Float32]:
        """See SpanScorer.score."""
        return score_in_portions(
            self._run, input_ids, attention_mask, token_type_ids, budget, alike=self._alike
        )

    def _run(self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64) -> tuple[Float32, Float32]:
        # an id that the table does not have is read as zeros, without a word
        if self._vocabulary is not None and int(input_ids.max(initial=0)) >= self._vocabulary:
            raise ModelError(
                f"the model failed on cpu: it has no token {int(input_ids.max())}, only {self._vocabulary}; "
                "export the bundle again or take another"
            )
        tokens = input_ids.shape[1]
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
        }
        feed = {name: self._padded(given[name]) for name in self._inputs}
        try:
            results = self._request.infer(feed, share_inputs=True, share_outputs=True)
        except Exception as error:  # OpenVINO raises RuntimeError for everything
            raise _translated(error) from error
        # copies: the next batch is written over what the request holds
        start, end = (np.array(results[out][:, :tokens], dtype=np.float32) for out in self._outputs)
        return start, end

    def _padded(self, array: Int64) -> Int64:
        """The array with columns of zeros (masked) up to the next multiple, or to the model's limit."""
        tokens = array.shape[1]
        wanted = -(-tokens // self._alike) * self._alike
        if self._longest is not None:
            wanted = max(min(wanted, self._longest), tokens)
        return np.pad(array, ((0, 0), (0, wanted - tokens)))

    def _dependence(self) -> float:
        """The largest difference of a logit between a window alone and the same window in a batch."""
        most = self._longest or PROBED_LENGTHS[-1]
        lengths = sorted({min(length, most) for length in PROBED_LENGTHS})
        ids = np.random.default_rng(0).integers(0, min(self._vocabulary or 8, 1000), (len(lengths), most))
        ids = ids[:, : lengths[-1]]
        mask = (np.arange(ids.shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
        together = self.score(ids * mask, mask, np.zeros_like(ids))
        worst = 0.0
        for row, length in enumerate(lengths):
            at = np.s_[row : row + 1, :length]
            alone = self.score(ids[at], mask[at], np.zeros_like(ids[at]))
            for one, other in zip(alone, together, strict=True):
                difference = np.abs(one - other[at])
                # a model can be NaN for ids that no text has; that is found out row by row
                worst = max(worst, float(np.nanmax(difference, initial=0.0)))
        return worst


def _compiled(
    model: Path, inputs: Sequence[str], outputs: Sequence[str], threads: int, arithmetic: Arithmetic
) -> tuple[Any, Any]:
    """The graph as read, and compiled for the CPU."""
    try:
        openvino = import_openvino()
    except ImportError as error:
        raise DeviceError(
            f"openvino cannot be imported ({error}); pip install 'batchqa[openvino]', or take "
            "--engine onnxruntime"
        ) from error
    core = openvino.Core()
    if arithmetic == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise DeviceError(
            "this CPU has no bfloat16 arithmetic, which the job was started with; resume it where it was "
            "started, or start over with --restart"
        )
    try:
        graph = core.read_model(str(model))
        _check_signature(graph, model, inputs, outputs)
        compiled = core.compile_model(
            graph,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": arithmetic,
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                # threads that are tied to cores would stand in the way of other processes' work
                "ENABLE_CPU_PINNING": False,
            },
        )
    except ModelError:
        raise
    except Exception as error:  # OpenVINO raises RuntimeError for everything
        reason = _first_line(error)
        raise ModelError(
            f"{model} cannot be loaded by openvino: {reason}; take --engine onnxruntime, or export the "
            "bundle again"
        ) from error
    return graph, compiled


def _check_signature(graph: Any, model: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    if any(_is_scaled_at_run_time(node) for node in graph.get_ops()):
        # OpenVINO 2026.4 converts such products without an error, and the model's outputs are empty
        raise ModelError(
            f"{model} has int8 products with a scale per token, which only onnxruntime computes; take "
            "--engine onnxruntime, or export a variant for openvino with `batchqa export --precision fp32`"
        )
    takes = {port.get_any_name(): port for port in graph.inputs}
    gives = {name: port for port in graph.outputs for name in port.get_names()}
    wrong = (
        set(takes) != set(inputs)
        or not {"input_ids", "attention_mask"} <= set(takes)
        or not set(takes) <= {"input_ids", "attention_mask", "token_type_ids"}
        or len(outputs) != 2
        or not set(outputs) <= set(gives)
        or any(port.get_element_type().get_type_name() != "i64" for port in takes.values())
        or any(size.is_static for port in takes.values() for size in port.get_partial_shape())
        or any(gives[name].get_partial_shape().rank != 2 for name in outputs if name in gives)
    )
    if wrong:
        signature = ", ".join(
            f"{port.get_any_name()} {port.get_element_type().get_type_name()} {port.get_partial_shape()}"
            for port in (*graph.inputs, *graph.outputs)
        )
        raise ModelError(
            f"{model} is not an extractive QA model that batchqa can run: it has {signature}; wanted "
            f"are i64 inputs {list(inputs)} of free shape and outputs {list(outputs)}, (windows, tokens)"
        )


def _is_scaled_at_run_time(node: Any) -> bool:
    """Whether a node quantizes with scales that are not constant."""
    return node.get_type_name() == "FakeQuantize" and not all(map(_is_constant, node.input_values()[1:]))


def _is_constant(output: Any) -> bool:
    """Whether a value is computed from constants alone."""
    node = output.get_node()
    if node.get_type_name() == "Constant":
        return True
    sources = node.input_values()
    return bool(sources) and all(map(_is_constant, sources))


def _vocabulary(graph: Any) -> int | None:
    """How many tokens the embedding table has that `input_ids` look up; None where none is seen."""
    sizes = []
    for node in graph.get_ops():
        if node.get_type_name() != "Gather":
            continue
        table, index = node.input_value(0), node.input_value(1).get_node()
        while index.get_type_name() == "Convert":
            index = index.input_value(0).get_node()
        shape = table.get_partial_shape()
        if (
            index.get_type_name() == "Parameter"
            and "input_ids" in index.output(0).get_names()
            and shape.rank == 2
            and shape[0].is_static
        ):
            sizes.append(int(shape[0].get_length()))
    return min(sizes, default=None)


def _translated(error: Exception) -> Exception:
    """The error that the road acts upon, for one of OpenVINO's."""
    text = str(error)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):
        return OutOfMemoryError(text)
    return ModelError(
        f"the model failed on cpu: {_first_line(error)}; export the bundle again or take another"
    )


def _first_line(error: Exception) -> str:
    """The line of OpenVINO's message that says what happened: the ones above it name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [after for before, after in pairwise(lines) if before.startswith("Exception from")]
    return (said or lines or [type(error).__name__])[-1][:300]
