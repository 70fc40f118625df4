"""ONNX graph in float32 -> ONNX graph with int8 products for OpenVINO.

As in `per_token_int8.py`, each token is scaled by itself, so that a window's answer does not depend on what
is beside it. OpenVINO (2026.4) makes int8 products of codes whose bounds are constant. Attention is written
out (`attention_openvino.py`). What is computed around the products, float32 or bfloat16, is chosen when the
file is loaded. docs/decisions/0007-int8-openvino.md has what each part is worth.

OpenVINO goes over an activation once for a whole chain of element by element operators. So GELU's outputs are
smoothed at no cost, as onnxruntime's could not be; and they are raised by their floor, so that all codes are
used. What that, and the weights' rounding, add to products on average a bias takes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchqa.records import Float32

from .attention_openvino import AttentionWriter
from .calibration_data import Observed
from .editing import ATTENTION, GELU_FLOOR, GELUS, Editor, Product, is_masked_attention, products
from .quantize import LARGEST_CODE, LARGEST_SAFE_CODE, WeightCodes, shrink_tables
from .smoothquant import DividedValues, divided_values, smoothing_factors

LARGEST_UNSIGNED = 255

TINY = 1e-9
"""The least scale: a token of zeros is not divided by zero."""


def int8_openvino(model: Any, observed: Mapping[str, Observed], *, reduce_range: bool = False) -> Any:
    """A copy of `model` (ModelProto) whose matrix products are int8 in OpenVINO.

    Only activations in `observed` are quantized. `reduce_range` gives weights 7 bits, for processors without
    VNNI and AMX.
    """
    graph = Editor(model)
    graph.needs_opset(13)  # QuantizeLinear with an axis
    found = {
        product.node.output[0]: product for product in products(graph.graph) if product.activation in observed
    }
    smoothing = smoothing_factors(graph, list(found.values()), observed)
    largest = LARGEST_SAFE_CODE if reduce_range else LARGEST_CODE
    codes = WeightCodes(graph, observed, smoothing, largest, are_corrected=True)
    values = divided_values(graph, found, smoothing)
    writer = _Writer(graph, codes, values)
    attention = AttentionWriter(graph)
    for node in graph.graph.node:
        product = found.get(node.output[0]) if node.output else None
        if product is not None:
            writer.multiply(product)
        elif node.op_type == ATTENTION:
            _write_attention(graph, attention, node, values)
        else:
            graph.keep(node)
    shrink_tables(graph)
    graph.drop_unread()  # the mask that fused attention took
    return graph.finish()


def _write_attention(
    graph: Editor, attention: AttentionWriter, node: Any, values: Mapping[str, DividedValues]
) -> None:
    """Append attention, with its bias added to query and value in one pass with the products' scales.

    Key's bias adds the same number to all scores of a query, which softmax does not see.
    """
    out = node.output[0]
    bias = values[out].bias if out in values else ""
    if not is_masked_attention(graph, node):
        graph.keep(node)
        if bias:
            graph.nodes[-1].input[3] = bias
        return
    query, key, value, own, _ = node.input
    parts = np.split(graph.value(bias or own), 3)
    biased = [
        graph.add("Add", [name, graph.constant(f"{out}_{part}_bias", added)], [f"{out}_{part}"])
        for name, part, added in ((query, "query", parts[0]), (value, "value", parts[2]))
    ]
    attention.write(node, biased[0], key, biased[1], width=len(parts[0]))


@dataclass(frozen=True, slots=True)
class _Coded:
    """An activation x, (..., width), as codes: x / factors = codes * scale + lowest / factors.

    scale: name of (..., 1). lowest, factors: (width,).
    """

    codes: str
    scale: str
    lowest: Float32
    factors: Float32


class _Writer:
    """Writes matrix products whose inputs are coded token by token."""

    def __init__(self, graph: Editor, codes: WeightCodes, values: Mapping[str, DividedValues]) -> None:
        self._graph = graph
        self._codes = codes
        self._gelus = {node.output[0] for node in graph.graph.node if node.op_type in GELUS}
        self._divided = {each.product: each.factors for each in values.values()}
        self._is_smooth = set(values)
        self._activations: dict[str, _Coded] = {}
        self._one = graph.constant("int8_one", np.float32(1))

    def multiply(self, product: Product) -> None:
        """The product of codes and weights, scaled, and right for the mean activation."""
        graph, out = self._graph, product.node.output[0]
        if product.activation not in self._activations:
            self._activations[product.activation] = self._coded(product.activation)
        activation = self._activations[product.activation]
        code, scale = self._codes.of(product.weight)
        divided = self._divided.get(out, np.float32(1))
        by = graph.constant(f"{out}_by", graph.value(scale) / divided)
        zeros = graph.constant(f"{code}_zeros", np.zeros(len(graph.value(scale)), dtype=np.int8))
        wide = graph.add("DequantizeLinear", [code, by, zeros], [f"{out}_weights"], axis=1)
        steps = graph.add("MatMul", [activation.codes, wide], [f"{out}_steps"])
        made = graph.add("Mul", [steps, activation.scale], [f"{out}_scaled"])
        mean = self._codes.observed[product.activation].mean
        coded = (mean - activation.lowest) / activation.factors
        rounded = graph.value(code).astype(np.float64) * graph.value(scale)
        correction = (mean @ graph.value(product.weight) - coded @ rounded) / divided
        graph.add("Add", [made, graph.constant(f"{out}_correction", correction.astype(np.float32))], [out])

    def _coded(self, name: str) -> _Coded:
        graph, short = self._graph, f"int8_{len(self._activations)}"
        width = len(self._codes.observed[name].largest)
        factors = self._codes.smoothing.get(name, np.ones(width, dtype=np.float32))
        lowest = np.zeros(width, dtype=np.float32)
        values = name
        if name in self._codes.smoothing and name not in self._is_smooth:
            inverse = graph.constant(f"{short}_smoothing", 1 / factors)
            values = graph.add("Mul", [values, inverse], [f"{short}_smooth"])
        zero: np.uint8 | np.int8
        if name in self._gelus:
            lowest -= GELU_FLOOR
            floor = graph.constant(f"{short}_floor", -lowest / factors)
            values = graph.add("Add", [values, floor], [f"{short}_raised"])
            size, zero, steps = values, np.uint8(0), LARGEST_UNSIGNED
        else:
            size, zero, steps = graph.add("Abs", [values], [f"{short}_size"]), np.int8(0), LARGEST_CODE
        last = graph.constant("int8_last", np.array([-1], dtype=np.int64))
        graph.add("ReduceMax", [size, last], [f"{short}_largest"], keepdims=1)
        scale = self._scale(short, f"{short}_largest", steps, "scale")
        units = graph.add("Mul", [values, self._inverse(short, steps)], [f"{short}_units"])
        return _Coded(self._steps(short, units, zero), scale, lowest, factors)

    def _steps(self, short: str, units: str, zero: np.uint8 | np.int8) -> str:
        """Rounded to whole steps, as codes with constant bounds."""
        graph = self._graph
        zero_code = graph.constant(f"int8_zero_{zero.dtype}", zero)
        code = graph.add("QuantizeLinear", [units, self._one, zero_code], [f"{short}_code"])
        return graph.add("DequantizeLinear", [code, self._one, zero_code], [f"{short}_steps"])

    def _scale(self, short: str, largest: str, steps: int, name: str, sign: int = 1) -> str:
        """How much one step of a code is: largest / steps + TINY, or the negative of that."""
        graph, kind = self._graph, "" if sign > 0 else "_negative"
        step = graph.constant(f"int8_step_{steps}{kind}", np.float32(sign / steps))
        tiny = graph.constant(f"int8_tiny{kind}", np.float32(sign * TINY))
        return graph.add(
            "Add", [graph.add("Mul", [largest, step], [f"{short}_{name}_step"]), tiny], [f"{short}_{name}"]
        )

    def _inverse(self, short: str, steps: int) -> str:
        """1 / scale, (..., 1): a division for each token instead of one for each of its channels.

        OpenVINO would make the division part of the pass over all channels: so it is made on (...), without
        the last axis. What a pass leaves behind is bfloat16, whose error all channels of a token would share;
        so there is a second number, by how much the first is too large.
        """
        graph = self._graph
        last = graph.constant("int8_last", np.array([-1], dtype=np.int64))
        largest = graph.add("Squeeze", [f"{short}_largest", last], [f"{short}_largest_of_token"])
        inverse, negative = (
            graph.add(
                "Reciprocal", [self._scale(short, largest, steps, name, sign)], [f"{short}_{name}_inverse"]
            )
            for name, sign in (("positive", 1), ("negative", -1))
        )
        excess = graph.add("Add", [inverse, negative], [f"{short}_excess"])
        terms = [graph.add("Unsqueeze", [part, last], [f"{part}_wide"]) for part in (inverse, excess)]
        return graph.add("Sub", terms, [f"{short}_inverse"])
