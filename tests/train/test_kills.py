"""`batchqa train`, killed by the system at any moment, resumed by the same command."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from tests.train.making import rows, write

pytest.importorskip("accelerate")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_kills_at_random_moments_change_neither_order_nor_figures(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    data = write(tmp_path / "train.jsonl", rows(600))

    def command(output: str) -> list[str]:
        options = {
            "data": data,
            "epochs": 5,
            "learning-rate": 2e-3,
            "batch-tokens": 512,
            "max-length": 64,
            "stride": 8,
            "dropout": 0.1,
            "validation": 0.2,
            "evaluate-every": 100,
            "save-every": 10,
            "device": "cpu",
            "precision": "f32",
        }
        given = [f"--{name}={value}" for name, value in options.items()]
        base = checkpoints("bert-uncased")
        return [sys.executable, "-m", "batchqa", "train", str(base), "-o", str(tmp_path / output), *given]

    subprocess.run(command("whole"), check=True, capture_output=True)
    draw = random.Random(3)
    work = tmp_path / "cut.batchqa"
    for _ in range(10):
        process = subprocess.Popen(command("cut"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = set(work.glob("state-*"))
        while process.poll() is None and set(work.glob("state-*")) <= before:
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 0.1))  # a state is saved about as often, so any moment between two
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was done before it was killed"
    subprocess.run(command("cut"), check=True, capture_output=True)

    whole, cut = (orjson.loads((tmp_path / name / "training.json").read_bytes()) for name in ("whole", "cut"))
    assert cut["curve"] == whole["curve"]
    assert cut["validation"] == whole["validation"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
