"""Activations whose scale need not be looked for in each token, because one for all tokens is as good.

Those are what comes out of a layer normalization: its sizes hardly change with the text. (Attention's and
GELU's outputs grow several times beyond what calibration saw when the text is in another script, and would be
cut off.) A scale that is fixed in calibration takes no pass over the activation, and its codes are nearly as
fine as those of a scale per token, for two reasons: each channel is moved to the middle of its own range (Wei
et al. 2023, "Outlier Suppression+", section 4.1), so that a channel that is large in all tokens does not
count; and channels are made equally large to a higher degree than for scales per token (`smoothquant.py`).
docs/decisions/0007-int8-openvino.md has the figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from batchqa.records import Float32

from .editing import Editor, Product
from .quantize import LARGEST_CODE, Observed
from .smoothquant import balanced

LAYER_NORMS = ("LayerNormalization", "SkipLayerNormalization")

STATIC_SMOOTHING = 0.9
"""SmoothQuant's alpha: with one scale for all tokens the largest channel decides how fine codes are."""

MARGIN = 1.1
"""How far codes reach beyond what calibration saw: of SQuAD's development set, one token in 200 goes beyond
that, by up to three tenths, and is cut off in a channel."""

MOST_NOISE = 3e-4
"""Up to which share of a product's power its rounded input may add to it (-35 dB). In the package's model it
is 0.6e-4 to 1.7e-4."""


@dataclass(frozen=True, slots=True)
class StaticScale:
    """An activation x is coded as round((x - middle) / (factors * step)).

    middle, factors: float32, (width,).
    """

    middle: Float32
    factors: Float32
    step: float


def static_scales(
    graph: Editor,
    found: Iterable[Product],
    observed: Mapping[str, Observed],
    smoothing: Mapping[str, Float32],
) -> dict[str, StaticScale]:
    """The scale of each normalized activation that can do with one for all tokens, by name.

    Those that are not in `smoothing` are not smoothed here either.
    """
    normed = {node.output[0] for node in graph.graph.node if node.op_type in LAYER_NORMS}
    matrices: dict[str, list[Float32]] = {}
    for product in found:
        if product.activation in normed:
            matrices.setdefault(product.activation, []).append(graph.value(product.weight))
    scales = {}
    for name, read_by in matrices.items():
        scale = _scale(observed[name], read_by, is_smoothed=name in smoothing)
        if _noise(scale, observed[name], read_by) <= MOST_NOISE:
            scales[name] = scale
    return scales


def _scale(observed: Observed, matrices: Sequence[Float32], *, is_smoothed: bool) -> StaticScale:
    middle: Float32 = (observed.low + observed.high) / np.float32(2)
    reach: Float32 = (observed.high - middle) * np.float32(MARGIN)
    factors = np.ones_like(reach)
    if is_smoothed:
        factors = balanced(reach, matrices, STATIC_SMOOTHING)
    largest = float((reach / factors).max())
    return StaticScale(middle, factors, largest / LARGEST_CODE if largest > 0 else 1.0)


def _noise(scale: StaticScale, observed: Observed, matrices: Sequence[Float32]) -> float:
    """How much rounding the activation adds to its products, as a share of their power in a usual token.

    Rounding to steps of d is an error of variance d^2 / 12 in each channel. "Usual" is the median: a token
    that is far from all others, as [CLS] often is, must not excuse what is added to these.
    """
    matrix = np.concatenate(matrices, axis=1)
    added = float(((scale.factors * scale.step) ** 2 / 12) @ np.square(matrix).sum(axis=1))
    products = (observed.sample - observed.mean.astype(np.float32)) @ matrix
    power = float(np.median(np.square(products).sum(axis=1)))
    return added / power if power > 0 else np.inf
