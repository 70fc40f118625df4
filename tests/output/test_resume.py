"""A job that was stopped goes on, whatever became of its parts meanwhile."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchqa.errors import PreconditionError, StorageError
from batchqa.output import (
    Target,
    earlier_job,
    find,
    jsonlines,
)
from tests import commit_job
from tests.commit_job import PART_ROWS, RECORDS, SCHEMA, kept, rows_of, run
from tests.output.looking import (
    OUTPUTS,
    commit_before_publishing,
    contents,
    numbers_in,
    open_commit,
    rejects_file,
    staging,
)

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
        path = staging(output) / f"part-{part:07d}.parquet"
        if part in missing:
            path.unlink()
        else:
            kept_parts[part] = path.stat().st_mtime_ns
    with open_commit(output) as commit:
        assert commit.state == "resumed"
        todo = [part for part, _ in commit_job.numbers_of_parts(commit, RECORDS, PART_ROWS)]
    assert todo == missing
    assert {
        p: (staging(output) / f"part-{p:07d}.parquet").stat().st_mtime_ns for p in kept_parts
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
    damage(staging(output) / "part-0000001.parquet")
    with open_commit(output) as commit:
        assert [part.part for part in commit.committed] == [0, 2, 3, 4]
    run(output)
    assert numbers_in(output) == kept(RECORDS)
    assert len(rejects_file(output).read_text().splitlines()) == 4


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl", "out.jsonl/"])
def test_a_flipped_bit_in_a_parts_pages_is_found_before_publishing_and_mended_by_the_next_run(
    tmp_path: Path, name: str
) -> None:
    output = f"{tmp_path}/{name}"
    run(output, stop_at=7)
    path = staging(output) / "part-0000002.parquet"
    data = bytearray(path.read_bytes())
    data[1000] ^= 4
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"part-0000002\.parquet.*the same command writes it again"):
        run(output)
    assert find(Target.parse(output)) is None
    run(output)
    assert numbers_in(output) == kept(RECORDS)


def test_a_part_whose_count_is_not_that_of_its_record_is_done_again(tmp_path: Path) -> None:
    output = str(tmp_path / "out.parquet")
    run(output, stop_at=3)
    path = staging(output) / "part-0000001.parquet"
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
        damage(staging(output) / "part-0000002.parquet")
        with pytest.raises(StorageError):
            commit.publish({})
    assert find(Target.parse(output)) is None


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
        ("part-0000001.parquet", write_text),
        ("part-0000001.parquet", write_parquet),
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
    assert (staging(output) / "part-0000002.parquet").exists()


@pytest.mark.parametrize("name", ["out.parquet", "out/"])
def test_parts_that_an_earlier_version_named_with_five_digits_are_refused_until_discarded(
    tmp_path: Path, name: str
) -> None:
    output = str(tmp_path / name)
    run(output, stop_at=3)
    for part in staging(output).glob("part-*"):
        part.rename(part.with_name(part.name.replace("part-00", "part-")))
    with pytest.raises(PreconditionError, match=r"part-00000\.parquet: an earlier version.*--restart"):
        run(output)
    assert run(output, restart=True).state == "fresh"
    assert numbers_in(output) == kept(RECORDS)
    assert not list(tmp_path.rglob("part-0000?.parquet"))


def test_a_part_of_another_job_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "one.parquet", stop_at=3)
    run(tmp_path / "other.parquet", stop_at=2, fields={"model": "other"})
    (tmp_path / "one.parquet.batchqa" / "part-0000002.parquet").rename(
        tmp_path / "other.parquet.batchqa" / "part-0000002.parquet"
    )
    with pytest.raises(PreconditionError, match=r"part-0000002\.parquet: this part belongs to another job"):
        run(tmp_path / "other.parquet", fields={"model": "other"})


def test_hidden_files_do_not_disturb_a_job_and_are_left_with_a_note(tmp_path: Path) -> None:
    output = str(tmp_path / "out.parquet")
    run(output, stop_at=3)
    (staging(output) / ".nfs0001").write_text("")
    commit = run(output)
    assert numbers_in(output) == kept(RECORDS)
    assert "not written by batchqa" in commit.notes[0]
    assert (staging(output) / ".nfs0001").exists()


def test_unfinished_files_of_a_stopped_run_are_removed_at_the_next_start(output: str) -> None:
    run(output, stop_at=3)
    tmp = staging(output) / "_batchqa" / "part-0000003.parquet.tmp"
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
    rejects = rejects_file(output)
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
    batch = pa.record_batch([pa.array([text]), pa.array(["ä"])], names=["line", "qa_answer"])
    (line,) = jsonlines.lines(batch, originals=True)
    assert json.loads(line) == {**original, "qa_answer": "ä"}
    assert line.startswith(text.strip()[:-1].encode() if original else b"{")
    assert line.count(b"\n") == 1


@given(st.lists(JSON_VALUES, min_size=1, max_size=5))
def test_rows_as_json_lines_read_back_as_they_were(values: list[Any]) -> None:
    texts = [json.dumps(value) for value in values]
    batch = pa.record_batch({"text": texts, "number": list(range(len(texts)))})
    lines = b"".join(jsonlines.lines(batch)).splitlines()
    assert [orjson.loads(line) for line in lines] == batch.to_pylist()
