"""What the student is taught: losses over start and end logits.

Only the places at which an answer may be count, and the null position: those of which decoding chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchqa.export.extras import load


def masked(logits: Any, answerable: Any) -> Any:
    """Float32 logits, (windows, tokens), with no chance outside `answerable`, bool of that shape."""
    return logits.float().masked_fill(~answerable, -1e4)


def gold_loss(start_logits: Any, end_logits: Any, start: Any, end: Any, labelled: Any) -> Any:
    """Mean cross entropy of start and end over the labelled windows (Devlin et al. 2019)."""
    functional = load("torch.nn.functional")
    losses = functional.cross_entropy(start_logits, start, reduction="none")
    losses = (losses + functional.cross_entropy(end_logits, end, reduction="none")) / 2
    weight = labelled.float()
    return (losses * weight).sum() / weight.sum().clamp(min=1)


def softened(teachers: list[Any], temperature: float) -> Any:
    """The teachers' mean distribution, softened: of masked logits, (windows, tokens) each."""
    torch = load("torch")
    return sum(torch.softmax(logits / temperature, dim=-1) for logits in teachers) / len(teachers)


def teacher_loss(student: Any, wanted: Any, temperature: float) -> Any:
    """Mean cross entropy of the student's softened distribution to the wanted one (Hinton et al. 2015).

    student: masked logits, wanted: probabilities, (windows, tokens). Times the squared temperature, so that
    the gradient keeps its size.
    """
    torch = load("torch")
    given = torch.log_softmax(student / temperature, dim=-1)
    return -(wanted * given).sum(dim=-1).mean() * temperature**2


def layer_map(student_layers: int, teacher_layers: int, chosen: Sequence[int] | None) -> list[int]:
    """Which teacher layer each student layer learns from, both from 0.

    The layers that the student was started from, if they were `chosen`; else evenly spread, the last from the
    last (TinyBERT's uniform map, Jiao et al. 2020).
    """
    if chosen is not None and max(chosen) < teacher_layers:
        return list(chosen)
    return [round((layer + 1) * teacher_layers / student_layers) - 1 for layer in range(student_layers)]


def projections(student_width: int, teacher_width: int, layers: int) -> Any:
    """One linear map a layer (and the embeddings) from the student's width to the teacher's; none if equal.

    They are learned with the student and thrown away with the teacher (TinyBERT).
    """
    nn = load("torch.nn")
    if student_width == teacher_width:
        return nn.ModuleList()
    return nn.ModuleList([nn.Linear(student_width, teacher_width, bias=False) for _ in range(layers + 1)])


def hidden_loss(student: Any, teacher: Any, maps: Any, layers: Sequence[int], attended: Any) -> Any:
    """How far the student's inside is from the teacher's, layer by layer: hidden states and attention.

    Hidden states and embeddings by their mean squared difference (TinyBERT, Jiao et al. 2020); attention by
    the divergence of its distributions, as in MiniLM (Wang et al. 2020), of the heads' mean where the numbers
    of heads differ. `student` and `teacher` are outputs with `hidden_states` and `attentions`; `attended`:
    bool, (windows, tokens), false for padding.
    """
    torch = load("torch")
    weight = attended.float()
    total = 0.0
    for place, source in enumerate([0, *(layer + 1 for layer in layers)]):
        mine, theirs = student.hidden_states[place].float(), teacher.hidden_states[source].float()
        mine = maps[place](mine) if len(maps) else mine
        total = total + (((mine - theirs) ** 2).mean(dim=-1) * weight).sum() / weight.sum()
    for place, source in enumerate(layers):
        mine, theirs = student.attentions[place].float(), teacher.attentions[source].float()
        if mine.shape[1] != theirs.shape[1]:
            mine, theirs = mine.mean(dim=1, keepdim=True), theirs.mean(dim=1, keepdim=True)
        divergence = (theirs * (torch.log(theirs + 1e-9) - torch.log(mine + 1e-9))).sum(dim=-1).mean(dim=1)
        total = total + (divergence * weight).sum() / weight.sum()
    return total
