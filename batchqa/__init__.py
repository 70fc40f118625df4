"""Annotate files of (context, question) rows with the answer that stands in the context.

The public names, nothing else. What needs a model is loaded when it is first asked for, so that
`import batchqa` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from batchqa.errors import (
    BatchqaError,
    DeviceError,
    InputError,
    LimitError,
    ModelError,
    NoInputError,
    PreconditionError,
    SettingsError,
    StoppedError,
    StorageError,
    TryAgainError,
)
from batchqa.telemetry import switch_off
from batchqa.version import VERSION as __version__

if TYPE_CHECKING:
    from batchqa.annotator import Annotator
    from batchqa.evaluation import evaluate
    from batchqa.job import finalize
    from batchqa.runners import run

_HOMES = {
    "Annotator": "batchqa.annotator",
    "evaluate": "batchqa.evaluation",
    "finalize": "batchqa.job",
    "run": "batchqa.runners",
}
"""Where the public names that are loaded on demand live (PEP 562)."""

__all__ = [
    "Annotator",
    "BatchqaError",
    "DeviceError",
    "InputError",
    "LimitError",
    "ModelError",
    "NoInputError",
    "PreconditionError",
    "SettingsError",
    "StoppedError",
    "StorageError",
    "TryAgainError",
    "__version__",
    "evaluate",
    "finalize",
    "run",
]


switch_off()  # here, because whatever loads an engine through batchqa comes by


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
