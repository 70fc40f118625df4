"""dry_run(): a job's inputs read and counted, and what it would cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from batchqa.annotator import Annotator
from batchqa.bundle import open_model
from batchqa.job.estimate import Estimate, estimate
from batchqa.job.fingerprint import fields_of
from batchqa.job.first_texts import FirstTexts
from batchqa.job.following import Clock
from batchqa.job.ranges import up_to
from batchqa.job.reusing import earlier_answers, find_earlier
from batchqa.job.running import asking, inputs_of, one_of
from batchqa.machine import process_seconds
from batchqa.output import Target, check_target
from batchqa.settings import RunSettings
from batchqa.steps.asking import asked
from batchqa.steps.chunking import chunks
from batchqa.steps.reading import open_source


def dry_run(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    model: str | Path = "default",
    settings: RunSettings | None = None,
    on_note: Callable[[str], None] | None = None,
    whole_process: bool = False,
    **options: Any,
) -> Estimate:
    """Read and count `inputs` and estimate what `run` would cost; checks what it would, writes nothing."""
    clock = Clock(process_seconds() if whole_process else 0.0)
    settings = one_of(settings, options)
    names = [str(name) for name in ([inputs] if isinstance(inputs, (str, Path)) else inputs)]
    questions, settings = asking(settings)
    target = Target.parse(str(output))
    with questions.explaining() if questions else nullcontext():
        source = open_source(names, settings.reading)
    check_target(target, inputs_of(names, source), settings.output.overwrite)
    note = on_note or (lambda _: None)
    for text in source.notes:
        note(text)
    reusable = [find_earlier(name, target) for name in settings.output.reuse]
    first = FirstTexts(questions.texts if questions else ())
    rows = first.passing(up_to(source.read(), settings.output.limit))
    with Annotator(open_model(model), settings=settings) as annotator:
        for text in annotator.engine.notes:
            note(text)
        fields = fields_of(source, annotator.bundle.digest, annotator.resolved, settings, questions)
        answers = earlier_answers(reusable, fields, annotator.pipeline.rules, note)
        startup = clock.seconds() - annotator.engine.measuring_seconds  # the run will not measure again
        each = len(questions) if questions else 1
        cut = chunks(rows, settings.output.part_rows, questions=each)
        found = estimate(annotator, asked(cut, questions), startup, answers)
        if unlike := annotator.unlike_verified(first.texts):
            note(unlike)
    counted = [found.errors] + ([found.statuses] if settings.errors.strict else [])
    errors, limit = sum(sum(codes.values()) for codes in counted), settings.errors.max_errors
    if limit.exceeded(errors, found.rows):
        note(
            f"{errors} of {found.rows} rows are errors, more than --max-errors {limit} allows: "
            + "; ".join(found.bad_rows)
        )
    return found
