"""int8 graphs: near the float ones, and blind to what else is in the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
import orjson
import pytest

from batchqa.export import (
    calibration_data,
    editing,
    graphs,
    int8_openvino,
    per_token_int8,
    quantize,
)
from batchqa.export.checkpoint import open_checkpoint

pytest.importorskip("optimum.exporters.onnx")


@dataclass(frozen=True)
class Prepared:
    """A fused float graph, what calibration saw of it, and a batch of two windows, the second one shorter."""

    graph: Any
    observed: dict[str, calibration_data.Observed]
    feed: dict[str, Any]


@pytest.fixture(scope="module")
def prepared(
    checkpoints: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prepared]:
    with open_checkpoint(str(checkpoints("bert-uncased")), None) as checkpoint:
        graph = graphs.export_graph(checkpoint, tmp_path_factory.mktemp("graph"))
        ids = np.random.default_rng(3).integers(5, int(checkpoint.config["vocab_size"]), (2, 40))
        mask = np.ones((2, 40), dtype=np.int64)
        mask[1, 25:] = 0
        feed = {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
        fused = graphs.fuse(graph, checkpoint, [feed], for_int8=True)
        assert fused.kept
        assert fused.attentions == 2
        _as_if_trained(fused.model)
        yield Prepared(fused.model, calibration_data.observe(fused.model, [feed]), feed)


def _as_if_trained(graph: Any) -> None:
    """Give a fresh model's graph what only training brings: biases, and channels of unlike size."""
    rng = np.random.default_rng(5)
    wide = {
        product.weight for product in editing.products(graph.graph) if "intermediate" in product.node.name
    }
    assert wide
    for tensor in graph.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        if tensor.name in wide:
            changed = value * np.exp(rng.normal(size=value.shape[1]))
        elif value.ndim == 1 and value.dtype == np.float32 and "LayerNorm" not in tensor.name:
            changed = value + rng.normal(scale=0.3, size=value.shape)
        else:
            continue
        tensor.CopyFrom(onnx.numpy_helper.from_array(changed.astype(np.float32), tensor.name))


def _logits(graph: Any, feed: dict[str, Any]) -> np.ndarray:
    return np.stack(graphs.session(graph, threads=1).run(list(graphs.OUTPUTS), feed))


def test_every_int8_form_stays_near_the_float_graph(prepared: Prepared) -> None:
    expected = _logits(prepared.graph, prepared.feed)[:, prepared.feed["attention_mask"] > 0]
    for make in (quantize.weights_only, per_token_int8.per_token, int8_openvino.int8_openvino):
        got = _logits(make(prepared.graph, prepared.observed), prepared.feed)
        error = np.abs(got[:, prepared.feed["attention_mask"] > 0] - expected)
        assert 0 < error.max() < 0.1 * np.ptp(expected)


@pytest.mark.parametrize("make", [per_token_int8.per_token, int8_openvino.int8_openvino])
def test_a_windows_logits_do_not_depend_on_its_neighbours_or_padding(
    prepared: Prepared, make: Callable[..., Any]
) -> None:
    graph = make(prepared.graph, prepared.observed)

    together = _logits(graph, prepared.feed)[:, 1, :25]
    alone = _logits(graph, {name: value[1:, :25] for name, value in prepared.feed.items()})[:, 0]

    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("short", [39, 40])
def test_without_padding_attention_takes_another_form_and_says_the_same(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, short: int
) -> None:
    monkeypatch.setattr(per_token_int8, "SHORT", short)
    masked = per_token_int8.per_token(prepared.graph, prepared.observed)
    both = per_token_int8.without_padding(masked)
    full = {name: value[:1] for name, value in prepared.feed.items()}

    kinds = [node.op_type for node in both.graph.node]
    assert kinds.count("If") == 2
    assert "MultiHeadAttention" not in kinds
    np.testing.assert_array_equal(_logits(both, prepared.feed), _logits(masked, prepared.feed))
    np.testing.assert_allclose(
        _logits(both, full), _logits(masked, full), atol=0.05 * np.ptp(_logits(both, full))
    )
    used = _operators_used(both, full)
    assert used["Attention"] == (2 if short == 40 else 0)
    assert used["MultiHeadAttention"] == (0 if short == 40 else 2)


@pytest.mark.parametrize("scale", [{}, {"scale": 0.7}])
def test_every_form_of_attention_has_the_same_bias_and_scale(scale: dict[str, float]) -> None:
    rng = np.random.default_rng(6)
    node, tensor = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    tables = {name: rng.normal(size=(50, 16)).astype(np.float32) for name in ("query", "key", "value")}
    nodes = [node("Gather", [f"{name}_table", "input_ids"], [name]) for name in tables]
    nodes.append(node("Cast", ["attention_mask"], ["mask"], to=onnx.TensorProto.INT32))
    inputs = [*tables, "bias", "mask"]
    nodes.append(node("MultiHeadAttention", inputs, ["out"], domain="com.microsoft", num_heads=4, **scale))
    constants = {f"{name}_table": table for name, table in tables.items()} | {
        "bias": rng.normal(size=48).astype(np.float32)
    }
    shape = ["windows", "tokens"]
    graph = onnx.helper.make_graph(
        nodes,
        "attention",
        [tensor(name, onnx.TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
        [tensor("out", onnx.TensorProto.FLOAT, [*shape, 16])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.microsoft", 1)]
    masked = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    forms = per_token_int8.without_padding(masked)
    in_plain_operators = int8_openvino.int8_openvino(masked, {})

    for tokens in (per_token_int8.SHORT - 1, per_token_int8.SHORT + 1):
        feed = {
            "input_ids": rng.integers(0, 50, (3, tokens)),
            "attention_mask": np.ones((3, tokens), np.int64),
        }
        expected = graphs.session(masked, threads=1).run(None, feed)[0]
        np.testing.assert_allclose(graphs.session(forms, threads=1).run(None, feed)[0], expected, atol=1e-5)
        feed["attention_mask"][1, 20:] = 0
        expected = graphs.session(masked, threads=1).run(None, feed)[0]
        got = graphs.session(in_plain_operators, threads=1).run(None, feed)[0]
        np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.ptp(expected) > 1
    assert "MultiHeadAttention" not in {node.op_type for node in in_plain_operators.graph.node}


def _operators_used(graph: Any, feed: dict[str, Any]) -> Counter[str]:
    """How often each operator is run, as onnxruntime's profiler sees it."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.intra_op_num_threads = True, 1
    with TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder, "profile"))
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
        session.run(None, feed)
        events = orjson.loads(Path(session.end_profiling()).read_bytes())
    return Counter(event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time"))


@pytest.mark.parametrize("short", [28, 29])
def test_a_windows_logits_are_the_same_bits_beside_others_of_its_length(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, short: int
) -> None:
    monkeypatch.setattr(per_token_int8, "SHORT", short)
    graph = per_token_int8.without_padding(per_token_int8.per_token(prepared.graph, prepared.observed))
    ids = np.random.default_rng(4).integers(5, 100, (5, 29))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}

    together = _logits(graph, feed)

    for row in range(5):
        alone = _logits(graph, {name: value[row : row + 1] for name, value in feed.items()})
        np.testing.assert_array_equal(alone[:, 0], together[:, row])


def test_the_int8_forms_store_no_wide_matrix(prepared: Prepared) -> None:
    for make in (quantize.weights_only, per_token_int8.per_token, int8_openvino.int8_openvino):
        wide = [
            tensor.name
            for tensor in make(prepared.graph, prepared.observed).graph.initializer
            if tensor.data_type == 1 and len(tensor.dims) == 2
            if min(tensor.dims) >= editing.LEAST_WIDTH and np.prod(tensor.dims) < quantize.LEAST_TABLE
        ]
        assert all("embeddings" in name for name in wide)


def test_codes_without_a_sign_have_no_value_below_zero_to_code(prepared: Prepared) -> None:
    graph = int8_openvino.int8_openvino(prepared.graph, prepared.observed)
    raised = [node.output[0] for node in graph.graph.node if node.output[0].startswith("int8_")]
    raised = [name for name in raised if name.endswith("_raised")]
    assert len(raised) == 2  # GELU's output in each layer
    graph.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in raised
    )
    for values in graphs.session(graph, threads=1).run(raised, prepared.feed):
        assert values.min() > -1e-6
        assert values.min(axis=(0, 1)).max() > 0.01  # raised by no more than it takes


@dataclass(frozen=True)
class Product:
    """A layer normalization and a product, and calibration's tokens: what a graph of these needs."""

    graph: Any
    tokens: np.ndarray
    normed: np.ndarray
    weights: np.ndarray

    @property
    def observed(self) -> dict[str, calibration_data.Observed]:
        """What calibration saw."""
        return {"normed": calibration_data.Observed.of(self.normed)}

    def errors(self) -> np.ndarray:
        """What int8 adds to the product, (tokens, outputs)."""
        made = int8_openvino.int8_openvino(self.graph, self.observed)
        (found,) = graphs.session(made, threads=1).run(None, {"x": self.tokens[None]})
        return np.asarray(found[0]) - self.normed @ self.weights


def _product(tokens: np.ndarray, weights: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> Product:
    tokens, weights = tokens.astype(np.float32), weights.astype(np.float32)
    tensor, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    constants = {"w": weights, "scale": scale.astype(np.float32), "bias": bias.astype(np.float32)}
    graph = onnx.helper.make_graph(
        [
            node("LayerNormalization", ["x", "scale", "bias"], ["normed"], epsilon=1e-12),
            node("MatMul", ["normed", "w"], ["y"]),
        ],
        "product",
        [tensor("x", onnx.TensorProto.FLOAT, ["windows", "tokens", tokens.shape[1]])],
        [tensor("y", onnx.TensorProto.FLOAT, ["windows", "tokens", weights.shape[1]])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    centred = tokens - tokens.mean(axis=1, keepdims=True)
    normed = centred / centred.std(axis=1, keepdims=True) * scale + bias
    return Product(model, tokens, normed.astype(np.float32), weights)


def test_products_are_right_on_average() -> None:
    rng = np.random.default_rng(9)
    tokens, weights = rng.normal(size=(400, 32)), rng.normal(size=(32, 16))
    product = _product(tokens, weights, np.full(32, 0.5), np.full(32, 2))

    errors = product.errors()

    assert np.abs(errors.mean(axis=0)).max() < 0.15 * errors.std(axis=0).min()


def test_what_stands_in_the_file_beside_is_read_from_there(prepared: Prepared, tmp_path: Path) -> None:
    first = per_token_int8.per_token(prepared.graph, prepared.observed)
    second = int8_openvino.int8_openvino(prepared.graph, prepared.observed)
    expected = _logits(second, prepared.feed)
    graphs.save(first, tmp_path / "first.onnx")
    alone = graphs.save(second, tmp_path / "alone.onnx")
    together = graphs.save(second, tmp_path / "second.onnx", tmp_path / "first.onnx")

    assert together == alone == (tmp_path / "alone.onnx").stat().st_size
    assert (tmp_path / "second.onnx").stat().st_size < 0.7 * alone
    session = onnxruntime.InferenceSession(str(tmp_path / "second.onnx"))
    np.testing.assert_array_equal(np.stack(session.run(list(graphs.OUTPUTS), prepared.feed)), expected)
    assert not any(tensor.external_data for tensor in second.graph.initializer)  # the caller's is as it was


def test_errors_of_rounding_are_made_up_for_by_later_inputs() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(500, 64)) @ rng.normal(size=(64, 64))  # correlated, as activations are
    weights = rng.normal(size=(64, 32)).astype(np.float32)
    scale = quantize.channel_scale(np.abs(weights).max(axis=0)) * 8  # coarse codes: the effect is plain

    plain = np.rint(weights / scale) * scale
    fed_back = (
        quantize._round_with_feedback(
            weights, scale, quantize.LARGEST_CODE, *quantize._error_spread(inputs.T @ inputs)
        )
        * scale
    )

    def error(rounded: np.ndarray) -> float:
        return float(np.square(inputs @ (rounded - weights)).mean())

    assert error(fed_back) < 0.5 * error(plain)


def _in_sixteen_bits(codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Products as x86 without VNNI adds them: two neighbours at a time, saturated to 16 bits (vpmaddubsw)."""
    pairs = codes.astype(np.int32)[:, :, None] * weights.astype(np.int32)[None]
    saturated = np.clip(pairs[:, 0::2] + pairs[:, 1::2], -(2**15), 2**15 - 1)
    return np.asarray(saturated.sum(axis=1))


def test_weights_of_seven_bits_cannot_overflow_on_any_processor(prepared: Prepared) -> None:
    overflows = {}
    for reduce_range in (True, False):
        graph = per_token_int8.per_token(prepared.graph, prepared.observed, reduce_range=reduce_range)
        weights = [
            onnx.numpy_helper.to_array(tensor)
            for tensor in graph.graph.initializer
            if any(
                n.op_type == "MatMulIntegerToFloat" and n.input[1] == tensor.name for n in graph.graph.node
            )
        ]
        assert weights
        codes = [_worst_codes(each) for each in weights]
        exact = [code.astype(np.int64) @ each for code, each in zip(codes, weights, strict=True)]
        got = [_in_sixteen_bits(code, each) for code, each in zip(codes, weights, strict=True)]
        overflows[reduce_range] = any((a != b).any() for a, b in zip(exact, got, strict=True))

    assert overflows == {True: False, False: True}


def _worst_codes(weights: np.ndarray) -> np.ndarray:
    """For each output, the codes that make its sum the largest: 255 where the weight is positive."""
    return np.where(weights.T > 0, 255, 0).astype(np.uint8)


def test_weights_of_seven_bits_stay_near_the_float_graph(prepared: Prepared) -> None:
    expected = _logits(prepared.graph, prepared.feed)[:, prepared.feed["attention_mask"] > 0]
    got = _logits(
        per_token_int8.per_token(prepared.graph, prepared.observed, reduce_range=True), prepared.feed
    )[:, prepared.feed["attention_mask"] > 0]

    assert 0 < np.abs(got - expected).max() < 0.1 * np.ptp(expected)
