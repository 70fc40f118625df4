"""The models of the contenders, all from one checkpoint; made once into `.bench/`."""

from __future__ import annotations

import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

HAYSTACK = ("haystack-ai==2.20.0", "torch==2.13.0", "transformers==4.57.6", "accelerate")


@dataclass(frozen=True, slots=True)
class Models:
    """ONNX files, each beside the tokenizer and configuration that its pipeline loads, and bundles."""

    optimum_fp32: Path
    optimum_int8: Path
    fp32_bundle: Path
    openvino: bool


def prepare(checkpoint: Path, work: Path) -> Models:
    """Export with optimum, quantize dynamically as its documentation shows (AVX512-VNNI, per channel)."""
    exported, quantized, bundle = work / "optimum-fp32", work / "optimum-int8", work / "bundle-fp32"
    models = Models(
        exported / "model.onnx", quantized / "model_quantized.onnx", bundle, find_spec("openvino") is not None
    )
    if not models.optimum_fp32.exists():
        from optimum.onnxruntime import ORTModelForQuestionAnswering
        from transformers import AutoTokenizer

        ORTModelForQuestionAnswering.from_pretrained(checkpoint, export=True).save_pretrained(exported)
        AutoTokenizer.from_pretrained(checkpoint).save_pretrained(exported)
    if not models.optimum_int8.exists():
        from optimum.onnxruntime import ORTQuantizer
        from optimum.onnxruntime.configuration import AutoQuantizationConfig
        from transformers import AutoTokenizer

        config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
        ORTQuantizer.from_pretrained(exported, file_name="model.onnx").quantize(
            save_dir=quantized, quantization_config=config
        )
        AutoTokenizer.from_pretrained(checkpoint).save_pretrained(quantized)
    _export(checkpoint, bundle, "--precision", "fp32")
    return models


def cuda_bundle(checkpoint: Path, bundle: Path) -> Path:
    """The checkpoint's bundle for CUDA."""
    _export(checkpoint, bundle, "--precision", "fp16")
    return bundle


def base_sized(checkpoint: Path, work: Path) -> Path:
    """A bundle of BERT-base's size: random weights, so only its speed means anything."""
    folder, bundle = work / "base-sized", work / "cuda-base"
    if not folder.exists():
        import torch
        from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering

        torch.manual_seed(0)
        BertForQuestionAnswering(BertConfig()).save_pretrained(folder)
        AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    _export(folder, bundle, "--precision", "fp16", "--min-agreement", "0", "--abstains", "yes")
    return bundle


def _export(checkpoint: Path, bundle: Path, *options: str) -> None:
    if not bundle.exists():
        command = [sys.executable, "-m", "batchqa", "export", str(checkpoint), "-o", str(bundle), *options]
        subprocess.run([*command, "--quiet"], check=True, stdout=subprocess.DEVNULL)


def haystack_python(work: Path) -> str:
    """A Python with Haystack: it has an environment of its own, because it pins its own libraries."""
    folder = work / "haystack"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        for package in ("torch==2.13.0", *HAYSTACK):  # torch first and alone: see the Makefile
            command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]
            subprocess.run(command, check=True)
    return str(python)
