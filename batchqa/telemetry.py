"""No library that batchqa loads calls home: their telemetry is switched off before they are loaded.

Each obeys something else, found in its source or its binary:

- onnxruntime's wheels for Linux and macOS (1.29 and later) keep a device id and a queue of events in the
  home folder's cache and send them to Microsoft. They obey an environment variable that is there when the
  library is loaded; `disable_telemetry_events` alone comes after the first event.
- `import openvino` sends an event to Google Analytics and writes `~/intel`. Its wheel asks the package
  `openvino_telemetry`, which obeys nothing but a file in the home folder or a CI's variables; where that
  package is missing, openvino takes a stub of its own instead. So it is hidden while openvino is imported.
- The Hugging Face libraries obey environment variables. transformers also asks a service on the hub to
  convert checkpoints that are not safetensors.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime 1.30 and later
    "ORT_TELEMETRY_DISABLED": "1",  # its first name
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and transformers and optimum with it
    "DISABLE_SAFETENSORS_CONVERSION": "true",  # transformers takes this spelling only
    "DO_NOT_TRACK": "1",  # whoever obeys the common one
}
"""Environment variables that switch telemetry off, for this process and those that it starts."""

_loaded_before: list[str] = []


def switch_off() -> None:
    """Set SWITCHES, whatever the user's environment says; `import batchqa` does this first of all."""
    _loaded_before[:] = [name for name in ("onnxruntime", "openvino") if name in sys.modules]
    os.environ.update(SWITCHES)


def loaded_before() -> list[str]:
    """The engines that the caller's own program had loaded, with their telemetry, before batchqa."""
    return list(_loaded_before)


def import_onnxruntime() -> Any:
    """The module `onnxruntime`, with its telemetry off. Raises ImportError."""
    module = importlib.import_module("onnxruntime")
    # the variable comes too late where the caller's program had loaded it before
    module.disable_telemetry_events()
    return module


def import_openvino() -> Any:
    """The module `openvino`, with its telemetry off. Raises ImportError."""
    with _hidden("openvino_telemetry"):
        return importlib.import_module("openvino")


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """In the block `import package` raises ImportError; a package that is loaded already stays so."""
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]  # None: not to be imported
    if package in modules:
        yield
        return
    modules[package] = None
    try:
        yield
    finally:
        del modules[package]
