"""finalize(): when all shards of a job are done, its output is published.

Neither the inputs nor the model are needed: all that publishing needs is in the plan and in the parts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from batchqa.answer_columns import ROW_ERRORS
from batchqa.domains import checked
from batchqa.errors import LimitError, PreconditionError, SettingsError, TryAgainError
from batchqa.job.following import Clock
from batchqa.job.shard_plan import Plan
from batchqa.job.summary import Summary, skipped, summary_of
from batchqa.machine import process_seconds
from batchqa.output import Commit, Target, Unfinished, open_output, tidied
from batchqa.settings import ErrorLimit

LONGEST_PAUSE_SECONDS = 10.0
"""Between two looks at the parts, while shards are waited for."""


class PartsMissingError(TryAgainError):
    """Not all parts of the job are there."""


class NoShardError(PartsMissingError):
    """No shard has begun."""


@checked
def finalize(
    output: str | Path,
    *,
    wait: float = 0.0,
    max_errors: str | int | None = None,
    if_no_input: Literal["fail", "skip"] = "fail",
    overwrite: bool = False,
    on_note: Callable[[str], None] | None = None,
    on_status: Callable[[str], None] | None = None,
    whole_process: bool = False,
) -> Summary:
    """Prove that all parts of a sharded job are there, and publish it; the same as `batchqa finalize`.

    Waits up to `wait` seconds for the shards. `max_errors` is that of the first shard, where it is not given.
    An output that is published already stays untouched. Where no shard has begun, as on a day without input,
    `if_no_input` "skip" gives the summary of a run that was skipped. Raises TryAgainError where parts are
    missing, with the shards to run again, LimitError for too many row errors, PreconditionError where no
    shards were run.
    """
    clock = Clock(process_seconds() if whole_process else 0.0)
    note, status = on_note or (lambda _: None), on_status or (lambda _: None)
    target = Target.parse(str(output))
    if not wait >= 0:  # NaN too, with which it would wait for ever
        raise SettingsError(f"--wait must be a number of seconds from 0 on, not {wait}")
    if target.kind == "stdout":
        raise SettingsError("finalize needs the output that the shards were given, a file or folder, not -")
    try:
        plan = _awaited(target, wait, status)
    except NoShardError as error:
        if if_no_input == "fail":
            raise
        status(f"nothing to do: {error}")
        return skipped(clock, "", target)
    if plan is None:
        status(f"already done: {target} was published before and is unchanged")
        record = tidied(target)
        return summary_of(
            record.outcome,
            clock,
            target,
            model=str(record.outcome["totals"].get("model", "")),
            resolved=record.resolved,
            fingerprint=record.fingerprint,
            already_done=True,
        )
    commit = open_output(
        target,
        fields=plan.fields,
        schema=plan.table.schema,
        part_rows=plan.part_rows,
        compression=plan.compression,
        overwrite=overwrite,
        parquet=plan.table.parquet,
        lines=plan.table.lines,
    )
    assert isinstance(commit, Commit)
    with commit:
        already_done = commit.state == "done"
        if not already_done:
            _check_parts(commit, plan)
            _check_errors(commit, plan, plan.max_errors if max_errors is None else str(max_errors))
            status(f"writing {target}")
            with clock.committing():
                commit.publish(plan.totals)
        for text in commit.notes:
            note(text)
        return summary_of(
            commit.done_record(),
            clock,
            target,
            model=plan.model,
            resolved=commit.resolved,
            fingerprint=commit.fingerprint,
            already_done=already_done,
        )


def _awaited(target: Target, wait: float, status: Callable[[str], None]) -> Plan | None:
    """The plan, once all its parts are there; None for an output that is published and has none any more."""
    end, pause, told = time.monotonic() + wait, 1.0, False
    while True:
        unfinished = Unfinished.at(target)
        found = unfinished.found
        record = found.record if found and not found.trouble else None
        plan = None
        if unfinished.plan is not None:
            plan = Plan.from_json(unfinished.plan, unfinished.where)
            published = record is not None and record.fingerprint == unfinished.fingerprint
            missing = sorted(set(range(len(plan.ends))) - unfinished.parts)
            if published or not missing:
                return plan
        elif record is not None and unfinished.fingerprint in (None, record.fingerprint):
            return None
        elif unfinished.fingerprint is not None:
            raise PreconditionError(
                f"{unfinished.where}: the unfinished job here was started without --shard; run the command "
                "that started it again to finish it"
            )
        elif found is not None:
            raise PreconditionError(f"{target} exists and is not an output of batchqa; choose another output")
        else:
            missing = []
        if time.monotonic() >= end:
            raise _not_yet(target, plan, missing)
        if not told:
            told = True
            which = f"shards {_ranges(plan.shards_of(missing))}" if plan else "the first shard"
            status(f"waiting for {which}")
        time.sleep(max(0.0, min(pause, end - time.monotonic())))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _not_yet(target: Target, plan: Plan | None, missing: Iterable[int]) -> TryAgainError:
    if plan is None:
        return NoShardError(f"{target}: no shard has started; run the shards first, with --shard I/N")
    shards = _ranges(plan.shards_of(missing))
    return PartsMissingError(
        f"{target}: parts are missing; run these of the {plan.shards} shards again: {shards}"
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers as `0,3-5`: what schedulers take."""
    pieces: list[list[int]] = []
    for number in numbers:
        if pieces and pieces[-1][-1] == number - 1:
            pieces[-1][1:] = [number]
        else:
            pieces.append([number])
    return ",".join("-".join(map(str, piece)) for piece in pieces)


def _check_parts(commit: Commit, plan: Plan) -> None:
    """All parts of the plan must be good, with its rows, end where it says, and no other may be there."""
    rows = {record.part: (record.records_in, record.cursor) for record in commit.committed}
    planned = [(plan.rows_of(part), end) for part, end in enumerate(plan.ends)]
    bad = [part for part, rows_and_end in enumerate(planned) if rows.pop(part, None) != rows_and_end]
    if bad:
        raise _not_yet(commit.target, plan, bad)
    if rows:
        raise PreconditionError(f"{commit.target}: part {min(rows)} is not in the plan; remove it")


def _check_errors(commit: Commit, plan: Plan, text: str) -> None:
    limit, done = ErrorLimit.parse(text), commit.progress()
    strict = plan.fields["options"]["errors"]["strict"]
    errors = sum(n for code, n in done["errors"].items() if strict or code in ROW_ERRORS)
    if limit.exceeded(errors, done["records_in"]):
        raise LimitError(
            f"{errors} of {done['records_in']} rows are errors, but --max-errors allows {limit}. Finished "
            "parts are kept: finalize with a higher --max-errors publishes them"
        )
