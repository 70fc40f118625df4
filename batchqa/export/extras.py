"""The extra `export`: the libraries that make models, imported late, with a clear word where they lack."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from batchqa.errors import ModelError

LIBRARIES = (
    "torch",
    "transformers",
    "accelerate",
    "optimum",
    "optimum-onnx",
    "onnx",
    "onnxruntime",
    "openvino",
    "tokenizers",
)
"""What a bundle's maker depends on; their versions are written into bundle.json."""


EXPORTING = ("exporting", "export")
TRAINING = ("training", "train")
TRAINING_LIBRARIES = ("accelerate",)
"""What the extra `train` has besides the extra `export`."""


def load(module: str) -> Any:
    """Import `module` of the extra `export`, or `train`. Raises ModelError, naming the extra, without it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name or module
        needs, extra = TRAINING if missing in TRAINING_LIBRARIES else EXPORTING
        raise ModelError(
            f"{needs} a model needs {missing}, which is not installed: pip install 'batchqa[{extra}]'"
        ) from error


def versions() -> dict[str, str]:
    """The installed versions of LIBRARIES; onnxruntime is found under either of its distributions' names."""
    found = {}
    for library in LIBRARIES:
        names = ("onnxruntime-gpu", "onnxruntime") if library == "onnxruntime" else (library,)
        for name in names:
            try:
                found[library] = importlib.metadata.version(name)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' warnings and progress bars off the user's terminal while they work."""
    loud = [
        logging.getLogger(name) for name in ("transformers", "optimum", "onnxruntime", "root", "torch.onnx")
    ]
    levels = [logger.level for logger in loud]
    for logger in loud:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loud, levels, strict=True):
            logger.setLevel(level)
