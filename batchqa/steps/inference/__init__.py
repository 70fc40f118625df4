"""Padded batch -> logits: a model on a device.

::

    scoring.py      the SpanScorer protocol; a batch that goes wrong
    onnx_scorer.py  the scorer on onnxruntime
    engines.py      an engine's name -> its scorer
    child.py        a scorer in a process of its own
    budget.py       the batch size with which a scorer is fastest
"""

from .budget import measure_budget
from .child import ChildScorer
from .engines import Recipe, load
from .onnx_scorer import OnnxScorer, cuda_is_available
from .scoring import CrashedError, OutOfMemoryError, SpanScorer, score_batch

__all__ = [
    "ChildScorer",
    "CrashedError",
    "OnnxScorer",
    "OutOfMemoryError",
    "Recipe",
    "SpanScorer",
    "cuda_is_available",
    "load",
    "measure_budget",
    "score_batch",
]
