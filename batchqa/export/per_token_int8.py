"""ONNX graph in float32 -> ONNX graph whose matrix products are int8, each token scaled by itself.

Each token's vector is scaled by its own largest value, inside the graph. onnxruntime's dynamic quantization
takes one scale for the whole batch instead, so that a row's answer changes with the rows beside it.

A channel with large inputs is made smaller before it is rounded (`smoothquant.py`); weights are rounded as in
`quantize.py`. docs/decisions/0001-int8.md has what each part is worth. The graph has operators that only
onnxruntime has; `int8_openvino.py` makes OpenVINO's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchqa.engines.onnxruntime import UNPADDED

from .calibration_data import Observed
from .editing import ATTENTION, GELU_FLOOR, GELUS, Editor, Product, is_masked_attention, products
from .extras import load
from .quantize import LARGEST_CODE, LARGEST_SAFE_CODE, WeightCodes, shrink_tables
from .smoothquant import DividedValues, divided_values, smoothing_factors

GELU_ZERO = 16
"""The code of zero for GELU's outputs; 128 for all others, which are as often negative as positive."""

_SHAPE, _FLAT = "int8_shape_", "int8_flat_"
"""Names of (windows, tokens, width) and (all tokens, width), before the width."""

_ELEMENT_BY_ELEMENT = ("Add", "Sum", "LayerNormalization", "Gelu", "BiasGelu", "FastGelu")
"""Operators that work on vectors of `width`, however many axes stand before that one."""

SHORT = 200
"""Tokens of a window up to which attention is faster with all its scores at once than block by block: they
still fit into a core's cache (docs/decisions/0005-without-padding.md)."""

BLOCKED_QUANTIZATION_OPSET, ATTENTION_OPSET = 21, 23
"""Versions of ONNX that have QuantizeLinear with a scale for each row, and Attention."""


def per_token(model: Any, observed: Mapping[str, Observed], *, reduce_range: bool = False) -> Any:
    """A copy of `model` whose matrix products are int8, each token scaled by itself.

    Only activations in `observed` are quantized. `reduce_range` gives weights 7 bits, for processors without
    VNNI and AMX.
    """
    graph = Editor(model)
    found = {
        product.node.output[0]: product for product in products(graph.graph) if product.activation in observed
    }
    made_by = {output: node.op_type for node in graph.graph.node for output in node.output}
    smoothing = {
        name: factors
        for name, factors in smoothing_factors(graph, list(found.values()), observed).items()
        # GELU's outputs are the widest: to divide them costs more than it brings
        if made_by.get(name) not in GELUS
    }
    codes = WeightCodes(graph, observed, smoothing, LARGEST_SAFE_CODE if reduce_range else LARGEST_CODE)
    values = divided_values(graph, found, smoothing)
    rows = _TokenRows(graph, codes, made_by, values)
    for node in graph.graph.node:
        product = found.get(node.output[0]) if node.output else None
        if product is None:
            _keep(graph, node, values)
        else:
            rows.multiply(product)
    shrink_tables(graph)
    _add_at_once(graph)
    _stay_flat(graph)
    return graph.finish()


def without_padding(model: Any) -> Any:
    """A copy of a graph with fused attention that is faster on batches without padding, and marked UNPADDED.

    onnxruntime's attention without a mask goes over keys block by block (Dao et al. 2022, "FlashAttention"),
    with one it writes all scores down and adds the mask. ONNX's own Attention writes them down too, and is
    the fastest for short windows. So each MultiHeadAttention has all three forms; the mask and the length
    choose. They differ in the last bit, which int8 makes larger: whoever wants answers that do not depend on
    the batch gives such a graph unpadded batches only. A graph without MultiHeadAttention stays as it is.
    """
    graph = Editor(model)
    known = False
    for node in graph.graph.node:
        if node.op_type != ATTENTION or not is_masked_attention(graph, node):
            graph.keep(node)
            continue
        if not known:
            _add_conditions(graph)
            known = True
        out = node.output[0]
        masked = _branch([_renamed(node, node.input, f"{out}_masked")])
        blocks = _branch([_renamed(node, node.input[:4], f"{out}_blocks")])
        longer = load("onnx").helper.make_node(
            "If", ["is_unpadded"], [f"{out}_long"], then_branch=blocks, else_branch=masked
        )
        short = _branch(_at_once(graph, node, f"{out}_short"))
        graph.add("If", ["is_short"], [out], then_branch=short, else_branch=_branch([longer]))
    if known:
        graph.needs_opset(ATTENTION_OPSET)
        graph.model.metadata_props.add(key=UNPADDED, value="true")
    return graph.finish()


def _add_conditions(graph: Editor) -> None:
    """Have `is_unpadded` and `is_short`, which means that it is unpadded as well."""
    onnx = load("onnx")
    graph.add("ReduceMin", ["attention_mask"], ["least_mask"], keepdims=0)
    graph.add("Cast", ["least_mask"], ["is_unpadded"], to=onnx.TensorProto.BOOL)
    graph.add("Shape", ["input_ids"], ["tokens_of_a_window"], start=1, end=2)
    longer = graph.constant("longer_than_short", np.array([SHORT + 1], dtype=np.int64))
    graph.add("Less", ["tokens_of_a_window", longer], ["has_few_tokens"])
    graph.add("And", ["has_few_tokens", "is_unpadded"], ["is_short"])


def _branch(nodes: list[Any]) -> Any:
    """A branch of an If: these nodes, and the last one's output."""
    onnx = load("onnx")
    name = nodes[-1].output[0]
    out = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    return onnx.helper.make_graph(nodes, name, [], [out])


def _renamed(node: Any, inputs: Sequence[str], output: str) -> Any:
    """The same operator with these inputs and this output."""
    form = type(node)()
    form.CopyFrom(node)
    del form.input[:]
    form.input.extend(inputs)
    form.output[0] = output
    return form


def _at_once(graph: Editor, node: Any, output: str) -> list[Any]:
    """A MultiHeadAttention without its mask, as ONNX's Attention; its bias is added before.

    Key's bias adds the same number to all scores of a query, which softmax does not see.
    """
    helper = load("onnx").helper
    query, key, value, bias = node.input[:4]
    of_query, _, of_value = np.split(graph.value(bias), 3)
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    kept = {name: given[name] for name in ("scale",) if name in given}
    return [
        helper.make_node("Add", [query, graph.constant(f"{bias}_query", of_query)], [f"{output}_query"]),
        helper.make_node("Add", [value, graph.constant(f"{bias}_value", of_value)], [f"{output}_value"]),
        helper.make_node(
            "Attention",
            [f"{output}_query", key, f"{output}_value"],
            [output],
            q_num_heads=given["num_heads"],
            kv_num_heads=given["num_heads"],
            **kept,
        ),
    ]


def _keep(graph: Editor, node: Any, values: Mapping[str, DividedValues]) -> None:
    """Append a node that is no product: with the divided values' bias, and GELU in its quicker form."""
    graph.keep(node)
    copy = graph.nodes[-1]
    if copy.op_type == ATTENTION and copy.output[0] in values and values[copy.output[0]].bias:
        copy.input[3] = values[copy.output[0]].bias
    if copy.op_type in GELUS and copy.domain == "com.microsoft":
        # by tanh (Hendrycks and Gimpel 2016): off by 5e-4 at most, a tenth of what a code of int8 is wide
        copy.op_type = "FastGelu"


def _add_at_once(graph: Editor) -> None:
    """Bias, residual and LayerNormalization: one Sum before the LayerNormalization instead of two Adds.

    onnxruntime 1.31 would fuse the Adds into SkipLayerNormalization, which on a CPU takes twice as long as
    LayerNormalization and Sum together.
    """
    made_by = {node.output[0]: node for node in graph.nodes if node.output}
    uses = Counter(name for node in graph.nodes for name in node.input)
    gone = set()
    for norm in graph.nodes:
        total = made_by.get(norm.input[0]) if norm.op_type == "LayerNormalization" else None
        if total is None or total.op_type != "Add" or uses[total.output[0]] != 1:
            continue
        terms = []
        for name in total.input:
            inner = made_by.get(name)
            if inner is not None and inner.op_type == "Add" and uses[name] == 1:
                terms += list(inner.input)
                gone.add(name)
            else:
                terms.append(name)
        total.op_type = "Sum"
        del total.input[:]
        total.input.extend(sorted(terms, key=lambda name: name in graph.constants))
    graph.nodes = [node for node in graph.nodes if not node.output or node.output[0] not in gone]


def _stay_flat(graph: Editor) -> None:
    """Between two products activations stay (tokens, width); only attention and the head see windows.

    A twin is the flat form of an activation of (windows, tokens, width), and its width.
    """
    twins: dict[str, tuple[str, str]] = {}
    renamed: dict[str, str] = {}
    nodes, graph.nodes = graph.nodes, []
    for node in nodes:
        for at, name in enumerate(node.input):
            node.input[at] = renamed.get(name, name)
        kind, source, out = node.op_type, "".join(node.input[:1]), "".join(node.output[:1])
        if kind == "Reshape" and node.input[1].startswith(_SHAPE):
            twins[out] = source, node.input[1].removeprefix(_SHAPE)
        elif kind == "Reshape" and node.input[1].startswith(_FLAT):
            if source in twins:
                renamed[out] = twins[source][0]
                continue
            twins[source] = out, node.input[1].removeprefix(_FLAT)
        elif kind in _ELEMENT_BY_ELEMENT and (flat := _flat_inputs(graph, node, twins)):
            width = next(twins[name][1] for name in node.input if name in twins)
            del node.input[:]
            node.input.extend(flat)
            node.output[0] = f"{out}_flat"
            twins[out] = node.output[0], width
            graph.nodes.append(node)
            graph.add("Reshape", [node.output[0], f"{_SHAPE}{width}"], [out])
            continue
        graph.nodes.append(node)
    graph.drop_unread()


def _flat_inputs(graph: Editor, node: Any, twins: Mapping[str, tuple[str, str]]) -> list[str]:
    """The node's inputs with twins instead of activations; none where one is neither that nor a vector."""
    if any(attribute.name == "axis" and attribute.i != -1 for attribute in node.attribute):
        return []
    flat = []
    for name in node.input:
        if name in twins:
            flat.append(twins[name][0])
        elif name in graph.constants and len(graph.constants[name].dims) < 2:
            flat.append(name)
        else:
            return []
    return flat if any(name in twins for name in node.input) else []


# --------------------------------------------------------------------------------------- token by token


@dataclass(frozen=True, slots=True)
class _Codes:
    """An activation as unsigned 8-bit codes, (tokens, width): (code - zero) * scale, scale (tokens, 1)."""

    code: str
    scale: str
    zero: str


class _TokenRows:
    """Writes matrix products whose inputs are quantized token by token.

    Codes are unsigned, because that is what the processor's int8 instructions multiply signed weights by.
    """

    def __init__(
        self,
        graph: Editor,
        codes: WeightCodes,
        made_by: Mapping[str, str],
        values: Mapping[str, DividedValues],
    ) -> None:
        self._graph = graph
        self._codes = codes
        self._made_by = made_by
        self._divided = {each.product: each.factors for each in values.values()}
        self._is_smooth = set(values)
        self._activations: dict[str, _Codes] = {}
        self._once: set[str] = set()

    def multiply(self, product: Product) -> None:
        """The product, int8 by int8, widened to float32 by the weights' scales, then by the tokens'."""
        graph, out = self._graph, product.node.output[0]
        weight, scale = self._codes.of(product.weight)
        width = len(graph.value(scale))
        if out in self._divided:
            scale = graph.constant(f"{scale}_divided", graph.value(scale) / self._divided[out])
        rows = self._activation(product.activation)
        one = graph.constant("int8_one", np.float32(1))
        graph.add(
            "MatMulIntegerToFloat",
            [rows.code, weight, one, scale, rows.zero],
            [f"{out}_by_weights"],
            domain="com.microsoft",
        )
        scaled = graph.add("Mul", [f"{out}_by_weights", rows.scale], [f"{out}_scaled"])
        graph.add("Reshape", [scaled, self._shape(width)], [out])

    def _activation(self, name: str) -> _Codes:
        if name not in self._activations:
            self._activations[name] = self._quantized(name)
        return self._activations[name]

    def _quantized(self, name: str) -> _Codes:
        graph, short = self._graph, f"int8_{len(self._activations)}"
        width = len(self._codes.observed[name].largest)
        flat = graph.constant(f"{_FLAT}{width}", np.array([-1, width], dtype=np.int64))
        last = graph.constant("int8_last", np.array([-1], dtype=np.int64))
        values = graph.add("Reshape", [name, flat], [f"{short}_rows"])
        factors = self._codes.smoothing.get(name)
        if factors is not None and name not in self._is_smooth:
            inverse = graph.constant(f"{short}_smoothing", (1 / factors).astype(np.float32))
            values = graph.add("Mul", [values, inverse], [f"{short}_smooth"])
        if self._made_by.get(name) in GELUS:
            size, zero, steps = values, GELU_ZERO, 255 - GELU_ZERO
        else:
            size, zero, steps = graph.add("Abs", [values], [f"{short}_size"]), LARGEST_CODE + 1, LARGEST_CODE
        graph.add("ReduceMax", [size, last], [f"{short}_largest"], keepdims=1)
        step = graph.constant(f"int8_step_{zero}", np.float32(1 / steps))
        scale = graph.add("Mul", [f"{short}_largest", step], [f"{short}_scale"])
        if zero == GELU_ZERO:
            least = graph.constant("int8_least", np.float32(GELU_FLOOR / GELU_ZERO))
            scale = graph.add("Max", [scale, least], [f"{short}_enough"])
        graph.needs_opset(BLOCKED_QUANTIZATION_OPSET)
        code = graph.add(
            "QuantizeLinear",
            [values, scale, self._zeros(zero)],
            [f"{short}_code"],
            axis=1,
            block_size=width,
        )
        return _Codes(code, scale, graph.constant(f"int8_zero_{zero}", np.uint8(zero)))

    def _zeros(self, zero: int) -> str:
        """The code of zero, once for each token of the batch: (tokens, 1)."""
        graph, name = self._graph, f"int8_zeros_{zero}"
        if self._is_first(name):
            single = graph.constant(f"int8_single_{zero}", np.array([[zero]], dtype=np.uint8))
            if self._is_first("int8_column"):
                column = graph.constant("int8_any_by_one", np.array([-1, 1], dtype=np.int64))
                graph.add("Reshape", ["input_ids", column], ["int8_tokens"])
                graph.add("Shape", ["int8_tokens"], ["int8_column"])
            graph.add("Expand", [single, "int8_column"], [name])
        return name

    def _shape(self, width: int) -> str:
        """(windows, tokens, width)."""
        graph, name = self._graph, f"{_SHAPE}{width}"
        if self._is_first(name):
            if self._is_first("int8_windows_tokens"):
                graph.add("Shape", ["input_ids"], ["int8_windows_tokens"])
            last = graph.constant(f"int8_width_{width}", np.array([width], dtype=np.int64))
            graph.add("Concat", ["int8_windows_tokens", last], [name], axis=0)
        return name

    def _is_first(self, name: str) -> bool:
        """True once for each name: what stands in the graph once and is read by many."""
        seen = name in self._once
        self._once.add(name)
        return not seen
