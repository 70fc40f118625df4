"""`batchqa doctor`: each finding says what it is, and failures are failures."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import pytest

from batchqa.cli import doctor
from batchqa.cli.entry import main
from batchqa.engines import cuda_is_available, devices


class Installed:
    """A distribution as importlib.metadata lists it."""

    def __init__(self, name: str) -> None:
        self.metadata = {"Name": name}
        self.version = "1.2.3"


def found(findings: list[doctor.Finding], name: str) -> doctor.Finding:
    return next(finding for finding in findings if finding.name == name)


def test_a_bundle_that_runs_is_asked_the_golden_question(tiny_bundle: Path) -> None:
    findings = doctor.examine(str(tiny_bundle), "cpu")
    assert found(findings, "model").level == "ok"
    assert "cpu" in found(findings, "model").found
    # random weights do not know the answer; for a model of one's own that is a warning
    assert found(findings, "golden question").level == "warn"
    assert doctor.GOLDEN_QUESTION in doctor.render(findings)


def test_a_device_that_does_not_exist_is_a_usage_error() -> None:
    assert main(["doctor", "--device", "gpu"]) == 2


def test_a_model_that_cannot_be_opened_is_a_failure(tmp_path: Path) -> None:
    finding = found(doctor.examine(str(tmp_path / "nothing"), "cpu"), "model")
    assert finding.level == "fail"
    assert "nothing" in finding.found


def test_two_distributions_of_onnxruntime_are_a_failure_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = [Installed("onnxruntime"), Installed("onnxruntime_gpu"), Installed("numpy")]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: iter(both))
    finding = found(list(doctor._onnxruntime()), "onnxruntime")
    assert finding.level == "fail"
    assert "onnxruntime 1.2.3, onnxruntime-gpu 1.2.3" in finding.found
    assert finding.advice is not None
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in finding.advice


def test_a_cpu_without_vnni_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cpu_flags", lambda: frozenset({"avx2"}))
    assert found(list(doctor._processor()), "CPU features").level == "warn"
    monkeypatch.setattr(doctor, "cpu_flags", lambda: frozenset({"avx512_vnni", "amx_bf16"}))
    findings = list(doctor._processor())
    assert found(findings, "CPU features").level == "ok"
    assert found(findings, "bfloat16").level == "ok"


def test_a_cuda_newer_than_the_driver_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(devices, "_driver", lambda: ((12, 4), ["A card"]))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0", raising=False)
    monkeypatch.setattr(devices, "_missing_libraries", lambda _major: ["libcudnn.so.9"])
    findings = list(doctor._cuda())
    assert found(findings, "CUDA").level == "warn"
    assert "built for CUDA 13.0, which is newer" in found(findings, "CUDA").found
    assert "libcudnn.so.9" in found(findings, "CUDA libraries").found


def test_a_cuda_provider_that_does_not_load_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    if cuda_is_available():
        pytest.skip("there is a CUDA device: its provider loads")
    monkeypatch.setattr(devices, "_driver", lambda: ((13, 0), ["A card"]))
    finding = found(list(doctor._cuda()), "CUDA provider")
    assert finding.level == "warn"
    assert "cuda:0" in finding.found


def test_the_findings_hold_facts_for_programs(tiny_bundle: Path) -> None:
    findings = {finding.name: finding.to_dict() for finding in doctor.examine(str(tiny_bundle), "cpu")}
    assert findings["CPUs to use"]["facts"]["quota"] >= 1
    assert set(findings["CPU features"]["facts"]) == {"vnni", "amx_int8", "bfloat16", "int8_exact"}
    assert "fp32" in findings["precisions"]["facts"]["cpu"]


def test_a_variant_that_can_overflow_on_this_cpu_is_warned_about(
    bundles: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "cpu_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(devices.platform, "machine", lambda: "x86_64")
    finding = found(doctor.examine(str(bundles(precision="int8")), "cpu"), "int8")
    assert finding.level == "warn"
    assert "--target avx2" in finding.found


def test_a_machine_without_a_driver_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_driver", lambda: None)
    (finding,) = doctor._cuda()
    assert finding.level == "ok"
    assert "no NVIDIA driver" in finding.found
