"""What a bundle says of its variants: for which processors, why one form was taken and another was not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from batchqa.bundle import Variant, open_bundle
from batchqa.cli.describe import describe
from batchqa.cli.rendering import render_facts
from batchqa.engines import devices
from batchqa.engines.devices import int8_warning, products_overflow
from batchqa.errors import DeviceError, SettingsError
from batchqa.export import exporting, variants
from batchqa.export.exporting import export

pytest.importorskip("torch")
pytest.importorskip("optimum.exporters.onnx")

PLAIN_AVX2 = frozenset({"avx2", "fma"})
WITH_VNNI = frozenset({"avx2", "avx512_vnni"})


@pytest.mark.parametrize(
    ("target", "flags", "bits"),
    [
        ("auto", WITH_VNNI, 8),
        ("auto", PLAIN_AVX2, 7),
        ("vnni", PLAIN_AVX2, 8),
        ("avx2", WITH_VNNI, 7),
    ],
)
def test_weights_have_seven_bits_where_the_target_lacks_vnni_and_the_bundle_says_so(
    target: exporting.Target,
    flags: frozenset[str],
    bits: int,
    checkpoints: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporting, "cpu_flags", lambda: flags)
    monkeypatch.setattr(variants, "cpu_flags", lambda: flags)
    monkeypatch.setattr(devices.platform, "machine", lambda: "x86_64")

    export(str(checkpoints("bert-uncased")), tmp_path / "b", min_agreement=0.0, target=target)

    variant, *others = open_bundle(tmp_path / "b").manifest.variants
    for each in (variant, *others):
        assert each.weight_bits == bits
        assert f"weights of {bits} bits" in each.verification["scheme"]
    assert f"Weights of {bits} bits" in (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    assert f"weights of {bits} bits" in render_facts(describe(str(tmp_path / "b")))
    assert (int8_warning(variant, PLAIN_AVX2) is not None) == (bits == 8)
    assert int8_warning(variant, WITH_VNNI) is None


def test_only_x86_without_vnni_and_amx_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Variant("int8", "model.int8.onnx", ("cpu",), ("onnxruntime",))  # does not say how many bits
    for machine, flags, overflows in [
        ("x86_64", PLAIN_AVX2, True),
        ("x86_64", frozenset[str](), True),
        ("x86_64", frozenset({"amx_int8"}), False),
        ("aarch64", frozenset({"asimd"}), False),
    ]:
        monkeypatch.setattr(devices.platform, "machine", lambda machine=machine: machine)
        assert products_overflow(flags) == overflows
        assert (int8_warning(old, flags) is not None) == overflows
    monkeypatch.setattr(devices.platform, "machine", lambda: "x86_64")
    assert int8_warning(Variant("fp32", "m.onnx", ("cpu",), ("onnxruntime",)), PLAIN_AVX2) is None
    assert int8_warning(Variant("int8", "m.onnx", ("cpu",), ("onnxruntime",), {}, 0), PLAIN_AVX2) is None


def test_a_target_that_is_none_is_refused(checkpoints: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="must be one of auto, vnni, avx2"):
        export(str(checkpoints("bert-uncased")), tmp_path / "b", target="sse")  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", [None, "int8"])
def test_int8_on_cuda_is_refused_with_the_reason(precision: str | None, bundles: Callable[..., Path]) -> None:
    bundle = open_bundle(bundles("bert-uncased", precision="int8"))

    with pytest.raises(DeviceError, match="no CUDA kernels for its integer products") as caught:
        bundle.choose("cuda", "onnxruntime", precision)

    assert "--precision fp16" in str(caught.value)


def test_a_form_below_the_limits_is_named_with_its_figures_and_the_option_that_accepts_it(
    checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    said: list[str] = []
    checkpoint = str(checkpoints("bert-uncased"))
    # random weights: int8 activations lose some of the passages' answers, int8 weights alone lose fewer
    figures = export(checkpoint, tmp_path / "any", min_agreement=0.0).variants[0].verification
    first = figures["span_agreement"]
    limit = round(figures["span_agreement_interval"][1] + 0.002, 4)
    assert limit <= 1.0

    export(checkpoint, tmp_path / "b", min_agreement=limit, on_progress=said.append)

    (line,) = [line for line in said if "with a scale per token" in line]
    assert f"{first:.2%}" in line
    assert f"below --min-agreement {limit:g}" in line
    assert "would accept it" in line
    assert "\n" not in line
    (variant,) = open_bundle(tmp_path / "b").manifest.variants
    assert variant.weight_bits == 0
    refused = variant.verification["refused"]
    assert refused["span_agreement"] == first
    assert refused["megabytes"] > 0
    card = (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    assert "Tried first" in card
    assert f"{first:.2%}" in card
