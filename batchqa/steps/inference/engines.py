"""Which engine runs a model: the one place where a name becomes a scorer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .onnx_scorer import OnnxScorer
from .scoring import SpanScorer


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that is needed to load a model, here or in another process.

    `inputs` and `outputs` are the names that the model must have, `device` is "cpu" or "cuda:N", `threads`
    those of the engine's operators on the CPU.
    """

    engine: str
    model: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    device: str
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """As it is sent to another process."""
        return asdict(self)


def load(recipe: Recipe) -> SpanScorer:
    """Load the model in this process. Raises ModelError or DeviceError."""
    return OnnxScorer(Path(recipe.model), recipe.inputs, recipe.outputs, recipe.device, recipe.threads)
