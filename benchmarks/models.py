"""The peers' models: the checkpoint as optimum exports and quantizes it, made once into `.bench/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PeerModels:
    """ONNX files, each beside the tokenizer and configuration that its pipeline loads."""

    optimum_fp32: Path
    optimum_int8: Path


def prepare(checkpoint: Path, work: Path) -> PeerModels:
    """Export with optimum and quantize dynamically, as its documentation shows (AVX512-VNNI, per channel)."""
    exported, quantized = work / "optimum-fp32", work / "optimum-int8"
    models = PeerModels(exported / "model.onnx", quantized / "model_quantized.onnx")
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
