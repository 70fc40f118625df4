"""The last layer of BERT's kind in a fused graph: found, and written anew in a smaller form.

::

    read -> first, bias, GELU -> hidden -> second, bias -> + residual -> normalization -> head, bias -> logits
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchqa.records import Float32, Float64, Int64

from .editing import GELUS, Editor

EPSILON = 1e-12
"""What the smaller normalization adds to the variance: the original's is in the constant channel."""


@dataclass(frozen=True, slots=True)
class LastLayer:
    """Names of activations, the nodes that a replacement takes out, and the matrices.

    hidden = GELU(read @ first + first_bias); y = residual + hidden @ second + bias; logits = c @ directions /
    sigma + constant, where c is y without its mean and sigma^2 the mean of c^2, plus epsilon.
    """

    read: str
    residual: str
    hidden: str
    summed: str
    logits: str
    replaced: tuple[str, ...]
    first: Float32
    first_bias: Float32
    second: Float64
    bias: Float64
    directions: Float64
    constant: Float64
    epsilon: float

    @property
    def width(self) -> int:
        """How many channels y has."""
        return len(self.bias)


@dataclass(frozen=True, slots=True)
class Replacement:
    """A smaller last layer.

    logits = normalization(hidden[neurons] @ second + residual @ channels + bias) @ head + constant

    neurons: which of hidden are left; second: (left, width); bias: (width,); channels: (width of y, width);
    head: (width, 2).
    """

    neurons: Int64
    second: Float64
    bias: Float64
    channels: Float64
    head: Float64


def find_last_layer(graph: Editor) -> LastLayer | None:
    """The last layer, where nobody else reads what is between its parts; None where there is no such."""
    walk = _Walk(graph)
    heads = [node for node in graph.graph.node if walk.is_head(node)]
    logits = walk.only_reader(heads[0].output[0]) if len(heads) == 1 else None
    if logits is None or (found := walk.product_and_bias(logits)) is None:
        return None
    head, constant = found
    norm = walk.sole(head.input[0], "LayerNormalization")
    if norm is None or len(norm.input) != 3 or not walk.are_constant(norm.input[1:], 1):
        return None
    total = walk.sole(norm.input[0], "Add")
    if total is None:
        return None
    for behind, residual in (total.input, total.input[::-1]):
        added = walk.sole(behind, "Add")
        if added is None or (found := walk.product_and_bias(added)) is None:
            continue
        second, bias = found
        gelu = walk.sole(second.input[0], *GELUS)
        if gelu is None or len(gelu.input) != 2 or not walk.are_constant(gelu.input[1:], 1):
            continue
        first = walk.product(gelu.input[0])
        if first is None:
            continue
        scale, shift, matrix = (_wide(graph, name) for name in (*norm.input[1:], head.input[1]))
        directions = scale[:, None] * matrix
        return LastLayer(
            read=first.input[0],
            residual=residual,
            hidden=gelu.output[0],
            summed=total.output[0],
            logits=logits.output[0],
            replaced=tuple(node.output[0] for node in (first, second, added, total, norm, head)),
            first=graph.value(first.input[1]),
            first_bias=graph.value(gelu.input[1]),
            second=_wide(graph, second.input[1]),
            bias=_wide(graph, bias),
            directions=directions - directions.mean(axis=0),
            constant=shift @ matrix + _wide(graph, constant),
            epsilon=next((each.f for each in norm.attribute if each.name == "epsilon"), 1e-5),
        )
    return None


def _wide(graph: Editor, name: str) -> Float64:
    return graph.value(name).astype(np.float64)


class _Walk:
    """Goes from what a node reads to the node that makes it."""

    def __init__(self, graph: Editor) -> None:
        self._graph = graph
        self._made = {out: node for node in graph.graph.node for out in node.output}
        self._uses = Counter(name for node in graph.graph.node for name in node.input)
        self._uses.update(out.name for out in graph.graph.output)

    def are_constant(self, names: Sequence[str], dimensions: int) -> bool:
        """Whether these are constants of so many dimensions."""
        found = [self._graph.constants.get(name) for name in names]
        return all(each is not None and len(each.dims) == dimensions for each in found)

    def sole(self, name: str, *kinds: str) -> Any | None:
        """The node that makes what is read once only, if it is of one of these kinds."""
        node = self._made.get(name)
        return node if node is not None and node.op_type in kinds and self._uses[name] == 1 else None

    def only_reader(self, name: str) -> Any | None:
        """The node that reads it, if there is one alone."""
        readers = [node for node in self._graph.graph.node if name in node.input]
        return readers[0] if len(readers) == self._uses[name] == 1 else None

    def product(self, name: str) -> Any | None:
        """The product by a constant matrix, read once only, that this is."""
        node = self.sole(name, "MatMul")
        return node if node is not None and self.are_constant(node.input[1:], 2) else None

    def product_and_bias(self, add: Any) -> tuple[Any, str] | None:
        """What an Add adds, if it is a product by a constant matrix and a constant."""
        if add.op_type != "Add":
            return None
        for bias, name in ((add.input[0], add.input[1]), (add.input[1], add.input[0])):
            if self.are_constant([bias], 1) and (node := self.product(name)) is not None:
                return node, bias
        return None

    def is_head(self, node: Any) -> bool:
        """Whether it is the product that gives the two logits of a token."""
        if node.op_type != "MatMul" or not self.are_constant(node.input[1:], 2):
            return False
        return bool(self._graph.constants[node.input[1]].dims[1] == 2)


def with_replacement(graph: Editor, layer: LastLayer, smaller: Replacement) -> Any:
    """The graph (ModelProto) with `smaller` in the place of its last layer."""

    def constant(name: str, value: Float64 | Float32) -> str:
        return graph.constant(f"last_layer_{name}", value.astype(np.float32))

    width = len(smaller.bias)
    for node in graph.graph.node:
        if node.output[0] == layer.hidden:
            first = constant("first", layer.first[:, smaller.neurons])
            graph.add("MatMul", [layer.read, first], ["last_layer_entered"])
            graph.keep(node)
            graph.nodes[-1].input[0] = "last_layer_entered"
            graph.nodes[-1].input[1] = constant("first_bias", layer.first_bias[smaller.neurons])
        elif node.output[0] == layer.logits:
            kept, second = constant("channels", smaller.channels), constant("second", smaller.second)
            scale, shift = constant("scale", np.ones(width)), constant("shift", np.zeros(width))
            head, free = constant("head", smaller.head), constant("constant", layer.constant)
            graph.add("MatMul", [layer.hidden, second], ["last_layer_left"])
            graph.add("MatMul", [layer.residual, kept], ["last_layer_kept"])
            graph.add("Add", [constant("bias", smaller.bias), "last_layer_left"], ["last_layer_biased"])
            graph.add("Add", ["last_layer_biased", "last_layer_kept"], ["last_layer_sum"])
            read = ["last_layer_sum", scale, shift]
            graph.add("LayerNormalization", read, ["last_layer_normed"], axis=-1, epsilon=EPSILON)
            graph.add("MatMul", ["last_layer_normed", head], ["last_layer_read"])
            graph.add("Add", [free, "last_layer_read"], [layer.logits])
        elif node.output[0] not in layer.replaced:
            graph.keep(node)
    return graph.finish()
