"""Inference: what goes wrong with a batch fails its windows, never the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from batchqa.bundle import open_bundle
from batchqa.engines import ModelSpec
from batchqa.engines import onnxruntime as onnx_scorer
from batchqa.engines.measuring import measure_budget
from batchqa.engines.onnxruntime import OnnxScorer
from batchqa.errors import DeviceError, ModelError, TryAgainError
from batchqa.records import Chunk, PaddedBatch
from batchqa.settings import WindowSettings
from batchqa.steps.batching import padded_batches
from batchqa.steps.pairing import AnswerCache, pairs_of
from batchqa.steps.scoring import (
    UNLIMITED,
    MicroBatchScorer,
    OutOfMemoryError,
    micro_batches,
    score_batch,
)
from batchqa.steps.windowing import Windower, learn_layout, open_tokenizer
from tests.models import MARKER, tiny_tokenizer
from tests.steps.rows import rows_of

NAMES = ("input_ids", "attention_mask", "token_type_ids")
LOGITS = ("start_logits", "end_logits")


class SmallScorer:
    """Gives each token's id as its logit; has room for so many windows of at most so many tokens."""

    engine = "none"
    at_once = 1
    device = "cpu"
    budget = UNLIMITED
    length_bucket = 16

    def __init__(self, most_windows: int, most_tokens: int = 10**9) -> None:
        self.most_windows, self.most_tokens = most_windows, most_tokens
        self.asked: list[int] = []

    def score(self, ids: np.ndarray, mask: np.ndarray, types: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(len(ids))
        if len(ids) > self.most_windows or mask.sum(axis=1).max() > self.most_tokens:
            raise OutOfMemoryError("Failed to allocate memory")
        return ids.astype(np.float32), -ids.astype(np.float32)

    def close(self) -> None:
        """There is nothing to end."""


def _batch(lengths: list[int]) -> PaddedBatch:
    tokenizer = tiny_tokenizer("bert-uncased")
    windower = Windower(tokenizer, learn_layout(tokenizer, 0), WindowSettings(), 384)
    pairs = [("a " * length, f"who {i}?") for i, length in enumerate(lengths)]
    return next(
        padded_batches(
            windower.windows(pairs_of(Chunk(rows_of(pairs), 0, last_of_part=True), AnswerCache())), 10**6
        )
    )


def test_a_batch_that_does_not_fit_is_halved_and_every_window_is_scored() -> None:
    batch, scorer = _batch([4] * 7), SmallScorer(most_windows=2)
    logits = score_batch(scorer, batch)
    assert not logits.failed
    np.testing.assert_array_equal(logits.start, batch.input_ids)
    np.testing.assert_array_equal(logits.end, -batch.input_ids)
    assert max(n for n in scorer.asked if n <= 2) == 2


def test_a_window_that_never_fits_is_oom_and_its_neighbours_are_scored() -> None:
    batch = _batch([4, 50, 4])
    logits = score_batch(SmallScorer(most_windows=9, most_tokens=30), batch)
    assert list(logits.failed.values()) == ["oom"]
    assert batch.attention_mask[next(iter(logits.failed))].sum() > 50
    kept = [row for row in range(3) if row not in logits.failed]
    np.testing.assert_array_equal(logits.start[kept], batch.input_ids[kept])


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=30),
    st.integers(1, 200),
    st.sampled_from([None, 1, 16]),
)
def test_micro_batches_hold_every_token_once_and_stay_within_the_budget(
    lengths: list[int], budget: int, bucket: int | None
) -> None:
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    seen = np.zeros_like(mask)
    for part in micro_batches(mask, budget, length_bucket=bucket):
        assert mask[part].size <= budget or len(mask[part]) == 1
        assert mask[part].any(axis=0).all()  # no column of padding only
        of_one = mask[part].sum(axis=1)
        assert bucket is None or len(set(-(-of_one // bucket))) == 1
        seen[part] += mask[part]
    np.testing.assert_array_equal(seen, mask)


def test_all_micro_batches_of_a_bucket_but_the_last_are_of_one_shape_once_padded() -> None:
    """An engine that pads to a multiple of 16 would else meet a new shape where windows become shorter."""
    lengths = np.arange(160, 144, -1)  # 9 of 160 tokens fit into 1,500, but 10 of 150
    mask = (np.arange(160) < np.concatenate([lengths, lengths[-1:].repeat(20)])[:, None]).astype(np.int64)
    assert [len(mask[part]) for part in micro_batches(mask, 1500, length_bucket=16)] == [9, 9, 9, 9]


def test_the_engine_gets_a_batch_in_micro_batches_and_the_logits_are_those_of_the_whole() -> None:
    ids, taken = np.arange(1, 61).reshape(6, 10), []

    class Scorer(MicroBatchScorer):
        budget = 21

        def _run(self, ids: np.ndarray, mask: np.ndarray, _: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            taken.append(ids.shape)
            return ids.astype(np.float32), mask.astype(np.float32)

    mask = (np.arange(10) < np.array([10, 10, 7, 7, 7, 4])[:, None]).astype(np.int64)
    scorer = Scorer()
    start, end = scorer.score(ids, mask, ids * 0)
    assert taken == [(2, 10), (3, 7), (1, 4)]
    np.testing.assert_array_equal(start, ids * mask)
    np.testing.assert_array_equal(end, mask)
    taken.clear()
    scorer.budget = UNLIMITED
    scorer.score(ids, mask, ids * 0)
    assert taken == [(6, 10)]


def test_logits_that_are_not_finite_fail_their_window_only(bundles: Callable[..., Path]) -> None:
    bundle = open_bundle(bundles(poisoned=True))
    variant = bundle.manifest.variants[0]
    scorer = OnnxScorer(ModelSpec.of(bundle, variant, "onnxruntime", "cpu", 1))
    windower = Windower(open_tokenizer(bundle.tokenizer), bundle.manifest.layout, WindowSettings(), 384)
    pairs = [("a bridge", "who?"), (f"a {MARKER} bridge", "who?"), ("the river", "who?")]
    windows = windower.windows(pairs_of(Chunk(rows_of(pairs), 0, last_of_part=True), AnswerCache()))
    logits = score_batch(scorer, next(padded_batches(windows, 10**6)))
    failed = {int(windows.pair[logits.batch.index[row]]): code for row, code in logits.failed.items()}
    assert failed == {1: "non_finite"}


def test_an_empty_batch_is_not_sent_to_the_model() -> None:
    scorer = SmallScorer(most_windows=1)
    assert len(score_batch(scorer, _batch([])).start) == 0
    assert scorer.asked == []


def test_a_file_that_is_no_model_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.fp32.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"model\.fp32\.onnx cannot be loaded"):
        OnnxScorer(ModelSpec("onnxruntime", str(path), NAMES, LOGITS, "cpu", 1))


@pytest.mark.parametrize(
    ("integer", "shape", "outputs"),
    [
        (TensorProto.INT32, ["b", "t"], 2),
        (TensorProto.INT64, [1, 128], 2),
        (TensorProto.INT64, ["b", "t"], 1),
    ],
    ids=["int32 inputs", "fixed shape", "one output"],
)
def test_a_model_with_another_signature_is_refused_and_its_signature_shown(
    tmp_path: Path, integer: int, shape: list[str | int], outputs: int
) -> None:
    nodes = [helper.make_node("Cast", [NAMES[i]], [LOGITS[i]], to=TensorProto.FLOAT) for i in range(outputs)]
    graph = helper.make_graph(
        nodes,
        "odd",
        [helper.make_tensor_value_info(name, integer, shape) for name in NAMES],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in LOGITS[:outputs]],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    with pytest.raises(ModelError, match="input_ids tensor"):
        OnnxScorer(ModelSpec("onnxruntime", str(path), NAMES, LOGITS, "cpu", 1))


def test_a_cuda_device_that_cannot_be_had_is_an_error_and_not_the_cpu(tiny_bundle: Path) -> None:
    from batchqa.engines import cuda_is_available

    if cuda_is_available():
        pytest.skip("this machine has a CUDA device")
    bundle = open_bundle(tiny_bundle)
    with pytest.raises(DeviceError, match="--device cpu"):
        OnnxScorer(ModelSpec.of(bundle, bundle.manifest.variants[0], "onnxruntime", "cuda:0", 1))


def test_the_budget_is_one_of_the_candidates_and_fits_into_memory() -> None:
    # windows of 256 tokens: budgets of 512 and 768 are 2 and 3 rows
    assert measure_budget(SmallScorer(most_windows=2), tokens=256, seconds=0.01) == 512


@pytest.mark.parametrize(
    ("said", "device", "becomes"),
    [
        ("Failed to allocate memory for requested buffer of size 1073741824", "cpu", OutOfMemoryError),
        ("CUDA failure 2: out of memory ; GPU=0", "cuda:0", OutOfMemoryError),
        ("CUBLAS_STATUS_ALLOC_FAILED", "cuda:0", OutOfMemoryError),
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", "cuda:0", TryAgainError),
        ("uncorrectable ECC error encountered", "cuda:0", TryAgainError),
        ("Non-zero status code returned while running Gather node", "cpu", ModelError),
    ],
)
def test_what_an_engine_says_becomes_the_error_that_the_road_acts_upon(
    said: str, device: str, becomes: type[Exception]
) -> None:
    error = onnx_scorer._translated(RuntimeError(said), device)
    assert type(error) is becomes
    assert "\n" not in str(error)
