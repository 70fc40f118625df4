"""What runs a model, on which device, in which processes. What the pipeline needs of it is steps/scoring.

::

    selecting.py        select(): a bundle and what was asked for -> one loaded Engine
    measuring.py        which scorer is fastest, and with which token budget
    remembering.py      what was measured, in the cache folder
    devices.py          which devices there are, and why a GPU cannot be used
    loading.py          an engine's name -> its library and its scorer
    onnxruntime.py      the scorer on onnxruntime
    openvino.py         the scorer on OpenVINO
    worker_process.py   a scorer in a process of its own
    worker_pool.py      several scorers side by side
"""

from .devices import cuda_is_available
from .loading import ModelSpec, engine_versions, library, load
from .selecting import Engine, Resolved, before_any_row, select

__all__ = [
    "Engine",
    "ModelSpec",
    "Resolved",
    "before_any_row",
    "cuda_is_available",
    "engine_versions",
    "library",
    "load",
    "select",
]
