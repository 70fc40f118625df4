"""What identifies a job: everything that can change its output, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchqa.engines import Resolved, engine_versions
from batchqa.settings import RunSettings
from batchqa.steps.asking import Questions
from batchqa.steps.reading import Source

ALGORITHM = 2
"""Part of the fingerprint: goes up with every change that can change an answer."""


def fields_of(
    source: Source, digest: str, resolved: Resolved, settings: RunSettings, questions: Questions | None
) -> dict[str, Any]:
    """What the fingerprint is made of: all that can change the output, so not device, threads, batch size.

    `digest` is the bundle's.
    """
    asked = settings.machine
    engine = resolved.engine if asked.engine == "auto" else asked.engine
    fields = {
        "algorithm": ALGORITHM,
        "inputs": [{"uri": file.uri, **_known_anywhere(file.identity)} for file in source.files],
        "bundle": digest,
        "variant": asked.variant or resolved.variant,
        "engine": engine,
        "versions": versions_of(engine),
        "options": settings.of_the_output(),
    }
    if questions is not None:
        fields["asked"] = questions.to_record()
    elif source.lists:
        fields["asked"] = {"layout": "long"}  # each row brings its own
    if engine == "openvino":
        fields["arithmetic"] = resolved.compute_dtype if asked.arithmetic == "auto" else asked.arithmetic
    return fields


def _known_anywhere(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a file on every machine: numbers of devices and inodes are this one's."""
    return {name: value for name, value in identity.items() if name not in ("device", "inode")}


def versions_of(engine: str) -> dict[str, str]:
    """The libraries that can change an answer, with their versions."""
    import tokenizers

    return {**engine_versions("onnxruntime", engine), "tokenizers": tokenizers.__version__}
