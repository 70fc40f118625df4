"""Which architectures can become bundles: those that optimum's exporter takes and whose head gives spans.

docs/models.md lists them; `tests/export/test_architectures.py` holds the list to this file.
"""

from __future__ import annotations

from batchqa.errors import ModelError

from .extras import load, quiet

TASK = "question-answering"

UNSUITED = {
    "bart": "it is an encoder with a decoder",
    "bigbird_pegasus": "it is an encoder with a decoder",
    "mbart": "it is an encoder with a decoder",
    "falcon": "it reads from left to right only",
    "gptj": "it reads from left to right only",
    "opt": "it reads from left to right only",
    "layoutlmv3": "it needs a page's layout as well as its text",
    "lilt": "it needs a page's layout as well as its text",
    "markuplm": "it needs a page's markup as well as its text",
    "longformer": "it needs a second attention mask",
    "splinter": "it marks the question with a token of its own",
    "flaubert": "its head searches spans itself and gives no logits",
    "xlm": "its head searches spans itself and gives no logits",
}
"""Architectures that the exporter takes for this task, but that batchqa cannot run, and why."""

_LIKE = {"modernbert": "ModernBertOnnxConfig"}
"""optimum-onnx 0.1 has a configuration for these, with the inputs that this task needs, but not the task."""


def exportable() -> list[str]:
    """The architectures (`model_type`) that can be exported, sorted."""
    heads = load("transformers.models.auto.modeling_auto").MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES
    return sorted(name for name in heads if name not in UNSUITED and _exporter_takes(name))


def check(architecture: str, name: str) -> None:
    """Raise ModelError, saying why, where checkpoint `name` has an architecture that cannot be exported."""
    if architecture not in load("transformers").CONFIG_MAPPING:
        raise ModelError(f"{name}: architecture {architecture!r} is unknown to this version of transformers")
    if reason := UNSUITED.get(architecture):
        raise ModelError(f"{name}: batchqa cannot run architecture {architecture!r}: {reason}")
    if not _exporter_takes(architecture):
        raise ModelError(
            f"{name}: architecture {architecture!r} cannot be exported to ONNX for question answering; "
            "docs/models.md lists those that can"
        )


def _exporter_takes(architecture: str) -> bool:
    """Whether optimum's exporter does this task for an architecture, after it was told of those in _LIKE."""
    with quiet():
        configs = load("optimum.exporters.onnx.model_configs")
        tasks = load("optimum.exporters.tasks").TasksManager
        if architecture in _LIKE:
            register = tasks.create_register("onnx")  # keeps what is there already
            register(architecture, TASK)(getattr(configs, _LIKE[architecture]))
    try:
        known = tasks.get_supported_tasks_for_model_type(architecture, "onnx", library_name="transformers")
    except KeyError:
        return False
    return TASK in known
