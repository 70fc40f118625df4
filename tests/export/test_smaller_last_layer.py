"""A smaller last layer: the same logits from fewer neurons and channels, or none at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from batchqa.export import graphs, smaller_last_layer
from batchqa.export.checkpoint import open_checkpoint
from tests.models import FAMILIES

pytest.importorskip("optimum.exporters.onnx")

WORDS, WIDTH, NEURONS, TOKENS = 400, 128, 192, 12


def _feeds(seed: int, windows: int = 16, batches: int = 12) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    feeds = []
    for _ in range(batches):
        mask = (np.arange(TOKENS) < rng.integers(4, TOKENS + 1, (windows, 1))).astype(np.int64)
        feeds.append({"input_ids": rng.integers(1, WORDS, (windows, TOKENS)) * mask, "attention_mask": mask})
    return feeds


def _model(
    *,
    directions: int = 6,
    idle: bool = True,
    uneven: float = 0,
    change: Callable[[list[Any], dict[str, Any]], None] | None = None,
) -> Any:
    """A table of words and the last layer: its feed-forward sum has so many directions that are large.

    idle: every other neuron hardly changes with the word. uneven: how unlike in size words are, each of which
    has a direction of its own.
    """
    rng = np.random.default_rng(1)
    node, tensor = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    first = rng.normal(size=(WIDTH, NEURONS))
    first_bias = rng.normal(size=NEURONS)
    if idle:
        first[:, ::2] /= 1_000
    second = (
        rng.normal(size=(NEURONS, directions)) @ rng.normal(size=(directions, WIDTH)) / np.sqrt(directions)
    )
    constants = {
        "table": 0.15 * rng.normal(size=(WORDS, WIDTH)) * np.exp(uneven * rng.normal(size=(WORDS, 1))),
        "first": first / 2,
        "first_bias": first_bias,
        "second": 0.2 * second,
        "bias": rng.normal(size=WIDTH),
        "scale": rng.uniform(0.5, 1.5, WIDTH),
        "shift": rng.normal(size=WIDTH),
        "head": rng.normal(size=(WIDTH, 2)),
        "constant": np.array([0.3, -0.2]),
    }
    constants = {name: value.astype(np.float32) for name, value in constants.items()}
    nodes = [
        node("Gather", ["table", "input_ids"], ["residual"]),
        node("MatMul", ["residual", "first"], ["entered"]),
        node("BiasGelu", ["entered", "first_bias"], ["hidden"], domain="com.microsoft"),
        node("MatMul", ["hidden", "second"], ["left"]),
        node("Add", ["bias", "left"], ["biased"]),
        node("Add", ["biased", "residual"], ["sum"]),
        node("LayerNormalization", ["sum", "scale", "shift"], ["normed"], epsilon=1e-5),
        node("MatMul", ["normed", "head"], ["read"]),
        node("Add", ["constant", "read"], ["both"]),
        node("Split", ["both", "ones"], ["start", "end"], axis=-1),
        node("Squeeze", ["start", "last"], ["start_logits"]),
        node("Squeeze", ["end", "last"], ["end_logits"]),
    ]
    constants |= {"ones": np.array([1, 1]), "last": np.array([-1])}
    if change is not None:
        change(nodes, constants)
    shape = ["windows", "tokens"]
    graph = onnx.helper.make_graph(
        nodes,
        "last_layer",
        [tensor(name, onnx.TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
        [tensor(name, onnx.TensorProto.FLOAT, shape) for name in graphs.OUTPUTS],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _logits(model: Any, feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    session = graphs.session(model, threads=1)
    wanted = [given.name for given in session.get_inputs()]
    found = [
        np.stack(session.run(list(graphs.OUTPUTS), {name: feed[name] for name in wanted}))[
            :, feed["attention_mask"] > 0
        ]
        for feed in feeds
    ]
    return np.concatenate(found, axis=1)


def _sizes(model: Any) -> set[tuple[int, ...]]:
    tensors = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return {tensors[node.input[1]] for node in model.graph.node if node.op_type == "MatMul"}


@pytest.mark.parametrize(("idle", "most"), [(True, 0.6), (False, 1)])
def test_logits_stay_what_they_are_with_fewer_channels_and_neurons_on_windows_never_seen(
    idle: bool, most: float
) -> None:
    model = _model(idle=idle)

    smaller = smaller_last_layer.reduced(model, _feeds(2))

    assert smaller is not None
    left = smaller.neurons
    assert (most - 0.2) * NEURONS < left <= most * NEURONS
    assert smaller.width == 64
    assert _sizes(smaller.model) == {(WIDTH, left), (left, 64), (WIDTH, 64), (64, 2)}
    expected, found = (_logits(each, _feeds(3)) for each in (model, smaller.model))
    given = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    free = given["constant"] + given["shift"] @ given["head"]  # what a logit is without its text
    error = np.square(found - expected).mean() / np.square(expected - free[:, None]).mean()
    assert 0 < error < 3 * smaller_last_layer.MOST_ERROR
    assert smaller.error == pytest.approx(error, rel=1)  # what is promised was held out


@pytest.mark.parametrize(("rest", "near"), [(30, 0.003), (0.1, 0.003), (-2, 0.04)])
def test_a_length_is_found_from_some_channels_where_the_others_depend_on_them(
    rest: float, near: float
) -> None:
    rng = np.random.default_rng(5)
    found, shift = rng.normal(size=(500, 4)) + np.array([20, 0, 0, 0]), np.array([0, 1, -2, 0.5])
    square = 1.1 * (np.square(found + shift).sum(axis=1) + rest) * rng.uniform(0.999, 1.001, 500)

    factor, moved, more = smaller_last_layer._length(found, square, 1 / square)

    assert more > 0
    again = factor * (np.square(found + moved).sum(axis=1) + more)
    np.testing.assert_allclose(again, square, rtol=near)


def test_nothing_is_reduced_where_all_channels_matter_or_few_windows_were_seen() -> None:
    assert smaller_last_layer.reduced(_model(directions=WIDTH, uneven=1.5), _feeds(2)) is None
    assert smaller_last_layer.reduced(_model(), _feeds(2, windows=2, batches=12)) is None


def test_an_error_of_the_first_token_counts_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Null scores are read there: with more directions than channels, those of first tokens are kept."""
    feeds, rng = _feeds(2), np.random.default_rng(4)
    for feed in feeds:
        ids = feed["input_ids"]
        ids[:, 1:] %= 300
        ids[:, 0] = rng.integers(300, WORDS, len(ids))  # words that only begin
    model = _model(directions=90, uneven=1)
    monkeypatch.setattr(smaller_last_layer, "MOST_ERROR", np.inf)

    def error_of_first(weight: float) -> float:
        monkeypatch.setattr(smaller_last_layer, "FIRST_TOKEN", weight)
        smaller = smaller_last_layer.reduced(model, feeds)
        assert smaller is not None
        only = [{name: value[:, :1] for name, value in feed.items()} for feed in feeds]
        return float(np.abs(_logits(smaller.model, only) - _logits(model, only)).mean())

    assert error_of_first(3) < 0.8 * error_of_first(0.3)


def _read_elsewhere(nodes: list[Any], constants: dict[str, Any]) -> None:
    nodes[-1].input[0] = "more"
    nodes.insert(-1, onnx.helper.make_node("ReduceMax", ["hidden", "last"], ["largest"], keepdims=1))
    nodes.insert(-1, onnx.helper.make_node("Add", ["end", "largest"], ["more"]))


def _another_head(nodes: list[Any], constants: dict[str, Any]) -> None:
    constants["ones"] = np.array([1, 2])
    constants["head"] = np.concatenate([constants["head"], constants["head"][:, :1]], axis=1)
    constants["constant"] = np.zeros(3, dtype=np.float32)
    nodes[-1] = onnx.helper.make_node("ReduceMax", ["end", "last"], ["end_logits"], keepdims=0)


def _another_activation(nodes: list[Any], constants: dict[str, Any]) -> None:
    nodes[2] = onnx.helper.make_node("Relu", ["entered"], ["hidden"])


def _no_normalization(nodes: list[Any], constants: dict[str, Any]) -> None:
    nodes[6] = onnx.helper.make_node("Mul", ["sum", "scale"], ["normed"])


@pytest.mark.parametrize("change", [_read_elsewhere, _another_head, _another_activation, _no_normalization])
def test_a_last_layer_of_another_kind_stays(change: Callable[..., None]) -> None:
    model = _model(change=change)
    assert np.isfinite(_logits(model, _feeds(2))).all()
    assert smaller_last_layer.reduced(model, _feeds(2)) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_of_every_family_is_found_and_its_smaller_form_runs(
    checkpoints: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(smaller_last_layer, "WIDTHS", (24,))  # these have 32 channels
    monkeypatch.setattr(smaller_last_layer, "MOST_ERROR", 1e-2)
    rng = np.random.default_rng(7)
    with open_checkpoint(str(checkpoints(family)), None) as checkpoint:
        graph = graphs.export_graph(checkpoint, tmp_path)
        ids = rng.integers(5, int(checkpoint.config["vocab_size"]), (200, 20))
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        feed = {name.name: feed[name.name] for name in graph.graph.input}
        fused = graphs.fuse(graph, checkpoint, [feed], for_int8=True)
    assert fused.kept

    smaller = smaller_last_layer.reduced(fused.model, [feed])

    assert smaller is not None
    assert smaller.width == 24
    expected, found = _logits(fused.model, [feed]), _logits(smaller.model, [feed])
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.98
    assert expected.std() > 0.1
