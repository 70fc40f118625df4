"""Teachers: checkpoints or bundles whose start and end distributions the student learns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from batchqa.bundle import MANIFEST, open_bundle
from batchqa.errors import ModelError, SettingsError
from batchqa.export.builtin_passages import passages
from batchqa.export.checkpoint import Checkpoint, open_checkpoint
from batchqa.export.extras import load
from batchqa.export.verify import onnx_scorer
from batchqa.records import Layout
from batchqa.steps.scoring import SpanScorer
from batchqa.steps.windowing import learn_layout, open_tokenizer

from .student import accepted_inputs


class CheckpointTeacher:
    """A PyTorch model; its hidden states and attention can be looked at."""

    def __init__(self, model: Any, name: str, digest: str) -> None:
        self.model, self.name, self.digest = model.eval(), name, digest
        self._inputs = accepted_inputs(model)

    def to(self, device: Any) -> None:
        """Move to the student's device."""
        self.model.to(device)

    def __call__(self, inputs: Mapping[str, Any], **options: Any) -> Any:
        """What the model says of tensors of shape (windows, tokens)."""
        return self.model(**{name: inputs[name] for name in self._inputs}, **options)


class BundleTeacher:
    """A bundle's best variant for the CPU, in onnxruntime: logits only."""

    model = None

    def __init__(self, scorer: SpanScorer, name: str, digest: str) -> None:
        self._scorer, self.name, self.digest = scorer, name, digest

    def to(self, device: Any) -> None:
        """A bundle stays where its engine is; its logits go to the student's device."""

    def __call__(self, inputs: Mapping[str, Any], **_: Any) -> Any:
        """Start and end logits of tensors of shape (windows, tokens)."""
        torch = load("torch")
        names = ("input_ids", "attention_mask", "token_type_ids")
        start, end = self._scorer.score(*(inputs[name].cpu().numpy() for name in names))
        device = inputs["input_ids"].device
        return _Logits(torch.from_numpy(start).to(device), torch.from_numpy(end).to(device))


class _Logits:
    def __init__(self, start_logits: Any, end_logits: Any) -> None:
        self.start_logits, self.end_logits = start_logits, end_logits


Teacher = CheckpointTeacher | BundleTeacher


@contextmanager
def open_teachers(
    names: Sequence[str], student: Checkpoint, layout: Layout, *, hidden: bool, allow_pickle: bool
) -> Iterator[list[Teacher]]:
    """Load the teachers. They must have the student's tokenizer: targets are matched token by token.

    Raises ModelError for one whose tokenizer makes other tokens, or that is no model.
    """
    if hidden and len(names) != 1:
        raise SettingsError("--hidden needs exactly one --teacher: hidden states cannot be averaged")
    with ExitStack() as stack:
        teachers: list[Teacher] = []
        for name in names:
            if (Path(name) / MANIFEST).is_file():
                bundle = open_bundle(Path(name))
                _same_tokens(student, layout, open_tokenizer(bundle.tokenizer), bundle.manifest.layout, name)
                if hidden:
                    raise SettingsError(
                        f"--hidden needs a checkpoint as --teacher; {name} is a bundle, which has logits only"
                    )
                scorer = onnx_scorer(bundle, best_precision(bundle))
                teachers.append(BundleTeacher(scorer, bundle.manifest.name, bundle.digest))
                continue
            teacher = stack.enter_context(open_checkpoint(name, None, allow_pickle=allow_pickle))
            other = learn_layout(teacher.tokenizer, teacher.pad_id, teacher.pad_type)
            _same_tokens(student, layout, teacher.tokenizer, other, name)
            teachers.append(
                CheckpointTeacher(teacher.load_model(attention="eager"), teacher.id, teacher.digest)
            )
        yield teachers


def best_precision(bundle: Any) -> str:
    """The precision of the bundle's variant for onnxruntime that is nearest to the original."""
    known = [v.precision for v in bundle.manifest.variants if "onnxruntime" in v.engines]
    if not known:
        raise ModelError(f"bundle {bundle.manifest.name!r} has no variant for onnxruntime to teach with")
    return next((precision for precision in ("fp32", "fp16", "int8") if precision in known), known[0])


def _same_tokens(
    student: Checkpoint, layout: Layout, other: Tokenizer, other_layout: Layout, name: str
) -> None:
    texts = [text for passage in passages() for text in (passage.context, *passage.questions)]
    same = layout == other_layout and all(
        np.array_equal(one.ids, two.ids)
        for one, two in zip(student.tokenizer.encode_batch(texts), other.encode_batch(texts), strict=True)
    )
    if not same:
        raise ModelError(
            f"teacher {name} has another tokenizer than {student.name}: targets are matched token by token; "
            f"use a teacher and a base of one family, or let the teacher answer the rows with `batchqa run` "
            "and train on its answers as gold"
        )
