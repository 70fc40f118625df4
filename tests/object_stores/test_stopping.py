"""Runs to an object store that are killed, told to stop, or run at once."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchqa import PreconditionError, StorageError, job
from batchqa.errors import TryAgainError
from batchqa.output import Target, find, open_output
from batchqa.store import locations, objects
from batchqa.store.locations import Location, locate
from tests import commit_job
from tests.object_stores.stores import (
    FOREVER,
    OUTPUTS,
    ROOT,
    ROWS,
    Run,
    at,
    killing_at,
    parquet,
    program,
    rows_of,
    small,
    undisturbed,
    uploading,
)
from tests.s3 import Bucket


def kill_at(bucket: Bucket, output: str, number: int) -> bool:
    """Run the small job as a program and kill it at its Nth request, done or not; whether it was killed."""
    bucket.proxy.reset()
    command = [sys.executable, str(ROOT / "tests" / "commit_job.py"), bucket.uri(output), "--short"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        bucket.proxy.fault = killing_at(bucket, number, process.kill)
        process.communicate(timeout=60)
        bucket.proxy.reset()
        return process.returncode == -signal.SIGKILL


def check_kill(bucket: Bucket, folder: str, output: str, number: int, expected: dict[str, bytes]) -> bool:
    """Kill a run, look that nothing partial is to be seen, and run again."""
    if not kill_at(bucket, f"{folder}/{output}", number):
        return False
    found = find(Target.parse(bucket.uri(f"{folder}/{output}")))
    assert found is None or (found.record is not None and found.trouble is None)
    for name, data in bucket.contents(f"{folder}/").items():
        if name in expected:
            assert data == expected[name], f"{name} is partial after a kill at request {number}"
        elif name.endswith(".parquet"):
            pq.read_metadata(pa.BufferReader(data))
    small(bucket.uri(f"{folder}/{output}"))
    assert bucket.contents(f"{folder}/") == expected, f"after a kill at request {number}"
    return True


@pytest.mark.parametrize(("output", "number"), [("out.parquet", 16), ("out.jsonl", 34), ("out/", 20)])
def test_a_run_that_was_killed_shows_nothing_partial_and_is_finished_by_the_next(
    bucket: Bucket, tmp_path: Path, output: str, number: int
) -> None:
    assert check_kill(bucket, "x", output, number, undisturbed(tmp_path / "local", output))


@pytest.mark.faults
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_run_killed_at_any_request_is_finished_by_the_next(
    bucket: Bucket,
    tmp_path: Path,
    output: str,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    expected = undisturbed(tmp_path / "local", output)
    fired = 0
    for number in itertools.count(1):
        if not check_kill(bucket, f"x{number}", output, number, expected):
            break
        fired += 1
    record_testsuite_property(f"kills of {output} in a bucket", fired)
    assert fired > 20


def test_a_kill_during_an_upload_in_parts_leaves_no_object(bucket: Bucket, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(25 * 2**20))
    bucket.proxy.fault = at("UploadPart", 2, "wait", times=FOREVER)
    with uploading(big, bucket.uri("big")) as process:
        while not any(request.operation == "UploadPart" for request in bucket.proxy.log):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    assert not bucket.listing()
    assert bucket.unfinished_uploads() == 1


@pytest.mark.parametrize("output", ["out.parquet", "out/"])
def test_an_exception_in_a_run_publishes_nothing_but_whole_parts_and_the_next_run_goes_on(
    run: Run, bucket: Bucket, source: str, output: str
) -> None:
    def stop(progress: job.Progress) -> None:
        if progress.rows >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, bucket.uri(f"x/{output}"), progress=stop)
    left = bucket.contents("x/")
    assert (
        {name for name in left if name.endswith("arquet")}
        >= {name for name in left if "part-0000001" in name}
        != set()
    )
    assert "out.parquet" not in left
    assert "out/_SUCCESS" not in left
    summary = run(source, bucket.uri(f"x/{output}"))
    assert summary.resumed_rows >= 16
    assert [row["n"] for row in rows_of(bucket.contents("x/"))] == list(range(30))


def test_a_signal_is_answered_while_a_silent_store_is_waited_for_and_nothing_is_published(
    bucket: Bucket, tmp_path: Path
) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(25 * 2**20))
    bucket.proxy.fault = at("UploadPart", 2, "wait", times=FOREVER)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            objects.put(big, locate(bucket.uri("big")))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert locations.is_waiting()
    assert not bucket.listing()
    bucket.proxy.fault = at("UploadPart", 1, "AccessDenied", times=FOREVER)
    bucket.proxy.released.set()  # the upload fails in its thread, instead of waiting for its time-out


def test_a_run_that_waits_for_a_silent_store_ends_when_it_is_told_to(
    bucket: Bucket, source: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "8")  # more patience than this test has
    bucket.proxy.fault = at("PutObject", 3, "wait", times=FOREVER)
    with program(tiny_bundle, source, bucket.uri("x/out.parquet")) as process:
        while not any(r.operation == "PutObject" and r.number == 3 for r in bucket.proxy.log):
            assert process.poll() is None
            time.sleep(0.02)
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 143, errors
    assert b"stopped by SIGTERM" in errors
    assert [name for name in bucket.listing("x/") if "part-" in name] == [
        "x/out.parquet.batchqa/part-0000000.parquet"
    ]


def test_a_damaged_part_is_made_again_and_a_foreign_one_refused(bucket: Bucket, tmp_path: Path) -> None:
    uri = bucket.uri("x/out.parquet")
    small(uri, stop_at=3)
    part = "x/out.parquet.batchqa/part-0000002.parquet"
    good = bucket.get(part)
    bucket.put(part, parquet(ROWS))
    with pytest.raises(PreconditionError, match="this was not written by batchqa; it was not changed"):
        small(uri)
    bucket.put(part, good[:-100])
    small(uri, stop_at=3)
    assert bucket.get(part) == good
    bucket.put(part, bytes([*good[:1000], good[1000] ^ 4, *good[1001:]]))
    with pytest.raises(StorageError, match=r"part-0000002\.parquet.*checksum.*same command writes it again"):
        small(uri)
    small(uri)
    assert bucket.contents("x/") == undisturbed(tmp_path / "local", "out.parquet")


def test_a_job_that_differs_from_the_unfinished_one_is_refused_until_that_is_discarded(
    bucket: Bucket,
) -> None:
    uri = bucket.uri("x/out/")
    small(uri, stop_at=3)
    with pytest.raises(PreconditionError, match=r"model: .*abc.* -> .*xyz.*--restart"):
        small(uri, fields={**commit_job.FIELDS, "model": "xyz"})
    small(uri, fields={**commit_job.FIELDS, "model": "xyz"}, restart=True)
    assert "x/out/_SUCCESS" in bucket.listing()


def test_replacing_a_folder_that_is_stopped_half_way_is_finished_by_the_same_command(
    bucket: Bucket, tmp_path: Path
) -> None:
    uri = bucket.uri("x/out/")
    small(uri, records=6, part_rows=1)
    # the eighth upload after the parts of the new job: job.json in the folder, then parts over the old ones
    bucket.proxy.reset()
    bucket.proxy.fault = lambda request: (
        "AccessDenied" if request.operation == "PutObject" and "out/part-0000003" in request.key else None
    )
    with pytest.raises(StorageError):
        small(uri, overwrite=True)
    assert "x/out/_SUCCESS" not in bucket.listing()
    bucket.proxy.reset()
    small(uri, overwrite=True)
    found = bucket.contents("x/")
    assert rows_of(found) == rows_of(undisturbed(tmp_path / "local", "out/"))
    assert len([name for name in found if name.endswith(".parquet")]) == 4


@pytest.mark.parametrize("output", ["out.parquet", "out/"])
def test_two_runs_at_once_end_with_one_right_output(bucket: Bucket, tmp_path: Path, output: str) -> None:
    command = [sys.executable, str(ROOT / "tests" / "commit_job.py"), bucket.uri(f"x/{output}"), "--short"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] in ([0, 0], [0, 75], [75, 0]), errors
    small(bucket.uri(f"x/{output}"))
    found = bucket.contents("x/")
    expected = undisturbed(tmp_path / "local", output)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("output", ["out.parquet", "out.jsonl"])
def test_a_job_that_another_run_finishes_is_done_although_its_parts_vanish_while_they_are_read(
    bucket: Bucket, tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = bucket.uri(f"x/{output}")
    fetch, others = objects.fetch, []

    def overtaken(place: Location, file: Path) -> None:
        if not others:
            others.append("begun")
            parts = {name: bucket.get(name) for name in bucket.listing() if "/part-" in name}
            others.append(small(uri))  # the other run publishes, and removes the parts
            for name, data in parts.items():  # opened before, and gone when they are read
                bucket.put(name, data)
            bucket.proxy.fault = lambda request: (
                "NoSuchKey" if request.operation == "GetObject" and "/part-" in request.key else None
            )
        fetch(place, file)

    monkeypatch.setattr(objects, "fetch", overtaken)
    assert small(uri).done_record()["parts"] == 4
    assert len(others) == 2
    bucket.proxy.reset()
    assert bucket.contents("x/") == undisturbed(tmp_path / "local", output)


@pytest.mark.parametrize("vanishes", ["HeadObject", "GetObject"])
def test_a_part_that_vanishes_while_a_job_is_resumed_is_done_again(
    bucket: Bucket, tmp_path: Path, vanishes: str
) -> None:
    uri = bucket.uri("x/out.parquet")
    small(uri, stop_at=3)
    bucket.proxy.reset()
    bucket.proxy.fault = lambda request: (
        "NoSuchKey"
        if request.operation == vanishes and "part-0000001" in request.key and not made()
        else None
    )

    def made() -> bool:
        return any(r.operation == "PutObject" and "part-0000001" in r.key for r in bucket.proxy.log)

    assert small(uri).state == "resumed"
    assert made()
    assert bucket.contents("x/") == undisturbed(tmp_path / "local", "out.parquet")


def test_of_two_jobs_that_begin_at_once_the_first_goes_on_and_a_twin_takes_its_settings(
    bucket: Bucket,
) -> None:
    def opened(fields: dict[str, Any]) -> Any:
        target = Target.parse(bucket.uri("x/out.parquet"))
        return open_output(target, fields=fields, schema=commit_job.SCHEMA, part_rows=3, compression="zstd")

    other = {**commit_job.FIELDS, "model": "xyz"}
    with opened(commit_job.FIELDS) as first, opened(commit_job.FIELDS) as twin, opened(other) as stranger:
        assert first.begin({"batch_tokens": 1}) == {"batch_tokens": 1}
        assert twin.begin({"batch_tokens": 2}) == {"batch_tokens": 1}
        with pytest.raises(TryAgainError, match="another job has just started here"):
            stranger.begin({"batch_tokens": 3})
        assert "no locks" in first.notes[0]


def test_temporary_files_go_with_their_run_and_those_of_a_killed_one_with_the_next(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert kill_at(bucket, "x/out.parquet", 12)
    assert [path.name[:8] for path in tmp_path.iterdir()] == ["batchqa-"]
    (tmp_path / "batchqa-of-others").mkdir()
    small(bucket.uri("x/out.parquet"))
    assert [path.name for path in tmp_path.iterdir()] == ["batchqa-of-others"]
