"""A job in several shards, and the finalize that publishes them, with the tiny bundle."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchqa import job
from batchqa.job import Summary
from batchqa.settings import Shard
from tests.models import SENTENCES
from tests.output.looking import contents

Run = Callable[..., Summary]
ROWS = [
    {"context": f"{SENTENCES[i % 6]} This was row {i}.", "question": f"What is number {i}?", "n": i}
    for i in range(40)
]


@pytest.fixture
def run(tiny_bundle: Path) -> Run:
    options = {"device": "cpu", "threads": 1, "batch_tokens": 512, "part_rows": 5, "in_process": True}
    return partial(job.run, model=tiny_bundle, **options)


def lines_of(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_parquet(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "in.parquet", row_group_size=7)
    return folder / "in.parquet"


def as_files(folder: Path) -> Path:
    (folder / "in").mkdir()
    for number, start in enumerate(range(0, 40, 13)):
        pq.write_table(pa.Table.from_pylist(ROWS[start : start + 13]), folder / "in" / f"{number}.parquet")
    return folder / "in"


def as_jsonl(folder: Path) -> Path:
    (folder / "in.jsonl").write_bytes(lines_of(ROWS))
    return folder / "in.jsonl"


def as_gzip(folder: Path) -> Path:
    (folder / "in.jsonl.gz").write_bytes(gzip.compress(lines_of(ROWS)))
    return folder / "in.jsonl.gz"


def as_squad(folder: Path) -> Path:
    texts = [
        (row["context"], {"id": str(row["n"]), "question": row["question"], "answers": []}) for row in ROWS
    ]
    paragraphs = [{"context": context, "qas": [question]} for context, question in texts]
    path = folder / "in.json"
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return path


def finish(run: Run, source: Path, output: str, count: int, **options: Any) -> Summary:
    """All shards, the last first, and then finalize."""
    for index in reversed(range(count)):
        run(source, output, shard=Shard(index, count), **options)
    return job.finalize(output)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (as_parquet, "out/"),
        (as_files, "out.parquet"),
        (as_jsonl, "out.jsonl"),
        (as_jsonl, "out.jsonl/"),
        (as_gzip, "out.parquet"),
        (as_squad, "out/"),
    ],
)
def test_shards_give_the_bytes_of_one_run(
    run: Run, tmp_path: Path, write: Callable[[Path], Path], name: str
) -> None:
    source = write(tmp_path)
    one = run(source, f"{tmp_path}/one/{name}")
    summary = finish(run, source, f"{tmp_path}/four/{name}", 4)
    assert contents(tmp_path / "four") == contents(tmp_path / "one")
    assert (summary.rows, summary.answered, summary.fingerprint) == (40, one.answered, one.fingerprint)


@pytest.mark.parametrize("count", [1, 16])
def test_any_number_of_shards_gives_the_bytes_of_one_run_with_rejects(
    run: Run, tmp_path: Path, count: int
) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines_of([*ROWS[:9], {"context": 5}, *ROWS[9:30], [], *ROWS[30:]]))
    options: dict[str, Any] = {"on_error": "reject", "max_errors": 2}
    run(tmp_path / "in.jsonl", f"{tmp_path}/one/out.parquet", **options)
    summary = finish(run, tmp_path / "in.jsonl", f"{tmp_path}/many/out.parquet", count, **options)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert len((tmp_path / "many" / "out.parquet.rejects.jsonl").read_bytes().splitlines()) == 2
    assert summary.rejected == 2
