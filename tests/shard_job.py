"""A small job of two shards that only commits: `commit_job`'s records, the real plan and the real finalize.

As a program: `python shard_job.py OUTPUT I/N`, or `... OUTPUT finalize`; exit codes as batchqa's, with
`--short` (four parts instead of eight) or `--slow`. `--race` waits a moment before a file is created that is
to be created once. `--broken` does so too, and creates it whether it is there or not: the mistake that the
tests must catch.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from batchqa.errors import BatchqaError
from batchqa.job import finalize, shard_plan
from batchqa.output import Commit, Target, open_output
from batchqa.records import Cursor
from batchqa.settings import Shard
from batchqa.store import files, objects
from batchqa.store.local import LocalStore
from batchqa.store.locations import Location
from tests import commit_job
from tests.commit_job import FIELDS, PART_ROWS, RECORDS, SCHEMA, SHORT, fill, numbers_of_parts

SHARDS = ("0/2", "1/2")
OF_JOB = {**FIELDS, "options": {"errors": {"strict": False}}}


def shard(
    output: str | Path, which: str, *, records: int = RECORDS, pause: float = 0, **fields: object
) -> None:
    """Do one shard, as `batchqa run --shard` does; `fields` are what is different in its options."""
    of_job = {**OF_JOB, **fields}
    with open_output(
        Target.parse(str(output)),
        fields=of_job,
        schema=SCHEMA,
        part_rows=PART_ROWS,
        compression="zstd",
        shared=True,
    ) as commit:
        assert isinstance(commit, Commit)
        if commit.state == "done":
            return
        own = Shard.parse(which)
        commit.begin({"batch_tokens": 8192})
        shard_plan.join(commit, of_job, own, lambda: _plan(commit, own, records, of_job))
        try:
            for part, numbers in numbers_of_parts(commit, records, PART_ROWS):
                with commit.part(part) as writer:
                    fill(writer, numbers)
                time.sleep(pause)
        finally:
            commit.is_published()


def _plan(commit: Commit, own: Shard, records: int, fields: dict[str, object]) -> shard_plan.Plan:
    rows = [min(row + PART_ROWS, records) for row in range(0, records, PART_ROWS)]
    return shard_plan.Plan(
        fields=fields,
        shards=own.count,
        part_rows=PART_ROWS,
        rows=records,
        ends=[Cursor(0, row, row, (row - 1) * 10) for row in rows],
        edges=shard_plan.shared_out([PART_ROWS] * len(rows), own.count),
        table=commit.table,
        compression="zstd",
        totals={"model": "abc"},
        model="abc",
        max_errors="100%",
    )


def whole(output: str | Path, *, records: int = RECORDS) -> None:
    """The same job in one process."""
    commit_job.run(output, records=records, fields=OF_JOB)


def finish(output: str | Path, which: Sequence[str] = SHARDS, *, records: int = RECORDS) -> None:
    """All shards and finalize."""
    for each in which:
        shard(output, each, records=records)
    finalize(output)


def main() -> int:
    """Run a shard or finalize for the command line."""
    files._BUFFER_BYTES = 1024  # many writes, so that there are many places to be killed at
    output, what, *options = sys.argv[1:]
    if "--race" in options:
        LocalStore.put_if_absent = _put_later
    if "--broken" in options:
        LocalStore.put_if_absent = _put_anyway
        objects.put_if_absent = _put_over
    try:
        if what == "finalize":
            finalize(output)
        else:
            records = SHORT if "--short" in options else RECORDS
            shard(output, what, records=records, pause=0.1 if "--slow" in options else 0)
    except BatchqaError as error:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


_put_if_absent = LocalStore.put_if_absent


def _put_later(self: LocalStore, data: bytes, name: str, tmp: Path) -> bool:
    time.sleep(random.random())
    return _put_if_absent(self, data, name, tmp)


def _put_over(data: bytes, to: Location) -> bool:
    time.sleep(random.random())
    objects.put_bytes(data, to)
    return True


def _put_anyway(self: LocalStore, data: bytes, name: str, tmp: Path) -> bool:
    time.sleep(random.random())
    with files.new_file(tmp) as file:
        file.write(data)
    self.publish(tmp, name)
    return True


if __name__ == "__main__":
    sys.exit(main())
