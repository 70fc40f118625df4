"""What a job leaves behind: its output once and whole, and refusals where something is there already."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchqa.errors import PreconditionError
from batchqa.output import Target
from batchqa.store import files as commit_files
from tests import commit_job
from tests.commit_job import FIELDS, PART_ROWS, RECORDS, SCHEMA, kept, run
from tests.output.looking import (
    contents,
    numbers_in,
    open_commit,
    rejects_file,
    snapshot,
    staging,
    staging_beside,
)

# --- what comes out


def test_every_record_is_in_the_output_once_and_in_order_or_in_the_rejects(
    output: str, tmp_path: Path
) -> None:
    commit = run(output)
    assert numbers_in(output) == kept(RECORDS)
    rejects = rejects_file(output).read_text().splitlines()
    assert [json.loads(line)["number"] for line in rejects] == [4, 9, 14, 19]
    assert commit.done_record()["records_in"] == RECORDS
    assert commit.done_record()["rejects"] == 4
    assert commit.done_record()["errors"] == {"bad_json": 4}
    assert commit.done_record()["totals"] == {"model": "abc"}


def test_nothing_unfinished_stays_beside_a_finished_output(output: str, tmp_path: Path) -> None:
    run(output)
    assert not staging_beside(output).exists()
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
    assert not rejects_file(output).exists()


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
    if staging(output) == staging_beside(output):
        assert stat.S_IMODE(staging(output).stat().st_mode) == 0o700
    run(output)
    umask = os.umask(0o022)
    os.umask(umask)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o666 & ~umask}
    assert stat.S_IMODE(Target.parse(output).path.stat().st_mode) in {0o666 & ~umask, 0o777 & ~umask}


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
        # what --overwrite would refuse to replace is not said to be replaced by it
        advice = (
            "choose another output, or move it away" if name == "out/" else "give --overwrite to replace it"
        )
        with pytest.raises(PreconditionError, match=f"not an output of batchqa; {advice}"):
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
    assert len(rejects_file(output).read_text().splitlines()) == 4
    assert not staging_beside(output).exists()


def test_overwrite_removes_the_rejects_of_the_output_it_replaces(output: str) -> None:
    run(output)
    assert rejects_file(output).exists()
    run(output, records=4, fields={"model": "other"}, overwrite=True)
    assert numbers_in(output) == kept(4)
    assert not rejects_file(output).exists()


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
    (tmp_path / "out" / "part-0000003.parquet").unlink()
    with pytest.raises(PreconditionError, match=r"part-0000003\.parquet is missing"):
        run(f"{tmp_path}/out/")


def test_a_jsonl_file_that_was_changed_is_not_done(tmp_path: Path) -> None:
    run(tmp_path / "out.jsonl")
    text = (tmp_path / "out.jsonl").read_text()
    (tmp_path / "out.jsonl").write_text(text.replace('"number":0', '"number":9'))
    with pytest.raises(PreconditionError, match="damaged"):
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
    assert (staging(output) / "part-0000003.parquet").exists()
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
    monkeypatch.setattr("batchqa.output.staging.Staging.remove", lambda self: True)
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
    assert not staging_beside(output).exists()


def test_a_job_that_never_began_leaves_nothing_behind(output: str, tmp_path: Path) -> None:
    with open_commit(output):
        pass
    assert not list(tmp_path.iterdir())
    rejects_file(output).write_text("{}\n")
    with pytest.raises(PreconditionError):
        run(output)
    assert [path.name for path in tmp_path.iterdir()] == [rejects_file(output).name]


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
