"""Which machine settings hold: a GPU that cannot be used is said, a resume obeys what is given anew."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchqa import Annotator, job
from batchqa.engines import Resolved, cuda_is_available, devices
from batchqa.engines import onnxruntime as onnx_scorer
from batchqa.errors import DeviceError
from batchqa.job import Progress
from batchqa.settings import MachineSettings
from tests.models import SENTENCES

no_gpu = pytest.mark.skipif(cuda_is_available(), reason="this machine has a GPU that works")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """An input of several parts."""
    path = tmp_path / "in.parquet"
    table = {"context": list(SENTENCES), "question": [f"Who was {n}?" for n in range(len(SENTENCES))]}
    pq.write_table(pa.table(table), path)
    return path


@no_gpu
@pytest.mark.parametrize("options", [{"device": "cuda", "allow_cpu_fallback": True}, {"device": "auto"}])
def test_a_gpu_that_cannot_be_used_is_said_in_a_note_and_in_the_summary(
    options: dict[str, Any], tiny_bundle: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "has_cuda_device", lambda: True)  # a driver without what else it takes
    notes: list[str] = []
    out = tmp_path / "out.parquet"
    summary = job.run(rows, out, model=tiny_bundle, on_note=notes.append, **options)
    assert summary.device == "cpu"
    assert summary.cpu_because is not None
    assert "no fp16 or fp32 variant verified for cuda" in summary.cpu_because
    assert [note for note in notes if note.startswith("the CPU is used, not a GPU: ")] == [
        f"the CPU is used, not a GPU: {summary.cpu_because}"
    ]


@no_gpu
def test_the_cpu_that_was_asked_for_needs_no_reason(tiny_bundle: Path, rows: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    summary = job.run(rows, tmp_path / "o.parquet", model=tiny_bundle, device="cpu", on_note=notes.append)
    assert summary.cpu_because is None
    assert not [note for note in notes if "GPU" in note]
    with Annotator(tiny_bundle, device="auto") as loaded:
        assert loaded.engine.notes == []


@pytest.mark.parametrize(
    ("providers", "failure", "message"),
    [
        (["CPUExecutionProvider"], None, "cuda:0: this build has no CUDA; install onnxruntime-gpu"),
        (
            [devices.CUDA],
            "CUDA failure 35: driver is too old",
            "cuda:0: CUDA failure 35: driver is too old",
        ),
    ],
)
def test_what_keeps_onnxruntime_from_a_gpu_is_the_reason_that_is_given(
    providers: list[str], failure: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(failure)

    library = SimpleNamespace(
        get_available_providers=lambda: providers,
        preload_dlls=lambda: None,
        SessionOptions=lambda: SimpleNamespace(add_session_config_entry=lambda *_: None),
        InferenceSession=fail,
        disable_telemetry_events=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", library)
    with pytest.raises(DeviceError, match=message):
        onnx_scorer._open_session(Path("model.onnx"), "cuda:0", 1)


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_that_the_user_hides_is_not_there(hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not devices.has_cuda_device()


BEFORE = Resolved("cpu", "openvino", "fp32", threads=8, batch_tokens=768, compute_dtype="bf16", workers=8)


def test_a_resume_pins_what_can_change_an_answer_and_nothing_else() -> None:
    pinned = BEFORE.pin(MachineSettings())
    assert pinned == MachineSettings(engine="openvino", variant="fp32", arithmetic="bf16", batch_tokens=768)


@pytest.mark.parametrize(("name", "value"), [("threads", 1), ("workers", 1), ("batch_tokens", 512)])
def test_what_is_given_anew_is_obeyed_by_a_resume(
    name: str, value: int, tiny_bundle: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Resolved] = []

    class Watched(Annotator):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            used.append(self.resolved)

    def stop(progress: Progress) -> None:
        if progress.rows >= 8:
            raise KeyboardInterrupt

    monkeypatch.setattr("batchqa.job.running.Annotator", Watched)
    options = {"model": tiny_bundle, "device": "cpu", "part_rows": 4}
    first = {"threads": 2, "workers": 2, "batch_tokens": 1024}
    with pytest.raises(KeyboardInterrupt):
        job.run(rows, tmp_path / "out.parquet", progress=stop, **options, **first)
    summary = job.run(rows, tmp_path / "out.parquet", **options, **(first | {name: value}))
    assert summary.resumed_rows >= 4
    assert [getattr(resolved, name) for resolved in used] == [first[name], value]
