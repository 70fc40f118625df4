"""Variants of a model, a form per precision: each made, measured and judged.

Figures are kept (`stages.py`), but never the judgement, so that other limits judge the same figures anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from batchqa.bundle import (
    CARD,
    Manifest,
    Variant,
    open_bundle,
    write_manifest,
)
from batchqa.engines import library
from batchqa.errors import ModelError
from batchqa.languages import profile_of
from batchqa.machine import cpu_flags
from batchqa.steps.windowing import TextEncoder, open_tokenizer

from . import graphs, int8_openvino, per_token_int8, quantize
from .builtin_passages import everything
from .card import model_card
from .ground import Ground
from .languages import languages_answered, texts_in
from .limits import Measured, Miss, accepted_by, said
from .parity import batches_of
from .smaller_last_layer import reduced
from .stages import digest
from .verify import (
    Comparison,
    compare,
    compare_openvino,
    logit_difference,
    onnx_scorer,
)

_Made = tuple[Variant, Comparison]


@dataclass(frozen=True, slots=True)
class _Form:
    """What a variant is, before it is measured; the fields are those of Variant."""

    precision: str
    scheme: str
    devices: tuple[str, ...]
    engines: tuple[str, ...]
    weight_bits: int | None = None


@dataclass
class Making(Ground):
    """An export under way: what passes is in the manifest, what does not in `left_out`."""

    left_out: dict[str, list[Miss]] = field(default_factory=dict)

    def add(self, precision: str) -> None:
        """Make a variant and verify it. int8 falls back to the form that computes in float32."""
        if precision == "int8":
            self._add_int8()
            return
        made = self._staged(precision, lambda: self._floats(precision))
        self._keep(*(made if precision == "fp16" else self._also_with_openvino(*made)))

    def _floats(self, precision: str) -> _Made:
        fused = graphs.fuse(self.graph, self.checkpoint, self.feeds[:2], for_int8=False)
        if precision == "fp16":
            form = _Form(precision, f"float16, {fused.said}", ("cuda",), ("onnxruntime",))
            return self._measure(form, graphs.half(fused.model))
        form = _Form(precision, f"float32, {fused.said}", ("cpu", "cuda"), ("onnxruntime",))
        return self._measure(form, fused.model)

    def _add_int8(self) -> None:
        """With a scale per token if that keeps the limits; else int8 weights, and the figures of both."""
        variant, fast = self._staged("int8 per token", self._int8_per_token)
        misses = self._misses(fast, independent=True)
        if not misses:
            self._keep(variant, fast)
            self._add_int8_of_openvino(variant)
            return
        kept, exact = self._also_with_openvino(*self._staged("int8 weights", self._int8_weights))
        refused = {"why": said(misses), **variant.verification}
        self._keep(replace(kept, verification={**kept.verification, "refused": refused}), exact)
        taken = "also left out" if "int8" in self.left_out else "took"
        self.say(
            f"{self.checkpoint.name}: int8 with a scale per token {said(misses)}; {taken} int8 weights "
            f"computed in float32, with {exact.measured.agreement:.2%} of the answers at "
            f"{exact.windows_per_second / fast.windows_per_second:.2f} times its speed{accepted_by(misses)}"
        )

    @property
    def _said_of_int8(self) -> str:
        return f"{self.fused.said}; int8 instructions of the exporting machine: {_int8_instructions()}"

    def _int8_per_token(self) -> _Made:
        bits = self.weight_bits
        scheme = (
            f"int8 weights of {bits} bits and int8 activations with a scale per token, {self._said_of_int8}"
        )
        graph = per_token_int8.per_token(self.fused.model, self.observed, reduce_range=self.reduce_range)
        form = _Form("int8", scheme, ("cpu",), ("onnxruntime",), bits)
        return self._measure(form, per_token_int8.without_padding(graph))

    def _int8_weights(self) -> _Made:
        scheme = f"int8 weights, computed in float32, {self._said_of_int8}"
        form = _Form("int8", scheme, ("cpu",), ("onnxruntime",), 0)
        return self._measure(form, quantize.weights_only(self.fused.model, self.observed))

    def _add_int8_of_openvino(self, beside: Variant) -> None:
        """int8 for OpenVINO, where it is installed: as fast as it can be, else as exact, else not at all."""
        if not library("openvino").is_installed():
            return
        tried: list[str] = []
        for fast in (True, False):
            kind = f"int8 openvino {'fast' if fast else 'exact'}"
            how = ""
            try:
                variant, found = self._staged(
                    kind,
                    lambda fast=fast: self._int8_openvino(beside, tried, fast=fast),  # type: ignore[misc]
                )
                how = str(variant.verification["how"])
                misses = self._misses(found, independent=True)
                if not misses:
                    self._keep(variant, found)
                    return
                why = f"it {said(misses)}{accepted_by(misses)}"
                (self.folder / variant.file).unlink()
            except _TriedBeforeError:
                continue
            except ModelError as error:
                why, how = str(error), tried[-1]
            tried.append(how)
            self.say(f"{self.checkpoint.name}: no int8 for OpenVINO with {how}: {why}")

    def _int8_openvino(self, beside: Variant, tried: list[str], *, fast: bool) -> _Made:
        """int8 for OpenVINO. `fast`: with static scales and a reduced last layer.

        That layer is fitted on the package's passages too, which are in several scripts.
        """
        fused, observed, last = self.fused.model, self.observed, None
        if fast:
            passages = everything()
            more = [] if self.calibration.equals(passages) else batches_of(self.bundle, passages)
            last = reduced(fused, self.feeds + more)
        if last is not None:
            fused, observed = last.model, quantize.observe(last.model, self.feeds)
        made = int8_openvino.int8_openvino(
            fused, observed, reduce_range=self.reduce_range, may_be_static=fast
        )
        how = f"{made.static} static scales of {made.coded}, the others per token"
        if last is not None:
            how += f", a last layer of {last.neurons} neurons and {last.width} channels"
        if how in tried:
            raise _TriedBeforeError
        near = self.folder / beside.file
        file = near.with_suffix(".openvino.onnx")
        size = graphs.save(made.model, file, near)
        bits = self.weight_bits
        variant = Variant("int8", file.name, ("cpu",), ("openvino",), weight_bits=bits)
        self.say(f"{self.checkpoint.name}: verifying int8 for OpenVINO")
        try:
            found = compare_openvino(
                self._with(variant), variant, self.table, self.original, self.verified_on
            )
        except ModelError:
            file.unlink()
            tried.append(how)
            raise
        scheme = f"int8 weights of {bits} bits and int8 activations: {how}, {self._said_of_int8}"
        figures = {"scheme": scheme, "how": how, **found.figures, "megabytes": size / 1e6}
        return replace(variant, verification=figures), found

    def _measure(self, form: _Form, graph: Any) -> _Made:
        """Write the variant's file, and compare it with the original on the road."""
        file = self.folder / f"model.{form.precision}.onnx"
        graphs.save(graph, file)
        variant = Variant(form.precision, file.name, form.devices, form.engines, weight_bits=form.weight_bits)
        self.say(f"{self.checkpoint.name}: verifying {form.precision}")
        found = self._compared(variant)
        if found.changed and form.precision != "fp16" and not self.manifest.unpadded:
            self._run_unpadded(
                f"{found.changed} answers of {form.precision} change with the rows beside them"
            )
            found = self._compared(variant)
        figures = {"scheme": form.scheme, **found.figures, "megabytes": file.stat().st_size / 1e6}
        return replace(variant, verification=figures), found

    def _compared(self, variant: Variant) -> Comparison:
        bundle, precision = self._with(variant), variant.precision
        difference = logit_difference(self.scorer, onnx_scorer(bundle, precision), self.feeds[:8])
        return compare(bundle, precision, self.table, self.original, self.verified_on, difference)

    def _also_with_openvino(self, variant: Variant, here: Comparison) -> _Made:
        """The variant, verified for OpenVINO too where that is installed and keeps the limits."""
        if not library("openvino").is_installed():
            return variant, here

        def measured() -> dict[str, Any]:
            try:
                return _record(
                    compare_openvino(
                        self._with(variant), variant, self.table, self.original, self.verified_on
                    )
                )
            except ModelError as error:
                return {"error": str(error)}

        found = self._once("openvino", self._of | {"scheme": variant.verification["scheme"]}, measured)
        name = f"{self.checkpoint.name}: {variant.precision} is not for OpenVINO"
        if "error" in found:
            self.say(f"{name}: {found['error']}")
            return variant, here
        there = _comparison(found)
        figures = dict(variant.verification) | {"openvino": there.figures}
        misses = self._misses(there, independent=True)
        if misses:
            self.say(f"{name}: it {said(misses)}{accepted_by(misses)}")
            return replace(variant, verification=figures), here
        return replace(variant, engines=(*variant.engines, "openvino"), verification=figures), here

    @property
    def _of(self) -> dict[str, Any]:
        """All that a variant's figures depend on besides the checkpoint."""
        manifest = self.manifest
        return {
            "rows": self._rows,
            "calibration": digest(self.calibration.select(["context", "question"]).to_pydict()),
            "verified_on": asdict(self.verified_on),
            "decision": [manifest.abstains.value, manifest.threshold.value],
            "layout": asdict(manifest.layout),
            "unpadded": manifest.unpadded,
        }

    def _staged(self, kind: str, make: Callable[[], _Made]) -> _Made:
        """A variant with its figures: an earlier export's, or made now."""
        of = self._of | {"kind": kind}
        record = self.stages.record("variant", of)
        if record is not None:
            variant = Variant(
                **record["variant"]
                | {name: tuple(record["variant"][name]) for name in ("devices", "engines")}
            )
            if self.stages.fetch("model", of, self.folder / variant.file):
                self.say(f"{self.checkpoint.name}: {kind} is an earlier export's")
                return variant, _comparison(record["comparison"])
        variant, found = make()
        of = self._of | {"kind": kind}  # making it may have found that the model must run unpadded
        self.stages.put("model", of, self.folder / variant.file)
        self.stages.keep_record("variant", of, {"variant": asdict(variant), "comparison": _record(found)})
        return variant, found

    def _misses(self, found: Comparison, *, independent: bool) -> list[Miss]:
        """What is wrong with a variant. `independent`: not even a float may depend on the batching."""
        misses = self.limits.misses(found.measured)
        changed = found.figures["changed_by_batching"] if independent else found.changed
        if changed and found.precision != "fp16":
            misses.append(Miss(f"changes {changed} of {found.measured.rows} rows with the batching"))
        return misses

    def _keep(self, variant: Variant, found: Comparison) -> None:
        """Add a variant to the manifest, or leave it out where it misses a limit."""
        misses = self._misses(found, independent=False)
        if misses:
            self.left_out[variant.precision] = misses
            (self.folder / variant.file).unlink()
            self.say(f"{self.checkpoint.name}: left out: {variant.precision} {said(misses)}")
            return
        self.manifest = replace(self.manifest, variants=(*self.manifest.variants, variant))

    def describe_texts(self, languages: Sequence[str]) -> None:
        """Record the languages, and what the verification's texts in them look like to the tokenizer."""
        known = tuple(dict.fromkeys(languages)) or self.checkpoint.languages
        known = known or languages_answered(self.table, self.original.scores)
        texts = texts_in(self.table, known)
        encoder = TextEncoder(open_tokenizer(self.bundle.tokenizer))
        profile = profile_of(texts, encoder.tokenizer, encoder.unknown) if texts else None
        self.manifest = replace(self.manifest, languages=known, texts=profile)

    def finish(self, notes: str) -> Manifest:
        """Write the card and bundle.json, and open the bundle as a run would.

        Raises ModelError, with all that was missed, where no variant is good enough.
        """
        why = {precision: said(misses) for precision, misses in self.left_out.items()}
        if not self.manifest.variants:
            every = "; ".join(f"{precision} {text}" for precision, text in why.items())
            advice = "".join(dict.fromkeys(accepted_by(misses) for misses in self.left_out.values()))
            raise ModelError(
                f"{self.checkpoint.name}: {every}; nothing was written{advice}; what is finished is kept for "
                "the next export"
            )
        self.manifest = replace(self.manifest, left_out=why)
        (self.folder / CARD).write_text(model_card(self.manifest, notes), encoding="utf-8")
        write_manifest(self.folder, self.manifest)
        return open_bundle(self.folder).manifest


class _TriedBeforeError(Exception):
    """The other form of int8 for OpenVINO comes out the same."""


def _int8_instructions() -> str:
    """What the processor has for int8 products; without any, older AVX2 code can saturate."""
    flags = cpu_flags()
    found = [name for name in ("amx_int8", "avx512_vnni", "avx_vnni") if name in flags]
    return ", ".join(found) or "none"


def _record(found: Comparison) -> dict[str, Any]:
    return {"precision": found.precision, "measured": asdict(found.measured), "figures": dict(found.figures)}


def _comparison(record: Mapping[str, Any]) -> Comparison:
    measured = dict(record["measured"])
    if measured["f1_drop_interval"] is not None:
        measured["f1_drop_interval"] = tuple(measured["f1_drop_interval"])
    return Comparison(record["precision"], Measured(**measured), record["figures"])
