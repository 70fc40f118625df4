"""The local folders in which files for an object store are made: each is its process's own."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchqa.store.object_store import ObjectWorkplace

TIMES, AT_ONCE = 150, 6


def test_runs_that_begin_at_once_do_not_clear_each_other_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def begin_and_end(number: int) -> None:
        for time in range(TIMES):
            place = ObjectWorkplace("s3://bucket/out.jsonl", alone=False)
            file = place.tmp(f"{number}-{time}")
            file.write_text("a part")
            assert file.read_text() == "a part"
            place.close()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(begin_and_end, range(AT_ONCE)))
    assert list(tmp_path.iterdir()) == []
