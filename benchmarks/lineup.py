"""Who is compared: each contender is a program in `contenders/`, a model, a batch size and an engine."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from batchqa.bundle import BUNDLED
from batchqa.engines.openvino import best_compute_dtype
from benchmarks.models import Models, base_sized, cuda_bundle, haystack_python, prepare

ORT_TOKENS, OPENVINO_TOKENS, CUDA_TOKENS = 512, 1536, 32_768
"""Token budgets of batchqa and of the bare engines: given, so that both do the same."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A program to be measured. `batch` 0 is to be found: the best of the peers' batch sizes.

    `kind` "limit" marks an engine by itself, which batchqa cannot be faster than.
    """

    name: str
    script: str
    model: Path
    batch: int = 0
    precision: str = "fp32"
    engine: str = "onnxruntime"
    device: str = "cpu"
    python: str = sys.executable
    kind: str = "peer"


def on_cpu(checkpoint: Path, work: Path) -> list[Contender]:
    """The short list; the first one is what the others are compared with."""
    models = prepare(checkpoint, work)
    return [
        _batchqa("batchqa int8, onnxruntime", BUNDLED, ORT_TOKENS, "int8"),
        _bare("bare onnxruntime, same int8", BUNDLED, ORT_TOKENS, "int8"),
        *(_openvino(models) if models.openvino else []),
        Contender("transformers pipeline fp32", "transformers_pipeline.py", checkpoint),
        Contender("optimum pipeline fp32", "optimum_pipeline.py", models.optimum_fp32),
        Contender("optimum pipeline int8 (dynamic)", "optimum_pipeline.py", models.optimum_int8),
    ]


def all_on_cpu(checkpoint: Path, work: Path) -> list[Contender]:
    """Everybody."""
    fp32 = prepare(checkpoint, work).fp32_bundle
    return [
        *on_cpu(checkpoint, work),
        _batchqa("batchqa fp32, onnxruntime", fp32, ORT_TOKENS, "fp32"),
        Contender("transformers pipeline bf16", "transformers_pipeline.py", checkpoint, precision="bf16"),
        Contender("sorted PyTorch loop fp32", "sorted_torch.py", checkpoint),
        Contender("sorted PyTorch loop bf16", "sorted_torch.py", checkpoint, precision="bf16"),
        Contender("Haystack reader fp32", "haystack_reader.py", checkpoint, python=haystack_python(work)),
    ]


def on_gpu(checkpoint: Path, work: Path) -> list[Contender]:
    """One CUDA device: the same small model, and one of BERT-base's size with random weights."""
    small, base = cuda_bundle(checkpoint, work / "cuda-small"), base_sized(checkpoint, work)
    return [
        _batchqa("batchqa fp16", small, CUDA_TOKENS, "fp16", "cuda"),
        _bare("bare onnxruntime fp16", small, CUDA_TOKENS, "fp16", "cuda"),
        Contender(
            "transformers pipeline fp16",
            "transformers_pipeline.py",
            checkpoint,
            precision="fp16",
            device="cuda",
        ),
        _batchqa("batchqa fp16, BERT-base's size", base, CUDA_TOKENS, "fp16", "cuda"),
        _bare("bare onnxruntime fp16, BERT-base's size", base, CUDA_TOKENS, "fp16", "cuda"),
    ]


def _openvino(models: Models) -> list[Contender]:
    arithmetic = {"bf16": "bf16", "f32": "fp32"}[best_compute_dtype()]
    contenders = []
    for precision, bundle in (("int8", BUNDLED), (arithmetic, models.fp32_bundle)):
        contenders += [
            _batchqa(f"batchqa {precision}, OpenVINO", bundle, OPENVINO_TOKENS, precision),
            _bare(f"bare OpenVINO {precision}", bundle, OPENVINO_TOKENS, precision),
        ]
    return [replace(contender, engine="openvino") for contender in contenders]


def _batchqa(name: str, bundle: Path, tokens: int, precision: str, device: str = "cpu") -> Contender:
    return Contender(name, "batchqa_run.py", bundle, tokens, precision, device=device, kind="batchqa")


def _bare(name: str, bundle: Path, tokens: int, precision: str, device: str = "cpu") -> Contender:
    return Contender(name, "bare_engine.py", bundle, tokens, precision, device=device, kind="limit")
