"""Padded batch -> logits: a model on a device.

::

    scoring.py          the SpanScorer protocol; a batch that goes wrong
    onnx_scorer.py      the scorer on onnxruntime
    openvino_scorer.py  the scorer on OpenVINO
    engines.py          an engine's name -> its scorer
    child.py            a scorer in a process of its own
    crew.py             several scorers side by side
    budget.py           which scorer is fastest, and with which batch size
"""

from .budget import fastest, measure_budget
from .child import ChildScorer
from .crew import Crew
from .engines import Recipe, load
from .onnx_scorer import UNPADDED, OnnxScorer, cuda_devices, cuda_is_available, has_cuda_device
from .openvino_scorer import Arithmetic, OpenVinoScorer, best_arithmetic, openvino_is_installed
from .scoring import CrashedError, OutOfMemoryError, SpanScorer, portions, score_batch, score_in_portions

__all__ = [
    "UNPADDED",
    "Arithmetic",
    "ChildScorer",
    "CrashedError",
    "Crew",
    "OnnxScorer",
    "OpenVinoScorer",
    "OutOfMemoryError",
    "Recipe",
    "SpanScorer",
    "best_arithmetic",
    "cuda_devices",
    "cuda_is_available",
    "fastest",
    "has_cuda_device",
    "load",
    "measure_budget",
    "openvino_is_installed",
    "portions",
    "score_batch",
    "score_in_portions",
]
