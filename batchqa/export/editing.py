"""An ONNX graph that is taken apart and put together again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .extras import load

ATTENTION = "MultiHeadAttention"
GELUS = ("Gelu", "BiasGelu", "FastGelu")
"""What fusion makes of attention and of GELU; GELU may add its bias itself."""

GELU_FLOOR = 0.17
"""GELU is never below -0.17, so its outputs need few of the negative codes."""

LEAST_WIDTH = 16
"""Matrices with fewer outputs are left alone: the two logits of the head are all that is narrower."""


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product by a constant: node, the activation it reads and the matrix, (inputs, outputs)."""

    node: Any
    activation: str
    weight: str


class Editor:
    """Builds a new node list and new initializers for a copy of a model."""

    def __init__(self, model: Any) -> None:
        onnx = load("onnx")
        self._helper, self._numpy, self.FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.nodes: list[Any] = []

    def value(self, name: str) -> npt.NDArray[Any]:
        """The array of a constant."""
        array: npt.NDArray[Any] = self._numpy.to_array(self.constants[name])
        return array

    def constant(self, name: str, value: Any) -> str:
        """Have a constant of this name; its name is returned."""
        if name not in self.constants:
            self.constants[name] = self._numpy.from_array(np.ascontiguousarray(value), name)
        return name

    def add(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        """Append a node; the name of its first output is returned."""
        self.nodes.append(
            self._helper.make_node(kind, inputs, outputs, name=f"{outputs[0]}_node", **attributes)
        )
        return outputs[0]

    def keep(self, node: Any) -> None:
        """Append a node of the original graph."""
        copy = type(node)()
        copy.CopyFrom(node)
        self.nodes.append(copy)

    def needs_opset(self, least: int) -> None:
        """Have the model say that it uses operators of this version of ONNX, if it does not already."""
        for opset in self.model.opset_import:
            if opset.domain in {"", "ai.onnx"}:
                opset.version = max(opset.version, least)
        needed = self._helper.find_min_ir_version_for(self.model.opset_import, True)
        self.model.ir_version = max(self.model.ir_version, needed)

    def drop_unread(self) -> None:
        """Take out the nodes whose outputs nobody reads."""
        read = {out.name for out in self.graph.output}
        kept = []
        for node in reversed(self.nodes):  # a reader always comes after what it reads
            if read.intersection(node.output):
                kept.append(node)
                read.update(_read(node))
        self.nodes = kept[::-1]

    def finish(self) -> Any:
        """The model with the new nodes, and only the constants that they use."""
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in _read(node)} | {out.name for out in self.graph.output}
        # a matrix that is rebuilt from its codes is now a node's output of the same name
        used -= {name for node in self.nodes for name in node.output}
        del self.graph.initializer[:]
        self.graph.initializer.extend(tensor for name, tensor in self.constants.items() if name in used)
        del self.graph.value_info[:]
        if not any(opset.domain == "com.microsoft" for opset in self.model.opset_import):
            self.model.opset_import.append(self._helper.make_opsetid("com.microsoft", 1))
        return self.model


def _read(node: Any) -> Iterator[str]:
    """The names that a node reads, its branches included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _read(inner)


def products(graph: Any) -> list[Product]:
    """The matrix products by a constant matrix that is wide enough to be worth quantizing."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer if tensor.data_type == 1}
    return [
        Product(node, node.input[0], node.input[1])
        for node in graph.node
        if node.op_type == "MatMul" and len(shapes.get(node.input[1], ())) == 2
        if shapes[node.input[1]][1] >= LEAST_WIDTH
    ]


def is_masked_attention(graph: Editor, node: Any) -> bool:
    """Whether a MultiHeadAttention has a constant bias, a padding mask and no further inputs."""
    given = [bool(name) for name in node.input]
    return given == [True] * 5 and node.input[3] in graph.constants
