"""OpenVINO: the same answers as onnxruntime, whatever a row's neighbours; what it cannot run is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper

from batchqa.annotator import Annotator
from batchqa.bundle import open_bundle
from batchqa.engines import ModelSpec, load
from batchqa.engines import openvino as openvino_scorer
from batchqa.engines.onnxruntime import OnnxScorer
from batchqa.engines.openvino import OpenVinoScorer, best_compute_dtype
from batchqa.errors import DeviceError, ModelError
from batchqa.settings import ComputeDtype
from batchqa.steps.scoring import OutOfMemoryError
from tests.models import FAMILIES, MARKER, SENTENCES

pytest.importorskip("openvino", reason="needs the extra `openvino`")

NAMES = ("input_ids", "attention_mask", "token_type_ids")
LOGITS = ("start_logits", "end_logits")
BOTH = ("onnxruntime", "openvino")

COMPUTE_DTYPES: tuple[ComputeDtype, ...] = ("f32", "bf16") if best_compute_dtype() == "bf16" else ("f32",)


def scorer_of(path: Path, compute_dtype: ComputeDtype = "f32", threads: int = 1) -> OpenVinoScorer:
    bundle = open_bundle(path)
    variant = bundle.manifest.variants[0]
    return OpenVinoScorer(ModelSpec.of(bundle, variant, "openvino", "cpu", threads, compute_dtype))


def spec_of(model: Path, longest: int | None = None) -> ModelSpec:
    """A model with two inputs."""
    return ModelSpec("openvino", str(model), NAMES[:2], LOGITS, "cpu", 1, longest)


def table_of(contexts: tuple[str, ...] = SENTENCES, times: int = 1) -> pa.Table:
    rows = [(context * times, f"who {n}?") for context in contexts for n in range(3)]
    return pa.table({"context": [context for context, _ in rows], "question": [q for _, q in rows]})


def windows(lengths: list[int], vocabulary: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random windows of these lengths, padded to the longest."""
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(7).integers(5, vocabulary, mask.shape) * mask
    return ids, mask, np.zeros_like(ids)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_is_answered_as_onnxruntime_answers_it(
    bundles: Callable[..., Path], family: str
) -> None:
    path, table = bundles(family, engines=BOTH), table_of(times=6)
    options: dict[str, Any] = {"device": "cpu", "in_process": True, "batch_tokens": 512, "threads": 1}
    expected = Annotator(path, engine="onnxruntime", **options).annotate(table)
    given = Annotator(path, engine="openvino", arithmetic="f32", **options).annotate(table)
    for name in ("qa_answer", "qa_start", "qa_end", "qa_no_answer", "qa_error"):
        assert given[name].to_pylist() == expected[name].to_pylist(), name
    for name in ("qa_score", "qa_null_odds"):
        np.testing.assert_allclose(given[name].to_numpy(), expected[name].to_numpy(), atol=1e-4)


@pytest.mark.parametrize("compute_dtype", COMPUTE_DTYPES)
def test_a_window_has_the_same_logits_alone_in_any_batch_and_with_any_threads(
    bundles: Callable[..., Path], compute_dtype: ComputeDtype
) -> None:
    path = bundles(engines=BOTH)
    lengths = [5, 16, 17, 33, 47, 64, 90, 111]
    ids, mask, types = windows(lengths)
    together = scorer_of(path, compute_dtype, threads=2).score(ids, mask, types)
    single = scorer_of(path, compute_dtype)
    for row, length in enumerate(lengths):
        at = np.s_[row : row + 1, :length]
        alone = single.score(ids[at], mask[at], types[at])
        for one, other in zip(alone, together, strict=True):
            assert one.shape == (1, length)
            np.testing.assert_allclose(one, other[at], atol=1e-4)


def test_a_model_whose_limit_is_no_multiple_takes_its_longest_window(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(_with_positions(50), path)
    scorer = OpenVinoScorer(spec_of(path, longest=50))
    ids, mask, types = windows([50, 49, 20], vocabulary=40)
    start, _ = scorer.score(ids, mask, types)
    alone, _ = scorer.score(ids[2:, :20], mask[2:, :20], types[2:, :20])
    np.testing.assert_allclose(alone[0], start[2, :20], atol=1e-4)
    expected, _ = OnnxScorer(spec_of(path)).score(ids, mask, types)
    np.testing.assert_allclose(start[mask > 0], expected[mask > 0], atol=1e-4)


def test_the_arrays_of_one_batch_are_not_those_of_the_next(bundles: Callable[..., Path]) -> None:
    scorer = scorer_of(bundles(engines=BOTH))
    first, _ = scorer.score(*windows([20, 10]))
    kept = first.copy()
    scorer.score(*windows([20, 13], vocabulary=40))
    np.testing.assert_array_equal(first, kept)


def test_logits_that_are_not_finite_fail_their_window_only(bundles: Callable[..., Path]) -> None:
    path = bundles(poisoned=True, engines=BOTH)
    table = pa.table({"context": ["a bridge", f"a {MARKER} bridge", "the river"], "question": ["who?"] * 3})
    annotator = Annotator(path, device="cpu", engine="openvino", in_process=True, batch_tokens=512)
    assert annotator.annotate(table)["qa_error"].to_pylist() == [None, "non_finite", None]


def test_a_token_that_the_model_does_not_have_is_an_error_and_not_zeros(
    bundles: Callable[..., Path],
) -> None:
    scorer = scorer_of(bundles(engines=BOTH))
    ids = np.full((1, 4), 10**6)
    with pytest.raises(ModelError, match="it has no token 1000000, only"):
        scorer.score(ids, np.ones_like(ids), np.zeros_like(ids))


def test_it_runs_in_a_worker_process_too(bundles: Callable[..., Path]) -> None:
    with Annotator(bundles(engines=BOTH), device="cpu", engine="openvino", batch_tokens=512) as annotator:
        assert annotator.annotate(table_of())["qa_error"].null_count == 3 * len(SENTENCES)
        assert annotator.resolved.engine == "openvino"
        assert annotator.resolved.compute_dtype == best_compute_dtype()


def test_an_int8_graph_with_a_scale_per_token_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(_scaled_per_token(), path)
    OnnxScorer(spec_of(path))  # what it is made for
    with pytest.raises(ModelError, match="only onnxruntime computes; use --engine onnxruntime, or export"):
        OpenVinoScorer(spec_of(path))


def test_a_bundle_without_a_variant_for_openvino_says_what_it_has(tiny_bundle: Path) -> None:
    with pytest.raises(DeviceError, match=r"for cpu with openvino; it has: fp32 \(cpu; onnxruntime\)"):
        Annotator(tiny_bundle, device="cpu", engine="openvino")


def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"this is no model at all")
    with pytest.raises(ModelError) as caught:
        OpenVinoScorer(spec_of(path))
    assert str(caught.value).startswith(f"{path} cannot be loaded by openvino: ")
    assert "\n" not in str(caught.value)


def test_a_model_with_other_inputs_is_refused(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    with pytest.raises(ModelError, match="is not an extractive QA model that batchqa can run"):
        OpenVinoScorer(spec_of(bundle.model(bundle.manifest.variants[0])))


def test_a_cuda_device_is_refused_with_what_to_do() -> None:
    with pytest.raises(DeviceError, match="CPU only; use --device cpu"):
        load(ModelSpec("openvino", "model.onnx", NAMES, LOGITS, "cuda:0", 1))


def test_a_model_whose_logits_depend_on_the_batch_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(_mean_over_the_batch(), path)
    with pytest.raises(ModelError, match=r"change by up to .* with the other rows of a batch"):
        OpenVinoScorer(spec_of(path))


def test_an_allocation_that_fails_asks_for_a_smaller_batch() -> None:
    told = openvino_scorer._translated(RuntimeError("Exception from src/x.cpp:1:\nstd::bad_alloc\n"))
    assert isinstance(told, OutOfMemoryError)
    other = openvino_scorer._translated(RuntimeError("Exception from src/x.cpp:1:\nshapes do not fit\n"))
    assert isinstance(other, ModelError)
    assert "shapes do not fit" in str(other)


@pytest.mark.skipif("bf16" not in COMPUTE_DTYPES, reason="this CPU does not multiply bfloat16")
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_bfloat16_on_a_real_model_keeps_the_spans_and_does_not_depend_on_the_batch(
    fp32_bundle: Path, squad_dev: list[dict[str, Any]]
) -> None:
    rows = squad_dev[::40]
    table = pa.table({name: [row[name] for row in rows] for name in ("context", "question")})
    options: dict[str, Any] = {"device": "cpu", "engine": "openvino", "in_process": True}
    exact = Annotator(fp32_bundle, arithmetic="f32", batch_tokens=1024, **options).annotate(table)
    here = Annotator(fp32_bundle, arithmetic="bf16", batch_tokens=1024, **options).annotate(table)
    again = Annotator(fp32_bundle, arithmetic="bf16", batch_tokens=3000, threads=1, **options).annotate(table)
    for name in ("qa_start", "qa_end", "qa_no_answer", "qa_score", "qa_null_odds"):
        assert here[name].to_pylist() == again[name].to_pylist(), name
    spans = zip(exact["qa_answer"].to_pylist(), here["qa_answer"].to_pylist(), strict=True)
    assert sum(one == other for one, other in spans) >= 0.97 * len(rows)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("compute_dtype", COMPUTE_DTYPES)
def test_int8_of_a_real_model_is_near_float_and_does_not_depend_on_the_batch(
    fp32_bundle: Path,
    minilm: Path,
    squad_dev: list[dict[str, Any]],
    compute_dtype: ComputeDtype,
    tmp_path: Path,
) -> None:
    from batchqa.export.exporting import export

    # not the package's own int8: its checkpoint need not be at hand
    export(str(minilm), tmp_path / "int8", abstains="yes", threshold=0.0, min_agreement=0.9)
    rows = squad_dev[::40]
    table = pa.table({name: [row[name] for row in rows] for name in ("context", "question")})
    order = np.random.default_rng(3).permutation(len(table))
    options: dict[str, Any] = {"device": "cpu", "engine": "openvino", "in_process": True}
    int8 = {**options, "variant": "int8", "arithmetic": compute_dtype}
    exact = Annotator(fp32_bundle, arithmetic="f32", batch_tokens=1024, **options).annotate(table)
    here = Annotator(tmp_path / "int8", batch_tokens=768, **int8).annotate(table).take(order)
    again = Annotator(tmp_path / "int8", batch_tokens=3000, threads=1, **int8).annotate(table.take(order))
    for name in ("qa_start", "qa_end", "qa_no_answer", "qa_score", "qa_null_odds"):
        assert here[name].to_pylist() == again[name].to_pylist(), name
    odds = [each["qa_null_odds"].to_numpy() for each in (exact.take(order), here)]
    assert float(np.sqrt(np.mean((odds[0] - odds[1]) ** 2))) < 0.25


def _model(nodes: list[Any], constants: dict[str, Any], opset: int = 19) -> onnx.ModelProto:
    """A model of `nodes` from input_ids and attention_mask to the two logits."""
    shape = ["windows", "tokens"]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in NAMES[:2]],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in LOGITS],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _scaled_per_token() -> onnx.ModelProto:
    """Logits from one int8 product with scales per row computed in the graph, as `quantize` writes them."""
    node = helper.make_node
    table = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    nodes = [
        node("Mul", ["input_ids", "attention_mask"], ["seen"]),
        node("Gather", ["table", "seen"], ["values"]),
        node("Reshape", ["values", "flat"], ["rows"]),
        node("Abs", ["rows"], ["sizes"]),
        node("ReduceMax", ["sizes", "last"], ["largest"], keepdims=0),
        node("Mul", ["largest", "step"], ["scales"]),
        node("Shape", ["scales"], ["count"]),
        node("Expand", ["zero", "count"], ["zeros"]),
        node("QuantizeLinear", ["rows", "scales", "zeros"], ["codes"], axis=0),
        node(
            "MatMulIntegerToFloat",
            ["codes", "weights", "one", "weight_scale", "zero_point"],
            ["product"],
            domain="com.microsoft",
        ),
        node("Shape", ["input_ids"], ["shape"]),
        node("Split", ["product"], ["start", "end"], axis=1, num_outputs=2),
        node("Reshape", ["start", "shape"], ["start_logits"]),
        node("Reshape", ["end", "shape"], ["end_logits"]),
    ]
    constants = {
        "table": table,
        "flat": np.array([-1, 8]),
        "last": np.array([-1]),
        "step": np.float32(1 / 127),
        "zero": np.array([128], dtype=np.uint8),
        "zero_point": np.uint8(128),
        "one": np.float32(1),
        "weights": np.arange(16, dtype=np.int8).reshape(8, 2),
        "weight_scale": np.ones(2, dtype=np.float32),
    }
    return _model(nodes, constants)


def _with_positions(count: int) -> onnx.ModelProto:
    """Logits from embeddings of tokens and of `count` positions, cut to the length as BERT's graph does."""
    node = helper.make_node
    nodes = [
        node("Mul", ["input_ids", "attention_mask"], ["seen"]),
        node("Gather", ["table", "seen"], ["values"]),
        node("Shape", ["input_ids"], ["tokens"], start=1),
        node("Slice", ["positions", "zero", "tokens", "zero"], ["places"]),
        node("Add", ["values", "places"], ["placed"]),
        node("Split", ["placed"], ["start", "end"], axis=2, num_outputs=2),
        node("Squeeze", ["start", "last"], ["start_logits"]),
        node("Squeeze", ["end", "last"], ["end_logits"]),
    ]
    random = np.random.default_rng(0)
    constants = {
        "table": random.normal(size=(40, 2)).astype(np.float32),
        "positions": random.normal(size=(count, 2)).astype(np.float32),
        "zero": np.array([0]),
        "last": np.array([2]),
    }
    return _model(nodes, constants)


def _mean_over_the_batch() -> onnx.ModelProto:
    """Logits from which the mean of the whole batch is taken: what dynamic quantization does, only worse."""
    node = helper.make_node
    nodes = [
        node("Mul", ["input_ids", "attention_mask"], ["seen"]),
        node("Cast", ["seen"], ["values"], to=TensorProto.FLOAT),
        node("ReduceMean", ["values"], ["mean"], keepdims=0),
        node("Sub", ["values", "mean"], ["start_logits"]),
        node("Add", ["values", "mean"], ["end_logits"]),
    ]
    return _model(nodes, {})
