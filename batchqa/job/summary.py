"""What a job did, in figures: `Summary`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from batchqa.answer_columns import ROW_ERRORS
from batchqa.errors import StorageError
from batchqa.job.following import Clock
from batchqa.output import LocalTarget, Target
from batchqa.side_files import SUMMARY, check_side_file
from batchqa.store.locations import local_output


@dataclass(frozen=True, slots=True)
class Summary:
    """What a job did.

    `rows` are input rows, `questions` what they were asked: one each, unless the job asks several. `answered`
    and `no_answer` count questions, and so do `errors` and `statuses` that are of a question (`oom`,
    `null_question`); those of a row (`bad_json`, `null_context`) count once, whatever it was asked.
    `seconds` run from the start to the published output, `startup_seconds` to the first row.
    `rows_per_second` is that of this run, without its startup and without `resumed_rows`, which an earlier
    run had committed. `commit_seconds` is the time spent in writing, committing and publishing.
    `cpu_because` says why the CPU was taken, where there is a GPU or one was asked for.
    `already_done`: the output was there, made by the same job, and was left untouched.
    `reused_rows` were copied from earlier outputs (--reuse), not scored.
    `skipped`: there was no input (--if-no-input skip), so nothing was written, and what only a run finds out
    is None. `shard`: this run did a share of the job, and the figures are its; nothing is published yet.
    """

    rows: int
    questions: int
    answered: int
    no_answer: int
    errors: dict[str, int]
    statuses: dict[str, int]
    rejected: int
    questions_cut: int
    windows: int
    reused_rows: int
    seconds: float
    startup_seconds: float
    commit_seconds: float
    rows_per_second: float
    resumed_rows: int
    model: str
    variant: str | None
    engine: str | None
    device: str | None
    cpu_because: str | None
    output: str
    fingerprint: str | None
    already_done: bool
    skipped: bool = False
    shard: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As it is printed."""
        known = asdict(self)
        if self.shard is None:
            del known["shard"]
        return known


def summary_of(
    outcome: Mapping[str, Any],
    clock: Clock,
    target: Target,
    *,
    model: str,
    resolved: Mapping[str, Any],
    fingerprint: str | None,
    already_done: bool,
    cpu_because: str | None = None,
    shard: str | None = None,
) -> Summary:
    """The summary of a job, or of one shard; `outcome` has the sums of its parts (`manifest.summed`)."""
    counts, errors = outcome["counts"], outcome["errors"]
    seconds = clock.seconds()
    startup = seconds if clock.startup is None else clock.startup
    rows = outcome["records_in"]
    resumed = rows if clock.resumed_rows is None else clock.resumed_rows
    working = seconds - startup
    return Summary(
        rows=rows,
        questions=counts.get("questions", rows),
        answered=counts.get("answered", 0),
        no_answer=counts.get("no_answer", 0),
        errors={code: n for code, n in errors.items() if code in ROW_ERRORS},
        statuses={code: n for code, n in errors.items() if code not in ROW_ERRORS},
        rejected=outcome["rejects"],
        questions_cut=counts.get("questions_cut", 0),
        windows=counts.get("windows", 0),
        reused_rows=counts.get("reused_rows", 0),
        seconds=round(seconds, 3),
        startup_seconds=round(startup, 3),
        commit_seconds=round(clock.in_commit, 3),
        rows_per_second=round((rows - resumed) / working, 2) if working > 0 else 0.0,
        resumed_rows=resumed,
        model=model,
        variant=resolved.get("variant"),
        engine=resolved.get("engine"),
        device=resolved.get("device"),
        cpu_because=cpu_because,
        output=target.shown,
        fingerprint=fingerprint,
        already_done=already_done,
        shard=shard,
    )


def skipped(clock: Clock, model: str, target: Target) -> Summary:
    """The summary of a run without input."""
    nothing = {"counts": {}, "errors": {}, "records_in": 0, "rejects": 0}
    found = summary_of(nothing, clock, target, model=model, resolved={}, fingerprint=None, already_done=False)
    return replace(found, skipped=True)


def written(path: str | Path | None, summary: Summary) -> Summary:
    """The summary, written to the file `path` too if one is named."""
    if path is None:
        return summary
    try:
        local_output("--summary", path).write_bytes(
            orjson.dumps(summary.to_dict(), option=orjson.OPT_APPEND_NEWLINE)
        )
    except OSError as error:
        raise StorageError(f"--summary {path}: {error.strerror}; the output itself is complete") from error
    return summary


def check_summary(summary: str | Path | None, target: Target, inputs: Sequence[str]) -> None:
    """Refuse a --summary that would replace an input or the output, or cannot be written."""
    if summary is None:
        return
    path = local_output("--summary", summary)
    written: Iterable[Path] = ()
    if isinstance(target, LocalTarget) and target.kind == "folder":
        if path.absolute().parent == target.path:
            return  # the job makes this folder
    elif isinstance(target, LocalTarget) and target.kind != "stdout":
        written = target.written()
    check_side_file("--summary", path, [*inputs, *written], SUMMARY, through=True)
