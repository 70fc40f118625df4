"""Scripts around the package's model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from batchqa.bundle import BUNDLED, open_bundle
from batchqa.export.verify import onnx_scorer

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
transformers = pytest.importorskip("transformers")

LENGTH = 40


def script(name: str) -> ModuleType:
    path = Path(__file__).parents[1] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_bundles_int8_weights_are_read_back_as_a_checkpoint(minilm: Path, tmp_path: Path) -> None:
    script("weights_of_bundle").weights_of_bundle(BUNDLED, minilm, tmp_path / "out")

    random = np.random.default_rng(3)
    ids = random.integers(1000, 20_000, (4, LENGTH))
    ids[:, 0], ids[:, 10], ids[:, -1] = 101, 102, 102
    kinds = np.broadcast_to(np.arange(LENGTH) > 10, ids.shape).astype(np.int64)
    start, end = onnx_scorer(open_bundle(BUNDLED), "int8").score(ids, np.ones_like(ids), kinds)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        said = model(input_ids=torch.from_numpy(ids), token_type_ids=torch.from_numpy(kinds))
    # int8 rounds activations too: on texts logits differ by up to 0.5, here ids are drawn at random
    assert np.abs(said.start_logits.numpy() - start).max() < 1
    assert np.abs(said.end_logits.numpy() - end).max() < 1
    assert np.ptp(start) > 4
