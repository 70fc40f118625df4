"""One part: all of it or nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchqa.errors import InputError, StorageError
from batchqa.output import (
    Commit,
    part_writer,
)
from batchqa.records import Cursor
from batchqa.store import files as commit_files
from batchqa.store.layout import part_name
from tests import commit_job
from tests.commit_job import RECORDS, kept, rows_of, run
from tests.output.looking import (
    numbers_in,
    open_commit,
    staging,
)


def fail_in_the_middle(commit: Commit) -> None:
    with commit.part(0) as part:
        part.write(rows_of([0, 1]))
        part.reject(b"{}")
        raise RuntimeError("in the middle")


def test_an_exception_while_writing_leaves_no_part_and_no_file(tmp_path: Path) -> None:
    output = str(tmp_path / "out.parquet")
    with open_commit(output) as commit:
        commit.begin({})
        with pytest.raises(RuntimeError, match="in the middle"):
            fail_in_the_middle(commit)
        assert commit.committed == ()
    names = {path.name for path in staging(output).rglob("*") if path.is_file()}
    assert names == {"job.json", "lock"}


def test_an_exception_while_writing_never_leaves_a_footer_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The Parquet writer closes its file after an exception, and would leave a valid, shorter one.
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    monkeypatch.setattr(commit_files, "_BUFFER_BYTES", 1)
    monkeypatch.setattr(part_writer, "ROW_GROUP_BYTES", 1)
    output = str(tmp_path / "out.parquet")
    with open_commit(output) as commit:
        commit.begin({})
        with pytest.raises(RuntimeError, match="in the middle"):
            fail_in_the_middle(commit)
    (tmp,) = staging(output).rglob("part-0000000.parquet.*.tmp")
    with pytest.raises(pa.ArrowInvalid):
        pq.read_metadata(tmp)


def test_a_part_that_is_left_without_commit_is_not_there(tmp_path: Path) -> None:
    output = str(tmp_path / "out.parquet")
    with open_commit(output) as commit:
        commit.begin({})
        with commit.part(0) as part:
            part.write(rows_of([0]))
        with commit.part(0) as part:
            commit_job.fill(part, [0, 1, 2])
    run(output)
    assert numbers_in(output) == kept(RECORDS)


@pytest.mark.parametrize(("records_in", "rows"), [(2, 3), (3, 2), (4, 4)])
def test_a_part_whose_records_do_not_add_up_is_a_mistake_of_the_caller(
    tmp_path: Path, records_in: int, rows: int
) -> None:
    with open_commit(str(tmp_path / "out.parquet")) as commit:
        commit.begin({})
        with commit.part(0) as part:
            part.write(rows_of(list(range(rows))))
            with pytest.raises(ValueError, match="records in"):
                part.commit(records_in, Cursor(), errors={}, counts={}, versions={}, device="cpu")


def test_publishing_before_all_parts_are_there_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with open_commit(str(tmp_path / "out.parquet")) as commit:
        commit.begin({})
        with commit.part(2) as part:
            commit_job.fill(part, [6, 7, 8])
        with pytest.raises(ValueError, match="before all parts"):
            commit.publish({})


def test_a_batch_with_other_columns_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with open_commit(str(tmp_path / "out.parquet")) as commit:
        commit.begin({})
        with commit.part(0) as part, pytest.raises(ValueError, match="schema"):
            part.write(pa.record_batch({"a": [1]}))


def test_a_part_is_written_in_row_groups_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_writer, "ROW_GROUP_BYTES", 1_000)
    run(tmp_path / "out.parquet", records=40, part_rows=20)
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    assert metadata.num_row_groups > 2
    assert pq.read_table(tmp_path / "out.parquet")["number"].to_pylist() == kept(40)


def test_columns_that_parquet_cannot_hold_are_refused_at_once(tmp_path: Path) -> None:
    schema = pa.schema([("interval", pa.month_day_nano_interval())])
    with pytest.raises(InputError, match="cannot be written to Parquet"):
        open_commit(str(tmp_path / "out.parquet"), schema=schema)
    assert not list(tmp_path.iterdir())


def test_ten_million_parts_sorted_by_name_are_in_order() -> None:
    numbers = [0, 9, 10, 99_999, 100_000, 100_001, 999_999, 1_000_000, 9_999_999]
    assert sorted(map(part_name, reversed(numbers))) == [part_name(number) for number in numbers]
    assert part_name(0) == "part-0000000.parquet"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "make the folder writable"),
        (errno.EROFS, "file system that can be written"),
        (errno.EIO, "run the same command again"),
    ],
)
def test_an_error_of_storage_says_what_to_do(number: int, advice: str) -> None:
    with pytest.raises(StorageError, match=advice), commit_files.translated("opening x"):
        raise OSError(number, os.strerror(number), "x")
