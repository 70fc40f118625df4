"""float16: near float32 in numbers, and on a CUDA device all of it on the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchqa.bundle import Bundle, open_bundle
from batchqa.engines import ModelSpec, cuda_is_available
from batchqa.engines.onnxruntime import OnnxScorer
from batchqa.export.builtin_passages import all_rows
from batchqa.export.calibration_data import batches_of
from batchqa.export.exporting import export
from batchqa.export.verify import Progress, agreement, answer, logit_difference, onnx_scorer

pytest.importorskip("torch")
pytest.importorskip("optimum.exporters.onnx")

SHAPES = {"Shape", "Gather", "Unsqueeze", "Squeeze", "Concat", "Slice", "Range", "Reshape", "Expand", "Cast"}
"""Operators on sizes, a handful of integers, which onnxruntime leaves on the CPU on purpose."""


def _half_bundle(checkpoint: Path, folder: Path, say: Progress = lambda _: None) -> Bundle:
    export(
        str(checkpoint),
        folder,
        precisions=("fp32", "fp16"),
        min_agreement=0.9,
        abstains="yes",
        on_progress=say,
    )
    return open_bundle(folder)


def _compared(bundle: Bundle, table: pa.Table) -> tuple[float, float]:
    """Share of equal spans, and the largest difference of a logit."""
    single, half = (
        OnnxScorer(
            ModelSpec(
                "onnxruntime",
                str(bundle.path / f"model.{precision}.onnx"),
                bundle.manifest.inputs,
                bundle.manifest.outputs,
                "cpu",
                threads=2,
            )
        )
        for precision in ("fp32", "fp16")
    )
    equal = agreement(answer(bundle, single, table), answer(bundle, half, table))
    return equal, logit_difference(single, half, batches_of(bundle, table))


@pytest.mark.parametrize(
    "family",
    [
        "bert-uncased",
        pytest.param("roberta", marks=pytest.mark.slow),
        pytest.param("albert", marks=pytest.mark.slow),
    ],
)
def test_float16_stays_near_float32_where_the_cpu_computes_it(
    family: str, checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    """onnxruntime's CPU operators are float32; between them the numbers are rounded to float16."""
    bundle = _half_bundle(checkpoints(family), tmp_path / "bundle")

    equal, difference = _compared(bundle, all_rows().select(["context", "question"]))

    assert equal >= 0.95  # random weights: many decisions are close
    assert 0 < difference < 0.05
    variant = next(v for v in bundle.manifest.variants if v.precision == "fp16")
    assert variant.devices == ("cuda",)
    assert variant.verification["verified_with"].startswith("onnxruntime on c")


@pytest.mark.slow
def test_float16_of_the_real_checkpoint_gives_float32s_answers(
    minilm: Path,
    squad_dev: list[dict[str, Any]],
    tmp_path: Path,
    record_testsuite_property: Callable[[str, Any], None],
) -> None:
    said: list[str] = []
    bundle = _half_bundle(minilm, tmp_path / "bundle", said.append)
    rows = squad_dev[:: len(squad_dev) // 200][:200]
    table = pa.table({name: [row[name] for row in rows] for name in ("context", "question")})

    equal, difference = _compared(bundle, table)

    record_testsuite_property("fp16_equal_spans", equal)
    record_testsuite_property("fp16_largest_logit_difference", difference)
    assert not any("plain questions" in line for line in said), "a trained model answers the package's own"
    assert equal >= 0.99
    assert difference < 0.1


@pytest.mark.parametrize("family", ["bert-uncased", "distilbert", "roberta"])
def test_on_a_cuda_device_everything_but_the_sizes_runs_there(
    family: str, checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    if not cuda_is_available():
        pytest.skip("needs a CUDA device and onnxruntime's CUDA provider")
    bundle = _half_bundle(checkpoints(family), tmp_path / "bundle")

    placed = _placed(bundle.path / "model.fp16.onnx", ["CUDAExecutionProvider", "CPUExecutionProvider"])

    elsewhere = {op: count for (provider, op), count in placed.items() if provider != "CUDAExecutionProvider"}
    assert set(elsewhere) <= SHAPES, f"on the CPU: {elsewhere}"
    assert any(op in ("Attention", "MultiHeadAttention") for _, op in placed)
    table = all_rows().select(["context", "question"])
    on_device = answer(bundle, onnx_scorer(bundle, "fp16"), table)
    assert agreement(answer(bundle, onnx_scorer(bundle, "fp32"), table), on_device) >= 0.95


def test_the_placement_of_every_node_can_be_told(checkpoints: Callable[..., Path], tmp_path: Path) -> None:
    """What the CUDA test relies on, shown where there is no such device: all nodes are on the CPU."""
    bundle = _half_bundle(checkpoints("bert-uncased"), tmp_path / "bundle")

    placed = _placed(bundle.path / "model.fp16.onnx", ["CPUExecutionProvider"])

    assert {provider for provider, _ in placed} == {"CPUExecutionProvider"}
    assert placed["CPUExecutionProvider", "Attention"] == 2
    assert np.all(np.array(list(placed.values())) > 0)


def _placed(model: Path, providers: list[str]) -> Counter[tuple[str, str]]:
    """How many nodes of each (provider, operator) a session has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if "CUDAExecutionProvider" in providers:
        onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(str(model), options, providers=providers)
    assert session.get_providers()[0] == providers[0]
    return Counter(
        (group.ep_name, node.op_type)
        for group in session.get_provider_graph_assignment_info()
        for node in group.get_nodes()
    )
