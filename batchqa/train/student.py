"""BASE -> the student: an encoder or a QA checkpoint, with all of its layers or some of them.

And what of it is trained: all, or not its embeddings and lowest layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from batchqa.errors import ModelError, SettingsError
from batchqa.export.checkpoint import Checkpoint
from batchqa.export.extras import load

from .train_settings import TrainSettings


def make_student(base: Checkpoint, layers: Sequence[int] | None, seed: int) -> Any:
    """The model to train, in float32. A question-answering head that BASE lacks is drawn from `seed`.

    Raises ModelError where other weights are missing, SettingsError for layers that BASE does not have.
    """
    load("torch").manual_seed(seed)
    model = base.load_model(head_required=False, attention="eager")
    if layers is not None:
        keep_layers(model, layers, base.name)
    return model


def keep_layers(model: Any, layers: Sequence[int], name: str) -> None:
    """Leave only these transformer layers in the model, in this order (from 0)."""
    torch = load("torch")
    holder, key = _stack(model, name, "--layers")
    count = int(model.config.num_hidden_layers)
    wrong = [layer for layer in layers if not 0 <= layer < count]
    if wrong or not layers or len(set(layers)) < len(layers):
        raise SettingsError(
            f"--layers must name different layers of {name}, from 0 to {count - 1}, not "
            f"{','.join(map(str, layers)) or 'none'}"
        )
    stack = getattr(holder, key)
    setattr(holder, key, torch.nn.ModuleList([stack[layer] for layer in layers]))
    model.config.num_hidden_layers = len(layers)


def freeze(model: Any, settings: TrainSettings, name: str) -> None:
    """Leave as they are what `settings` says: the word embeddings, or all that is below a layer.

    Nothing is computed backwards through what is frozen at the bottom: with 3 of 12 layers a step takes five
    sixths of the time, and loses little (Lee et al. 2019: the lowest quarter of BERT's layers can stay).
    """
    if settings.freeze_embeddings:
        model.get_input_embeddings().weight.requires_grad_(False)
    if not settings.freeze_layers:
        return
    holder, key = _stack(model, name, "--freeze-layers")
    stack = getattr(holder, key)
    if settings.freeze_layers >= len(stack):
        raise SettingsError(
            f"--freeze-layers {settings.freeze_layers} leaves nothing of {name} to train: it has "
            f"{len(stack)} layers"
        )
    model.base_model.requires_grad_(False)
    for layer in stack[settings.freeze_layers :]:
        layer.requires_grad_(True)


def _stack(model: Any, name: str, option: str) -> tuple[Any, str]:
    """The module that holds the list of layers, and the list's name in it."""
    torch = load("torch")
    count = int(model.config.num_hidden_layers)
    stacks = [
        (module, key)
        for module in model.modules()
        for key, child in module.named_children()
        if isinstance(child, torch.nn.ModuleList) and len(child) == count
    ]
    if len(stacks) != 1:
        raise ModelError(
            f"{name}: layers cannot be chosen: its {model.config.model_type} model has no one list of layers "
            f"(ALBERT shares one layer); leave out {option}"
        )
    return stacks[0]


def accepted_inputs(model: Any) -> tuple[str, ...]:
    """Which of input_ids, attention_mask and token_type_ids the model's forward takes."""
    known = inspect.signature(model.forward).parameters
    return tuple(name for name in ("input_ids", "attention_mask", "token_type_ids") if name in known)
