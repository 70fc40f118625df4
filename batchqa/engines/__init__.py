"""Which engine runs the model, on which device; its processes. What the road needs of it is steps/scoring.

::

    selecting.py        a bundle and what was asked for -> the engine, variant, workers and batch size
    measuring.py        which scorer is fastest, and with which batch size
    loading.py          an engine's name -> its scorer
    onnxruntime.py      the scorer on onnxruntime
    openvino.py         the scorer on OpenVINO
    worker_process.py   a scorer in a process of its own
    worker_pool.py      several scorers side by side
"""

from .loading import Recipe, load
from .measuring import fastest, measure_budget
from .onnxruntime import UNPADDED, OnnxScorer, cuda_devices, cuda_is_available, has_cuda_device
from .openvino import Arithmetic, OpenVinoScorer, best_arithmetic, openvino_is_installed
from .worker_pool import Crew
from .worker_process import ChildScorer

__all__ = [
    "UNPADDED",
    "Arithmetic",
    "ChildScorer",
    "Crew",
    "OnnxScorer",
    "OpenVinoScorer",
    "Recipe",
    "best_arithmetic",
    "cuda_devices",
    "cuda_is_available",
    "fastest",
    "has_cuda_device",
    "load",
    "measure_budget",
    "openvino_is_installed",
]
