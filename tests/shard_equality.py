"""Inputs of every format and options of every kind, for the tests that shards give the bytes of one run."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchqa import job, runners
from tests.models import SENTENCES

COUNTS = (1, 4, 16)
ROWS = [
    {
        "id": str(n),
        "context": f"{SENTENCES[n % 6]} This was {n // 3}. " * (1 + n % 4),
        "question": f"Who was {n % 5}?",
    }
    for n in range(53)
]
BAD = 2


def _lines() -> bytes:
    lines = [json.dumps(row).encode() for row in ROWS]
    lines[9:9], lines[40:40] = [b'{"context": 5}'], [b"{broken"]
    return b"\n".join(lines) + b"\n"


def _parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=9)
    return bytes(sink.getvalue())


def _table() -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(ROWS[0])
    for n, row in enumerate(ROWS):
        writer.writerow(
            [row["id"], f'"{row["context"]}",\n' if n % 7 == 0 else row["context"], row["question"]]
        )
    lines = text.getvalue().encode().splitlines(keepends=True)
    return b"".join([*lines[:9], b'7,5"8,What?\r\n', *lines[9:40], b"only,two\r\n", *lines[40:]])


def _squad() -> bytes:
    paragraphs = [
        {"context": row["context"], "qas": [{"id": row["id"], "question": row["question"], "answers": []}]}
        for row in ROWS
    ]
    return json.dumps({"version": "1", "data": [{"title": "t", "paragraphs": paragraphs}]}).encode()


INPUTS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "parquet": ("in.parquet", _parquet, "parquet"),
    "jsonl": ("in.jsonl", _lines, "jsonl"),
    "gzip": ("in.jsonl.gz", lambda: gzip.compress(_lines()), "parquet"),
    "csv": ("in.csv", _table, "csv"),
    "squad": ("in.json", _squad, "parquet"),
}
"""File name, content, and the format of the output."""

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"max_errors": BAD},
    "rejects": {"on_error": "reject", "max_errors": BAD, "top_k": 2},
    "asked": {
        "ask": ("who=Who was {id}?", "when=When was it built?"),
        "max_errors": "100%",
        "on_error": "reject",
    },
    "reused": {"max_errors": BAD},
}


class Jobs:
    """One job in different ways, and the bytes that it gives. `place` names inputs and outputs."""

    def __init__(self, folder: Path, model: Path, kind: str, options: str) -> None:
        self.name, content, self.format = INPUTS[kind]
        self.content = content()
        self.options = {
            "device": "cpu",
            "threads": 1,
            "batch_tokens": 512,
            "part_rows": 3,
            "model": model,
            **OPTIONS[options],
        }
        if options == "reused":
            # the answers of the first rows, taken from a file of another form
            first = folder / "first.parquet"
            pq.write_table(pa.Table.from_pylist(ROWS[:30]), first)
            job.run(first, folder / "old.parquet", in_process=True, **self.options)
            self.options["reuse"] = (str(folder / "old.parquet"),)

    def one(self, source: str, output: str) -> job.Summary:
        """In one process."""
        return job.run(source, output, in_process=True, **self.options)

    def shards(self, source: str, output: str, count: int) -> job.Summary:
        """In so many shards, every second one first."""
        for index in (*range(0, count, 2), *range(1, count, 2)):
            job.run(source, output, in_process=True, shard=f"{index}/{count}", **self.options)
        return job.finalize(output)

    def processes(self, source: str, output: str) -> job.Summary:
        """In four processes."""
        summary: job.Summary = runners.run(source, output, processes=4, in_process=True, **self.options)
        return summary


def check_summaries(first: job.Summary, *others: job.Summary) -> None:
    """All of them count the same."""
    counts = ("rows", "questions", "answered", "no_answer", "errors", "statuses", "rejected", "reused_rows")
    for other in others:
        assert [getattr(other, name) for name in counts] == [getattr(first, name) for name in counts]
