"""`batchqa export`: checkpoint in, verified bundle out, or nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, Literal, get_args

from batchqa.bundle import (
    CARD,
    NO_INT8_ON_CUDA,
    TOKENIZER,
    Abstention,
    Bundle,
    Manifest,
    ModelOrigin,
    Threshold,
    open_bundle,
    write_manifest,
)
from batchqa.domains import AnyNumber, Percent, Share, checked
from batchqa.engines.devices import products_overflow
from batchqa.errors import BatchqaError, ModelError, PreconditionError, SettingsError, StorageError
from batchqa.machine import cpu_flags
from batchqa.steps.windowing import learn_layout
from batchqa.store.files import sync_folder
from batchqa.store.locations import local_output

from . import graphs
from .abstention import Abstains, Probed, decide, probe
from .builtin_passages import all_rows, long_rows
from .bundle_card import model_card
from .bundle_languages import languages_answered, profile_in
from .calibration_data import batches_of
from .checkpoint import LANGUAGE, Checkpoint, open_checkpoint, write_tokenizer
from .extras import load, versions
from .limits import MAX_F1_DROP, Limits, accepted_by, said
from .parity import check_parity, padding_matters
from .reference import Raw, Reference, with_questions_cut
from .stages import Stages
from .threshold import best_for_f1, read_labelled
from .variants import ChangesWithNeighboursError, Made, Material, make_variants
from .verify import Original, Progress, TorchScorer, Verification, VerifiedOn, read_examples

PRECISIONS = ("fp32", "fp16", "int8")

Target = Literal["auto", "vnni", "avx2"]
"""The CPUs that int8 is made for: with VNNI or AMX (and Arm), or also those without; auto: this machine's."""

SpecialTokens = Literal["text", "tokens"]
"""What a tokenizer's own special tokens are where a row's texts spell them; in transformers: tokens."""

BUILT_IN = "batchqa's built-in passages"
NOT_FITTED = "not fitted: the usual default of models trained on SQuAD 2.0"
ONE_LENGTH = "only windows of equal length are run together"

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
    min_agreement: Share | None = None,
    max_f1_drop: Percent = MAX_F1_DROP,
    abstains: Abstains = "auto",
    allow_pickle: bool = False,
    allow_unnamed_head: bool = False,
    allow_question_first: bool = False,
    special_tokens: SpecialTokens = "text",
    languages: Sequence[str] = (),
    threshold: AnyNumber | None = None,
    threshold_note: str | None = None,
    name: str | None = None,
    licence: str | None = None,
    calibrate_on: str | Path | None = None,
    fit_threshold_on: str | Path | None = None,
    target: Target = "auto",
    notes: str = "",
    on_progress: Progress = lambda _: None,
) -> Manifest:
    """Export MODEL (a folder or a hub id) into folder `output`, with a variant per precision.

    First batchqa's answers with the float32 graph are compared with those of transformers (`parity.py`). Then
    each variant is compared with the original on `verify_on` (default: the built-in passages), and
    kept if it keeps the limits (`limits.py`: `max_f1_drop` decides on rows of one's own with gold answers,
    `min_agreement` elsewhere and where it is given); int8 is calibrated on `calibrate_on` (default: the
    built-in passages). The threshold is `threshold`, or the best for F1 on the labelled file
    `fit_threshold_on`, or 0; `threshold_note` says what it was fitted on. For the `target` avx2 the weights
    of int8 have 7 bits, so that no product overflows on a CPU without VNNI and AMX. `allow_unnamed_head`:
    take a head that config.json does not name; `allow_question_first`: take a tokenizer that pads on the
    left. `languages` (codes) are those that the model is for; without them, those of the checkpoint's card,
    else those of the built-in passages in which it is right at least half of the time. What the
    verification's texts look like is recorded, so that a run can say that its own do not. Returns what
    bundle.json says: `left_out` has the precisions that missed a limit. What is finished is kept in the cache
    (`stages.py`), so that the same export, repeated, resumes.

    Raises SettingsError for options that cannot be, PreconditionError where `output` exists, ModelError for a
    checkpoint that cannot be exported, or if every variant misses a limit (then nothing is left in `output`),
    TryAgainError without a network.
    """
    target_path = local_output("-o", output)
    _check_options(precisions, target, languages)
    if target_path.exists() or target_path.is_symlink():
        raise PreconditionError(f"{target_path} already exists; remove it, or choose another -o")
    rows = all_rows() if verify_on is None else read_examples(verify_on)
    calibration = all_rows() if calibrate_on is None else read_examples(calibrate_on, CALIBRATION_ROWS)
    labelled = None if fit_threshold_on is None else read_labelled(fit_threshold_on)
    on = VerifiedOn(BUILT_IN if verify_on is None else Path(verify_on).name, verify_on is not None)
    weight_bits = 7 if target == "avx2" or (target == "auto" and products_overflow(cpu_flags())) else 8
    opened = open_checkpoint(
        model,
        revision,
        allow_pickle=allow_pickle,
        allow_unnamed_head=allow_unnamed_head,
        allow_question_first=allow_question_first,
    )
    with _storage_errors(target_path), opened as checkpoint, _staged(target_path) as folder:

        def say(line: str) -> None:
            on_progress(f"{checkpoint.name}: {line}")

        keeps_special = special_tokens == "tokens"
        _write_tokenizer(checkpoint, folder, say, keeps_special=keeps_special)
        stages = Stages(checkpoint.folder, {"tokenizer": (folder / TOKENIZER).read_text(encoding="utf-8")})
        original = Reference(checkpoint.name, checkpoint.fast, checkpoint.load_model(), keeps_special)
        original.raw(long_rows().slice(0, 1))  # a model that fails by itself says so before it is exported
        rows = with_questions_cut(rows, checkpoint.fast)
        graph = _graph(checkpoint, stages, say)
        recorded = Threshold(
            threshold or 0.0, threshold_note or (NOT_FITTED if threshold is None else "given")
        )
        source = ModelOrigin(checkpoint.id, checkpoint.revision, licence or checkpoint.licence)
        manifest = _described(checkpoint, original.model, graph, name or checkpoint.name, source, recorded)
        bundle = Bundle(folder, manifest, digest="")

        say("comparing batchqa's answers with those of transformers")
        own = rows if on.is_users else None
        about = {"rows": None if own is None else own.to_pydict(), "layout": asdict(manifest.layout)}
        stages.once("parity", about, lambda: check_parity(bundle, graph, original, own))

        scorer = TorchScorer(original.model, manifest.inputs)
        feeds = batches_of(bundle, all_rows())
        if stages.once("padding", {}, lambda: padding_matters(scorer, feeds)):
            say(f"its logits change when a window is padded; {ONE_LENGTH}")
            bundle, scorer = bundle.changed(unpadded=True), scorer.unpadded()

        seen = Probed(**stages.once("abstention", {}, lambda: asdict(probe(bundle, scorer))))
        if seen.doubt:
            say(seen.doubt)
        bundle = bundle.changed(abstains=decide(abstains, seen))

        if labelled is not None:
            say(f"fitting the threshold on {fit_threshold_on}")
            about = {"rows": labelled.to_pydict(), "unpadded": bundle.manifest.unpadded}
            value = stages.once("threshold", about, lambda: best_for_f1(bundle, scorer, labelled))
            note = threshold_note or f"best F1 on {Path(str(fit_threshold_on)).name}"
            bundle = bundle.changed(threshold=Threshold(value, note))

        say(f"the original answers {len(rows)} rows of {on.name}")
        pairs = rows.select(["context", "question"])
        raw = stages.once("original", {"rows": pairs.to_pydict()}, lambda: original.raw(pairs).record())
        answers = Original.of(Raw.from_record(raw), rows, bundle.manifest)
        verification = Verification(rows, on, answers)

        material = Material(
            checkpoint, bundle, graph, scorer, calibration, weight_bits, verification, stages, say
        )
        limits = Limits(min_agreement, max_f1_drop)
        try:
            made = make_variants(material, precisions, limits)
        except ChangesWithNeighboursError as why:
            say(f"{why}; {ONE_LENGTH}")
            bundle = bundle.changed(unpadded=True)
            made = make_variants(
                replace(material, bundle=bundle, scorer=scorer.unpadded()), precisions, limits
            )
        known = tuple(dict.fromkeys(languages)) or checkpoint.languages
        known = known or languages_answered(rows, answers.scores)
        manifest = replace(
            _with_variants(bundle.manifest, made),
            languages=known,
            texts=profile_in(rows, known, bundle.tokenizer),
        )
        (folder / CARD).write_text(model_card(manifest, notes), encoding="utf-8")
        write_manifest(folder, manifest)
        return open_bundle(folder).manifest


def _write_tokenizer(checkpoint: Checkpoint, folder: Path, say: Progress, *, keeps_special: bool) -> None:
    """Write tokenizer.json, and say what a run does differently from transformers on purpose."""
    write_tokenizer(checkpoint.tokenizer, folder / TOKENIZER)
    own = checkpoint.special_tokens
    if keeps_special:
        _write_special_as_tokens(folder / TOKENIZER, own)
    elif own:
        shown = ", ".join(own[:5]) + (", ..." if len(own) > 5 else "")
        say(
            f"its tokenizer has special tokens of its own ({shown}); in a row's texts they are text, unlike "
            "in transformers; --special-tokens tokens makes them tokens"
        )


def _write_special_as_tokens(file: Path, contents: Sequence[str]) -> None:
    """Have a tokenizer.json read these special tokens in a text as tokens, which a run reads as text else."""
    record = json.loads(file.read_text(encoding="utf-8"))
    for token in record["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in contents
    file.write_text(json.dumps(record, ensure_ascii=False, indent=2), encoding="utf-8")


def _graph(checkpoint: Checkpoint, stages: Stages, say: Progress) -> Any:
    """The checkpoint as an ONNX graph in float32."""
    with TemporaryDirectory(prefix="batchqa-graph-") as work:
        file = Path(work) / "graph.onnx"
        if stages.fetch("graph", {}, file):
            say("resuming an earlier export")
            return load("onnx").load(str(file))
        say(f"exporting {checkpoint.architecture} to ONNX")
        graph = graphs.export_graph(checkpoint, Path(work))
        if graph.ByteSize() < graphs.LARGEST_FILE:
            graphs.save(graph, file)
            stages.put("graph", {}, file)
        return graph


def _described(
    checkpoint: Checkpoint, model: Any, graph: Any, name: str, source: ModelOrigin, threshold: Threshold
) -> Manifest:
    """The model as a bundle describes it, before anything was measured and without variants."""
    layout = learn_layout(checkpoint.tokenizer, checkpoint.pad_id, checkpoint.pad_type)
    return Manifest(
        name=name,
        source=source,
        architecture=checkpoint.architecture,
        inputs=tuple(node.name for node in graph.graph.input),
        outputs=graphs.OUTPUTS,
        max_length=checkpoint.longest_input(model),
        layout=layout if checkpoint.token_types else layout.without_types(),
        abstains=Abstention(True, "not decided yet"),
        threshold=threshold,
        calibration=None,
        variants=(),
        versions=versions(),
    )


def _with_variants(manifest: Manifest, made: Sequence[Made]) -> Manifest:
    """Raises ModelError, with all that was missed, where no variant is good enough."""
    left_out = {each.variant.precision: said(each.misses) for each in made if each.misses}
    variants = tuple(each.variant for each in made if not each.misses)
    if not variants:
        every = "; ".join(f"{precision} {why}" for precision, why in left_out.items())
        advice = "".join(dict.fromkeys(accepted_by(each.misses) for each in made))
        raise ModelError(
            f"{manifest.name}: {every}; nothing was written{advice}; finished work is kept for the next "
            "export"
        )
    return replace(manifest, variants=variants, left_out=left_out)


def _check_options(precisions: Sequence[str], target: Target, languages: Sequence[str]) -> None:
    if not precisions:
        raise SettingsError(f"--precision is empty; give one or more of {', '.join(PRECISIONS)}")
    for precision in precisions:
        if precision.startswith("int8") and "cuda" in precision:
            raise SettingsError(f"{NO_INT8_ON_CUDA}; use --precision fp16 for CUDA")
        if precision not in PRECISIONS:
            raise SettingsError(f"--precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    if target not in get_args(Target):
        raise SettingsError(f"--target must be one of {', '.join(get_args(Target))}, not {target!r}")
    for language in languages:
        if not LANGUAGE.fullmatch(language):
            raise SettingsError(f"--language {language!r} is not a language's code, such as en or pt-br")


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
            f"exporting to {target}: {error.strerror or error}{where}; nothing was written; fix "
            "the cause (free space there and in the temporary folder) and run the same command again"
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
            raise PreconditionError(f"{target} was created by another command in the meantime") from error
        sync_folder(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
