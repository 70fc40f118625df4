"""ONNX graph in float32 -> ONNX graphs with int8 weights, whose answers do not depend on a row's neighbours.

Two forms, both with weights of 8 bits and one scale per output channel:

`weights_only`   the weights are widened again when the model is loaded; computed in float32. A quarter of
                 the size, float32's speed.
`per_token`      the matrix products themselves are int8: each token's vector is scaled by its own largest
                 value, inside the graph. onnxruntime's dynamic quantization takes one scale for the whole
                 batch instead, so that a row's answer changes with the rows beside it.

Weights are rounded so that the error of one is made up for by those that are rounded after it, on inputs
seen in calibration (Frantar et al. 2022, "GPTQ", section 3). A channel with large inputs is made smaller and
its weights larger before both are rounded (Xiao et al. 2022, "SmoothQuant", equation 4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from batchqa.records import Float32, Float64, Int64

from .extras import load

Feed = Mapping[str, Int64]
"""One padded batch: the model's inputs by name, int64, (windows, tokens)."""

Select = Callable[[str], bool]
"""Chooses weights by name."""

LEAST_WIDTH = 16
"""Matrices with fewer outputs stay in float32: the two logits of the head are all that is narrower."""

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

SMOOTHING = 0.5
"""SmoothQuant's alpha: 0 leaves all difficulty with the inputs, 1 moves it to the weights."""

GELU_FLOOR = 0.17
"""GELU is never below -0.17: such an input is shifted by this much and needs no sign."""

_GELUS = ("Gelu", "BiasGelu", "FastGelu")


@dataclass(slots=True)
class Observed:
    """What calibration saw of one input of matrix products.

    gram: float64, (width, width), sum over tokens of x x^T; largest: float32, (width,), of |x|.
    """

    gram: Float64
    largest: Float32


@dataclass(frozen=True, slots=True)
class _Product:
    """A matrix product by a constant: node, the activation it reads and the matrix, (inputs, outputs)."""

    node: Any
    activation: str
    weight: str


def observe(model: Any, feeds: Iterable[Feed]) -> dict[str, Observed]:
    """Run `model` (ModelProto) on `feeds` and gather what its matrix products read, by activation name.

    Padding is left out: feeds have an attention_mask.
    """
    onnx, ort = load("onnx"), load("onnxruntime")
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = list(dict.fromkeys(product.activation for product in _products(probe.graph)))
    probe.graph.output.extend(
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = [node.name for node in session.get_inputs()]
    seen: dict[str, Observed] = {}
    for feed in feeds:
        real = feed["attention_mask"].reshape(-1) > 0
        for name, value in zip(names, session.run(names, {key: feed[key] for key in wanted}), strict=True):
            if value.size != len(real) * value.shape[-1]:
                continue  # not one vector per token
            tokens = value.reshape(-1, value.shape[-1])[real]
            gram, largest = tokens.T.astype(np.float64) @ tokens, np.abs(tokens).max(axis=0)
            if name in seen:
                seen[name].gram += gram
                seen[name].largest = np.maximum(seen[name].largest, largest)
            else:
                seen[name] = Observed(gram, largest)
    return seen


def weights_only(model: Any, observed: Mapping[str, Observed]) -> Any:
    """A copy of `model` that stores its matrices and embedding tables as int8 and computes in float32.

    The matrices are rebuilt by Cast and Mul, which onnxruntime folds when it loads the model (it would not
    fold DequantizeLinear) and OpenVINO recognises as compressed weights.
    """
    graph = _Editor(model)
    codes = _WeightCodes(graph, observed, smoothing={}, largest=LARGEST_CODE)
    for weight in dict.fromkeys(product.weight for product in _products(graph.graph)):
        code, scale = codes.of(weight)
        graph.add("Cast", [code], [f"{weight}_wide"], to=graph.FLOAT)
        graph.add("Mul", [f"{weight}_wide", scale], [weight])
    rebuilt, graph.nodes = graph.nodes, []
    for node in graph.graph.node:
        graph.keep(node)
    _shrink_tables(graph)
    graph.nodes = rebuilt + graph.nodes
    return graph.finish()


def per_token(
    model: Any,
    observed: Mapping[str, Observed],
    stay_float: Select = lambda _: False,
    *,
    reduce_range: bool = False,
) -> Any:
    """A copy of `model` whose matrix products are int8, each token scaled by itself.

    Only activations in `observed` are quantized. Matrices chosen by `stay_float` keep float32 inputs; their
    weights are int8 all the same. `reduce_range` gives weights 7 bits, for processors without VNNI and AMX.
    """
    graph = _Editor(model)
    products = {
        product.node.output[0]: product
        for product in _products(graph.graph)
        if product.activation in observed
    }
    largest = LARGEST_SAFE_CODE if reduce_range else LARGEST_CODE
    codes = _WeightCodes(graph, observed, _smoothing(graph, list(products.values()), observed), largest)
    kinds = {output: node.op_type for node in graph.graph.node for output in node.output}
    rows = _TokenRows(graph, codes)
    for node in graph.graph.node:
        product = products.get(node.output[0]) if node.output else None
        if product is None:
            graph.keep(node)
        elif stay_float(product.weight):
            rows.multiply_in_float(product)
        else:
            floor = GELU_FLOOR if kinds.get(product.activation) in _GELUS else 0.0
            rows.multiply(product, floor)
    _shrink_tables(graph)
    _add_at_once(graph)
    return graph.finish()


# ----------------------------------------------------------------------------------------------- graphs


class _Editor:
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

    def finish(self) -> Any:
        """The model with the new nodes, and only the constants that they use."""
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input} | {out.name for out in self.graph.output}
        # a matrix that is rebuilt from its codes is now a node's output of the same name
        used -= {name for node in self.nodes for name in node.output}
        del self.graph.initializer[:]
        self.graph.initializer.extend(tensor for name, tensor in self.constants.items() if name in used)
        del self.graph.value_info[:]
        if not any(opset.domain == "com.microsoft" for opset in self.model.opset_import):
            self.model.opset_import.append(self._helper.make_opsetid("com.microsoft", 1))
        return self.model


def _products(graph: Any) -> list[_Product]:
    """The matrix products by a constant matrix that is wide enough to be worth quantizing."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer if tensor.data_type == 1}
    return [
        _Product(node, node.input[0], node.input[1])
        for node in graph.node
        if node.op_type == "MatMul" and len(shapes.get(node.input[1], ())) == 2
        if shapes[node.input[1]][1] >= LEAST_WIDTH
    ]


def _shrink_tables(graph: _Editor) -> None:
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
        scale = _scale(np.abs(values).max(axis=1, keepdims=True))
        code = graph.constant(f"{name}_code", np.rint(values / scale).astype(np.int8))
        graph.add("Gather", [code, node.input[1]], [f"{out}_code"])
        graph.add("Gather", [graph.constant(f"{name}_scale", scale), node.input[1]], [f"{out}_scale"])
        graph.add("Cast", [f"{out}_code"], [f"{out}_wide"], to=graph.FLOAT)
        graph.add("Mul", [f"{out}_wide", f"{out}_scale"], [out])


def _size(tensor: Any) -> int:
    return int(np.prod(tensor.dims))


def _add_at_once(graph: _Editor) -> None:
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


# ---------------------------------------------------------------------------------------------- weights


@dataclass(slots=True)
class _WeightCodes:
    """Matrices as int8 codes and scales, made once each.

    smoothing: per activation, float32, (width,): what its channels are divided by and the weights multiplied.
    largest: the largest code of a weight.
    """

    graph: _Editor
    observed: Mapping[str, Observed]
    smoothing: Mapping[str, Float32]
    largest: int
    _made: dict[str, tuple[str, str]] = field(default_factory=dict)
    _spread: dict[str, tuple[Int64, Float32]] = field(default_factory=dict)

    def of(self, weight: str) -> tuple[str, str]:
        """Names of the code, int8, (inputs, outputs), and of the scale, float32, (outputs,)."""
        if weight not in self._made:
            readers = [p.activation for p in _products(self.graph.graph) if p.weight == weight]
            known = [name for name in dict.fromkeys(readers) if name in self.observed]
            values = self.graph.value(weight)
            factors = self.smoothing.get(known[0]) if known else None
            if factors is not None:
                values = values * factors[:, None]
            scale = _scale(np.abs(values).max(axis=0), self.largest)
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
            gram = np.sum([self.observed[name].gram for name in known], axis=0)
            self._spread[key] = _error_spread(gram if factors is None else gram / np.outer(factors, factors))
        return _round_with_feedback(values, scale, self.largest, *self._spread[key])


def _scale(largest: npt.NDArray[Any], largest_code: int = LARGEST_CODE) -> Float32:
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


def _smoothing(
    graph: _Editor, products: Sequence[_Product], observed: Mapping[str, Observed]
) -> dict[str, Float32]:
    """SmoothQuant's factors per activation; none where a matrix is shared by several (ALBERT's layers)."""
    readers = Counter(weight for _, weight in {(p.activation, p.weight) for p in products})
    factors = {}
    for activation in dict.fromkeys(product.activation for product in products):
        weights = [p.weight for p in products if p.activation == activation]
        if any(readers[weight] > 1 for weight in weights):
            continue
        strongest = np.max([np.abs(graph.value(weight)).max(axis=1) for weight in weights], axis=0)
        tiny = 1e-5
        raw = (observed[activation].largest + tiny) ** SMOOTHING / (strongest + tiny) ** (1 - SMOOTHING)
        factors[activation] = (raw / np.exp(np.log(raw).mean())).astype(np.float32)
    return factors


# --------------------------------------------------------------------------------------- token by token


@dataclass(frozen=True, slots=True)
class _Codes:
    """An activation as unsigned 8-bit codes, (tokens, width): code * scale - shift, scale (tokens, 1)."""

    code: str
    scale: str
    zero: str
    shift: float
    leading: str


class _TokenRows:
    """Writes matrix products whose inputs are quantized token by token.

    Codes are unsigned, because that is what the processor's int8 instructions multiply signed weights by; a
    signed value has the zero point 128.
    """

    def __init__(self, graph: _Editor, codes: _WeightCodes) -> None:
        self._graph = graph
        self._codes = codes
        self._activations: dict[str, _Codes] = {}
        self._shapes: set[str] = set()

    def multiply(self, product: _Product, floor: float) -> None:
        """The product, int8 by int8, widened to float32 by the weights' scales, then by the tokens'."""
        graph, out = self._graph, product.node.output[0]
        weight, scale = self._codes.of(product.weight)
        rows = self._activation(product.activation, floor)
        one = graph.constant("int8_one", np.float32(1))
        graph.add(
            "MatMulIntegerToFloat",
            [rows.code, weight, one, scale, rows.zero],
            [f"{out}_by_weights"],
            domain="com.microsoft",
        )
        scaled = graph.add("Mul", [f"{out}_by_weights", rows.scale], [f"{out}_scaled"])
        if rows.shift:
            # the product of the shift is the same for all tokens: a bias, known now
            offset = rows.shift * (graph.value(weight).astype(np.float64).sum(axis=0) * graph.value(scale))
            constant = graph.constant(f"{product.weight}_offset", offset.astype(np.float32))
            scaled = graph.add("Sub", [scaled, constant], [f"{out}_shifted"])
        width = len(graph.value(scale))
        target = f"{rows.leading}_{width}"
        if target not in self._shapes:
            self._shapes.add(target)
            last = graph.constant(f"int8_width_{width}", np.array([width], dtype=np.int64))
            graph.add("Concat", [rows.leading, last], [target], axis=0)
        graph.add("Reshape", [scaled, target], [out])

    def multiply_in_float(self, product: _Product) -> None:
        """The product in float32; its matrix is rebuilt from the int8 codes when the model is loaded."""
        graph, name = self._graph, product.weight
        weight, scale = self._codes.of(name)
        if f"{name}_float" not in self._shapes:
            self._shapes.add(f"{name}_float")
            graph.add("Cast", [weight], [f"{name}_wide"], to=graph.FLOAT)
            graph.add("Mul", [f"{name}_wide", scale], [f"{name}_rescaled"])
            factors = self._codes.smoothing.get(product.activation)
            undo = np.float32(1) if factors is None else (1 / factors)[:, None]
            graph.add("Mul", [f"{name}_rescaled", graph.constant(f"{name}_undo", undo)], [f"{name}_float"])
        graph.add("MatMul", [product.activation, f"{name}_float"], [product.node.output[0]])

    def _activation(self, name: str, floor: float) -> _Codes:
        if name not in self._activations:
            self._activations[name] = self._quantized(name, floor)
        return self._activations[name]

    def _quantized(self, name: str, floor: float) -> _Codes:
        graph, short = self._graph, f"int8_{len(self._activations)}"
        factors = self._codes.smoothing.get(name)
        width = len(self._codes.observed[name].largest)
        flat = graph.constant(f"int8_flat_{width}", np.array([-1, width], dtype=np.int64))
        last = graph.constant("int8_last", np.array([-1], dtype=np.int64))
        values = graph.add("Reshape", [name, flat], [f"{short}_rows"])
        if factors is not None:
            divisor = graph.constant(f"{short}_smoothing", (1 / factors).astype(np.float32))
            values = graph.add("Mul", [values, divisor], [f"{short}_smooth"])
        shift = floor / float(factors.min()) if factors is not None else floor
        if shift:
            values = graph.add(
                "Add", [values, graph.constant(f"{short}_shift", np.float32(shift))], [f"{short}_up"]
            )
            size, steps, zero = values, 2 * LARGEST_CODE + 1, 0
        else:
            size, steps, zero = graph.add("Abs", [values], [f"{short}_size"]), LARGEST_CODE, LARGEST_CODE + 1
        graph.add("ReduceMax", [size, last], [f"{short}_largest"], keepdims=1)
        step = graph.constant(f"int8_step_{steps}", np.float32(1 / steps))
        tiny = graph.constant("int8_tiny", np.float32(1e-10))
        graph.add("Mul", [f"{short}_largest", step], [f"{short}_any_scale"])
        scale = graph.add("Max", [f"{short}_any_scale", tiny], [f"{short}_scale"])
        graph.add("Squeeze", [scale, last], [f"{short}_scales"])
        zero_point = graph.constant(f"int8_zero_{zero}", np.uint8(zero))
        graph.add("Shape", [f"{short}_scales"], [f"{short}_count"])
        zeros = graph.constant(f"int8_zeros_{zero}", np.array([zero], dtype=np.uint8))
        graph.add("Expand", [zeros, f"{short}_count"], [f"{short}_zeros"])
        code = graph.add(
            "QuantizeLinear", [values, f"{short}_scales", f"{short}_zeros"], [f"{short}_code"], axis=0
        )
        first = graph.constant("int8_first", np.array([0], dtype=np.int64))
        graph.add("Shape", [name], [f"{short}_shape"])
        leading = graph.add("Slice", [f"{short}_shape", first, last], [f"{short}_leading"])
        return _Codes(code, scale, zero_point, shift, leading)
