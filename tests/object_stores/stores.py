"""What the tests of object stores share: their jobs, files and faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchqa import job
from tests import commit_job
from tests.fault_proxy import Request
from tests.models import SENTENCES
from tests.s3 import Bucket

ROOT = Path(__file__).parent.parent.parent
WRITING = {"PutObject", "UploadPart", "CreateMultipartUpload", "DeleteObject", "DeleteObjects"}
OUTPUTS = ["out.parquet", "out.jsonl", "out/", "out.jsonl/"]
ROWS = [
    {"context": f"{SENTENCES[i % 6]} This was row {i}.", "question": f"What is number {i}?", "n": i}
    for i in range(30)
]
Run = Callable[..., job.Summary]
small = partial(commit_job.run, records=commit_job.SHORT)  # four parts, of which two have rejects


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def local(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def undisturbed(folder: Path, output: str) -> dict[str, bytes]:
    """What the small job of `tests.commit_job` writes locally."""
    folder.mkdir()
    small(f"{folder}/{output}")
    return local(folder)


def killing_at(bucket: Bucket, number: int, kill: Callable[[], object]) -> Callable[[Request], str | None]:
    """A fault that kills a program at its Nth request, which is done, half done or not."""

    def fault(_: Request) -> str | None:
        if len(bucket.proxy.log) != number:
            return None
        kill()
        return ("cut before", "cut within", "cut after")[number % 3]

    return fault


def at(operation: str, number: int, fault: str, *, times: int = 1) -> Callable[[Request], str | None]:
    """A fault at the Nth request of an operation, and at the ones after it."""
    return lambda request: (
        fault if request.operation == operation and number <= request.number < number + times else None
    )


FOREVER = 10**9


def program(model: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """`batchqa run INPUT OUTPUT` as a process of its own."""
    source, output = arguments
    command = [sys.executable, "-m", "batchqa", "run", source, "-o", output, "--model", str(model)]
    command += ["--device", "cpu", "--threads", "1", "--part-rows", "8", "--batch-tokens", "512"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def rows_of(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """The rows of an output's files, in order."""
    found: list[dict[str, Any]] = []
    for name in sorted(files):
        if name.endswith(".parquet"):
            found += pq.read_table(pa.BufferReader(files[name])).to_pylist()
        elif name.endswith(".jsonl"):
            found += map(json.loads, files[name].splitlines())
    return found


def uploading(file: Path, uri: str) -> subprocess.Popen[bytes]:
    """The upload of a file by a process of its own, which forgets it if it fails and ends a little later."""
    code = """
import gc, sys
from pathlib import Path
from batchqa.store import objects
from batchqa.store.locations import locate
try:
    objects.put(Path(sys.argv[1]), locate(sys.argv[2]))
except Exception as error:
    failed = type(error).__name__
gc.collect()
sys.exit(failed)
"""
    command = [sys.executable, "-c", code, str(file), uri]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
