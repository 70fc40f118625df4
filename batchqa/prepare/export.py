"""`batchqa export`: checkpoint in, verified bundle out, or nothing."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, Literal, get_args

import pyarrow as pa

from batchqa.bundle import (
    CARD,
    MANIFEST,
    NO_INT8_ON_CUDA,
    TOKENIZER,
    Abstention,
    Bundle,
    Manifest,
    Source,
    Threshold,
    Variant,
    open_bundle,
    products_overflow,
    write_manifest,
)
from batchqa.cache import cache_folders, cache_note
from batchqa.commit.files import sync_folder, translated
from batchqa.commit.lock import Lock
from batchqa.domains import AnyNumber, Percent, Share, checked
from batchqa.errors import (
    BatchqaError,
    ModelError,
    PreconditionError,
    SettingsError,
    StorageError,
    TryAgainError,
)
from batchqa.languages import profile_of
from batchqa.machine import cpu_flags
from batchqa.records import Chunk, Cursor
from batchqa.settings import DEFAULT_MAX_LENGTH, ReadingSettings, WindowSettings
from batchqa.steps.batching import padded_batches
from batchqa.steps.chunking import chunks
from batchqa.steps.inference import openvino_is_installed
from batchqa.steps.reading import ColumnPlan, pieces
from batchqa.steps.windowing import TextEncoder, Windower, learn_layout, open_tokenizer

from . import by_token, graphs, int8_openvino, quantize
from .abstention import Abstains, decide, probe
from .card import model_card
from .checkpoint import HUB_ID, LANGUAGE, Checkpoint, fetch, open_checkpoint, write_tokenizer
from .extras import versions
from .languages import languages_answered, texts_in
from .passages import everything
from .smaller_last_layer import reduced
from .threshold import best_for_f1, read_labelled
from .verify import (
    BUDGET,
    Answers,
    Comparison,
    Progress,
    TorchScorer,
    answer,
    compare,
    compare_openvino,
    logit_difference,
    onnx_scorer,
    read_examples,
    require,
    shortfall,
)

PRECISIONS = ("fp32", "fp16", "int8")

Target = Literal["auto", "vnni", "avx2"]
"""The CPUs that int8 is made for: with VNNI or AMX (and Arm), or also those without; auto: this machine's."""

NOT_FITTED = "not fitted: the usual default of models trained on SQuAD 2.0"
PACKAGED = "the passages in batchqa"
CALIBRATION_ROWS = 160
"""Rows that quantization looks at: beyond some ten thousand tokens the rounding no longer improves."""


@checked
def export(
    model: str,
    output: str | Path,
    *,
    precisions: Sequence[str] = ("int8",),
    revision: str | None = None,
    verify_on: str | Path | None = None,
    min_agreement: Share = 0.98,
    max_f1_drop: Percent = 0.7,
    abstains: Abstains = "auto",
    allow_pickle: bool = False,
    threshold: AnyNumber | None = None,
    threshold_note: str | None = None,
    name: str | None = None,
    licence: str | None = None,
    languages: Sequence[str] = (),
    calibrate_on: str | Path | None = None,
    fit_threshold_on: str | Path | None = None,
    target: Target = "auto",
    notes: str = "",
    on_progress: Progress = lambda _: None,
) -> Manifest:
    """Export MODEL (a folder or a hub id) into folder `output`, with a variant per precision.

    Each variant is verified on the file `verify_on` (default: the package's passages) beside the PyTorch
    original; int8 is calibrated on `calibrate_on` (default: the same passages). The threshold is
    `threshold`, or the best for F1 on the labelled file `fit_threshold_on`, or 0; `threshold_note` says what
    it was fitted on. For the `target` avx2 the weights of int8 have 7 bits, so that no product overflows on a
    CPU without VNNI and AMX. `languages` (codes) are those that the model is for; without them, those of the
    checkpoint's card, else those of the package's passages in which it is right at least half of the time.
    What the verification's texts look like is recorded, so that a run can say that its own do not. Nothing is
    left in `output` where anything fails. Returns what bundle.json says.

    Raises SettingsError for options that cannot be, PreconditionError where `output` exists, ModelError for
    a checkpoint that cannot be exported or a variant below the limits, TryAgainError without a network.
    """
    folder = Path(output)
    _check_options(precisions, target, languages)
    if folder.exists() or folder.is_symlink():
        raise PreconditionError(f"{folder} exists; remove it, or give another -o")
    table = everything() if verify_on is None else read_examples(verify_on)
    calibration = everything() if calibrate_on is None else read_examples(calibrate_on, CALIBRATION_ROWS)
    labelled = None if fit_threshold_on is None else read_labelled(fit_threshold_on)
    with (
        _storage_errors(folder),
        open_checkpoint(model, revision, allow_pickle=allow_pickle) as checkpoint,
        _staged(folder) as staging,
    ):
        source = Source(checkpoint.id, checkpoint.revision, licence or checkpoint.licence)
        making = _Making(checkpoint, staging, table, calibration, min_agreement, max_f1_drop, on_progress)
        making.reduce_range = target == "avx2" or (target == "auto" and products_overflow(cpu_flags()))
        making.verified_on = PACKAGED if verify_on is None else Path(verify_on).name
        making.begin(name or checkpoint.name, source, threshold, threshold_note, abstains)
        if labelled is not None and fit_threshold_on is not None:
            making.fit_threshold(labelled, fit_threshold_on, threshold_note)
        making.answer_with_original()
        for precision in dict.fromkeys(precisions):
            making.add(precision)
        making.describe_texts(languages)
        return making.finish(notes)


def ensure_cached(
    model: str, cache: str | Path | None = None, on_progress: Progress = lambda _: None
) -> Path:
    """The bundle of a hub id (`org/name[@revision]`), exported into the cache on first use.

    The cache is `cache`, else BATCHQA_CACHE, else the user's cache folder. One process exports, others wait.
    Raises TryAgainError, saying what to do, where the network is needed and not there.
    """
    if not HUB_ID.fullmatch(model):
        raise ModelError(
            f"{model!r} is neither a bundle's folder nor a hub id (org/name or org/name@revision)"
        )
    roots = [folder / "bundles" for folder in ([Path(cache)] if cache else cache_folders())]
    root = roots[0]
    repository, _, revision = model.partition("@")
    name = repository.replace("/", "--")
    for folder in roots:
        if (pinned := folder / f"{name}@{revision}").is_dir():
            return _checked(pinned)
    try:
        commit, _ = fetch(repository, revision or None)
    except TryAgainError:
        found = chain.from_iterable(folder.glob(f"{name}@*") for folder in roots)
        made = sorted(found, key=lambda path: path.stat().st_mtime)
        if made and not revision:
            return _checked(made[-1])  # offline: the newest that is here
        raise
    target = root / f"{name}@{commit}"
    for folder in roots[1:]:
        if (folder / target.name).is_dir():
            return _checked(folder / target.name)
    with translated(f"making {target}"):
        root.mkdir(parents=True, exist_ok=True)
    lock = _wait_for(root / f"{target.name}.lock", model)
    try:
        if not target.is_dir():
            if cache is None and (note := cache_note()):
                on_progress(note)
            on_progress(f"{model} is exported to {target}, once")
            export(repository, target, revision=commit, on_progress=on_progress)
    finally:
        lock.release()
    return _checked(target)


def _checked(bundle: Path) -> Path:
    open_bundle(bundle)
    return bundle


def _wait_for(path: Path, model: str, seconds: float = 3600.0) -> Lock:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return Lock(path, f"the cached bundle of {model}")
        except TryAgainError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def _check_options(precisions: Sequence[str], target: Target, languages: Sequence[str]) -> None:
    if not precisions:
        raise SettingsError(f"--precision names none of {', '.join(PRECISIONS)}")
    for precision in precisions:
        if precision.startswith("int8") and "cuda" in precision:
            raise SettingsError(f"{NO_INT8_ON_CUDA}; take --precision fp16 for CUDA")
        if precision not in PRECISIONS:
            raise SettingsError(f"--precision {precision!r} is none of {', '.join(PRECISIONS)}")
    for language in languages:
        if not LANGUAGE.fullmatch(language):
            raise SettingsError(f"--language {language!r} is not a language's code, such as en or pt-br")
    if target not in get_args(Target):
        raise SettingsError(f"--target {target!r} is none of {', '.join(get_args(Target))}")


@contextmanager
def _storage_errors(target: Path) -> Iterator[None]:
    """An `OSError` of the block becomes a StorageError; what was written is gone by then."""
    try:
        yield
    except BatchqaError:
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise StorageError(
            f"exporting to {target}: {error.strerror or error}{where}; nothing was left; mend it (free space "
            "there and in the folder for temporary files) and run the same command again"
        ) from error


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder beside `target` that becomes `target` when the block ends well, and else vanishes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(prefix=f".{target.name}.export-", dir=target.parent))
    try:
        yield folder
        for file in folder.iterdir():
            file.chmod(0o644)
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        folder.chmod(0o755)
        sync_folder(folder)
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            raise PreconditionError(f"{target} was made by another command meanwhile") from error
        sync_folder(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Form:
    """What a variant is, before it is measured; the fields are those of Variant."""

    precision: str
    scheme: str
    devices: tuple[str, ...]
    engines: tuple[str, ...]
    weight_bits: int | None = None


@dataclass(slots=True)
class _Making:
    """An export under way: what every variant is made from and measured against."""

    checkpoint: Checkpoint
    folder: Path
    table: pa.Table
    calibration: pa.Table
    min_agreement: float
    max_f1_drop: float
    say: Progress
    verified_on: str = PACKAGED
    reduce_range: bool = False
    manifest: Manifest = None  # type: ignore[assignment]  # set by begin()
    graph: Any = None
    scorer: TorchScorer = None  # type: ignore[assignment]
    original: Answers = None  # type: ignore[assignment]
    feeds: list[quantize.Feed] = None  # type: ignore[assignment]

    @property
    def bundle(self) -> Bundle:
        """The bundle as far as it is made."""
        return Bundle(self.folder, self.manifest, digest="")

    def _with(self, variant: Variant) -> Bundle:
        """The bundle as if it had this variant alone."""
        return replace(self.bundle, manifest=replace(self.manifest, variants=(variant,)))

    def begin(
        self, name: str, source: Source, threshold: float | None, note: str | None, abstains: Abstains
    ) -> None:
        """Export the graph and describe the model."""
        checkpoint = self.checkpoint
        write_tokenizer(checkpoint.tokenizer, self.folder / TOKENIZER)
        self.say(f"{checkpoint.name}: exporting {checkpoint.architecture} to ONNX")
        model = checkpoint.load_model()
        with TemporaryDirectory(prefix="batchqa-graph-") as work:
            self.graph = graphs.export_graph(checkpoint, Path(work))
        inputs = tuple(node.name for node in self.graph.graph.input)
        self.manifest = Manifest(
            name=name,
            source=source,
            architecture=checkpoint.architecture,
            inputs=inputs,
            outputs=graphs.OUTPUTS,
            max_length=checkpoint.max_length,
            layout=learn_layout(checkpoint.tokenizer, checkpoint.pad_id, checkpoint.pad_type),
            abstains=Abstention(True, "not decided yet"),
            threshold=Threshold(threshold or 0.0, note or ("given" if threshold is not None else NOT_FITTED)),
            calibration=None,
            variants=(),
            versions=versions(),
        )
        self.scorer = TorchScorer(model, inputs)
        seen = probe(self.bundle, self.scorer)
        if seen.doubt:
            self.say(f"{checkpoint.name}: {seen.doubt}")
        self.manifest = replace(self.manifest, abstains=decide(abstains, seen))
        self.feeds = batches_of(self.bundle, self.calibration)

    def fit_threshold(self, labelled: pa.Table, file: str | Path, note: str | None) -> None:
        """Take the threshold that is best for the original on a labelled file."""
        self.say(f"{self.checkpoint.name}: fitting the threshold on {file}")
        value = best_for_f1(self.bundle, self.scorer, labelled)
        fitted = Threshold(value, note or f"best F1 on {Path(file).name}")
        self.manifest = replace(self.manifest, threshold=fitted)

    @property
    def weight_bits(self) -> int:
        """Of int8's codes: 7 cannot overflow on any processor."""
        return 7 if self.reduce_range else 8

    def answer_with_original(self) -> None:
        """Let the original answer the verification's rows."""
        self.say(f"{self.checkpoint.name}: the original answers {len(self.table)} rows of {self.verified_on}")
        self.original = answer(self.bundle, self.scorer, self.table)

    def add(self, precision: str) -> None:
        """Make a variant and verify it. int8 falls back to the form that computes in float32."""
        if precision == "int8":
            self._add_int8()
            return
        fused = graphs.fuse(self.graph, self.checkpoint, self.feeds[:2], for_int8=False)
        if precision == "fp16":
            form = _Form(precision, f"float16, {fused.said}", ("cuda",), ("onnxruntime",))
            self._keep(*self._measure(form, graphs.half(fused.model)))
        else:
            form = _Form(precision, f"float32, {fused.said}", ("cpu", "cuda"), ("onnxruntime",))
            self._keep(*self._also_with_openvino(*self._measure(form, fused.model)))

    def _add_int8(self) -> None:
        """With a scale per token if that keeps the limits; else int8 weights, and the figures of both."""
        name = self.checkpoint.name
        fused = graphs.fuse(self.graph, self.checkpoint, self.feeds[:2], for_int8=True)
        self.say(f"{name}: calibrating int8 on {len(self.calibration)} rows")
        observed = quantize.observe(fused.model, self.feeds)
        bits = self.weight_bits
        said = f"{fused.said}; int8 instructions of the exporting machine: {_int8_instructions()}"
        scheme = f"int8 weights of {bits} bits and int8 activations with a scale per token, {said}"
        form = _Form("int8", scheme, ("cpu",), ("onnxruntime",), bits)
        graph = by_token.per_token(fused.model, observed, reduce_range=self.reduce_range)
        graph = by_token.without_padding(graph)
        variant, fast = self._measure(form, graph)
        short = shortfall(fast, self.min_agreement, self.max_f1_drop, independent=True)
        if short is None:
            self._keep(variant, fast)
            self._add_int8_of_openvino(fused.model, observed, said)
            return
        scheme = f"int8 weights, computed in float32, {said}"
        form = _Form("int8", scheme, ("cpu",), ("onnxruntime",), 0)
        kept, exact = self._also_with_openvino(
            *self._measure(form, quantize.weights_only(fused.model, observed))
        )
        self._keep(
            replace(
                kept,
                verification={**kept.verification, "refused": {"why": short.why, **variant.verification}},
            ),
            exact,
        )
        self.say(
            f"{name}: int8 with a scale per token {short.why}; took int8 weights computed in float32, with "
            f"{exact.agreement:.2%} of the answers at "
            f"{exact.windows_per_second / fast.windows_per_second:.2f} times its speed{short.advice}"
        )

    def _add_int8_of_openvino(self, fused: Any, observed: Mapping[str, quantize.Observed], said: str) -> None:
        """int8 for OpenVINO, where it is installed: as fast as it can be, else as exact, else not at all."""
        if not openvino_is_installed():
            return
        tried: list[str] = []
        for fast in (True, False):
            model, how = self._made_for_openvino(fused, observed, fast=fast)
            if how in tried:
                continue
            tried.append(how)
            why = self._try_for_openvino(model, f"{how}, {said}")
            if not why:
                return
            self.say(f"{self.checkpoint.name}: no int8 for OpenVINO with {how}: {why}")

    def _made_for_openvino(
        self, fused: Any, observed: Mapping[str, quantize.Observed], *, fast: bool
    ) -> tuple[Any, str]:
        """int8 for OpenVINO, and what is in it. `fast`: with static scales and a reduced last layer.

        That layer is fitted on the package's passages too, which are in several scripts.
        """
        last = None
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
        return made.model, how

    def _try_for_openvino(self, model: Any, said: str) -> str:
        """Keep an int8 graph that is within the limits on OpenVINO; else say why it is not."""
        beside = self.folder / self.manifest.variants[-1].file
        file = beside.with_suffix(".openvino.onnx")
        size = graphs.save(model, file, beside)
        bits = self.weight_bits
        variant = Variant("int8", file.name, ("cpu",), ("openvino",), weight_bits=bits)
        self.say(f"{self.checkpoint.name}: verifying int8 for OpenVINO")
        try:
            found = compare_openvino(
                self._with(variant), variant, self.table, self.original, self.verified_on
            )
            short = shortfall(found, self.min_agreement, self.max_f1_drop, independent=True)
            why = f"it {short.why}" if short else ""
        except ModelError as error:
            why = str(error)
        if why:
            file.unlink()
            return why
        scheme = f"int8 weights of {bits} bits and int8 activations: {said}"
        self._keep(
            replace(variant, verification={"scheme": scheme, **found.figures, "megabytes": size / 1e6}), found
        )
        return ""

    def _measure(self, form: _Form, graph: Any) -> tuple[Variant, Comparison]:
        """Write the variant's file, and compare it with the original on the road."""
        file = self.folder / f"model.{form.precision}.onnx"
        graphs.save(graph, file)
        variant = Variant(form.precision, file.name, form.devices, form.engines, weight_bits=form.weight_bits)
        bundle = self._with(variant)
        self.say(f"{self.checkpoint.name}: verifying {form.precision}")
        difference = logit_difference(self.scorer, onnx_scorer(bundle, form.precision), self.feeds[:8])
        comparison = compare(bundle, form.precision, self.table, self.original, self.verified_on, difference)
        figures = {"scheme": form.scheme, **comparison.figures, "megabytes": file.stat().st_size / 1e6}
        return replace(variant, verification=figures), comparison

    def _also_with_openvino(self, variant: Variant, here: Comparison) -> tuple[Variant, Comparison]:
        """The variant, verified for OpenVINO too where that is installed and keeps the limits."""
        if not openvino_is_installed():
            return variant, here
        try:
            there = compare_openvino(
                self._with(variant), variant, self.table, self.original, self.verified_on
            )
        except ModelError as error:
            self.say(f"{self.checkpoint.name}: {variant.precision} is not for OpenVINO: {error}")
            return variant, here
        figures = dict(variant.verification) | {"openvino": there.figures}
        short = shortfall(there, self.min_agreement, self.max_f1_drop, independent=True)
        if short:
            self.say(f"{self.checkpoint.name}: {variant.precision} is not for OpenVINO: it {short.why}")
            return replace(variant, verification=figures), here
        return replace(variant, engines=(*variant.engines, "openvino"), verification=figures), here

    def _keep(self, variant: Variant, comparison: Comparison) -> None:
        """Add a variant to the manifest. Raises ModelError where it is below the limits."""
        require(comparison, self.checkpoint.name, self.min_agreement, self.max_f1_drop)
        self.manifest = replace(self.manifest, variants=(*self.manifest.variants, variant))

    def describe_texts(self, languages: Sequence[str]) -> None:
        """Record the languages, and what the verification's texts in them look like to the tokenizer."""
        known = tuple(dict.fromkeys(languages)) or self.checkpoint.languages
        known = known or languages_answered(self.table, self.original)
        texts = texts_in(self.table, known)
        encoder = TextEncoder(open_tokenizer(self.bundle.tokenizer))
        profile = profile_of(texts, encoder.tokenizer, encoder.unknown) if texts else None
        self.manifest = replace(self.manifest, languages=known, texts=profile)

    def finish(self, notes: str) -> Manifest:
        """Write the card and bundle.json, and open the bundle as a run would."""
        (self.folder / CARD).write_text(model_card(self.manifest, notes), encoding="utf-8")
        write_manifest(self.folder, self.manifest)
        assert (self.folder / MANIFEST).is_file()
        return open_bundle(self.folder).manifest


def _int8_instructions() -> str:
    """What the processor has for int8 products; without any, older AVX2 code can saturate."""
    flags = cpu_flags()
    found = [name for name in ("amx_int8", "avx512_vnni", "avx_vnni") if name in flags]
    return ", ".join(found) or "none"


def batches_of(bundle: Bundle, table: pa.Table) -> list[quantize.Feed]:
    """Rows of (context, question) as padded batches of the model's inputs."""
    plan = ColumnPlan.of(table.schema, ReadingSettings(keep=()), "the calibration's rows")
    rows = [
        plan.rows(piece, str, 0, Cursor())
        for batch in table.combine_chunks().to_batches()
        for piece in pieces(batch)
    ]
    longest = min(DEFAULT_MAX_LENGTH, bundle.manifest.max_length)
    windower = Windower(open_tokenizer(bundle.tokenizer), bundle.manifest.layout, WindowSettings(), longest)

    def batches(chunk: Chunk) -> Iterator[quantize.Feed]:
        for batch in padded_batches(windower.windows(chunk), BUDGET):
            if len(batch.index):
                given = {
                    "input_ids": batch.input_ids,
                    "attention_mask": batch.attention_mask,
                    "token_type_ids": batch.token_type_ids,
                }
                yield {name: given[name] for name in bundle.manifest.inputs}

    return [feed for chunk in chunks(rows, part_rows=2**62) for feed in batches(chunk)]
