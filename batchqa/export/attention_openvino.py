"""Fused attention -> the products and the softmax that OpenVINO (2026.4) goes through fastest.

It makes one pass of them, and for windows of any length that pass is a tenth faster with (windows * heads,
tokens, depth) than with four axes; and its own attention turns the keys around first, which this does not.
docs/decisions/0007-int8-openvino.md has the figures.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .editing import Editor
from .extras import load

SHAPE_OPSET = 15
"""The version of ONNX that has Shape with a start and an end."""

HIDDEN = -10_000.0
"""Added to the scores of padding: its share of a softmax is then exactly zero."""


class AttentionWriter:
    """Writes each MultiHeadAttention of a graph as products and softmax; the mask is made once for all."""

    def __init__(self, graph: Editor) -> None:
        self._graph = graph
        self._shapes: dict[int, tuple[str, str, str]] = {}

    def write(self, node: Any, query: str, key: str, value: str, width: int) -> None:
        """The attention `node` of (windows, tokens, width) activations, which have their biases already."""
        graph, out = self._graph, node.output[0]
        helper = load("onnx").helper
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        heads = int(given["num_heads"])
        depth = width // heads
        apart = graph.constant(f"apart_{heads}_{depth}", np.array([0, 0, heads, depth], dtype=np.int64))
        joined = graph.constant(f"joined_{width}", np.array([0, 0, width], dtype=np.int64))
        flat, whole, mask = self._shapes_and_mask(heads, depth)

        def by_head(name: str, part: str) -> str:
            """(windows, tokens, width) -> (windows * heads, tokens, depth)."""
            split = graph.add("Reshape", [name, apart], [f"{out}_{part}_apart"])
            turned = graph.add("Transpose", [split], [f"{out}_{part}_turned"], perm=[0, 2, 1, 3])
            return graph.add("Reshape", [turned, flat], [f"{out}_{part}_by_head"])

        scale = graph.constant(f"scale_of_{out}", np.float32(given.get("scale") or depth**-0.5))
        scaled = graph.add("Mul", [query, scale], [f"{out}_query_scaled"])
        scores = graph.add(
            "FusedMatMul",  # onnxruntime's, which OpenVINO reads too: the keys stay as they are
            [by_head(scaled, "query"), by_head(key, "key")],
            [f"{out}_scores"],
            domain="com.microsoft",
            transB=1,
        )
        seen = graph.add("Add", [scores, mask], [f"{out}_seen"])
        shares = graph.add("Softmax", [seen], [f"{out}_shares"], axis=-1)
        means = graph.add("MatMul", [shares, by_head(value, "value")], [f"{out}_means"])
        split = graph.add("Reshape", [means, whole], [f"{out}_split"])
        turned = graph.add("Transpose", [split], [f"{out}_turned"], perm=[0, 2, 1, 3])
        graph.add("Reshape", [turned, joined], [out])

    def _shapes_and_mask(self, heads: int, depth: int) -> tuple[str, str, str]:
        """Names of (-1, tokens, depth), (windows, heads, tokens, depth), and of what is added to the scores.

        That is (windows * heads, 1, tokens): nothing for a token, HIDDEN for padding.
        """
        if heads in self._shapes:
            return self._shapes[heads]
        graph = self._graph
        graph.needs_opset(SHAPE_OPSET)

        def length(number: int) -> str:
            return graph.constant(f"length_{number}", np.array([number], dtype=np.int64))

        def shape(name: str, *lengths: str) -> str:
            return graph.add("Concat", list(lengths), [f"{name}_{heads}"], axis=0)

        windows = graph.add("Shape", ["input_ids"], [f"windows_{heads}"], start=0, end=1)
        tokens = graph.add("Shape", ["input_ids"], [f"tokens_{heads}"], start=1, end=2)
        real = graph.add("Cast", ["attention_mask"], [f"real_{heads}"], to=load("onnx").TensorProto.FLOAT)
        padding = graph.add("Sub", [graph.constant("mask_one", np.float32(1)), real], [f"padding_{heads}"])
        hidden = graph.add(
            "Mul", [padding, graph.constant("mask_hidden", np.float32(HIDDEN))], [f"hidden_{heads}"]
        )
        axes = graph.constant("mask_axes", np.array([1, 2], dtype=np.int64))
        lone = graph.add("Unsqueeze", [hidden, axes], [f"hidden_of_a_window_{heads}"])
        each = shape("each_head", windows, length(heads), length(1), tokens)
        repeated = graph.add("Expand", [lone, each], [f"hidden_of_each_head_{heads}"])
        rows = shape("all_heads", length(-1), length(1), tokens)
        self._shapes[heads] = (
            shape("by_head", length(-1), tokens, length(depth)),
            shape("split", windows, length(heads), tokens, length(depth)),
            graph.add("Reshape", [repeated, rows], [f"mask_{heads}"]),
        )
        return self._shapes[heads]
