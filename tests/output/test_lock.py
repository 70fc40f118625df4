"""Two runs on one output, and a staging folder that somebody else prepared."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batchqa.errors import PreconditionError, TryAgainError
from batchqa.output import (
    Target,
)
from batchqa.records import Cursor
from batchqa.store.lock import Lock
from tests import commit_job
from tests.commit_job import PART_ROWS, RECORDS, kept, rows_of, run
from tests.output.looking import (
    numbers_in,
    open_commit,
    staging,
)

# --- the lock


def test_a_second_run_on_the_same_output_is_told_to_try_again(output: str) -> None:
    with open_commit(output) as first:
        first.begin({})
        with pytest.raises(TryAgainError, match="another run is writing to it"):
            open_commit(output)
    run(output)
    assert numbers_in(output) == kept(RECORDS)


def test_a_forked_child_does_not_hold_the_lock_after_its_parent(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\n"
        "from batchqa.store.lock import Lock\n"
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
    assert "cannot be locked on this file system" in commit.notes[0]
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
    after = (tmp_path / "out.parquet").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


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
                assert pq.read_table(staging(output) / "part-0000000.parquet").num_rows == 3
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
        commit._staging.tmp("part-0000000.parquet").symlink_to(tmp_path / "victim")
        with commit.part(0) as part:
            commit_job.fill(part, [0, 1, 2])
    assert (tmp_path / "victim").read_text() == "precious"
