"""The models of the contenders, all from one checkpoint; made once into `.bench/`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from batchqa.bundle import BUNDLED, CARD, TOKENIZER, Variant, open_bundle, write_manifest
from batchqa.steps.windowing import open_tokenizer
from tests.models import tiny_onnx

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
    exported, quantized, bundle = work / "optimum-fp32", work / "optimum-int8", fp32_bundle(checkpoint, work)
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
    return models


def cuda_bundle(checkpoint: Path, bundle: Path) -> Path:
    """The checkpoint's bundle for CUDA."""
    _export(checkpoint, bundle, "--precision", "fp16")
    return bundle


def fp32_bundle(checkpoint: Path, work: Path) -> Path:
    """The checkpoint's bundle in float32."""
    _export(checkpoint, work / "bundle-fp32", "--precision", "fp32")
    return work / "bundle-fp32"


def base_sized(checkpoint: Path, work: Path, precision: str = "fp16") -> Path:
    """A bundle of BERT-base's size: random weights, so only its speed means anything."""
    folder, bundle = work / "base-sized", work / f"base-{precision}"
    if not folder.exists():
        import torch
        from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering

        torch.manual_seed(0)
        BertForQuestionAnswering(BertConfig()).save_pretrained(folder)
        AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    _export(folder, bundle, "--precision", precision, "--min-agreement", "0", "--abstains", "yes")
    return bundle


def tiny_bundle(work: Path) -> Path:
    """The package's tokenizer with a model that costs next to nothing: what is left is the host's work."""
    bundle = work / "tiny-bundle"
    if not bundle.exists():
        import onnx

        own = open_bundle(BUNDLED)
        manifest = own.manifest
        vocabulary = open_tokenizer(own.tokenizer).get_vocab_size()
        made = bundle.with_suffix(".tmp")
        made.mkdir(parents=True, exist_ok=True)
        shutil.copy(own.tokenizer, made / TOKENIZER)
        shutil.copy(BUNDLED / CARD, made / CARD)
        model = tiny_onnx(manifest.inputs, vocabulary, manifest.max_length, hidden=32, seed=0, poison=None)
        onnx.save(model, made / "model.fp32.onnx")
        variant = Variant("fp32", "model.fp32.onnx", ("cpu",), ("onnxruntime",), {})
        write_manifest(made, replace(manifest, name="tiny", variants=(variant,)))
        made.rename(bundle)
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
