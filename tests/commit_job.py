"""A small job that only commits: what the tests of batchqa.output run, in this process or as a program.

Records are numbers; each fifth is rejected. As a program: `python commit_job.py OUTPUT`, exit codes as
batchqa's, with `--short` (four parts instead of eight), `--slow`, or `--broken`: files get their final name
before their content, the mistake that the kill sweep must catch.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchqa.errors import BatchqaError
from batchqa.output import Commit, PartWriter, Target, open_output
from batchqa.records import Cursor
from batchqa.store import files

SCHEMA = pa.schema([("number", pa.int64()), ("text", pa.string()), ("tags", pa.list_(pa.string()))])
RECORDS = 22
SHORT = 11
PART_ROWS = 3
FIELDS = {"model": "abc", "inputs": [{"uri": "file:///in.jsonl", "size": 5}]}


def rows_of(numbers: list[int]) -> pa.RecordBatch:
    """The rows of some records; their texts hardly compress."""
    texts = ["".join(hashlib.sha256(b"%d %d" % (n, i)).hexdigest() for i in range(40)) for n in numbers]
    return pa.record_batch([numbers, texts, [[str(n)] for n in numbers]], schema=SCHEMA)


def is_rejected(number: int) -> bool:
    """Whether a record is one of the bad ones."""
    return number % 5 == 4


def kept(records: int) -> list[int]:
    """The records that become rows."""
    return [number for number in range(records) if not is_rejected(number)]


def fill(part: PartWriter, numbers: list[int]) -> None:
    """Write the part of these records and commit it."""
    good = [number for number in numbers if not is_rejected(number)]
    for half in (good[:1], good[1:]):
        part.write(rows_of(half))
    for number in numbers:
        if is_rejected(number):
            part.reject(b'{"number":%d}' % number)
    bad = len(numbers) - len(good)
    part.commit(
        len(numbers),
        Cursor(0, numbers[-1] + 1, numbers[-1] + 1, numbers[-1] * 10),
        errors={"bad_json": bad} if bad else {},
        counts={"answered": len(good)},
        versions={"onnxruntime": "1.31.1"},
        device="cpu",
    )


def numbers_of_parts(commit: Commit, records: int, part_rows: int) -> Iterator[tuple[int, list[int]]]:
    """Each missing part and the numbers of its records; checks that the cursors fit."""
    for missing in commit.todo():
        assert missing.cursor.row == missing.first_record == missing.first_part * part_rows
        part = missing.first_part
        while part * part_rows < records and part != missing.stop_part:
            yield part, list(range(part * part_rows, min(records, (part + 1) * part_rows)))
            part += 1


def run(
    output: str | Path,
    *,
    records: int = RECORDS,
    part_rows: int = PART_ROWS,
    fields: Mapping[str, Any] = FIELDS,
    overwrite: bool = False,
    restart: bool = False,
    stop_at: int | None = None,
    pause: float = 0,
) -> Commit:
    """The whole job, or its parts before `stop_at`; returns the closed commit."""
    with open_output(
        Target.parse(str(output)),
        fields=fields,
        schema=SCHEMA,
        part_rows=part_rows,
        compression="zstd",
        overwrite=overwrite,
        restart=restart,
    ) as commit:
        assert isinstance(commit, Commit)
        if commit.state != "done":
            commit.begin({"batch_tokens": 8192})
            for part, numbers in numbers_of_parts(commit, records, part_rows):
                if part == stop_at:
                    return commit
                with commit.part(part) as writer:
                    fill(writer, numbers)
                time.sleep(pause)
            commit.publish({"model": "abc"})
        return commit


def _publish_by_copying(tmp: Path, final: Path) -> None:
    with tmp.open("rb") as file, final.open("wb", buffering=0) as out:
        shutil.copyfileobj(file, out, 1024)
    tmp.unlink()


def main() -> int:
    """Run the job for the command line."""
    files._BUFFER_BYTES = 1024  # many writes, so that there are many places to be killed at
    if "--broken" in sys.argv:
        files.publish = _publish_by_copying
    try:
        records = SHORT if "--short" in sys.argv else RECORDS
        run(sys.argv[1], records=records, pause=0.1 if "--slow" in sys.argv else 0)
    except BatchqaError as error:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
