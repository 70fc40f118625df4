"""An engine's name -> its library, and a model loaded with it.

An engine is one file here, named as in `settings.EngineName`, which holds its `Library` as `LIBRARY`. A file
is imported when its engine is used, and the library itself when a model is loaded.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, get_args

from batchqa.bundle import Bundle, Variant
from batchqa.settings import ComputeDtype, EngineName, MachineSettings
from batchqa.steps.scoring import SpanScorer


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """All that is needed to load a model, here or in another process.

    `inputs` and `outputs` are the names that the model must have, `device` is "cpu" or "cuda:N", `threads`
    those of the engine's operators on the CPU. `longest` is the most tokens that the model takes (None: no
    limit), `compute_dtype` what openvino computes in; onnxruntime computes in what the file says.
    `unpadded`: the model's logits change with padding, so that windows of one length only go together.
    """

    engine: str
    model: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    device: str
    threads: int
    longest: int | None = None
    compute_dtype: ComputeDtype | None = None
    unpadded: bool = False

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        variant: Variant,
        engine: str,
        device: str,
        threads: int,
        compute_dtype: ComputeDtype | None = None,
    ) -> ModelSpec:
        """A bundle's variant, to be run by `engine` on `device`."""
        about = bundle.manifest
        return cls(
            engine,
            str(bundle.model(variant)),
            about.inputs,
            about.outputs,
            device,
            threads,
            about.max_length,
            compute_dtype,
            about.runs_unpadded,
        )

    def to_dict(self) -> dict[str, Any]:
        """As it is sent to another process."""
        return asdict(self)

    @classmethod
    def from_dict(cls, sent: Mapping[str, Any]) -> ModelSpec:
        """What `to_dict` gave, through JSON."""
        return cls(**{**sent, "inputs": tuple(sent["inputs"]), "outputs": tuple(sent["outputs"])})


Way = tuple[Variant, ComputeDtype | None]
"""A way to run a bundle's model: the variant, and what is computed in where the engine can choose."""


@dataclass(frozen=True, slots=True)
class Library:
    """What computes a model, as far as others need to know it.

    `module` is imported to use it, `packages` are those that bring it, `devices` the kinds that it runs on.
    `ways` gives those that are worth comparing of the variants verified for it, the preferred one first.
    """

    module: str
    packages: tuple[str, ...]
    devices: tuple[str, ...]
    ways: Callable[[Bundle, Sequence[Variant], MachineSettings], list[Way]]
    load: Callable[[ModelSpec], SpanScorer]

    def is_installed(self) -> bool:
        """Whether it is there; imports nothing."""
        return importlib.util.find_spec(self.module) is not None

    def versions(self) -> list[str]:
        """The versions of its packages that are installed."""
        found = []
        for package in self.packages:
            with suppress(importlib.metadata.PackageNotFoundError):
                found.append(importlib.metadata.version(package))
        return found


ENGINES: tuple[str, ...] = tuple(name for name in get_args(EngineName) if name != "auto")
"""All engines, the preferred one first."""


def library(engine: str) -> Library:
    """The library of an engine."""
    found: Library = importlib.import_module(f"batchqa.engines.{engine}").LIBRARY
    return found


def load(spec: ModelSpec) -> SpanScorer:
    """Load the model in this process. Raises ModelError or DeviceError."""
    return library(spec.engine).load(spec)


def engine_versions(*engines: str) -> dict[str, str]:
    """The versions of these engines, as far as they are installed; none is imported."""
    return {engine: versions[-1] for engine in engines if (versions := library(engine).versions())}
