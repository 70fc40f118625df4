"""Which engine runs a model: the one place where a name becomes a scorer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from batchqa.errors import DeviceError
from batchqa.steps.scoring import SpanScorer

from .onnxruntime import OnnxScorer
from .openvino import Arithmetic, OpenVinoScorer


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that is needed to load a model, here or in another process.

    `inputs` and `outputs` are the names that the model must have, `device` is "cpu" or "cuda:N", `threads`
    those of the engine's operators on the CPU. `longest` is the most tokens that the model takes (None: no
    limit), `arithmetic` what openvino computes in; onnxruntime computes in what the file says. `unpadded`:
    the model's logits change with padding, so that windows of one length only go together.
    """

    engine: str
    model: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    device: str
    threads: int
    longest: int | None = None
    arithmetic: Arithmetic = "f32"
    unpadded: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As it is sent to another process."""
        return asdict(self)


def load(recipe: Recipe) -> SpanScorer:
    """Load the model in this process. Raises ModelError or DeviceError."""
    model = Path(recipe.model)
    if recipe.engine == "openvino":
        if recipe.device != "cpu":
            raise DeviceError(
                f"openvino runs models on the CPU only; take --device cpu, or --engine onnxruntime for "
                f"{recipe.device}"
            )
        return OpenVinoScorer(
            model,
            recipe.inputs,
            recipe.outputs,
            recipe.threads,
            recipe.arithmetic,
            recipe.longest,
            unpadded=recipe.unpadded,
        )
    return OnnxScorer(
        model, recipe.inputs, recipe.outputs, recipe.device, recipe.threads, unpadded=recipe.unpadded
    )
