"""Weights as int8, one scale per output channel.

They are rounded so that the error of one is made up for by those that are rounded after it, on inputs
seen in calibration (Frantar et al. 2022, "GPTQ", section 3). `weights_only` is the form that widens them
again when the model is loaded and computes in float32: a quarter of the size, float32's speed. The forms
whose products are int8 themselves are in `per_token_int8.py` and `int8_openvino.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from batchqa.records import Float32, Float64, Int64

from .calibration_data import Observed
from .editing import Editor, products

LEAST_TABLE = 65_536
"""Embedding tables with fewer elements stay in float32."""

LARGEST_CODE = 127

LARGEST_SAFE_CODE = 64
"""x86 processors without VNNI and AMX add two neighbouring products of an unsigned and a signed byte in 16
bits (`vpmaddubsw`), which saturates: 2 * 255 * 127 is too much, 2 * 255 * 64 = 32,640 fits."""

DAMPING = 0.01
"""Share of the mean input power that is added to every input's own (GPTQ's percdamp)."""

BLOCK = 128
"""Inputs whose rounding errors are spread together (GPTQ's block)."""


def weights_only(model: Any, observed: Mapping[str, Observed]) -> Any:
    """A copy of `model` that stores its matrices and embedding tables as int8 and computes in float32.

    The matrices are rebuilt by Cast and Mul, which onnxruntime folds when it loads the model (it would not
    fold DequantizeLinear) and OpenVINO recognizes as compressed weights.
    """
    graph = Editor(model)
    codes = WeightCodes(graph, observed, smoothing={}, largest=LARGEST_CODE)
    for weight in dict.fromkeys(product.weight for product in products(graph.graph)):
        code, scale = codes.of(weight)
        graph.add("Cast", [code], [f"{weight}_wide"], to=graph.FLOAT)
        graph.add("Mul", [f"{weight}_wide", scale], [weight])
    rebuilt, graph.nodes = graph.nodes, []
    for node in graph.graph.node:
        graph.keep(node)
    shrink_tables(graph)
    graph.nodes = rebuilt + graph.nodes
    return graph.finish()


def shrink_tables(graph: Editor) -> None:
    """Store embedding tables as int8 with a scale per row; only the rows that are looked up are widened."""
    nodes, graph.nodes = graph.nodes, []
    for node in nodes:
        table = graph.constants.get(node.input[0]) if node.op_type == "Gather" else None
        if (
            table is None
            or table.data_type != graph.FLOAT
            or len(table.dims) != 2
            or _size(table) < LEAST_TABLE
        ):
            graph.nodes.append(node)
            continue
        values, name, out = graph.value(table.name), table.name, node.output[0]
        scale = channel_scale(np.abs(values).max(axis=1, keepdims=True))
        code = graph.constant(f"{name}_code", np.rint(values / scale).astype(np.int8))
        graph.add("Gather", [code, node.input[1]], [f"{out}_code"])
        graph.add("Gather", [graph.constant(f"{name}_scale", scale), node.input[1]], [f"{out}_scale"])
        graph.add("Cast", [f"{out}_code"], [f"{out}_wide"], to=graph.FLOAT)
        graph.add("Mul", [f"{out}_wide", f"{out}_scale"], [out])


def _size(tensor: Any) -> int:
    return int(np.prod(tensor.dims))


# ---------------------------------------------------------------------------------------------- weights


@dataclass(slots=True)
class WeightCodes:
    """Matrices as int8 codes and scales, made once each.

    smoothing: per activation, float32, (width,): what its channels are divided by and the weights multiplied.
    largest: the largest code of a weight. are_corrected: the products are right on average (they have a
    bias for it), so that rounding need not take care of that.
    """

    graph: Editor
    observed: Mapping[str, Observed]
    smoothing: Mapping[str, Float32]
    largest: int
    are_corrected: bool = False
    _made: dict[str, tuple[str, str]] = field(default_factory=dict)
    _spread: dict[str, tuple[Int64, Float32]] = field(default_factory=dict)

    def of(self, weight: str) -> tuple[str, str]:
        """Names of the code, int8, (inputs, outputs), and of the scale, float32, (outputs,)."""
        if weight not in self._made:
            readers = [p.activation for p in products(self.graph.graph) if p.weight == weight]
            known = [name for name in dict.fromkeys(readers) if name in self.observed]
            values = self.graph.value(weight)
            factors = self.smoothing.get(known[0]) if known else None
            if factors is not None:
                values = values * factors[:, None]
            scale = channel_scale(np.abs(values).max(axis=0), self.largest)
            code = self._rounded(values, scale, known, factors)
            self._made[weight] = (
                self.graph.constant(f"{weight}_code", code),
                self.graph.constant(f"{weight}_scale", scale),
            )
        return self._made[weight]

    def _rounded(
        self, values: Float32, scale: Float32, known: Sequence[str], factors: Float32 | None
    ) -> npt.NDArray[np.int8]:
        if not known:
            codes: npt.NDArray[np.int8] = np.rint(values / scale).astype(np.int8)
            return codes
        key = "\0".join(known)
        if key not in self._spread:
            observed = [self.observed[name] for name in known]
            grams = [each.centred_gram if self.are_corrected else each.gram for each in observed]
            gram = np.sum(grams, axis=0)
            self._spread[key] = _error_spread(gram if factors is None else gram / np.outer(factors, factors))
        return _round_with_feedback(values, scale, self.largest, *self._spread[key])


def channel_scale(largest: npt.NDArray[Any], largest_code: int = LARGEST_CODE) -> Float32:
    """The step of a symmetric code that reaches `largest` with `largest_code`; 1 where all is zero."""
    return np.where(largest > 0, largest / largest_code, 1.0).astype(np.float32)


def _error_spread(gram: Float64) -> tuple[Int64, Float32]:
    """In which order inputs are rounded (strongest first), and how an error spreads over the later ones.

    The second is the upper triangular U with U^T U = the inverse of the damped gram matrix, in that order.
    """
    gram = gram.copy()
    power = np.diag(gram).copy()
    gram[np.diag_indices_from(gram)] += DAMPING * power.mean() + (power == 0)
    order = np.argsort(-power, kind="stable")
    inverse = np.linalg.inv(gram[np.ix_(order, order)])
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return order, np.ascontiguousarray(factor, dtype=np.float32)


def _round_with_feedback(
    values: Float32, scale: Float32, largest: int, order: Int64, spread: Float32
) -> npt.NDArray[np.int8]:
    """Codes of `values`, (inputs, outputs), where later inputs make up for the errors of earlier ones."""
    left = values[order].astype(np.float32)
    codes = np.empty_like(left)
    for begin in range(0, len(left), BLOCK):
        end = min(begin + BLOCK, len(left))
        errors = np.empty((end - begin, left.shape[1]), dtype=np.float32)
        for at in range(begin, end):
            codes[at] = np.clip(np.rint(left[at] / scale), -largest, largest)
            errors[at - begin] = (left[at] - codes[at] * scale) / spread[at, at]
            left[at + 1 : end] -= spread[at, at + 1 : end, None] * errors[at - begin]
        left[end:] -= spread[begin:end, end:].T @ errors
    rounded = np.empty(left.shape, dtype=np.int8)
    rounded[order] = codes.astype(np.int8)
    return rounded
