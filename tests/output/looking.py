"""What stands in an output and beside it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from batchqa.output import Commit, Target, open_output
from tests import commit_job
from tests.commit_job import FIELDS, PART_ROWS, RECORDS, SCHEMA

OUTPUTS = ["out.parquet", "out.jsonl", "out/", "out.jsonl/", "out.csv", "out.tsv/"]


def numbers_in(output: str) -> list[int]:
    """The records that stand in an output, in order."""
    target = Target.parse(output)
    if target.kind == "folder":
        return [n for path in sorted(target.path.glob("part-*")) for n in _numbers(path)]
    return _numbers(target.path)


def _numbers(path: Path) -> list[int]:
    if path.suffix == ".parquet":
        return pq.read_table(path)["number"].to_pylist()
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            return [json.loads(line)["number"] for line in file]
        return [int(row["number"]) for row in csv.DictReader(file, dialect=_DIALECTS[path.suffix])]


_DIALECTS = {".csv": csv.excel, ".tsv": csv.excel_tab}


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder with its content and time of change."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {name: data for name, (data, _) in snapshot(folder).items()}


def rejects_file(output: str) -> Path:
    """Where the rejected lines of an output stand."""
    return beside(output, ".rejects.jsonl")


def staging_beside(output: str) -> Path:
    """The folder of unfinished work beside an output."""
    return beside(output, ".batchqa")


def beside(output: str, suffix: str) -> Path:
    """What stands beside an output under its name and a suffix."""
    path = Path(output)
    return path.with_name(path.name + suffix)


def staging(output: str) -> Path:
    """Where the parts of an unfinished output stand."""
    target = Target.parse(output)
    in_place = target.kind == "folder" and target.format == "parquet"
    return target.path if in_place else staging_beside(output)


def commit_before_publishing(output: str) -> None:
    """All parts, but no output yet."""
    with open_commit(output) as commit:
        commit.begin({"batch_tokens": 8192})
        for part, numbers in commit_job.numbers_of_parts(commit, RECORDS, PART_ROWS):
            with commit.part(part) as writer:
                commit_job.fill(writer, numbers)


def open_commit(output: str, **options: Any) -> Commit:
    """The commit of the usual job."""
    given = {"fields": FIELDS, "schema": SCHEMA, "part_rows": PART_ROWS, "compression": "zstd", **options}
    commit = open_output(Target.parse(output), **given)
    assert isinstance(commit, Commit)
    return commit
