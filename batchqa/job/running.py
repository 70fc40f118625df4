"""run(): the whole job. Inputs are planned, parts are annotated and committed, the output is published.

Read `run` first: it is the job in the order in which it happens; `annotating` is its loop. What goes wrong
before `Commit.open` leaves nothing behind; after it, everything that is committed is kept and the same call
resumes from there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from batchqa.annotator import Annotator
from batchqa.bundle import Bundle, open_model
from batchqa.engines import Resolved
from batchqa.errors import NoInputError, SettingsError, StorageError
from batchqa.job import shard_plan
from batchqa.job.annotating import Job
from batchqa.job.fingerprint import fields_of
from batchqa.job.first_texts import FirstTexts
from batchqa.job.following import Clock, Follower, Progress
from batchqa.job.ranges import up_to
from batchqa.job.reusing import earlier_answers, find_earlier
from batchqa.job.shard_plan import Plan, check_shard
from batchqa.job.summary import Summary, check_summary, skipped, summary_of, written
from batchqa.machine import process_seconds
from batchqa.output import (
    Commit,
    LocalTarget,
    StreamCommit,
    Target,
    check_target,
    earlier_job,
    open_output,
    space_shortage,
)
from batchqa.settings import RunSettings, Shard
from batchqa.steps.asking import Questions
from batchqa.steps.reading import STREAM, Source, inline_schema, open_source
from batchqa.steps.writing import output_schema
from batchqa.version import VERSION


def run(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    model: str | Path = "default",
    settings: RunSettings | None = None,
    progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    on_status: Callable[[str], None] | None = None,
    summary: str | Path | None = None,
    whole_process: bool = False,
    shard: Shard | str | None = None,
    share: Callable[[Job, Sequence[str], str], None] | None = None,
    **options: Any,
) -> Summary:
    """Annotate `inputs` (files, folders, globs, "-") and publish `output`; the same as `batchqa run`.

    Options are those of the command line (`top_k=3`, `overwrite=True`), given here or in `settings`.
    `progress` is called several times a second, `on_note` with what a user should know, `on_status` with what
    the job is doing ("loading ..."). The summary is also written to the file `summary`. With `whole_process`
    its clock begins with the process. `share` is given the job, its inputs and its output, to have the
    missing parts annotated elsewhere (`runners/`).

    With `shard` ("0/4") only that share of the parts is done, and nothing is published: `finalize` does that
    when all shards are done.

    Raises the errors of `batchqa.errors`; each knows the command's exit code.
    """
    clock = Clock(process_seconds() if whole_process else 0.0)
    settings = one_of(settings, options)
    note, status = on_note or (lambda _: None), on_status or (lambda _: None)
    names = [str(name) for name in ([inputs] if isinstance(inputs, (str, Path)) else inputs)]

    questions, settings = asking(settings)
    target = Target.parse(str(output))
    shard = Shard.parse(shard) if isinstance(shard, str) else shard
    check_shard(shard, target, names, settings)
    if target.kind == "stdout" and settings.errors.on_error == "reject":
        raise SettingsError(
            "--on-error reject needs an output file: rejects cannot be written to standard output"
        )
    stdout = _standard_output(target)
    with questions.explaining() if questions else nullcontext():
        source = _open_input(names, settings, status, keep_raw=target.format == "jsonl")
    if source is None:
        check_summary(summary, target, [])
        return written(summary, skipped(clock, str(model), target))
    check_target(target, inputs_of(names, source), settings.output.overwrite)
    check_summary(summary, target, inputs_of(names, source))
    for text in source.notes:
        note(text)
    reusable = [find_earlier(name, target) for name in settings.output.reuse]
    bundle = open_model(model)
    decoding, prefix = settings.decoding, settings.reading.output_prefix
    schema = output_schema(
        source.schema,
        prefix,
        decoding.top_k,
        decoding.most_answers,
        wide=questions.wide_names if questions else None,
        asked=questions is not None or source.lists,
    )
    with ExitStack() as stack:
        model_of_job = _Model(bundle, settings, stack, status, note)
        resolved = _resolved(model_of_job, target, settings, shard)
        fields = fields_of(source, bundle.digest, resolved, settings, questions)
        commit = open_output(
            target,
            fields=fields,
            schema=schema,
            part_rows=settings.output.part_rows,
            compression=settings.output.compression,
            overwrite=settings.output.overwrite,
            restart=settings.output.restart or _left_by_a_stream(target, source),
            shared=shard is not None,
            stream=stdout,
            parquet=source.parquet,
            lines=source.lines,
        )
        stack.enter_context(commit)
        already_done = commit.state == "done"
        if already_done:
            status(f"already done: {target} is this job's output; nothing was changed")
        else:
            _warn_of_space(target, source, note)
            resolved = Resolved.from_dict(commit.begin(resolved.to_dict()))
            model_of_job.pin(resolved)  # another shard may have begun in the same moment
            plan = _plan(commit, shard, source, settings, questions, fields, model_of_job) if shard else None
            total = plan.rows_in(shard) if plan and shard else _total_rows(source, settings)
            if commit.committed:
                done = sum(part.records_in for part in commit.committed)
                of_all = "" if total is None else f" of {total:,}"
                status(f"resuming: {done:,}{of_all} rows are done")
            follower = Follower(clock, commit.committed, total, progress or (lambda _: None))

            def work() -> Job:
                loaded, is_shard = model_of_job.loaded(), shard is not None
                answers = earlier_answers(reusable, fields, loaded.pipeline.rules, note, status)
                job = Job(
                    source, loaded, settings, questions, commit, schema, follower, note, answers, is_shard
                )
                if share is None:
                    job.annotate(commit.todo())
                elif isinstance(commit, Commit) and source.replayable:
                    share(job, names, str(output))
                else:
                    note("standard input and output work with one process only; --processes has no effect")
                    job.annotate(commit.todo())
                job.say_what_is_unlike(at_the_end=True)
                source.check_unchanged()
                return job

            if shard:
                already_done = _do_shard(commit, work)
            else:
                job = work()
                job.check_errors()
                if target.kind != "stdout":
                    status(f"writing {target.shown}")
                with clock.committing():
                    commit.publish(_totals(model_of_job.loaded(), job.unlike))
        for text in commit.notes:
            note(text)
        annotator = model_of_job.annotator
        result = summary_of(
            commit.done_record() if commit.published else commit.progress(),
            clock,
            target,
            model=bundle.manifest.name,
            resolved=(annotator.resolved if annotator else resolved).to_dict(),
            fingerprint=commit.fingerprint,
            already_done=already_done,
            cpu_because=annotator.engine.cpu_because if annotator else None,
            shard=str(shard) if shard else None,
        )
    return written(summary, result)


class _Model:
    """A job's model, loaded when it is first needed; `annotator` is None before."""

    def __init__(
        self,
        bundle: Bundle,
        settings: RunSettings,
        stack: ExitStack,
        status: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        self.bundle = bundle
        self.annotator: Annotator | None = None
        self._settings = settings
        self._machine = settings.machine
        self._stack, self._status, self._note = stack, status, note

    def pin(self, resolved: Resolved) -> None:
        """Take what the job resolved before; a model that was loaded otherwise is loaded again."""
        machine = resolved.pin(self._settings.machine)
        if self.annotator and machine != self.annotator.resolved.pin(self._settings.machine):
            self.annotator.close()
            self.annotator = None
        self._machine = machine

    def loaded(self) -> Annotator:
        """The model, ready to answer."""
        if self.annotator is None:
            self._status(f"loading {self.bundle.manifest.name}")
            settings = replace(self._settings, machine=self._machine)
            self.annotator = self._stack.enter_context(Annotator(self.bundle, settings=settings))
            for text in self.annotator.engine.notes:
                self._note(text)
        return self.annotator


def _resolved(model: _Model, target: Target, settings: RunSettings, shard: Shard | None) -> Resolved:
    """What the machine decides for this job, or has decided when it began.

    What a job resolved when it began is used again: no model is needed to see that it is done.
    """
    replacing = settings.output.restart or settings.output.overwrite

    def earlier() -> Resolved | None:
        return None if replacing and not shard else _earlier(target, finished=not replacing)

    known = earlier()
    if known is None:
        own = model.loaded().resolved
        # another shard may have begun the job while the model was loaded
        known = (earlier() if shard else None) or own
    model.pin(known)
    return known


def _left_by_a_stream(target: Target, source: Source) -> bool:
    """Whether this is a stream, and an earlier one that was stopped left parts: nobody can resume those.

    In an object store, where there is no lock, that one may still be running.
    """
    if source.replayable or not isinstance(target, LocalTarget):
        return False
    earlier = earlier_job(target, finished=False)
    return earlier is not None and any(STREAM in file for file in earlier.fields.get("inputs", ()))


def _do_shard(commit: Commit | StreamCommit, work: Callable[[], object]) -> bool:
    """Do a shard's parts; True where all is published meanwhile, because another run of it was quicker."""
    assert isinstance(commit, Commit)
    if any(commit.todo()):
        try:
            work()
        except StorageError:
            if not commit.is_published():
                raise
    return commit.is_published()


def _plan(
    commit: Commit | StreamCommit,
    shard: Shard,
    source: Source,
    settings: RunSettings,
    questions: Questions | None,
    fields: Mapping[str, Any],
    model: _Model,
) -> Plan:
    """The plan that holds for all shards; made here if this is the first."""
    assert isinstance(commit, Commit)

    def make() -> Plan:
        annotator = model.loaded()
        parts = source.parts(settings.output.part_rows, settings.output.limit)
        return Plan(
            fields=fields,
            shards=shard.count,
            part_rows=settings.output.part_rows,
            rows=parts.records,
            ends=parts.ends,
            edges=shard_plan.shared_out(parts.sizes, shard.count),
            table=commit.table,
            compression=settings.output.compression,
            totals=_totals(annotator, _unlike(annotator, source, settings, questions)),
            model=model.bundle.manifest.name,
            max_errors=str(settings.errors.max_errors),
        )

    return shard_plan.join(commit, fields, shard, make)


def _unlike(annotator: Annotator, source: Source, settings: RunSettings, questions: Questions | None) -> str:
    """That the first texts are not such as the bundle was verified on, if so."""
    if not annotator.bundle.manifest.texts:
        return ""
    first = FirstTexts(questions.texts if questions else ())
    with closing(up_to(source.read(), settings.output.limit)) as beginning:  # type: ignore[type-var]
        first.gather(beginning)
    return annotator.unlike_verified(first.texts)


def _totals(annotator: Annotator, unlike: str) -> dict[str, Any]:
    """What the output says of itself besides its counts."""
    return {"batchqa": VERSION, **annotator.decides_by(), **({"texts": unlike} if unlike else {})}


def one_of(settings: RunSettings | None, options: dict[str, Any]) -> RunSettings:
    """The settings, given whole or as options; what --schema names a file for is in them."""
    if settings is not None and options:
        raise TypeError(f"options are given twice, in settings and as {', '.join(sorted(options))}")
    settings = settings or RunSettings.from_options(options)
    reading = settings.reading
    if reading.schema is None:
        return settings
    return replace(settings, reading=replace(reading, schema=inline_schema(reading.schema)))


def asking(settings: RunSettings) -> tuple[Questions | None, RunSettings]:
    """The questions that every row is asked, and the settings by which such rows are read and answered."""
    questions = Questions.of(settings.asking)
    if questions is None:
        return None, settings
    questions, decoding = questions.with_limits(settings.decoding)
    return questions, replace(settings, reading=questions.reading(settings.reading), decoding=decoding)


def _open_input(
    names: Sequence[str], settings: RunSettings, status: Callable[[str], None], *, keep_raw: bool
) -> Source | None:
    """The inputs; None where there is nothing in them and --if-no-input allows it."""
    may_skip = settings.reading.if_no_input == "skip"
    try:
        source = open_source(names, settings.reading, keep_raw=keep_raw)
        if may_skip and not source.has_rows():
            raise NoInputError(f"there is no row in {', '.join(names)}")
    except NoInputError as error:
        if not may_skip:
            raise
        status(f"nothing to do: {error}")
        return None
    return source


def _total_rows(source: Source, settings: RunSettings) -> int | None:
    """How many rows the job has; None where only reading would tell."""
    if source.rows is None or settings.output.limit is None:
        return source.rows
    return min(source.rows, settings.output.limit)


def _standard_output(target: Target) -> BinaryIO | None:
    if target.kind != "stdout":
        return None
    if sys.stdout is None or sys.stdout.closed:
        raise StorageError(
            "standard output (-o -) is closed: no row can be written to it; redirect it to a file"
        )
    return sys.stdout.buffer


def inputs_of(names: Sequence[str], source: Source) -> list[str]:
    """What an output must not replace: the arguments and the files they stand for."""
    return [name for name in (*names, *(file.path for file in source.files)) if name != "-"]


def _earlier(target: Target, *, finished: bool = True) -> Resolved | None:
    """What an earlier run of this job, unfinished or finished, found out about the machine."""
    job = earlier_job(target, finished=finished)
    try:
        return Resolved.from_dict(job.resolved) if job else None
    except TypeError:  # a job of another version: the fingerprint will tell the user
        return None


def _warn_of_space(target: Target, source: Source, note: Callable[[str], None]) -> None:
    """Say before the start that the disk may be too small; the output is about as large as the input."""
    shortage = space_shortage(target, sum(file.size for file in source.files))
    if shortage:
        note(shortage)
