"""The last layer, reduced to what the two logits of a token are read from.

Behind the last feed-forward layer comes nothing but a normalization and the logits' product. Of the sum y of
residual and feed-forward, (width,), this reads two directions, and the length by which it divides::

    logits = (c A) / sigma + b      c = y - mean(y), sigma^2 = mean(c^2), A = centred scale * head: (width, 2)

So the matrix behind GELU need not give all channels of y, nor read all neurons:

1. *Channels.* y is projected on fewer: both columns of A, so that c A stays as exact as it was, and those in
   which c is largest, from which sigma^2 follows as a (|z + shift|^2 + rest), fitted by least squares. With
   one channel that is constant, for the rest, and turned so that their sum is zero, they are what a layer
   normalization reads: the graph keeps the operators that it had.
2. *Neurons.* Those whose removal changes the logits least are removed, in rounds, and what the matrix reads
   from the others makes up for them (optimal brain surgeon: Hassibi and Stork 1993; of whole neurons: Kurtic
   et al. 2023, "ZipLM", section 3.1).

How many may go is decided by windows that the fit did not see. docs/decisions/0009-last-layer.md has figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from batchqa.records import Float32, Float64, Int64

from .editing import Editor
from .last_layer import LastLayer, Replacement, find_last_layer, with_replacement
from .quantize import DAMPING, Feed, activations

WIDTHS = (64, 128, 256)
"""To how many channels the sum may be reduced; products are fastest for multiples of 64."""

ROUNDS = 12
STEP = 24
"""Neurons go in ROUNDS rounds, a STEP-th of all in each: half of them at most."""

MOST_ERROR = 5e-6
"""Up to which share of the logits' power their error may have (-53 dB): a twentieth of what int8 adds."""

FIRST_TOKEN = 3.0
"""How much more an error of the first token counts: every null score is read there."""

HELD_OUT = 4
"""Every 4th window is not fitted on: it decides how much may go."""

LEAST_WINDOWS = 32
"""With fewer windows than that nothing is reduced."""

TOKENS_AT_ONCE = 4096

TINY = 1e-6
"""The least that is left of a length which the channels give alone, as a share of it."""


@dataclass(frozen=True, slots=True)
class Reduced:
    """A graph (ModelProto) whose last layer gives `width` channels from `neurons` neurons.

    error: of the logits, as a share of their power, on windows that the fit did not see.
    """

    model: Any
    width: int
    neurons: int
    error: float


def reduced(model: Any, feeds: Iterable[Feed]) -> Reduced | None:
    """A copy of `model` (fused, float32) with a smaller last layer, fitted on `feeds`.

    None where its last layer is not one of BERT's kind, or nothing can go without an error of more than
    MOST_ERROR.
    """
    graph = Editor(model)
    if (layer := find_last_layer(graph)) is None or (seen := _Seen.of(model, layer, feeds)) is None:
        return None
    whole = _Neurons(np.arange(len(layer.second)), layer.second, layer.bias)
    for width in (width for width in WIDTHS if width < layer.width):
        projection = _projection(layer, seen, whole, width)
        if projection.error > MOST_ERROR / 2:
            continue
        best = whole, projection
        for neurons in _fewer(layer, seen):
            projection = _projection(layer, seen, neurons, width)
            if projection.error <= MOST_ERROR:
                best = neurons, projection
        neurons, projection = best
        smaller = Replacement(
            neurons.left,
            neurons.second @ projection.channels,
            neurons.bias @ projection.channels + projection.constant,
            projection.channels,
            projection.head,
        )
        copy = with_replacement(graph, layer, smaller)
        return Reduced(copy, width, len(neurons.left), float(projection.error))
    return None


# ------------------------------------------------------------------------------------ what calibration saw


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the original computes for tokens of `feeds`.

    residual, hidden: float32, (tokens, width or neurons). square: width * sigma^2. logits: less their
    constant, (tokens, 2). centred: c, (tokens, width). weight: how much a token counts. fitted: whether it
    is fitted on, or held out.
    """

    residual: Float32
    hidden: Float32
    square: Float64
    logits: Float64
    centred: Float64
    weight: Float64
    fitted: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, model: Any, layer: LastLayer, feeds: Iterable[Feed]) -> _Seen | None:
        names = [layer.residual, layer.hidden, layer.summed, layer.logits]
        parts: list[list[Any]] = [[], [], [], [], [], []]
        windows = 0
        for feed, values in activations(model, names, feeds):
            real = feed["attention_mask"] > 0
            if any(value.shape[:-1] != real.shape for value in values):
                return None  # not one vector per token
            first = np.zeros(real.shape, dtype=bool)
            first[:, 0] = True
            window = np.broadcast_to(windows + np.arange(len(real))[:, None], real.shape)
            windows += len(real)
            for part, value in zip(parts, [*values, first, window], strict=True):
                part.append(value[real])
        if windows < LEAST_WINDOWS:
            return None
        residual, hidden, summed, logits, is_first, window = (np.concatenate(part) for part in parts)
        centred = _centred(summed.astype(np.float64))
        return cls(
            residual,
            hidden,
            np.square(centred).sum(axis=1) + layer.epsilon * layer.width,
            logits.astype(np.float64) - layer.constant,
            centred,
            np.where(is_first, FIRST_TOKEN, 1.0),
            window % HELD_OUT != HELD_OUT - 1,
        )


def _centred(values: Float64) -> Float64:
    centred: Float64 = values - values.mean(axis=-1, keepdims=True)
    return centred


# -------------------------------------------------------------------------------------------- the neurons


@dataclass(frozen=True, slots=True)
class _Neurons:
    """Which are left, the matrix behind them, (left, width), and its bias, (width,)."""

    left: Int64
    second: Float64
    bias: Float64


def _fewer(layer: LastLayer, seen: _Seen) -> Iterator[_Neurons]:
    """The neurons that are left after each round, with what makes up for the others.

    A change d of y changes the logits by d A / sigma - logits (c d) / (width sigma^2): `metric` has a column
    for each of these directions, weighted by how much it does so on average.
    """
    fitted, sigma = seen.fitted, np.sqrt(seen.square / layer.width)
    weight = (seen.weight / sigma)[fitted]
    share = np.square(seen.weight[fitted])
    spread = (share[:, None] * np.square(seen.logits[fitted])).sum() / share.sum()
    along = (seen.centred * (seen.weight / np.sqrt(seen.square))[:, None])[fitted]
    power = layer.directions @ layer.directions.T
    power += spread / layer.width * (along.T @ along) / share.sum()
    values, vectors = np.linalg.eigh(power)
    metric = vectors * np.sqrt(np.maximum(values, 0))

    mean = np.square(weight) @ seen.hidden[fitted] / np.square(weight).sum()
    gram = np.zeros((len(mean), len(mean)))
    for rows in np.array_split(np.flatnonzero(fitted), 1 + len(fitted) // TOKENS_AT_ONCE):
        part = (seen.hidden[rows] - mean) * (seen.weight / sigma)[rows, None]
        gram += part.T @ part
    gram[np.diag_indices_from(gram)] += DAMPING * np.diag(gram).mean()

    inverse, second = np.linalg.inv(gram), layer.second
    left: Int64 = np.arange(len(second))
    for _ in range(ROUNDS):
        harm = np.square(second @ metric).sum(axis=1) / np.diag(inverse)
        order = np.argsort(harm, kind="stable")
        gone, kept = order[: len(layer.second) // STEP], np.sort(order[len(layer.second) // STEP :])
        across = np.concatenate([inverse[np.ix_(gone, kept)], second[gone]], axis=1)
        made_up = inverse[np.ix_(kept, gone)] @ np.linalg.solve(inverse[np.ix_(gone, gone)], across)
        inverse = inverse[np.ix_(kept, kept)] - made_up[:, : len(kept)]
        second = second[kept] - made_up[:, len(kept) :]
        left = left[kept]
        yield _Neurons(left, second, layer.bias + mean @ layer.second - mean[left] @ second)


# ------------------------------------------------------------------------------------------- the channels


@dataclass(frozen=True, slots=True)
class _Projection:
    """y @ channels + constant is what a normalization reads whose result @ head are the logits.

    channels: (width of y, width); constant: (width,); head: (width, 2). error: of the logits on held out
    windows, as a share of their power.
    """

    channels: Float64
    constant: Float64
    head: Float64
    error: float


def _projection(layer: LastLayer, seen: _Seen, neurons: _Neurons, width: int) -> _Projection:
    """The best projection of y on `width` channels."""
    feed_forward = seen.hidden[:, neurons.left] @ neurons.second.astype(np.float32)
    centred = _centred(seen.residual + feed_forward + neurons.bias)
    fitted, square = seen.fitted, seen.square
    power = np.square(seen.logits).sum(axis=1)
    weight = (seen.weight * np.sqrt(power + power.mean()))[fitted] / square[fitted]

    both, _ = np.linalg.qr(layer.directions)
    rest = ((centred - (centred @ both) @ both.T)[fitted]) * weight[:, None]
    _, vectors = np.linalg.eigh(rest.T @ rest)
    basis = np.concatenate([both, vectors[:, ::-1][:, : width - 4]], axis=1)
    found = centred @ basis  # (tokens, width - 2)

    factor, shift, left_over = _length(found[fitted], square[fitted], weight)
    lone = np.sqrt(left_over)
    read = basis.T @ layer.directions  # logits * sigma = found @ read

    length = np.sqrt(factor * (np.square(found + shift).sum(axis=1) + left_over) / layer.width)
    off = np.square(found @ read / length[:, None] - seen.logits).sum(axis=1)[~fitted]
    counted = np.square(seen.weight[~fitted])
    error = (counted @ off) / (counted @ power[~fitted])

    turned = _sum_to_zero(width)
    head = np.concatenate([read, -(shift @ read)[None] / lone])
    return _Projection(
        _centred((basis @ turned[:-1]).T).T,
        np.concatenate([shift, [lone]]) @ turned,
        turned.T @ head * np.sqrt(layer.width / (factor * width)),
        error if np.isfinite(error) else np.inf,
    )


def _length(found: Float64, square: Float64, weight: Float64) -> tuple[float, Float64, float]:
    """`square` as factor * (|found + shift|^2 + rest), by least squares.

    What is left out may depend on what is found: that is what the shift is for. Where it would take more than
    there is, there is none.
    """
    whole = np.square(found).sum(axis=1, keepdims=True)
    terms = np.concatenate([whole, np.ones_like(whole), found], axis=1) * weight[:, None]
    least = TINY * float(whole.mean())
    for count in (terms.shape[1], 2):
        (factor, free, *linear), *_ = np.linalg.lstsq(terms[:, :count], square * weight, rcond=None)
        shift = np.zeros(found.shape[1])
        shift[: len(linear)] = np.array(linear) / (2 * factor)
        rest = free / factor - shift @ shift
        if factor > 0 and rest > least:
            return float(factor), shift, float(rest)
    factor = (terms[:, 0] @ (square * weight)) / (terms[:, 0] @ terms[:, 0])
    return float(factor), np.zeros(found.shape[1]), least


def _sum_to_zero(width: int) -> Float64:
    """(width - 1, width): orthonormal rows whose sum is zero, each nearly one channel alone."""
    one_less = width - 1
    mixed = np.eye(one_less) - (1 - 1 / np.sqrt(width)) / one_less
    rows: Float64 = np.concatenate([mixed, -mixed.sum(axis=1, keepdims=True)], axis=1)
    return rows
