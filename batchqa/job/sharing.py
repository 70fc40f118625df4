"""Parts of a job annotated by another process than the one that runs it: what `runners/` hand out.

The job's process holds the output's lock, knows which parts are missing, judges `--max-errors` and publishes.
Another one is given `Work` (all that it needs, pickled) and parts, and commits these where the job stages
them. A part's bytes do not depend on who made it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from batchqa.annotator import Annotator
from batchqa.bundle import open_model
from batchqa.errors import ModelError, PreconditionError
from batchqa.job.annotating import Job
from batchqa.job.following import Clock, Follower, Progress
from batchqa.job.ranges import single_parts
from batchqa.job.reusing import earlier_answers, find_earlier
from batchqa.output import Commit, OutputTable, PartRange, PartRecord, Target, shared_parts
from batchqa.settings import MachineSettings, RunSettings
from batchqa.steps.asking import Questions
from batchqa.steps.reading import Source, open_source


@dataclass(frozen=True, slots=True)
class Work:
    """A job as another process needs it; it is pickled. `files` are the inputs' URIs and identities."""

    inputs: tuple[str, ...]
    files: tuple[tuple[str, dict[str, Any]], ...]
    output: str
    fingerprint: str
    fields: Mapping[str, Any]
    schema: pa.Schema
    questions: Questions | None
    model: str
    digest: str
    settings: RunSettings

    def on(self, machine: MachineSettings) -> Work:
        """The same with other machine settings: threads, workers or devices."""
        return replace(self, settings=replace(self.settings, machine=machine))


def work_of(job: Job, inputs: Sequence[str], output: str) -> Work:
    """The work of a job that has begun, with all that its annotator resolved."""
    assert isinstance(job.commit, Commit)
    machine = replace(job.annotator.resolved.pin(job.settings.machine), device=job.annotator.resolved.device)
    return Work(
        tuple(inputs),
        _files(job.source),
        output,
        job.commit.fingerprint,
        job.commit.fields,
        job.schema,
        job.questions,
        str(job.annotator.bundle.path),
        job.annotator.bundle.digest,
        replace(job.settings, machine=machine),
    )


def missing_parts(job: Job) -> Iterator[PartRange]:
    """The job's missing parts, one by one, each with the place where it begins."""
    assert isinstance(job.commit, Commit)
    output = job.settings.output
    return single_parts(job.source, job.commit.todo(), output.part_rows, output.limit)


def annotate_parts(
    work: Work,
    parts: Iterable[PartRange],
    on_commit: Callable[[PartRecord, list[str]], None],
    tell: Callable[[Progress], None],
) -> None:
    """Annotate and commit the parts as they come; they are taken ahead of time, by another thread.

    `on_commit` is given each part's record, and the first row errors so far in words. Raises as a job does.
    """
    settings = work.settings
    target = Target.parse(work.output)
    assert target.kind != "stdout"
    source = open_source(list(work.inputs), settings.reading, keep_raw=target.format == "jsonl")
    if _files(source) != work.files:
        raise PreconditionError("an input was changed since the job started; start over with --restart")
    bundle = open_model(work.model)
    if bundle.digest != work.digest:
        raise ModelError(f"{work.model} was changed since the job started")
    table = OutputTable(work.schema, source.parquet, source.lines)

    def committed(record: PartRecord) -> None:
        on_commit(record, job.named)

    part_rows, compression = settings.output.part_rows, settings.output.compression
    with (
        Annotator(bundle, settings=settings) as annotator,
        shared_parts(target, part_rows, table, compression, work.fingerprint, committed) as output,
    ):
        reusable = [find_earlier(name, target) for name in settings.output.reuse]
        earlier = earlier_answers(reusable, work.fields, annotator.pipeline.rules)
        follower = Follower(Clock(0.0), (), None, tell)
        job = Job(
            source,
            annotator,
            settings,
            work.questions,
            output,
            work.schema,
            follower,
            lambda _: None,
            earlier,
            is_shard=True,  # the job's own process looks at its first texts
        )
        job.annotate(parts)


def _files(source: Source) -> tuple[tuple[str, dict[str, Any]], ...]:
    return tuple((file.uri, file.identity) for file in source.files)
