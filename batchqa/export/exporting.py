"""`batchqa export`: checkpoint in, verified bundle out, or nothing."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal, get_args

from batchqa.bundle import NO_INT8_ON_CUDA, Manifest, Source, open_bundle
from batchqa.cache import cache_folders, cache_note
from batchqa.domains import AnyNumber, Percent, Share, checked
from batchqa.engines.devices import products_overflow
from batchqa.errors import (
    BatchqaError,
    ModelError,
    PreconditionError,
    SettingsError,
    StorageError,
    TryAgainError,
)
from batchqa.machine import cpu_flags
from batchqa.store.files import sync_folder, translated
from batchqa.store.lock import Lock

from .abstention import Abstains
from .builtin_passages import everything
from .checkpoint import HUB_ID, LANGUAGE, fetch, open_checkpoint
from .limits import MAX_F1_DROP, Limits
from .making import Making
from .threshold import read_labelled
from .verify import Progress, VerifiedOn, read_examples

PRECISIONS = ("fp32", "fp16", "int8")

Target = Literal["auto", "vnni", "avx2"]
"""The CPUs that int8 is made for: with VNNI or AMX (and Arm), or also those without; auto: this machine's."""

SpecialTokens = Literal["text", "tokens"]
"""What a tokenizer's own special tokens are where a row's texts spell them; in transformers: tokens."""

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

    The road that a run takes is compared with transformers first (`parity.py`). Then each variant is verified
    on the file `verify_on` (default: the package's passages) beside the original, and kept if it keeps the
    limits (`limits.py`: `max_f1_drop` decides on rows of one's own with gold answers, `min_agreement`
    elsewhere and where it is given); int8 is calibrated on `calibrate_on` (default: the passages). The
    threshold is `threshold`, or the best for F1 on the labelled file `fit_threshold_on`, or 0;
    `threshold_note` says what it was fitted on. For the `target` avx2 the weights of int8 have 7 bits, so
    that no product overflows on a CPU without VNNI and AMX. `allow_unnamed_head`: take a head that
    config.json does not name; `allow_question_first`: take a tokenizer that pads on the left. `languages`
    (codes) are those that the model is for; without them, those of the checkpoint's card, else those of the
    package's passages in which it is right at least half of the time. What the verification's texts look like
    is recorded, so that a run can say that its own do not. Returns what bundle.json says: `left_out` has the
    precisions that missed a limit. What is finished is kept in the cache, so that the same export, repeated,
    goes on from there.

    Raises SettingsError for options that cannot be, PreconditionError where `output` exists, ModelError for a
    checkpoint that cannot be exported, or if every variant misses a limit (then nothing is left in `output`),
    TryAgainError without a network.
    """
    folder = Path(output)
    _check_options(precisions, target, languages)
    if folder.exists() or folder.is_symlink():
        raise PreconditionError(f"{folder} exists; remove it, or give another -o")
    table = everything() if verify_on is None else read_examples(verify_on)
    calibration = everything() if calibrate_on is None else read_examples(calibrate_on, CALIBRATION_ROWS)
    labelled = None if fit_threshold_on is None else read_labelled(fit_threshold_on)
    on = VerifiedOn(PACKAGED if verify_on is None else Path(verify_on).name, verify_on is not None)
    opened = open_checkpoint(
        model,
        revision,
        allow_pickle=allow_pickle,
        allow_unnamed_head=allow_unnamed_head,
        allow_question_first=allow_question_first,
    )
    with _storage_errors(folder), opened as checkpoint, _staged(folder) as staging:
        source = Source(checkpoint.id, checkpoint.revision, licence or checkpoint.licence)
        limits = Limits(min_agreement, max_f1_drop)
        making = Making(checkpoint, staging, table, calibration, limits, on, on_progress)
        making.reduce_range = target == "avx2" or (target == "auto" and products_overflow(cpu_flags()))
        keeps_special = special_tokens == "tokens"
        making.begin(
            name or checkpoint.name, source, threshold, threshold_note, abstains, keeps_special=keeps_special
        )
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
    if target not in get_args(Target):
        raise SettingsError(f"--target {target!r} is none of {', '.join(get_args(Target))}")
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
