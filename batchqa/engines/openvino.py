"""OpenVINO (extra `openvino`): the SpanScorer on the CPU.

Two things are not OpenVINO's defaults, and both are there so that a row's answer does not depend on its
neighbours (measured with OpenVINO 2026.4 on AVX-512; `docs/decisions/0002-openvino.md`):

- A window is padded to the next multiple of LENGTH_BUCKET tokens, and only windows for which that is the
  same go together. So what a window's logits are computed from is decided by its own length: the last bits
  of a softmax depend on how many tokens it goes over, and in bfloat16 such a bit grows to 0.1 in a logit.
- What the model computes in (`compute_dtype`) is asked for by name, and checked.

A model is tried out when it is loaded: one whose logits depend on the batch all the same is not used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from batchqa.bundle import Bundle, Variant
from batchqa.errors import DeviceError, ModelError
from batchqa.machine import cpu_flags
from batchqa.records import Float32, Int64
from batchqa.settings import ComputeDtype, MachineSettings
from batchqa.steps.scoring import MicroBatchScorer, OutOfMemoryError
from batchqa.telemetry import import_openvino

from .loading import Library, ModelSpec, Way

TOLERANCE = 1e-4
"""By how much a logit may depend on the batch (docs/contract.md, Equality)."""

PROBED_LENGTHS = (7, 41, 44, 47, 90, 110, 111, 131)
"""Windows with which the dependence is looked for: some that go together, none a multiple of anything."""

_OUT_OF_MEMORY = re.compile(r"allocate|out of memory|bad_alloc", re.IGNORECASE)


def best_compute_dtype() -> ComputeDtype:
    """bfloat16 where the processor multiplies it (AMX, AVX-512 BF16), else float32."""
    return "bf16" if cpu_flags() & {"amx_bf16", "avx512_bf16"} else "f32"


class OpenVinoScorer(MicroBatchScorer):
    """A bundle's ONNX file in OpenVINO, on the CPU."""

    engine = "openvino"
    device = "cpu"

    def __init__(self, spec: ModelSpec) -> None:
        """Load the model.

        Raises DeviceError where OpenVINO is not installed, the device is not the CPU or the processor does
        not have the compute dtype; ModelError where the file is no model for it or its logits depend on the
        batch.
        """
        if spec.device != "cpu":
            raise DeviceError(
                "openvino runs models on the CPU only; use --device cpu, or --engine onnxruntime for "
                f"{spec.device}"
            )
        model, compute_dtype = Path(spec.model), spec.compute_dtype or "f32"
        self.compute_dtype = compute_dtype
        self._longest = spec.longest
        self.together = 1 if spec.unpadded else self.length_bucket
        self._inputs = list(spec.inputs)
        graph, compiled = _compiled(model, spec.inputs, spec.outputs, spec.threads, compute_dtype)
        self._vocabulary = _vocabulary(graph)
        self._request = compiled.create_infer_request()
        self._outputs = [compiled.output(name) for name in spec.outputs]
        worst = self._dependence()
        if worst > TOLERANCE:
            raise ModelError(
                f"{model} in {compute_dtype} on openvino gives logits that change by up to {worst:.2g} with "
                "the other rows of a batch; use --engine onnxruntime"
            )

    def _run(self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64) -> tuple[Float32, Float32]:
        # an id that the table does not have is read as zeros, without a word
        if self._vocabulary is not None and int(input_ids.max(initial=0)) >= self._vocabulary:
            raise ModelError(
                f"the model failed on cpu: it has no token {int(input_ids.max())}, only {self._vocabulary}; "
                "export the bundle again or use another"
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
        wanted = -(-tokens // self.together) * self.together
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
    model: Path, inputs: Sequence[str], outputs: Sequence[str], threads: int, compute_dtype: ComputeDtype
) -> tuple[Any, Any]:
    """The graph as read, and compiled for the CPU."""
    try:
        openvino = import_openvino()
    except ImportError as error:
        raise DeviceError(
            f"openvino cannot be imported ({error}); pip install 'batchqa[openvino]', or use --engine "
            f"onnxruntime"
        ) from error
    core = openvino.Core()
    if compute_dtype == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
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
                "INFERENCE_PRECISION_HINT": compute_dtype,
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
            f"{model} cannot be loaded by openvino: {reason}; use --engine onnxruntime, or export the "
            "bundle again"
        ) from error
    return graph, compiled


def _check_signature(graph: Any, model: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    if any(_is_scaled_at_run_time(node) for node in graph.get_ops()):
        # OpenVINO 2026.4 converts such products without an error, and the model's outputs are empty
        raise ModelError(
            f"{model} has int8 products with a scale per token, which only onnxruntime computes; use "
            f"--engine onnxruntime, or export a variant for openvino with `batchqa export --precision fp32`"
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
            f"{model} is not an extractive QA model that batchqa can run: it has {signature}; needed are "
            f"i64 inputs {list(inputs)} of variable shape and outputs {list(outputs)}, (windows, tokens)"
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
    """The error that the pipeline acts upon, for one of OpenVINO's."""
    text = str(error)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):
        return OutOfMemoryError(text)
    return ModelError(
        f"the model failed on cpu: {_first_line(error)}; export the bundle again or use another"
    )


def _first_line(error: Exception) -> str:
    """The line of OpenVINO's message that says what happened: the ones above it name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [after for before, after in pairwise(lines) if before.startswith("Exception from")]
    return (said or lines or [type(error).__name__])[-1][:300]


def _ways(bundle: Bundle, variants: Sequence[Variant], machine: MachineSettings) -> list[Way]:
    """The best variant; two unless one was named: which of int8 and bfloat16 is faster depends on the CPU.

    Who names a compute dtype wants no int8.
    """
    chosen = list(variants[:2])
    if machine.variant is not None:
        chosen = chosen[:1]
    elif machine.arithmetic != "auto":
        chosen = ([variant for variant in variants if not variant.weight_bits] or chosen)[:1]
    return [(variant, _compute_dtype(bundle, variant, machine)) for variant in chosen]


def _compute_dtype(bundle: Bundle, variant: Variant, machine: MachineSettings) -> ComputeDtype:
    """bf16 where the processor has it and the export found it good, but never behind the user's back.

    Who names a variant of floats means its precision; and `auto` does not compute in less than it would
    without OpenVINO: where that would be float32, so is this.
    """
    if machine.arithmetic != "auto":
        return machine.arithmetic
    verified = variant.verification.get("openvino", variant.verification)
    if verified.get("arithmetic") != "bf16":
        return "f32"
    if machine.variant is not None and not variant.weight_bits:
        return "f32"
    if machine.engine == "auto":
        beside = bundle.choices("cpu", "onnxruntime", None)
        if beside and beside[0].precision == "fp32":
            return "f32"
    return best_compute_dtype()


LIBRARY = Library(
    module="openvino", packages=("openvino",), devices=("cpu",), ways=_ways, load=OpenVinoScorer
)
