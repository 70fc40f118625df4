"""Channels that are large are made smaller, and their weights larger, before both are rounded to int8.

As in Xiao et al. 2022, "SmoothQuant", equation 4. The product stays what it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from batchqa.records import Float32

from .calibration_data import Observed
from .editing import ATTENTION, Editor, Product

SMOOTHING = 0.5
"""SmoothQuant's alpha: 0 leaves all difficulty with the inputs, 1 moves it to the weights."""


def smoothing_factors(
    graph: Editor, found: Sequence[Product], observed: Mapping[str, Observed]
) -> dict[str, Float32]:
    """SmoothQuant's factors per activation; none where a matrix is shared by several (ALBERT's layers)."""
    readers = Counter(weight for _, weight in {(p.activation, p.weight) for p in found})
    factors = {}
    for activation in dict.fromkeys(product.activation for product in found):
        weights = [p.weight for p in found if p.activation == activation]
        if any(readers[weight] > 1 for weight in weights):
            continue
        matrices = [graph.value(weight) for weight in weights]
        factors[activation] = _balanced(observed[activation].largest, matrices)
    return factors


def _balanced(largest: Float32, matrices: Sequence[Float32]) -> Float32:
    """SmoothQuant's factors, (width,), whose geometric mean is 1.

    largest: of each channel's values, (width,); matrices: what multiplies them, (width, outputs).
    """
    strongest = np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0)
    tiny = 1e-5
    raw = (largest + tiny) ** SMOOTHING / (strongest + tiny) ** (1 - SMOOTHING)
    factors: Float32 = (raw / np.exp(np.log(raw).mean())).astype(np.float32)
    return factors


@dataclass(frozen=True, slots=True)
class DividedValues:
    """Attention's values, whose product gives them divided by `factors`; `bias` is attention's, divided."""

    product: str
    factors: Float32
    bias: str


def divided_values(
    graph: Editor, found: Mapping[str, Product], smoothing: Mapping[str, Float32]
) -> dict[str, DividedValues]:
    """By attention's output: where its smoothing can be had for nothing.

    Attention takes means of the values, channel by channel. So instead of its output the values are divided,
    and these are a product, whose scale does it.
    """
    uses = Counter(name for node in graph.graph.node for name in node.input)
    free = {}
    for node in graph.graph.node:
        if node.op_type != ATTENTION or node.output[0] not in smoothing:
            continue
        factors, values = smoothing[node.output[0]], node.input[2]
        if values not in found or uses[values] != 1 or uses[node.output[0]] != 1:
            continue
        bias = node.input[3] if len(node.input) > 3 else ""
        if bias:
            if bias not in graph.constants:
                continue
            divided = graph.value(bias).copy()
            divided[-len(factors) :] /= factors  # those of query, key and value, one after the other
            bias = graph.constant(f"{bias}_divided", divided)
        free[node.output[0]] = DividedValues(values, factors, bias)
    return free
