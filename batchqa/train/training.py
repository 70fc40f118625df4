"""train(): from a base and rows to a checkpoint. Read it first: it tells the run in order.

What can be wrong with base, data or machine is found before the first step. From then on everything is in
`CHECKPOINT.batchqa/`, and the same call resumes from the last saved state; the checkpoint's folder appears
when it is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from batchqa.errors import (
    DeviceError,
    InputError,
    PreconditionError,
    SettingsError,
    StoppedError,
)
from batchqa.export.checkpoint import Checkpoint, open_checkpoint, sha256_of
from batchqa.export.extras import load, quiet, versions
from batchqa.machine import cpu_model, cpu_quota, keep_large_allocations, memory_limit
from batchqa.settings import ReadingSettings, WindowSettings
from batchqa.steps.reading import open_source
from batchqa.steps.windowing import Windower, learn_layout
from batchqa.store.locations import local_output
from batchqa.version import VERSION

from .card import model_card
from .features import Features, make_features
from .gold_rows import GoldRows, held_out, read_gold_rows
from .loop import Trainer, TrainProgress
from .remembered import BYTES_PER_TOKEN
from .student import freeze, make_student
from .teachers import Teacher, open_teachers
from .train_settings import TrainSettings
from .validation import Validation, validate
from .working_folder import alone, begin, differences, working_folder

RECORD = "training.json"
ALGORITHM = 1
"""Part of what a resumed run must agree in: goes up with every change of what a step does."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run made: the checkpoint's folder, its steps, the validation of the step that was kept."""

    checkpoint: str
    steps: int
    seconds: float
    validation: Validation | None
    already_done: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As it is printed."""
        return asdict(self)


def train(
    base: str,
    output: str | Path,
    data: Sequence[str | Path],
    *,
    teachers: Sequence[str] = (),
    layers: Sequence[int] | None = None,
    settings: TrainSettings | None = None,
    revision: str | None = None,
    gold_column: str | None = None,
    group_column: str | None = None,
    licence: str | None = None,
    allow_pickle: bool = False,
    restart: bool = False,
    on_progress: Callable[[TrainProgress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    check_stop: Callable[[], None] | None = None,
) -> Trained:
    """Fine-tune `base`, or distil it from `teachers`, on the rows of the files `data`; write `output`.

    `base` is a folder or hub id, an encoder or a question-answering checkpoint; `layers` keeps some of its
    layers. `check_stop` is called between steps and may
    raise StoppedError: the last step is kept then.

    Raises the errors of `batchqa.errors`; each knows the command's exit code.
    """
    settings, note = settings or TrainSettings(), on_note or (lambda _: None)
    check_stop = check_stop or (lambda: None)
    output = local_output("-o", output)
    work = working_folder(output)
    torch = load("torch")
    load("accelerate")
    _check_device(settings)
    keep_large_allocations()
    torch.set_num_threads(cpu_quota())
    with ExitStack() as stack:
        checkpoint = stack.enter_context(
            open_checkpoint(base, revision, allow_pickle=allow_pickle, head_required=False)
        )
        layout = learn_layout(checkpoint.tokenizer, checkpoint.pad_id, checkpoint.pad_type)
        longest = min(settings.max_length, checkpoint.max_length)
        windows = WindowSettings(longest, settings.stride, settings.max_question_length)
        windower = Windower(checkpoint.tokenizer, layout, windows, longest)
        masters = stack.enter_context(
            open_teachers(teachers, checkpoint, layout, hidden=settings.hidden, allow_pickle=allow_pickle)
        )
        columns = {"gold_column": gold_column, "group_column": group_column}
        job = _job(checkpoint, data, masters, layers, settings) | columns
        if (done := _finished(output, job)) is not None:
            return done
        trained_on, judged_by = _rows(data, settings, gold_column, group_column, bool(teachers), note)
        check_stop()
        student = make_student(checkpoint, layers, settings.seed)
        freeze(student, settings, checkpoint.name)
        features = make_features(trained_on, windower)
        if not len(features):
            raise SettingsError(
                f"--max-length {longest} leaves no room for a context beside any question; give a larger one"
            )
        check_stop()
        _check_room(work, student, settings, features, is_taught=bool(masters))
        stack.callback(alone(work, output, note).release)
        begin(work, job, restart=restart)
        trainer = Trainer(student, masters, features, settings, work, layers)
        if resumed := trainer.resume():
            note(f"resuming after step {resumed:,} of {len(trainer.plan.steps):,}")
        best = _fit(trainer, windower, judged_by, on_progress or (lambda _: None), check_stop)
        final = _keep_best(trainer, windower, judged_by, best)
        record = job | {
            "name": output.name,
            "licence": licence,
            "rows": len(trained_on),
            "labelled_rows": int(trained_on.labelled.sum()),
            "answerable_rows": int((trained_on.start >= 0).sum()),
            "gold_not_found": trained_on.not_found,
            "windows": len(features),
            "tokens": int(features.windows.length.sum()),
            "steps": trainer.done,
            "seconds": trainer.seconds,
            "device": cpu_model() if trainer.device.type == "cpu" else torch.cuda.get_device_name(),
            "precision": trainer.precision,
            "versions": {"batchqa": VERSION, **versions()},
            "validation": final.to_dict() if final else None,
            "curve": trainer.curve,
        }
        _publish(trainer, checkpoint, record, work, output)
    return Trained(str(output), trainer.done, trainer.seconds, final)


def _check_device(settings: TrainSettings) -> None:
    """Raise DeviceError where CUDA was asked for and torch does not have it."""
    if settings.device == "cuda" and not load("torch").cuda.is_available():
        raise DeviceError(
            "--device cuda: torch finds no CUDA device (or is a build without CUDA); --device auto uses the "
            "CPU in that case"
        )


def _rows(
    data: Sequence[str | Path],
    settings: TrainSettings,
    gold_column: str | None,
    group_column: str | None,
    has_teacher: bool,
    note: Callable[[str], None],
) -> tuple[GoldRows, GoldRows]:
    """Rows to train on and rows to judge by. Raises InputError where they cannot teach anything."""
    rows = read_gold_rows(data, gold_column=gold_column, group_column=group_column, on_note=note)
    named = ", ".join(map(str, data))
    lost, labelled = rows.not_found, int(rows.labelled.sum())
    if lost > settings.max_missing_gold * (labelled + lost):
        raise InputError(
            f"{named}: the gold answer of {lost:,} of {labelled + lost:,} rows is not in their context, more "
            f"than --max-missing-gold {settings.max_missing_gold:g}; check that these are the contexts that "
            f"were labelled"
        )
    if lost:
        note(f"{lost:,} rows are left out: their gold answer is not in their context")
    if not labelled and not has_teacher:
        raise InputError(
            f"{named}: no row has gold answers; name their column with --gold-column, or a --teacher that "
            "labels the rows"
        )
    if not has_teacher:
        rows = rows.select(np.flatnonzero(rows.labelled))
    part = settings.held_out
    if part is None:
        judged = read_gold_rows([settings.validation], gold_column=gold_column, group_column=group_column)
        if shared := int(judged.shares_context_with(rows).sum()):
            note(
                f"{shared:,} of {len(judged):,} rows of {settings.validation} have a context that is trained "
                "on too: the figures flatter the model"
            )
    else:
        rows, judged = held_out(rows, part, settings.seed)
        if part[0] < part[1] and not len(judged):
            note(
                "nothing is held out for validation: all rows belong to one group or share their contexts, "
                "or there are more folds than groups"
            )
    unlabelled = len(judged)
    judged = judged.select(np.flatnonzero(judged.labelled))
    if not len(judged) and part is None:
        raise InputError(f"--validation {settings.validation}: no row has gold answers in its context")
    if unlabelled and not len(judged):
        note("nothing is validated: no held-out row has gold answers; give a labelled file as --validation")
    if not len(rows):
        raise InputError(f"{named}: no row is left to train on")
    return rows, judged


def _fit(
    trainer: Trainer,
    windower: Windower,
    judged_by: GoldRows,
    report: Callable[[TrainProgress], None],
    check_stop: Callable[[], None],
) -> int | None:
    """Do the steps that are left; returns the step whose weights were best on the held-out rows."""
    settings, steps = trainer.settings, len(trainer.plan.steps)
    every = settings.evaluate_every or max(steps // 10, 1)
    few = judged_by.select(_some(len(judged_by), settings.validation_rows, settings.seed))
    best = max(trainer.curve, key=lambda each: each["best_f1"], default=None)
    try:
        for step in trainer.run(report):
            if len(few) and (step % every == 0 or step == steps):
                found = validate(trainer, windower, few).to_dict()
                trainer.curve.append(found)
                if best is None or found["best_f1"] > best["best_f1"]:
                    best = found
                    trainer.keep_weights()
                trainer.save()
            elif step % settings.save_every == 0:
                trainer.save()
            check_stop()
    except StoppedError:
        trainer.save()
        raise
    trainer.save()
    return best["step"] if best else None


def _some(count: int, most: int, seed: int) -> Any:
    """`most` of `count` numbers, in order."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def _keep_best(
    trainer: Trainer, windower: Windower, judged_by: GoldRows, best: int | None
) -> Validation | None:
    """Go back to the best step's weights, and judge them by all held-out rows."""
    if best is None:
        return None
    trainer.load_weights()
    return validate(trainer, windower, judged_by, step=best)


def _job(
    checkpoint: Checkpoint,
    data: Sequence[str | Path],
    teachers: Sequence[Teacher],
    layers: Sequence[int] | None,
    settings: TrainSettings,
) -> dict[str, Any]:
    """What a resumed run must agree in."""
    options = asdict(settings)
    for name in ("device", "precision", "save_every"):
        options.pop(name)
    judged = []
    if settings.held_out is None:
        judged = _identity([settings.validation])
        options["validation"] = judged[0]["name"]
    return {
        "algorithm": ALGORITHM,
        "base": checkpoint.id,
        "base_sha256": checkpoint.digest,
        "data": _identity(data),
        "validation_data": judged,
        "teachers": [{"name": teacher.name, "sha256": teacher.digest} for teacher in teachers],
        "layers": list(layers) if layers is not None else None,
        "options": options,
    }


def _identity(files: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Name, size in bytes and digest of each input; an object's digest is what its store says of it."""
    found = []
    for file in open_source([str(file) for file in files], ReadingSettings()).files:
        local = Path(file.path)
        digest = f"sha256 {sha256_of(local)}" if local.is_file() else f"etag {file.identity.get('etag', '')}"
        found.append({"name": local.name, "bytes": file.size, "digest": digest})
    return found


def _finished(output: Path, job: dict[str, Any]) -> Trained | None:
    """What an earlier run of the same job made. Raises PreconditionError where something else is there."""
    if not output.exists():
        return None
    record = output / RECORD
    before = orjson.loads(record.read_bytes()) if record.is_file() else {}
    if (different := differences(job, before)) and before:
        raise PreconditionError(
            f"{output} already exists and was trained differently ({', '.join(different)}); choose another "
            "output, or remove it"
        )
    if not before:
        raise PreconditionError(f"{output} already exists and was not made by `batchqa train`")
    found = before["validation"]
    return Trained(
        str(output),
        before["steps"],
        before["seconds"],
        Validation(**found) if found else None,
        already_done=True,
    )


def _check_room(
    work: Path, student: Any, settings: TrainSettings, features: Features, *, is_taught: bool
) -> None:
    """Raise SettingsError where memory or disk will plainly not do."""
    parameters = sum(each.numel() for each in student.parameters())
    trained = sum(each.numel() for each in student.parameters() if each.requires_grad)
    existing = next(folder for folder in (work, *work.absolute().parents) if folder.exists())
    # two states of weights and two moments, the best weights, and the checkpoint; what the teachers said
    disk, free = 4 * (4 * parameters + 4 * trained), shutil.disk_usage(existing).free
    if is_taught and settings.remembers_teachers:
        disk += BYTES_PER_TOKEN * int(features.windows.length.sum())
    if disk > free:
        raise SettingsError(
            f"{existing} has {free / 1e9:.1f} GB free and the run needs about {disk / 1e9:.1f} GB; make "
            "room, or choose another output"
        )
    config, longest = student.config, int(features.windows.length.max(initial=1))
    # Korthikanti et al. 2022: bytes of activations a token and layer in 16 bits; twice that in 32
    per_token = 34 * config.hidden_size + 5 * config.num_attention_heads * longest
    memory = 16 * parameters + 2 * per_token * config.num_hidden_layers * settings.batch_tokens
    limit = memory_limit()
    if limit is not None and memory > limit:
        raise SettingsError(
            f"a step of {settings.batch_tokens:,} tokens needs about {memory / 1e9:.1f} GB of memory and "
            f"there are {limit / 1e9:.1f} GB; give a smaller --batch-tokens"
        )


def _publish(
    trainer: Trainer, checkpoint: Checkpoint, record: dict[str, Any], work: Path, output: Path
) -> None:
    """Write the checkpoint beside its place and rename it there; then the working folder goes."""
    whole = work / "checkpoint"
    shutil.rmtree(whole, ignore_errors=True)
    transformers = load("transformers")
    with quiet():
        trainer.model.save_pretrained(whole)
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            checkpoint.folder, local_files_only=True, trust_remote_code=False
        )
        tokenizer.save_pretrained(whole)
    (whole / RECORD).write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2))
    (whole / "README.md").write_text(model_card(record), encoding="utf-8")
    whole.rename(output)
    shutil.rmtree(work, ignore_errors=True)
