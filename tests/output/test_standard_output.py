"""Answers on standard output."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from batchqa.errors import SettingsError, StorageError
from batchqa.output import (
    Target,
    open_output,
)
from batchqa.records import Cursor
from tests.commit_job import FIELDS, SCHEMA, rows_of


def stream_run(stream: Any, records: int = 7) -> None:
    with open_output(
        Target.parse("-"), fields=FIELDS, schema=SCHEMA, part_rows=3, compression="zstd", stream=stream
    ) as commit:
        commit.begin({"batch_tokens": 1})
        (missing,) = commit.todo()
        assert missing.stop_part is None
        for first in range(0, records, 3):
            numbers = list(range(first, min(first + 3, records)))
            with commit.part(first // 3) as part:
                part.write(rows_of(numbers))
                part.commit(
                    len(numbers), Cursor(), errors={}, counts={"answered": 1}, versions={}, device="cpu"
                )
        commit.publish({})
        assert commit.done_record()["records_in"] == records


def test_standard_output_gets_json_lines_and_no_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stream = io.BytesIO()
    stream_run(stream)
    assert [json.loads(line)["number"] for line in stream.getvalue().splitlines()] == list(range(7))
    assert not list(tmp_path.iterdir())


def test_a_reader_that_goes_away_is_an_error_in_one_line(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with (
        os.fdopen(writing, "wb") as stream,
        pytest.raises(StorageError, match="the reader of standard output closed it"),
    ):
        stream_run(stream, records=3000)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without space")
def test_a_full_disk_behind_standard_output_is_an_error_that_promises_no_resume() -> None:
    with (
        Path("/dev/full").open("wb", buffering=0) as stream,
        pytest.raises(StorageError, match=r"No space left.*cannot be resumed"),
    ):
        stream_run(stream)


def test_rejects_need_a_file_to_stand_beside() -> None:
    with (
        open_output(
            Target.parse("-"), fields={}, schema=SCHEMA, part_rows=3, compression="zstd", stream=io.BytesIO()
        ) as commit,
        commit.part(0) as part,
        pytest.raises(SettingsError, match="on-error reject"),
    ):
        part.reject(b"{}")
