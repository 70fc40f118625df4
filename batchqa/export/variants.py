"""Variants of a model: each made, compared with the original, and judged.

What was made and measured is kept (`stages.py`), but never the judgement, so that other limits judge the same
figures anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from batchqa.bundle import Bundle, Variant
from batchqa.engines import library
from batchqa.errors import ModelError
from batchqa.machine import cpu_flags

from . import graphs, int8_openvino, per_token_int8, quantize
from .calibration_data import Feed, Observed, batches_of, observe
from .checkpoint import Checkpoint
from .limits import Limits, Miss, accepted_by, said
from .stages import Stages, digest
from .verify import (
    Progress,
    TorchScorer,
    VariantComparison,
    Verification,
    compare,
    compare_openvino,
    logit_difference,
    onnx_scorer,
)

DIFFERENCE_BATCHES = 8
"""Calibration's batches on which a variant's logits are compared with the original's."""


@dataclass(frozen=True, eq=False)
class Material:
    """What variants are made from and compared with.

    `bundle` is the folder that their files go to and the model's description, without variants; `graph` is
    the checkpoint as float32 ONNX, `scorer` the checkpoint itself. What only some variants need is made when
    it is first asked for.
    """

    checkpoint: Checkpoint
    bundle: Bundle
    graph: Any
    scorer: TorchScorer
    calibration: pa.Table
    weight_bits: int
    verification: Verification
    stages: Stages
    say: Progress

    @cached_property
    def feeds(self) -> list[Feed]:
        """The calibration's rows as batches."""
        return batches_of(self.bundle, self.calibration)

    @cached_property
    def fused(self) -> graphs.Fused:
        """The graph for int8, with fused attention."""
        return graphs.fuse(self.graph, self.checkpoint, self.feeds[:2], for_int8=True)

    @cached_property
    def observed(self) -> dict[str, Observed]:
        """What calibration sees."""
        self.say(f"calibrating int8 on {len(self.calibration)} rows")
        return observe(self.fused.model, self.feeds)

    @property
    def reduce_range(self) -> bool:
        """Whether int8's weights have 7 bits: no product overflows then on any processor."""
        return self.weight_bits < 8

    @property
    def digest(self) -> str:
        """Of all that a variant's figures depend on besides the checkpoint and the graph."""
        manifest = self.bundle.manifest
        return digest(
            {
                "calibration": self.calibration.select(["context", "question"]).to_pydict(),
                "rows": self.verification.rows.to_pydict(),
                "verified_on": asdict(self.verification.on),
                "decision": [manifest.abstains.value, manifest.threshold.value],
                "layout": asdict(manifest.layout),
                "weight_bits": self.weight_bits,
                "unpadded": manifest.unpadded,
            }
        )


@dataclass(frozen=True, slots=True)
class Made:
    """A variant with its figures, its comparison with the original, and the limits that it misses."""

    variant: Variant
    compared: VariantComparison
    misses: tuple[Miss, ...] = ()


class ChangesWithNeighboursError(Exception):
    """A variant's answers change with the rows beside them: the model must run unpadded."""


def make_variants(material: Material, precisions: Sequence[str], limits: Limits) -> list[Made]:
    """The variants of these precisions, each judged; their files are in the bundle's folder.

    Raises ChangesWithNeighboursError where the model must run unpadded, and does not yet.
    """
    made: list[Made] = []
    for precision in dict.fromkeys(precisions):
        if precision == "int8":
            made += _int8(material, limits)
        elif precision == "fp16":
            made.append(_judged(_half(material), limits))
        else:
            made.append(_judged(_with_openvino(material, _float(material), limits), limits))
    for each in made:
        if each.misses:
            material.bundle.model(each.variant).unlink()
            material.say(f"left out: {each.variant.precision} {said(each.misses)}")
    return made


def _float(material: Material) -> Made:
    def make() -> tuple[Variant, Any]:
        fused = graphs.fuse(material.graph, material.checkpoint, material.feeds[:2], for_int8=False)
        return _variant("fp32", f"float32, {fused.said}", ("cpu", "cuda"), "onnxruntime"), fused.model

    return _measured(material, "fp32", make)


def _half(material: Material) -> Made:
    def make() -> tuple[Variant, Any]:
        fused = graphs.fuse(material.graph, material.checkpoint, material.feeds[:2], for_int8=False)
        return _variant("fp16", f"float16, {fused.said}", ("cuda",), "onnxruntime"), graphs.half(fused.model)

    return _measured(material, "fp16", make)


def _int8(material: Material, limits: Limits) -> list[Made]:
    """With a scale per token if that keeps the limits; else int8 weights, and the figures of both."""
    fast = _judged(_int8_per_token(material), limits, strictly=True)
    if not fast.misses:
        beside = _int8_of_openvino(material, fast.variant, limits)
        return [fast] if beside is None else [fast, beside]
    exact = _judged(_with_openvino(material, _int8_weights(material), limits), limits)
    taken = "also left out" if exact.misses else "took"
    agreement = exact.compared.measured.agreement
    speed = exact.compared.windows_per_second / fast.compared.windows_per_second
    material.say(
        f"int8 with a scale per token {said(fast.misses)}; {taken} int8 weights computed in float32, with "
        f"{agreement:.2%} of the answers at {speed:.2f} times its speed{accepted_by(fast.misses)}"
    )
    refused = {"why": said(fast.misses), **fast.variant.verification}
    figures = {**exact.variant.verification, "refused": refused}
    return [replace(exact, variant=replace(exact.variant, verification=figures))]


def _int8_per_token(material: Material) -> Made:
    def make() -> tuple[Variant, Any]:
        graph = per_token_int8.per_token(
            material.fused.model, material.observed, reduce_range=material.reduce_range
        )
        variant = _variant("int8", _per_token(material), ("cpu",), "onnxruntime", material.weight_bits)
        return variant, per_token_int8.without_padding(graph)

    return _measured(material, "int8 per token", make)


def _int8_weights(material: Material) -> Made:
    def make() -> tuple[Variant, Any]:
        scheme = f"int8 weights, computed in float32, {_said_of_int8(material)}"
        graph = quantize.weights_only(material.fused.model, material.observed)
        return _variant("int8", scheme, ("cpu",), "onnxruntime", 0), graph

    return _measured(material, "int8 weights", make)


def _int8_of_openvino(material: Material, beside: Variant, limits: Limits) -> Made | None:
    """int8 for OpenVINO, where it is installed and the variant keeps the limits."""
    if not library("openvino").is_installed():
        return None
    try:
        made = _judged(_int8_openvino(material, beside), limits, strictly=True)
    except ModelError as error:
        material.say(f"no int8 for OpenVINO: {error}")
        return None
    if made.misses:
        material.bundle.model(made.variant).unlink()
        material.say(f"no int8 for OpenVINO: it {said(made.misses)}{accepted_by(made.misses)}")
        return None
    return made


def _int8_openvino(material: Material, beside: Variant) -> Made:
    """int8 for OpenVINO; what its file shares with `beside` is read from there."""

    def measure() -> Made:
        graph = int8_openvino.int8_openvino(
            material.fused.model, material.observed, reduce_range=material.reduce_range
        )
        near = material.bundle.model(beside)
        file = near.with_suffix(".openvino.onnx")
        variant = replace(
            _variant("int8", _per_token(material), ("cpu",), "openvino", material.weight_bits), file=file.name
        )
        size = graphs.save(graph, file, near)
        material.say("verifying int8 for OpenVINO")
        try:
            bundle = material.bundle.changed(variants=(variant,))
            found = compare_openvino(bundle, variant, material.verification)
        except ModelError:
            file.unlink()
            raise
        figures = {**variant.verification, **found.figures, "megabytes": size / 1e6}
        return Made(replace(variant, verification=figures), found)

    return _kept(material, "int8 for OpenVINO", measure)


def _with_openvino(material: Material, made: Made, limits: Limits) -> Made:
    """The variant, verified for OpenVINO too where that is installed and keeps the limits."""
    if not library("openvino").is_installed():
        return made
    variant = made.variant

    def measure() -> dict[str, Any]:
        try:
            return compare_openvino(
                material.bundle.changed(variants=(variant,)), variant, material.verification
            ).record()
        except ModelError as error:
            return {"error": str(error)}

    of = {"of": material.digest, "scheme": variant.verification["scheme"]}
    found = material.stages.once("openvino", of, measure)
    if "error" in found:
        material.say(f"{variant.precision} is not for OpenVINO: {found['error']}")
        return made
    there = VariantComparison.from_record(found)
    misses = _misses(there, limits, strictly=True)
    engines = variant.engines if misses else (*variant.engines, "openvino")
    if misses:
        material.say(f"{variant.precision} is not for OpenVINO: it {said(misses)}{accepted_by(misses)}")
    figures = {**variant.verification, "openvino": there.figures}
    return replace(made, variant=replace(variant, engines=engines, verification=figures))


def _variant(
    precision: str, scheme: str, devices: tuple[str, ...], engine: str, weight_bits: int | None = None
) -> Variant:
    file = f"model.{precision}.onnx"
    return Variant(precision, file, devices, (engine,), {"scheme": scheme}, weight_bits)


def _per_token(material: Material) -> str:
    return (
        f"int8 weights of {material.weight_bits} bits and int8 activations with a scale per token, "
        f"{_said_of_int8(material)}"
    )


def _said_of_int8(material: Material) -> str:
    """For bundle.json; without any of these instructions, older AVX2 code can overflow."""
    flags = cpu_flags()
    found = [name for name in ("amx_int8", "avx512_vnni", "avx_vnni") if name in flags]
    return f"{material.fused.said}; int8 instructions of the exporting machine: {', '.join(found) or 'none'}"


def _measured(material: Material, kind: str, make: Callable[[], tuple[Variant, Any]]) -> Made:
    """Write the file of a variant and its graph (ModelProto), and compare it with the original."""

    def measure() -> Made:
        variant, graph = make()
        bundle = material.bundle.changed(variants=(variant,))
        file = bundle.model(variant)
        graphs.save(graph, file)
        material.say(f"verifying {variant.precision}")
        difference = logit_difference(
            material.scorer, onnx_scorer(bundle, variant.precision), material.feeds[:DIFFERENCE_BATCHES]
        )
        found = compare(bundle, variant.precision, material.verification, difference)
        if found.changed and variant.precision != "fp16" and not bundle.manifest.unpadded:
            raise ChangesWithNeighboursError(
                f"{found.changed} answers of {variant.precision} change with the rows in the same batch"
            )
        figures = {**variant.verification, **found.figures, "megabytes": file.stat().st_size / 1e6}
        return Made(replace(variant, verification=figures), found)

    return _kept(material, kind, measure)


def _kept(material: Material, kind: str, measure: Callable[[], Made]) -> Made:
    """A variant, not judged yet: an earlier export's, or made now."""
    of = {"of": material.digest, "kind": kind}
    record = material.stages.record("variant", of)
    if record is not None:
        devices, engines = (tuple(record["variant"][name]) for name in ("devices", "engines"))
        variant = Variant(**record["variant"] | {"devices": devices, "engines": engines})
        if material.stages.fetch("model", of, material.bundle.model(variant)):
            material.say(f"{kind}: reused from an earlier export")
            return Made(variant, VariantComparison.from_record(record["compared"]))
    made = measure()
    material.stages.put("model", of, material.bundle.model(made.variant))
    record = {"variant": asdict(made.variant), "compared": made.compared.record()}
    material.stages.keep_record("variant", of, record)
    return made


def _judged(made: Made, limits: Limits, *, strictly: bool = False) -> Made:
    return replace(made, misses=_misses(made.compared, limits, strictly=strictly))


def _misses(found: VariantComparison, limits: Limits, *, strictly: bool) -> tuple[Miss, ...]:
    """What is wrong with a variant. `strictly`: not even a float may depend on the batching."""
    misses = limits.misses(found.measured)
    changed = found.figures["changed_by_batching"] if strictly else found.changed
    if changed and found.precision != "fp16":
        misses.append(
            Miss(f"changes {changed} of {found.measured.rows} rows when they are batched otherwise")
        )
    return tuple(misses)
