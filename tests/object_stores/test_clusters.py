"""Jobs on Ray and Spark give the files of one run: every format, to files, folders and a store."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests import clusters
from tests.models import SENTENCES
from tests.object_stores.stores import local, parquet
from tests.s3 import Bucket

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROWS = [
    {
        "id": n,
        "context": f"{SENTENCES[n % len(SENTENCES)]} This was {n // 3}.",
        "question": f"Who was {n % 5}?",
    }
    for n in range(40)
]
BAD = b'{"context": "no end\n'
REJECTING = {"on_error": "reject", "max_errors": 2}
ASKING = {"ask": ["who=Who was it?", "when=When was number {id}?"]}
OPTIONS: dict[str, Any] = {
    "device": "cpu",
    "engine": "onnxruntime",
    "threads": 1,
    "in_process": True,
    "batch_tokens": 512,
    "part_rows": 7,
    "top_k": 2,
}

PROGRAM = """
import json, sys
import batchqa
STARTED
engine, jobs = sys.argv[1], json.load(sys.stdin)
for inputs, outputs, options in jobs:
    one, many = [batchqa.run(inputs, output, **options, **on).to_dict()
                 for output, on in zip(outputs, ({}, {"on": engine, "shards": 3}))]
    for key in ("rows", "answered", "no_answer", "errors", "rejected", "windows", "fingerprint"):
        assert one[key] == many[key], (inputs, key, one[key], many[key])
"""


def lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def squad(rows: list[dict[str, Any]]) -> bytes:
    paragraphs = [
        {
            "context": row["context"],
            "qas": [{"id": str(row["id"]), "question": row["question"], "answers": []}],
        }
        for row in rows
    ]
    return json.dumps({"version": "1", "data": [{"title": "t", "paragraphs": paragraphs}]}).encode()


FILES = {
    "rows.parquet": parquet([*ROWS, {"id": 40, "context": None, "question": "Who?"}]),
    "rows.jsonl": lines(ROWS[:18]) + BAD + lines(ROWS[18:]),
    "rows.jsonl.gz": gzip.compress(lines(ROWS[:30]) + BAD + lines(ROWS[30:])),
    "squad.json": squad(ROWS),
}
JOBS: list[tuple[str, str, dict[str, Any]]] = [
    ("rows.parquet", "parquet.parquet", {}),
    ("rows.parquet", "parquet/", REJECTING),
    ("rows.parquet", "asked.parquet", ASKING),
    ("rows.jsonl", "lines.jsonl", REJECTING),
    ("rows.jsonl", "folder.jsonl/", REJECTING),
    ("rows.jsonl", "asked/", {**REJECTING, **ASKING, "layout": "wide"}),
    ("rows.jsonl.gz", "gzip.jsonl", {"max_errors": 1}),
    ("rows.jsonl.gz", "gzip.parquet", REJECTING),
    ("squad.json", "squad.parquet", {}),
]
"""Inputs, outputs, options."""
IN_THE_STORE = {"parquet/", "lines.jsonl", "asked.parquet", "squad.parquet", "gzip.jsonl"}


@pytest.mark.parametrize("engine", ["ray", "spark"])
def test_a_job_on_a_cluster_gives_the_files_of_one_run(
    engine: str, bucket: Bucket, tmp_path: Path, bundles: Callable[..., Path]
) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
        bucket.put(name, data)
    places = ("one", "many")
    jobs = [
        (str(tmp_path / given), [f"{tmp_path}/{place}/{name}" for place in places], options)
        for given, name, options in JOBS
    ]
    jobs += [
        (bucket.uri(given), [bucket.uri(f"{place}/{name}") for place in places], options)
        for given, name, options in JOBS
        if name in IN_THE_STORE
    ]
    for place in places:
        (tmp_path / place).mkdir()
    options = {**OPTIONS, "model": str(bundles())}
    with clusters.running(engine, tmp_path) as variables:
        ran = subprocess.run(
            [clusters.python_of(engine), "-c", PROGRAM.replace("STARTED", clusters.STARTED[engine]), engine],
            input=json.dumps([(given, outputs, {**options, **more}) for given, outputs, more in jobs]),
            env=variables,
            capture_output=True,
            text=True,
        )
    assert ran.returncode == 0, ran.stderr
    one, many = (local(tmp_path / place) for place in places)
    assert {name.partition("/")[0] for name in one} >= {name.rstrip("/") for _, name, _ in JOBS}
    assert [name for name in {*one, *many} if one.get(name) != many.get(name)] == []
    assert one["lines.jsonl.rejects.jsonl"].count(b"\n") == 1
    assert pq.read_table(tmp_path / "many" / "asked.parquet").num_rows == 2 * 41
    one, many = (bucket.contents(f"{place}/") for place in places)
    assert {name.partition("/")[0] for name in one} >= {name.rstrip("/") for name in IN_THE_STORE}
    assert [name for name in {*one, *many} if one.get(name) != many.get(name)] == []
