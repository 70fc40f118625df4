"""The SpanScorer on onnxruntime, on the CPU or on a CUDA device."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from batchqa.errors import DeviceError, ModelError, TryAgainError
from batchqa.records import Float32, Int64
from batchqa.steps.scoring import OutOfMemoryError, score_in_portions
from batchqa.telemetry import import_onnxruntime

CUDA = "CUDAExecutionProvider"
"""onnxruntime's name for CUDA."""

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


class OnnxScorer:
    """A bundle's ONNX file in onnxruntime, on the CPU or on one CUDA device."""

    engine = "onnxruntime"
    at_once = 1

    def __init__(
        self,
        model: Path,
        inputs: Sequence[str],
        outputs: Sequence[str],
        device: str,
        threads: int,
        *,
        unpadded: bool = False,
    ) -> None:
        """Load `model` on `device` ("cpu", "cuda:0") with `threads` threads for operators on the CPU.

        `unpadded`: windows of one length only go together, also where the file does not ask for it.

        Raises ModelError where the file is no model or takes other inputs than `inputs`, DeviceError where
        the device cannot be had (onnxruntime itself would only warn and run on the CPU).
        """
        self.device = device
        self._outputs = list(outputs)
        self._session = _open_session(model, device, threads)
        self._inputs = _check_signature(self._session, model, inputs, outputs)
        is_unpadded = unpadded or self._session.get_modelmeta().custom_metadata_map.get(UNPADDED) == "true"
        self.alike = 1 if is_unpadded else None

    def score(
        self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64, budget: int | None = None
    ) -> tuple[Float32, Float32]:
        """See SpanScorer.score."""
        return score_in_portions(
            self._run, input_ids, attention_mask, token_type_ids, budget, alike=self.alike
        )

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


def cuda_devices() -> list[str]:
    """The CUDA devices of this machine, by the names that `--device` takes; at least the first one."""
    count = len([path for path in Path("/dev").glob("nvidia*") if path.name[6:].isdigit()])
    return [f"cuda:{number}" for number in range(max(count, 1))]


def has_cuda_device() -> bool:
    """Whether this machine has a CUDA device that is not hidden from this process, usable or not."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    return Path("/dev/nvidiactl").exists() or Path("/dev/nvidia0").exists()


def cuda_is_available() -> bool:
    """Whether there is a CUDA device and this onnxruntime was built for it."""
    return has_cuda_device() and CUDA in import_onnxruntime().get_available_providers()


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
        if CUDA not in onnxruntime.get_available_providers():
            raise DeviceError(
                f"onnxruntime cannot use {device}: this build of it has no CUDA; install onnxruntime-gpu "
                "in its place, or take --device cpu"
            )
        onnxruntime.preload_dlls()
        number = device.partition(":")[2] or "0"
        cuda = {"device_id": number, "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}
        providers = [(CUDA, cuda), *providers]
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=providers)
    except Exception as error:  # onnxruntime's own errors share no base class
        reason = str(error).splitlines()[0][:300]
        if device != "cpu" and _OF_CUDA.search(reason):
            raise DeviceError(
                f"onnxruntime cannot use {device}: {reason}; run `batchqa doctor`, or take --device cpu"
            ) from error
        raise ModelError(
            f"{model} cannot be loaded by onnxruntime: {reason}; export the bundle again"
        ) from error
    if device != "cpu" and session.get_providers()[0] != CUDA:
        raise DeviceError(
            f"onnxruntime cannot use {device}: its CUDA provider does not load on this machine; "
            "run `batchqa doctor`, install `batchqa[cuda]`, or take --device cpu"
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
            f"{model} is not an extractive QA model that batchqa can run: it has {signature}; wanted "
            f"are int64 inputs {list(inputs)} of free shape and outputs {list(outputs)}, (windows, tokens)"
        )
    return list(takes)


def _translated(error: Exception, device: str) -> Exception:
    """The error that the road acts upon, for one of onnxruntime's."""
    text = str(error)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):
        return OutOfMemoryError(text)
    reason = text.splitlines()[0][:300] if text else type(error).__name__
    if device != "cpu" and _DEVICE_LOST.search(text):
        return TryAgainError(f"{device} was lost ({reason}); run the same command again")
    return ModelError(f"the model failed on {device}: {reason}; export the bundle again or take another")
