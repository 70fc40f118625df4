"""What the commit protocol promises to a job: its output once and whole, and refusals that say why."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchqa.commit import (
    Commit,
    Target,
    check_target,
    differences,
    earlier_job,
    find_output,
    fingerprint,
    jsonlines,
    merging,
    open_output,
    parts,
    space_shortage,
    thrift,
)
from batchqa.commit import files as commit_files
from batchqa.commit.lock import Lock
from batchqa.errors import InputError, PreconditionError, SettingsError, StorageError, TryAgainError
from batchqa.records import Cursor
from tests import commit_job
from tests.commit_job import FIELDS, PART_ROWS, RECORDS, SCHEMA, kept, rows_of, run

OUTPUTS = ["out.parquet", "out.jsonl", "out/", "out.jsonl/"]


@pytest.fixture(params=OUTPUTS)
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An output of each kind; a trailing slash makes it a folder."""
    return f"{tmp_path}/{request.param}"


def numbers_in(output: str) -> list[int]:
    """The records that stand in an output, in order."""
    target = Target.parse(output)
    if target.kind == "jsonl":
        return [json.loads(line)["number"] for line in target.path.read_text().splitlines()]
    if target.kind == "parquet":
        return pq.read_table(target.path)["number"].to_pylist()
    found = []
    for path in sorted(target.path.glob("part-*")):
        if target.format == "parquet":
            found += pq.read_table(path)["number"].to_pylist()
        else:
            found += [json.loads(line)["number"] for line in path.read_text().splitlines()]
    return found


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


def staging(output: str) -> Path:
    """Where the parts of an unfinished output stand."""
    target = Target.parse(output)
    return target.path if target.kind == "folder" and target.format == "parquet" else target.staging


# --- what comes out


def test_every_record_is_in_the_output_once_and_in_order_or_in_the_rejects(
    output: str, tmp_path: Path
) -> None:
    commit = run(output)
    assert numbers_in(output) == kept(RECORDS)
    rejects = Target.parse(output).rejects.read_text().splitlines()
    assert [json.loads(line)["number"] for line in rejects] == [4, 9, 14, 19]
    assert commit.done_record()["records_in"] == RECORDS
    assert commit.done_record()["rejects"] == 4
    assert commit.done_record()["errors"] == {"bad_json": 4}
    assert commit.done_record()["totals"] == {"model": "abc"}


def test_nothing_unfinished_stays_beside_a_finished_output(output: str, tmp_path: Path) -> None:
    run(output)
    assert not Target.parse(output).staging.exists()
    assert not list(tmp_path.rglob("_batchqa"))
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_input_without_records_gives_an_output_with_columns_and_no_rows(output: str) -> None:
    run(output, records=0)
    assert numbers_in(output) == []
    target = Target.parse(output)
    if target.format == "parquet":
        assert (
            pq.read_schema(next(target.path.glob("*.parquet")) if target.kind == "folder" else target.path)
            == SCHEMA
        )


def test_a_last_part_that_is_full_is_followed_by_none(output: str) -> None:
    commit = run(output, records=4 * PART_ROWS)
    assert len(commit.committed) == 4
    assert numbers_in(output) == kept(4 * PART_ROWS)


def test_output_without_rejects_has_no_rejects_file(output: str) -> None:
    run(output, records=4)
    assert not Target.parse(output).rejects.exists()


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_a_folder_is_complete_when_success_is_there_and_it_lists_its_files(tmp_path: Path, name: str) -> None:
    run(f"{tmp_path}/{name}/")
    folder = tmp_path / name
    success = json.loads((folder / "_SUCCESS").read_text())
    assert [entry["name"] for entry in success["outcome"]["files"]] == sorted(
        path.name for path in folder.glob("part-*.parquet")
    )
    assert sum(entry["rows"] for entry in success["outcome"]["files"]) == len(kept(RECORDS))
    assert pl.read_parquet(folder / "*.parquet")["number"].to_list() == kept(RECORDS)


def test_a_jsonl_sidecar_describes_the_file_it_stands_beside(tmp_path: Path) -> None:
    run(tmp_path / "out.jsonl")
    sidecar = json.loads((tmp_path / "out.jsonl.batchqa.json").read_text())
    assert sidecar["sha256"] == commit_job.hashlib.sha256((tmp_path / "out.jsonl").read_bytes()).hexdigest()
    assert sidecar["record"]["outcome"]["rows_out"] == len(kept(RECORDS))


def test_the_footer_of_the_output_carries_fingerprint_and_record(tmp_path: Path) -> None:
    commit = run(tmp_path / "out.parquet")
    metadata = pq.read_metadata(tmp_path / "out.parquet").metadata
    assert metadata[b"batchqa.fingerprint"].decode() == commit.fingerprint
    record = json.loads(metadata[b"batchqa.record"])
    assert record["fields"]["model"] == "abc"
    assert record["outcome"]["rows_out"] == len(kept(RECORDS))


def test_output_files_have_the_usual_mode_and_the_staging_is_private(output: str, tmp_path: Path) -> None:
    run(output, stop_at=3)
    assert stat.S_IMODE((staging(output) / "_batchqa").stat().st_mode) == 0o700
    if staging(output) == Target.parse(output).staging:
        assert stat.S_IMODE(staging(output).stat().st_mode) == 0o700
    run(output)
    umask = os.umask(0o022)
    os.umask(umask)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o666 & ~umask}
    assert stat.S_IMODE(Target.parse(output).path.stat().st_mode) in {0o666 & ~umask, 0o777 & ~umask}


# --- resume


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_interrupted_job_gives_the_same_bytes_as_an_undisturbed_one(tmp_path: Path, name: str) -> None:
    run(f"{tmp_path}/once/{name}")
    for part in (0, 2, 5, 7):
        run(f"{tmp_path}/often/{name}", stop_at=part)
    assert run(f"{tmp_path}/often/{name}").state == "resumed"
    assert contents(tmp_path / "once") == contents(tmp_path / "often")


@pytest.mark.parametrize("missing", [[0], [3], [7], [0, 1, 4, 7], [2, 3, 4]])
def test_parts_that_are_missing_are_done_again_and_only_those(tmp_path: Path, missing: list[int]) -> None:
    run(tmp_path / "once.parquet")
    output = str(tmp_path / "out.parquet")
    commit_before_publishing(output)
    kept_parts = {}
    for part in range(8):
        path = staging(output) / f"part-{part:05d}.parquet"
        if part in missing:
            path.unlink()
        else:
            kept_parts[part] = path.stat().st_mtime_ns
    with open_commit(output) as commit:
        assert commit.state == "resumed"
        todo = [part for part, _ in commit_job.numbers_of_parts(commit, RECORDS, PART_ROWS)]
    assert todo == missing
    assert {
        p: (staging(output) / f"part-{p:05d}.parquet").stat().st_mtime_ns for p in kept_parts
    } == kept_parts
    run(output)
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "once.parquet").read_bytes()


def test_the_settings_that_the_first_run_resolved_hold_for_the_second(output: str) -> None:
    run(output, stop_at=2)
    with open_commit(output) as commit:
        assert commit.resolved == {"batch_tokens": 8192}
        assert commit.begin({"batch_tokens": 1, "threads": 64}) == {"batch_tokens": 8192}


def test_what_a_job_resolved_can_be_known_before_its_fingerprint(output: str) -> None:
    assert earlier_job(Target.parse(output)) is None
    run(output, stop_at=2)
    unfinished = earlier_job(Target.parse(output))
    assert unfinished is not None
    assert unfinished.resolved == {"batch_tokens": 8192}
    run(output)
    finished = earlier_job(Target.parse(output))
    assert finished is not None
    assert finished.resolved == {"batch_tokens": 8192}
    assert finished.fields["model"] == "abc"


def test_a_job_that_stopped_before_its_first_part_goes_on(output: str) -> None:
    with open_commit(output) as commit:
        assert commit.state == "fresh"
    assert run(output).state == "fresh"
    assert numbers_in(output) == kept(RECORDS)


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


# --- parts that are not good, and files that are not ours


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_in_the_footer(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-200:-100] = bytes(100)
    path.write_bytes(data)


def drop_rejects(path: Path) -> None:
    (path.parent / "_batchqa" / "rejects-00001.jsonl").unlink()


def change_rejects(path: Path) -> None:
    (path.parent / "_batchqa" / "rejects-00001.jsonl").write_bytes(b"{}\n")


@pytest.mark.parametrize("damage", [truncate, empty, flip_in_the_footer, drop_rejects, change_rejects])
def test_a_damaged_part_is_done_again(output: str, damage: Callable[[Path], None], tmp_path: Path) -> None:
    run(output, stop_at=5)
    damage(staging(output) / "part-00001.parquet")
    with open_commit(output) as commit:
        assert [part.part for part in commit.committed] == [0, 2, 3, 4]
    run(output)
    assert numbers_in(output) == kept(RECORDS)
    assert len(Target.parse(output).rejects.read_text().splitlines()) == 4


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl", "out.jsonl/"])
def test_a_flipped_bit_in_a_parts_pages_is_found_before_publishing_and_mended_by_the_next_run(
    tmp_path: Path, name: str
) -> None:
    output = f"{tmp_path}/{name}"
    run(output, stop_at=7)
    path = staging(output) / "part-00002.parquet"
    data = bytearray(path.read_bytes())
    data[1000] ^= 4
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"part-00002\.parquet.*the same command makes it again"):
        run(output)
    assert find_output(Target.parse(output)) is None
    run(output)
    assert numbers_in(output) == kept(RECORDS)


def test_a_part_whose_count_is_not_that_of_its_record_is_done_again(tmp_path: Path) -> None:
    output = str(tmp_path / "out.parquet")
    run(output, stop_at=3)
    path = staging(output) / "part-00001.parquet"
    metadata = pq.read_metadata(path).metadata
    with pq.ParquetWriter(path, SCHEMA) as writer:
        writer.write_table(pa.Table.from_batches([rows_of([3])]))
        writer.add_key_value_metadata({k: v for k, v in metadata.items() if k.startswith(b"batchqa")})
    run(output)
    assert numbers_in(output) == kept(RECORDS)


def test_a_short_part_before_others_is_done_again(output: str) -> None:
    with open_commit(output) as commit:
        commit.begin({"batch_tokens": 8192})
        for part, numbers in [(0, [0, 1, 2]), (1, [3]), (2, [6, 7, 8])]:
            with commit.part(part) as writer:
                commit_job.fill(writer, numbers)
    with open_commit(output) as commit:
        assert [part.part for part in commit.committed] == [0, 2]
    run(output)
    assert numbers_in(output) == kept(RECORDS)


def test_parts_with_other_columns_are_done_again(output: str) -> None:
    run(output, stop_at=3)
    with open_commit(output, schema=SCHEMA.append(pa.field("more", pa.int8()))) as commit:
        assert commit.committed == ()


def cut_in_half(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(1), path)


@pytest.mark.parametrize("damage", [truncate, cut_in_half])
def test_a_part_that_is_damaged_before_publishing_keeps_the_output_from_being_published(
    output: str, damage: Callable[[Path], None]
) -> None:
    with open_commit(output) as commit:
        commit.begin({"batch_tokens": 8192})
        for part, numbers in commit_job.numbers_of_parts(commit, RECORDS, PART_ROWS):
            with commit.part(part) as writer:
                commit_job.fill(writer, numbers)
        damage(staging(output) / "part-00002.parquet")
        with pytest.raises(StorageError):
            commit.publish({})
    assert find_output(Target.parse(output)) is None


@pytest.mark.parametrize(
    ("code", "fails"), [(errno.EIO, True), (errno.EINVAL, False), (errno.ENOTSUP, False)]
)
def test_a_folder_that_cannot_be_synced_is_an_error_unless_the_file_system_cannot_do_it_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, fails: bool
) -> None:
    def broken(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", broken)
    if fails:
        with pytest.raises(StorageError, match="Input/output error"):
            run(tmp_path / "out.parquet")
    else:
        run(tmp_path / "out.parquet")
        assert numbers_in(str(tmp_path / "out.parquet")) == kept(RECORDS)


def write_text(path: Path) -> None:
    path.write_text("not mine")


def write_parquet(path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("notes.txt", write_text),
        ("part-00001.parquet", write_text),
        ("part-00001.parquet", write_parquet),
        ("_batchqa/notes.txt", write_text),
    ],
)
@pytest.mark.parametrize("restart", [False, True])
def test_a_strangers_file_in_the_staging_is_refused_and_never_removed(
    output: str, name: str, write: Callable[[Path], None], restart: bool
) -> None:
    run(output, stop_at=3)
    stranger = staging(output) / name
    stranger.unlink(missing_ok=True)
    write(stranger)
    before = stranger.read_bytes()
    with pytest.raises(PreconditionError, match=stranger.name):
        run(output, restart=restart)
    assert stranger.read_bytes() == before
    assert (staging(output) / "part-00002.parquet").exists()


def test_a_part_of_another_job_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "one.parquet", stop_at=3)
    run(tmp_path / "other.parquet", stop_at=2, fields={"model": "other"})
    (tmp_path / "one.parquet.batchqa" / "part-00002.parquet").rename(
        tmp_path / "other.parquet.batchqa" / "part-00002.parquet"
    )
    with pytest.raises(PreconditionError, match=r"part-00002\.parquet: this is a part of another job"):
        run(tmp_path / "other.parquet", fields={"model": "other"})


def test_hidden_files_do_not_disturb_a_job_and_are_left_with_a_note(tmp_path: Path) -> None:
    output = str(tmp_path / "out.parquet")
    run(output, stop_at=3)
    (staging(output) / ".nfs0001").write_text("")
    commit = run(output)
    assert numbers_in(output) == kept(RECORDS)
    assert "not of batchqa" in commit.notes[0]
    assert (staging(output) / ".nfs0001").exists()


def test_unfinished_files_of_a_stopped_run_are_removed_at_the_next_start(output: str) -> None:
    run(output, stop_at=3)
    tmp = staging(output) / "_batchqa" / "part-00003.parquet.tmp"
    tmp.write_bytes(b"PAR1 half of a part")
    with open_commit(output):
        assert not tmp.exists()


def test_unfinished_files_never_look_like_parquet(tmp_path: Path) -> None:
    output = str(tmp_path / "out.parquet")
    with open_commit(output) as commit:
        commit.begin({})
        with commit.part(0) as part:
            part.write(rows_of([0, 1]))
            part.reject(b"{}")
            assert not list(tmp_path.rglob("*.parquet"))
            assert len(list(tmp_path.rglob("*.tmp"))) == 2


# --- one part


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
    monkeypatch.setattr(parts, "ROW_GROUP_BYTES", 1)
    output = str(tmp_path / "out.parquet")
    with open_commit(output) as commit:
        commit.begin({})
        with pytest.raises(RuntimeError, match="in the middle"):
            fail_in_the_middle(commit)
    (tmp,) = staging(output).rglob("part-00000.parquet.*.tmp")
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
    monkeypatch.setattr(parts, "ROW_GROUP_BYTES", 1_000)
    run(tmp_path / "out.parquet", records=40, part_rows=20)
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    assert metadata.num_row_groups > 2
    assert pq.read_table(tmp_path / "out.parquet")["number"].to_pylist() == kept(40)


def test_columns_that_parquet_cannot_hold_are_refused_at_once(tmp_path: Path) -> None:
    schema = pa.schema([("interval", pa.month_day_nano_interval())])
    with pytest.raises(InputError, match="cannot be written to Parquet"):
        open_commit(str(tmp_path / "out.parquet"), schema=schema)
    assert not list(tmp_path.iterdir())


# --- what is there already


def test_the_same_job_again_changes_nothing(output: str, tmp_path: Path) -> None:
    run(output)
    before = snapshot(tmp_path)
    commit = run(output)
    assert commit.state == "done"
    assert commit.done_record()["records_in"] == RECORDS
    assert snapshot(tmp_path) == before
    assert run(output, overwrite=True).state == "done"
    assert snapshot(tmp_path) == before


def test_a_finished_output_with_other_options_is_refused_with_what_differs(
    output: str, tmp_path: Path
) -> None:
    run(output)
    before = snapshot(tmp_path)
    with pytest.raises(PreconditionError, match=r'model: "abc" -> "other".*--overwrite'):
        run(output, fields={**FIELDS, "model": "other"})
    with pytest.raises(PreconditionError, match="part_rows: 3 -> 5"):
        run(output, part_rows=5)
    assert snapshot(tmp_path) == before


def test_an_output_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "out.parquet")
    (tmp_path / "out.jsonl").write_text("{}\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "data.csv").write_text("a\n1\n")
    before = snapshot(tmp_path)
    for name in ("out.parquet", "out.jsonl", "out/"):
        with pytest.raises(PreconditionError, match="not an output of batchqa"):
            run(f"{tmp_path}/{name}")
    assert snapshot(tmp_path) == before


def test_overwrite_keeps_the_old_output_readable_until_the_new_one_is_there(output: str) -> None:
    run(output, records=7)
    other = {**FIELDS, "model": "other"}
    for stop_at in (0, 3, 6):
        run(output, fields=other, overwrite=True, stop_at=stop_at)
        assert numbers_in(output) == kept(7)
    run(output, fields=other, overwrite=True)
    assert numbers_in(output) == kept(RECORDS)
    assert len(Target.parse(output).rejects.read_text().splitlines()) == 4
    assert not Target.parse(output).staging.exists()


def test_overwrite_removes_the_rejects_of_the_output_it_replaces(output: str) -> None:
    run(output)
    assert Target.parse(output).rejects.exists()
    run(output, records=4, fields={"model": "other"}, overwrite=True)
    assert numbers_in(output) == kept(4)
    assert not Target.parse(output).rejects.exists()


def test_overwrite_replaces_a_file_of_others_but_never_a_folder_of_others(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("{}\n")
    run(tmp_path / "out.jsonl", overwrite=True)
    assert numbers_in(str(tmp_path / "out.jsonl")) == kept(RECORDS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(PreconditionError, match="never replaced"):
        run(f"{tmp_path}/out/", overwrite=True)
    run(f"{tmp_path}/other/")
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(PreconditionError, match=r"thesis\.tex.*never replaced"):
        run(f"{tmp_path}/other/", overwrite=True, fields={"model": "other"})
    assert (tmp_path / "other" / "thesis.tex").exists()


def test_a_folder_is_replaced_even_where_the_kernel_cannot_exchange_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(f"{tmp_path}/out/", records=7)
    monkeypatch.setattr(commit_files.ctypes, "CDLL", lambda *args, **options: object())
    run(f"{tmp_path}/out/", fields={"model": "other"}, overwrite=True)
    assert numbers_in(f"{tmp_path}/out/") == kept(RECORDS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.rejects.jsonl"]


def test_a_finished_folder_from_which_a_part_was_taken_is_not_done(tmp_path: Path) -> None:
    run(f"{tmp_path}/out/")
    (tmp_path / "out" / "part-00003.parquet").unlink()
    with pytest.raises(PreconditionError, match=r"part-00003\.parquet is missing"):
        run(f"{tmp_path}/out/")


def test_a_jsonl_file_that_was_changed_is_not_done(tmp_path: Path) -> None:
    run(tmp_path / "out.jsonl")
    text = (tmp_path / "out.jsonl").read_text()
    (tmp_path / "out.jsonl").write_text(text.replace('"number":0', '"number":9'))
    with pytest.raises(PreconditionError, match="not whole"):
        run(tmp_path / "out.jsonl")


def test_rejects_left_of_an_output_that_is_gone_are_not_silently_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.parquet.rejects.jsonl").write_text("{}\n")
    with pytest.raises(PreconditionError, match=r"out\.parquet\.rejects\.jsonl"):
        run(tmp_path / "out.parquet")
    run(tmp_path / "out.parquet", overwrite=True)
    assert len((tmp_path / "out.parquet.rejects.jsonl").read_text().splitlines()) == 4


def test_an_unfinished_job_with_other_options_is_refused_and_restart_discards_it(output: str) -> None:
    run(output, stop_at=4)
    with pytest.raises(PreconditionError, match=r'model: "abc" -> "other".*--restart'):
        run(output, fields={**FIELDS, "model": "other"})
    assert (staging(output) / "part-00003.parquet").exists()
    assert run(output, fields={**FIELDS, "model": "other"}, restart=True).state == "fresh"
    assert numbers_in(output) == kept(RECORDS)


def test_restart_begins_the_same_job_anew(output: str) -> None:
    run(output, stop_at=4)
    with open_commit(output, restart=True) as commit:
        assert commit.state == "fresh"
        assert commit.committed == ()
        assert not list(staging(output).glob("part-*"))


def test_an_unreadable_job_file_is_refused_and_restart_discards_it(output: str) -> None:
    run(output, stop_at=2)
    (staging(output) / "_batchqa" / "job.json").write_text('{"format": 99}')
    with pytest.raises(PreconditionError, match=r"job\.json.*--restart"):
        run(output)
    run(output, restart=True)
    assert numbers_in(output) == kept(RECORDS)


def test_a_run_that_was_stopped_after_publishing_is_cleaned_up_by_the_next(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchqa.commit.staging.Staging.remove", lambda self: True)
    run(output)
    assert list(tmp_path.rglob("job.json"))
    monkeypatch.undo()
    assert run(output).state == "done"
    assert not list(tmp_path.rglob("job.json"))
    assert numbers_in(output) == kept(RECORDS)


@pytest.mark.parametrize("left", [["job.json", "lock"], ["lock"], []])
def test_a_run_that_was_stopped_while_cleaning_up_is_cleaned_up_by_the_next(
    output: str, tmp_path: Path, left: list[str]
) -> None:
    run(output, stop_at=2)
    job = (staging(output) / "_batchqa" / "job.json").read_bytes()
    run(output)
    before = contents(tmp_path)
    control = staging(output) / "_batchqa"
    control.mkdir(parents=True)
    for name in left:
        (control / name).write_bytes(job if name == "job.json" else b"")
    assert run(output).state == "done"
    assert contents(tmp_path) == before
    assert not control.exists()
    assert not Target.parse(output).staging.exists()


def test_a_job_that_never_began_leaves_nothing_behind(output: str, tmp_path: Path) -> None:
    with open_commit(output):
        pass
    assert not list(tmp_path.iterdir())
    Target.parse(output).rejects.write_text("{}\n")
    with pytest.raises(PreconditionError):
        run(output)
    assert [path.name for path in tmp_path.iterdir()] == [Target.parse(output).rejects.name]


@pytest.mark.parametrize("name", ["out", "out.jsonl"])
def test_an_empty_folder_is_a_place_for_an_output_and_stays_if_nothing_begins(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    with open_commit(f"{tmp_path}/{name}/"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]
    run(f"{tmp_path}/{name}/")
    assert numbers_in(f"{tmp_path}/{name}/") == kept(RECORDS)


# --- the lock


def test_a_second_run_on_the_same_output_is_told_to_try_again(output: str) -> None:
    with open_commit(output) as first:
        first.begin({})
        with pytest.raises(TryAgainError, match="another run is writing it"):
            open_commit(output)
    run(output)
    assert numbers_in(output) == kept(RECORDS)


def test_a_forked_child_does_not_hold_the_lock_after_its_parent(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\n"
        "from batchqa.commit.lock import Lock\n"
        "from pathlib import Path\n"
        "lock = Lock(Path(sys.argv[1]), 'x')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os.close(1)\n"
        "    time.sleep(60)\n"
        "print(child, flush=True)\n"
        "os._exit(0)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "lock")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    ended = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
    child = int(ended.stdout)
    try:
        os.kill(child, 0)
        Lock(tmp_path / "lock", "x").release()
    finally:
        os.kill(child, 9)


def test_a_program_that_is_started_does_not_inherit_the_lock(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock", "x")
    sleeper = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        lock.release()
        Lock(tmp_path / "lock", "x").release()
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_lock_whose_file_was_removed_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock

    def remove_and_lock(descriptor: int, operation: int) -> None:
        (tmp_path / "lock").unlink()
        (tmp_path / "lock").touch()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_and_lock)
    with pytest.raises(FileNotFoundError):
        Lock(tmp_path / "lock", "x")


def test_a_file_system_without_locks_is_noted_and_the_job_goes_on(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    commit = run(output)
    assert "no lock on this file system" in commit.notes[0]
    assert numbers_in(output) == kept(RECORDS)


def test_where_locks_do_not_work_a_run_that_comes_second_leaves_the_output_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", lambda descriptor, operation: None)
    output = str(tmp_path / "out.parquet")
    with open_commit(output) as second:
        second.begin({"batch_tokens": 8192})
        for part, numbers in commit_job.numbers_of_parts(second, RECORDS, PART_ROWS):
            with second.part(part) as writer:
                commit_job.fill(writer, numbers)
        run(output)
        before = (tmp_path / "out.parquet").stat()
        second.publish({"model": "abc"})
    assert (tmp_path / "out.parquet").stat() == before


def test_where_locks_do_not_work_two_runs_at_once_do_not_disturb_each_other(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with open_commit(output) as first:
        first.begin({"batch_tokens": 8192})
        with first.part(0) as of_first:
            of_first.write(rows_of([0, 1]))
            with open_commit(output) as second, second.part(0) as of_second:
                of_second.write(rows_of([0]))
                of_first.write(rows_of([2]))
                of_first.commit(3, Cursor(0, 3, 3, 20), errors={}, counts={}, versions={}, device="cpu")
                assert pq.read_table(staging(output) / "part-00000.parquet").num_rows == 3
    run(output)
    assert numbers_in(output) == kept(RECORDS)


# --- staging that somebody else prepared


def test_a_staging_folder_that_is_a_link_is_not_followed(output: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    if staging(output) == Target.parse(output).path:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "_batchqa").symlink_to(tmp_path / "elsewhere")
    else:
        staging(output).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PreconditionError):
        run(output)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder away")
def test_a_staging_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.parquet.batchqa").mkdir()
    os.chown(tmp_path / "out.parquet.batchqa", 12345, 12345)
    with pytest.raises(PreconditionError, match="belongs to another user"):
        run(tmp_path / "out.parquet")


def test_a_tmp_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    output = str(tmp_path / "out.parquet")
    (tmp_path / "victim").write_text("precious")
    with open_commit(output) as commit:
        commit.begin({})
        commit._staging.tmp("part-00000.parquet").symlink_to(tmp_path / "victim")
        with commit.part(0) as part:
            commit_job.fill(part, [0, 1, 2])
    assert (tmp_path / "victim").read_text() == "precious"


# --- targets


@pytest.mark.parametrize(
    ("text", "kind", "form"),
    [
        ("a/x.parquet", "parquet", "parquet"),
        ("x.jsonl", "jsonl", "jsonl"),
        ("x.PARQUET", "parquet", "parquet"),
        ("-", "stdout", "jsonl"),
        ("a/x", "folder", "parquet"),
        ("x/", "folder", "parquet"),
        ("x.parquet/", "folder", "parquet"),
        ("x.jsonl/", "folder", "jsonl"),
        ("v1.2/", "folder", "parquet"),
    ],
)
def test_the_text_of_an_output_says_what_it_is(text: str, kind: str, form: str) -> None:
    target = Target.parse(text)
    assert (target.kind, target.format) == (kind, form)
    assert kind == "stdout" or target.path == Path.cwd() / text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x.csv",
        "x.json",
        "x.batchqa",
        "/",
        "a\0b",
        "x.jsonl.gz",
        "ftp://b/x.parquet",
        "hdfs://b/x",
        "s3://b",
        "s3:///x/",
    ],
)
def test_a_text_that_is_no_output_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        Target.parse(text)


@pytest.mark.parametrize(
    "spelling", ["in.jsonl", "./in.jsonl", "d/../in.jsonl", "link.jsonl", "hard.jsonl", "{abs}"]
)
def test_an_output_that_is_an_input_is_refused_however_it_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "in.jsonl").write_text("{}\n")
    (tmp_path / "link.jsonl").symlink_to("in.jsonl")
    (tmp_path / "hard.jsonl").hardlink_to("in.jsonl")
    text = spelling.format(abs=tmp_path / "in.jsonl")
    with pytest.raises(SettingsError, match=r"input|symbolic link"):
        check_target(Target.parse(text), ["in.jsonl"], overwrite=True)
    with pytest.raises(SettingsError, match="input"):
        check_target(Target.parse("in.jsonl"), [text], overwrite=True)


def test_an_input_that_would_be_replaced_by_the_rejects_is_refused(tmp_path: Path) -> None:
    rejects = tmp_path / "out.parquet.rejects.jsonl"
    rejects.write_text("{}\n")
    with pytest.raises(SettingsError, match="is an input"):
        check_target(Target.parse(f"{tmp_path}/out.parquet"), [str(rejects)], overwrite=True)


@pytest.mark.parametrize("output", ["in/out", "in/out.parquet", "in/deep/out/", "in/", "linked/out.jsonl"])
def test_an_output_inside_an_input_folder_is_refused(tmp_path: Path, output: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.parquet").write_text("")
    (tmp_path / "linked").symlink_to("in")
    with pytest.raises(SettingsError, match="inside"):
        check_target(Target.parse(f"{tmp_path}/{output}"), [f"{tmp_path}/in"], overwrite=False)


@pytest.mark.parametrize(
    ("pattern", "output", "refused"),
    [
        ("in/*.parquet", "in/out.parquet", True),
        ("in/*.parquet", "in/sub/out.parquet", False),
        ("in/**/*.parquet", "in/sub/out.parquet", True),
        ("in/*/*.parquet", "in/out/", True),
        ("in/*", "in/out/", True),
        ("in/*.jsonl", "in/out.parquet", False),
        ("*.parquet", "out.parquet", True),
    ],
)
def test_an_output_that_a_glob_of_the_inputs_would_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, output: str, refused: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    if refused:
        with pytest.raises(SettingsError, match="matches the input"):
            check_target(Target.parse(output), [pattern], overwrite=False)
    else:
        check_target(Target.parse(output), [pattern], overwrite=False)


def test_an_output_beside_its_input_is_fine(tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_text("")
    for name in ("out.parquet", "out/", "new/folder/out.jsonl"):
        check_target(Target.parse(f"{tmp_path}/{name}"), [f"{tmp_path}/in.parquet"], overwrite=False)


def test_an_input_inside_the_output_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "in.jsonl").write_text("")
    with pytest.raises(SettingsError, match="lies inside"):
        check_target(Target.parse(f"{tmp_path}/out/"), [f"{tmp_path}/out/in.jsonl"], overwrite=False)


def test_things_that_are_no_files_are_refused_as_outputs(tmp_path: Path) -> None:
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "real.parquet").write_text("")
    (tmp_path / "link.parquet").symlink_to("real.parquet")
    (tmp_path / "dangling.parquet").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, why in [
        ("folder.parquet", "is a folder"),
        ("file", "is a file"),
        ("link.parquet", "symbolic link"),
        ("dangling.parquet", "symbolic link"),
        ("pipe.jsonl", "no regular file"),
        ("file/out.parquet", "not a|Not a"),
    ]:
        with pytest.raises(SettingsError, match=why):
            check_target(Target.parse(f"{tmp_path}/{name}"), [], overwrite=True)


def test_a_name_for_which_no_companion_fits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="too long"):
        check_target(Target.parse(f"{tmp_path}/{'x' * 244}.jsonl"), [], overwrite=False)
    with pytest.raises(SettingsError):
        check_target(Target.parse(f"{tmp_path}/{'x' * 300}/out.jsonl"), [], overwrite=False)
    check_target(Target.parse(f"{tmp_path}/{'x' * 230}.jsonl"), [], overwrite=False)


def test_names_that_are_no_utf8_work(tmp_path: Path) -> None:
    for name in (b"a\xff.parquet", b"a\xff.jsonl", b"a\xff/"):
        output = f"{tmp_path}/{os.fsdecode(name)}"
        check_target(Target.parse(output), [], overwrite=False)
        run(output, stop_at=3)
        run(output)
        assert run(output).state == "done"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(SettingsError, match="cannot be written"):
        check_target(Target.parse(f"{tmp_path}/closed/sub/out.parquet"), [], overwrite=False)


def test_a_folder_that_cannot_be_written_is_refused_for_root_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A read-only file system refuses root as well; access(2) says so.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SettingsError, match="cannot be written"):
        check_target(Target.parse(f"{tmp_path}/sub/out.parquet"), [], overwrite=False)
    (tmp_path / "done.parquet").write_text("")
    check_target(Target.parse(f"{tmp_path}/done.parquet"), [], overwrite=False)


def test_missing_folders_above_the_output_are_made(tmp_path: Path) -> None:
    run(tmp_path / "a" / "b" / "out.parquet")
    assert numbers_in(str(tmp_path / "a" / "b" / "out.parquet")) == kept(RECORDS)


def test_too_little_space_is_said_before_the_start(tmp_path: Path) -> None:
    target, folder = Target.parse(f"{tmp_path}/a/out.parquet"), Target.parse(f"{tmp_path}/a/out/")
    assert space_shortage(target, 1) is None
    shortage = space_shortage(target, 10**18)
    assert shortage is not None
    assert "are free" in shortage
    half = shutil.disk_usage(tmp_path).free * 2 // 3
    assert space_shortage(target, half) is not None
    assert space_shortage(folder, half) is None


# --- fingerprints


def test_the_fingerprint_does_not_depend_on_the_order_of_the_fields() -> None:
    assert fingerprint({"a": 1, "b": [2, {"c": 3, "d": None}]}) == fingerprint(
        {"b": [2, {"d": None, "c": 3}], "a": 1}
    )
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint({"path": "\udcff"}) != fingerprint({"path": "x"})


def test_a_field_that_json_cannot_hold_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError):
        fingerprint({"a": object()})
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"a": float("nan")})


def test_differences_are_named_shortly_and_at_most_six() -> None:
    earlier = {"inputs": [{"size": 1, "uri": "a"}], "stride": 128, "same": (1, 2), "gone": "x" * 500}
    now = {"inputs": [{"size": 2, "uri": "a"}], "stride": 64, "same": [1, 2]}
    found = differences(json.loads(json.dumps(earlier)), now)
    assert found[1:] == ["inputs[0].size: 1 -> 2", "stride: 128 -> 64"]
    assert found[0].startswith('gone: "xxx')
    assert len(found[0]) < 100
    assert differences({"inputs": [1]}, {"inputs": [1, 2]}) == ["inputs: 1 of them -> 2 of them"]
    many = differences({str(n): 0 for n in range(20)}, {str(n): 1 for n in range(20)})
    assert many[5:] == ["and 15 more"]


# --- properties


@given(
    records=st.integers(0, 40),
    part_rows=st.integers(1, 9),
    stops=st.lists(st.integers(0, 12), max_size=4),
    name=st.sampled_from(OUTPUTS),
)
def test_any_part_size_and_any_interruptions_give_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, records: int, part_rows: int, stops: list[int], name: str
) -> None:
    output = f"{tmp_path_factory.mktemp('property')}/{name}"
    for stop_at in stops:
        run(output, records=records, part_rows=part_rows, stop_at=stop_at)
    commit = run(output, records=records, part_rows=part_rows)
    assert numbers_in(output) == kept(records)
    record = commit.done_record()
    assert record["rows_out"] + record["rejects"] == record["records_in"] == records
    rejects = Target.parse(output).rejects
    rejected = (
        [json.loads(line)["number"] for line in rejects.read_text().splitlines()] if rejects.exists() else []
    )
    assert sorted(rejected + kept(records)) == list(range(records))


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    original=st.dictionaries(st.text(), JSON_VALUES, max_size=4),
    space=st.sampled_from(["", " ", "\t"]),
    indent=st.booleans(),
)
def test_an_original_object_keeps_its_bytes_and_gains_the_new_members(
    original: dict[str, Any], space: str, indent: bool
) -> None:
    text = json.dumps(original, ensure_ascii=True, separators=(", ", " : ") if indent else (",", ":"))
    text = space + text[:-1] + space + "}" + space
    batch = pa.record_batch([pa.array([text]), pa.array(["ä"])], names=["_record", "qa_answer"])
    (line,) = jsonlines.lines(batch)
    assert json.loads(line) == {**original, "qa_answer": "ä"}
    assert line.startswith(text.strip()[:-1].encode() if original else b"{")
    assert line.count(b"\n") == 1


@given(st.lists(JSON_VALUES, min_size=1, max_size=5))
def test_rows_as_json_lines_read_back_as_they_were(values: list[Any]) -> None:
    texts = [json.dumps(value) for value in values]
    batch = pa.record_batch({"text": texts, "number": list(range(len(texts)))})
    lines = b"".join(jsonlines.lines(batch)).splitlines()
    assert [orjson.loads(line) for line in lines] == batch.to_pylist()


# --- JSON lines


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (pa.array([0.1], pa.float32()), "0.1"),
        (pa.array([float("nan")], pa.float32()), "null"),
        (pa.array([float("inf")], pa.float64()), "null"),
        (pa.array([Decimal("12345678901234567890.10")]), "12345678901234567890.10"),
        (pa.array([2**64 - 1], pa.uint64()), "18446744073709551615"),
        (pa.array([b"\xff\x00"]), '"/wA="'),
        (pa.array([0], pa.timestamp("us")), '"1970-01-01T00:00:00"'),
        (pa.array([1], pa.timestamp("ns")), '"1970-01-01 00:00:00.000000001"'),
        (pa.array([568971820800], pa.timestamp("s")), '"20000-01-01 00:00:00"'),
        (pa.array([12345], pa.time64("us")), '"00:00:00.012345"'),
        (pa.array([7], pa.duration("ms")), "7"),
        (pa.array(["a"]).dictionary_encode(), '"a"'),
        (pa.array([None], pa.string()), "null"),
        (pa.array([[{"s": 0.3}]], pa.list_(pa.struct([("s", pa.float32())]))), '[{"s":0.3}]'),
        (pa.array([[("k", 1.5)]], pa.map_(pa.string(), pa.float32())), '[["k",1.5]]'),
        (pa.array(["\u2028\u0000"]), '"\u2028\\u0000"'),
    ],
)
def test_every_type_has_a_json_form(array: pa.Array, text: str) -> None:
    (line,) = jsonlines.lines(pa.record_batch({"x": array}))
    assert line.decode() == '{"x":' + text + "}\n"


@pytest.mark.parametrize(
    ("original", "line"),
    [
        ('{"a":1}', '{"a":1,"qa":7}'),
        ("{}", '{"qa":7}'),
        ("{ }\r", '{"qa":7}'),
        (None, '{"qa":7}'),
        ("", '{"qa":7}'),
        ("[1]", '{"_record":"[1]","qa":7}'),
        ("null", '{"_record":"null","qa":7}'),
        ('{"a":1}x', '{"_record":"{\\"a\\":1}x","qa":7}'),
        (
            '{"a": 1e400, "b": 123456789012345678901234567890}',
            '{"a": 1e400, "b": 123456789012345678901234567890,"qa":7}',
        ),
    ],
)
def test_an_original_line_is_kept_byte_for_byte(original: str | None, line: str) -> None:
    batch = pa.record_batch([pa.array([original], pa.string()), pa.array([7])], names=["_record", "qa"])
    (found,) = jsonlines.lines(batch)
    assert found.decode() == line + "\n"


def test_large_rows_are_turned_into_lines_a_few_at_a_time() -> None:
    batch = pa.record_batch({"text": ["x" * 2**20] * 20})
    assert len(list(jsonlines.lines(batch))) > 2


# --- merging


def table_of(number: int, rows: int) -> pa.Table:
    """A table with every kind of column whose pages are written differently."""
    numbers = range(number, number + rows)
    return pa.table(
        {
            "a": pa.array(numbers, pa.int64()),
            "text": pa.array([None if n % 7 == 0 else "x" * (n % 50) for n in numbers], pa.large_string()),
            "view": pa.array([str(n) for n in numbers], pa.string_view()),
            "dictionary": pa.array([f"{number}-{n % 3}" for n in numbers]).dictionary_encode(),
            "nested": pa.array(
                [[{"u": n, "v": str(n)}] * (n % 3) for n in numbers],
                pa.list_(pa.struct([("u", pa.int32()), ("v", pa.string())])),
            ),
            "time": pa.array(numbers, pa.timestamp("ns", "Europe/Berlin")),
            "nothing": pa.nulls(rows),
            "flag": pa.array([n % 2 == 0 for n in numbers]),
        }
    )


def merge_part(path: Path) -> merging.MergePart:
    data = path.read_bytes()
    size = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return merging.MergePart(0, path, size, merging.zlib.crc32(data[:size]))


@pytest.mark.parametrize(
    "options", [{}, {"compression": "none"}, {"write_page_index": True}, {"use_dictionary": False}]
)
def test_merged_files_read_as_if_written_at_once(tmp_path: Path, options: dict[str, Any]) -> None:
    tables = [table_of(0, 3000), table_of(3000, 1), table_of(3001, 1).slice(0, 0), table_of(3001, 777)]
    found = []
    for index, table in enumerate(tables):
        path = tmp_path / f"{index}.parquet"
        pq.write_table(table, path, row_group_size=100, write_page_checksum=True, **options)
        found.append(merge_part(path))
    merged = tmp_path / "merged.parquet"
    with merged.open("wb") as out:
        assert merging.merge(found, tables[0].schema, {"key": "value"}, out) == 3778
    expected = pa.concat_tables(tables)
    opened = pq.ParquetFile(merged, page_checksum_verification=True)
    assert opened.metadata.num_row_groups == 30 + 1 + 1 + 8
    assert opened.metadata.metadata[b"key"] == b"value"
    assert opened.schema_arrow == tables[0].schema
    assert opened.read().combine_chunks().equals(expected.combine_chunks())
    assert opened.read_row_group(35)["a"].to_pylist() == expected["a"].to_pylist()[3301:3401]
    assert pl.scan_parquet(merged).filter(pl.col("a") > 3700).select("text").collect().height == 77
    assert pq.read_table(merged, columns=["a"], filters=[("a", "==", 3500)]).num_rows == 1


def test_a_footer_survives_decoding_and_encoding(tmp_path: Path) -> None:
    pq.write_table(table_of(0, 500), tmp_path / "a.parquet", row_group_size=10)
    data = (tmp_path / "a.parquet").read_bytes()
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    assert thrift.encode(thrift.decode(footer)) == footer


@given(st.binary(max_size=200))
def test_damaged_footers_are_value_errors(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        thrift.decode(data)


def test_dictionaries_that_differ_between_batches_are_written(tmp_path: Path) -> None:
    schema = pa.schema([("d", pa.dictionary(pa.int32(), pa.string()))])
    with open_commit(str(tmp_path / "out.parquet"), schema=schema, part_rows=4) as commit:
        commit.begin({})
        with commit.part(0) as part:
            part.write(pa.record_batch([pa.array(["a", "b"]).dictionary_encode()], schema=schema))
            part.write(pa.record_batch([pa.array(["c", None]).dictionary_encode()], schema=schema))
            part.commit(4, Cursor(), errors={}, counts={}, versions={}, device="")
        commit.publish({})
    assert pq.read_table(tmp_path / "out.parquet")["d"].to_pylist() == ["a", "b", "c", None]


# --- standard output


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
    with os.fdopen(writing, "wb") as stream, pytest.raises(StorageError, match="closed by its reader"):
        stream_run(stream, records=3000)


def test_rejects_need_a_file_to_stand_beside() -> None:
    with (
        open_output(
            Target.parse("-"), fields={}, schema=SCHEMA, part_rows=3, compression="zstd", stream=io.BytesIO()
        ) as commit,
        commit.part(0) as part,
        pytest.raises(SettingsError, match="on-error reject"),
    ):
        part.reject(b"{}")
