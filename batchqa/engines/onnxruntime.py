"""onnxruntime: the SpanScorer on the CPU or on a CUDA device."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from batchqa.bundle import Bundle, Variant
from batchqa.errors import DeviceError, ModelError, TryAgainError, first_line
from batchqa.records import Float32, Int64
from batchqa.settings import MachineSettings
from batchqa.steps.scoring import MicroBatchScorer, OutOfMemoryError
from batchqa.telemetry import import_onnxruntime

from .devices import CUDA, has_cuda_provider, why_not_cuda
from .loading import Library, ModelSpec, Way

SPIN_MICROSECONDS = "20"
"""How long a thread spins between two operators before it sleeps (docs/decisions/0002-openvino.md)."""

UNPADDED = "batchqa.unpadded"
"""Metadata of an ONNX file: "true" where it is to run windows of one length together."""

_OUT_OF_MEMORY = re.compile(
    r"allocate memory|out of memory|bad_alloc|BFCArena|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE
)
_DEVICE_LOST = re.compile(
    r"illegal memory access|device-side assert|uncorrectable ECC|CUDA_ERROR_|Xid|cudaError", re.IGNORECASE
)
_OF_CUDA = re.compile(r"CUDA|CUDNN|CUBLAS|NVIDIA", re.IGNORECASE)


class OnnxScorer(MicroBatchScorer):
    """A bundle's ONNX file in onnxruntime, on the CPU or on one CUDA device."""

    engine = "onnxruntime"

    def __init__(self, spec: ModelSpec) -> None:
        """Load the model. One can be `unpadded` by its spec, or because the file asks for it.

        Raises ModelError where the file is no model or takes other inputs, DeviceError where the device
        cannot be had (onnxruntime itself would only warn and run on the CPU).
        """
        model = Path(spec.model)
        self.device = spec.device
        self._outputs = list(spec.outputs)
        self._session = _open_session(model, spec.device, spec.threads)
        self._inputs = _check_signature(self._session, model, spec.inputs, spec.outputs)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.unpadded = spec.unpadded or metadata.get(UNPADDED) == "true"
        self.together = 1 if self.unpadded else None

    def _run(self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64) -> tuple[Float32, Float32]:
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
        }
        feed = {name: np.ascontiguousarray(given[name]) for name in self._inputs}
        try:
            start, end = (
                self._run_bound(feed) if self.device != "cpu" else self._session.run(self._outputs, feed)
            )
        except Exception as error:  # onnxruntime's own errors share no base class
            raise _translated(error, self.device) from error
        return start.astype(np.float32, copy=False), end.astype(np.float32, copy=False)

    def _run_bound(self, feed: dict[str, Int64]) -> list[Float32]:
        """Run with inputs and outputs bound, so that each is copied to or from the device once."""
        binding = self._session.io_binding()
        for name, array in feed.items():
            binding.bind_cpu_input(name, array)
        for name in self._outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        copied: list[Float32] = binding.copy_outputs_to_cpu()
        return copied


def _open_session(model: Path, device: str, threads: int) -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # between two operators threads wait by spinning, which is right for a moment only: on cores that are
    # shared, with tokenizing or with other jobs, they would spin while the one they wait for has no core
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)
    # shapes change from batch to batch: a plan of memory for each shape would only pile up
    options.enable_mem_pattern = False
    providers: list[Any] = ["CPUExecutionProvider"]
    if device != "cpu":
        if not has_cuda_provider():
            raise DeviceError(
                f"onnxruntime cannot use {device}: this build has no CUDA; install onnxruntime-gpu instead, "
                f"or use --device cpu"
            )
        onnxruntime.preload_dlls()
        number = device.partition(":")[2] or "0"
        cuda = {"device_id": number, "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}
        providers = [(CUDA, cuda), *providers]
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=providers)
    except Exception as error:  # onnxruntime's own errors share no base class
        reason = first_line(error)
        if device != "cpu" and _OF_CUDA.search(reason):
            raise DeviceError(
                f"onnxruntime cannot use {device}: {reason}{why_not_cuda()}; run `batchqa doctor`, or use "
                f"--device cpu"
            ) from error
        raise ModelError(
            f"{model} cannot be loaded by onnxruntime: {reason}; export the bundle again"
        ) from error
    if device != "cpu" and session.get_providers()[0] != CUDA:
        raise DeviceError(
            f"onnxruntime cannot use {device}: its CUDA provider cannot be loaded on this machine"
            f"{why_not_cuda()}; "
            "run `batchqa doctor`, install `batchqa[cuda]`, or use --device cpu"
        )
    return session


def _check_signature(session: Any, model: Path, inputs: Sequence[str], outputs: Sequence[str]) -> list[str]:
    takes = {node.name: node for node in session.get_inputs()}
    gives = {node.name: node for node in session.get_outputs()}
    wrong = (
        set(takes) != set(inputs)
        or not {"input_ids", "attention_mask"} <= set(takes)
        or not set(takes) <= {"input_ids", "attention_mask", "token_type_ids"}
        or len(outputs) != 2
        or not set(outputs) <= set(gives)
        or any(node.type != "tensor(int64)" for node in takes.values())
        or any(isinstance(size, int) for node in takes.values() for size in node.shape)
        or any(len(gives[name].shape) != 2 for name in outputs if name in gives)
    )
    if wrong:
        signature = ", ".join(f"{n.name} {n.type} {n.shape}" for n in (*takes.values(), *gives.values()))
        raise ModelError(
            f"{model} is not an extractive QA model that batchqa can run: it has {signature}; needed are "
            f"int64 inputs {list(inputs)} of variable shape and outputs {list(outputs)}, (windows, tokens)"
        )
    return list(takes)


def _translated(error: Exception, device: str) -> Exception:
    """The error that the pipeline acts upon, for one of onnxruntime's."""
    text = str(error)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):
        return OutOfMemoryError(text)
    reason = first_line(error)
    if device != "cpu" and _DEVICE_LOST.search(text):
        return TryAgainError(f"{device} was lost ({reason}); run the same command again")
    return ModelError(f"the model failed on {device}: {reason}; export the bundle again or use another")


def _ways(bundle: Bundle, variants: Sequence[Variant], machine: MachineSettings) -> list[Way]:  # noqa: ARG001
    """The best variant; it computes in what the file says."""
    return [(variant, None) for variant in variants[:1]]


LIBRARY = Library(
    module="onnxruntime",
    packages=("onnxruntime", "onnxruntime-gpu"),  # both hold the module
    devices=("cpu", "cuda"),
    ways=_ways,
    load=OnnxScorer,
)
