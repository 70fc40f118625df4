"""`--processes` into an object store: parts are uploaded by several processes, the output is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

import batchqa
from tests.object_stores.stores import ROWS, parquet
from tests.s3 import Bucket


@pytest.mark.parametrize("output", [pytest.param("out/", marks=pytest.mark.slow), "out.parquet"])
def test_two_processes_write_what_one_writes(
    bucket: Bucket, tiny_bundle: Path, tmp_path: Path, output: str
) -> None:
    (tmp_path / "in.parquet").write_bytes(parquet(ROWS))
    options = {"model": tiny_bundle, "device": "cpu", "threads": 1, "batch_tokens": 512, "part_rows": 7}
    for count in (1, 2):
        place = bucket.uri(f"{count}/{output}")
        batchqa.run(tmp_path / "in.parquet", place, processes=count, **options)
    assert bucket.contents("1/") == bucket.contents("2/")
    assert bucket.unfinished_uploads() == 0
