"""Inputs and outputs in an object store: a real S3 API on loopback, and a proxy that injects faults."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchqa import BatchqaError, InputError, PreconditionError, SettingsError, StorageError, job, storage
from batchqa.commit import Target, check_target, find_output, objects, open_output
from batchqa.errors import TryAgainError
from batchqa.settings import ReadingSettings
from batchqa.steps.reading import open_source
from batchqa.storage import locate, public
from tests import commit_job
from tests.fault_proxy import FaultProxy, Request
from tests.models import SENTENCES
from tests.s3 import KEY, SECRET, Bucket, running_server

pytest.importorskip("moto", reason="needs moto[server] (the extra `dev`)")

ROOT = Path(__file__).parent.parent
WRITING = {"PutObject", "UploadPart", "CreateMultipartUpload", "DeleteObject", "DeleteObjects"}
OUTPUTS = ["out.parquet", "out.jsonl", "out/", "out.jsonl/"]
ROWS = [
    {"context": f"{SENTENCES[i % 6]} This was row {i}.", "question": f"What is number {i}?", "n": i}
    for i in range(30)
]
Run = Callable[..., job.Summary]
small = partial(commit_job.run, records=commit_job.SHORT)  # four parts, of which two have rejects
_numbers = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running_server() as address:
        yield address


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "2",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def shared_proxy(server: str) -> Iterator[FaultProxy]:
    with FaultProxy(server) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy: FaultProxy) -> FaultProxy:
    shared_proxy.reset()
    return shared_proxy


@pytest.fixture
def bucket(server: str, proxy: FaultProxy) -> Bucket:
    return Bucket(server, proxy, f"bucket{next(_numbers)}")


@pytest.fixture
def run(tiny_bundle: Path) -> Run:
    return partial(job.run, model=tiny_bundle, device="cpu", threads=1, batch_tokens=512, part_rows=8)


@pytest.fixture
def source(bucket: Bucket) -> str:
    bucket.put("in.parquet", parquet(ROWS))
    return bucket.uri("in.parquet")


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def local(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def undisturbed(folder: Path, output: str) -> dict[str, bytes]:
    """What the small job of `tests.commit_job` writes locally."""
    folder.mkdir()
    small(f"{folder}/{output}")
    return local(folder)


def at(operation: str, number: int, fault: str, *, times: int = 1) -> Callable[[Request], str | None]:
    """A fault at the Nth request of an operation, and at the ones after it."""
    return lambda request: (
        fault if request.operation == operation and number <= request.number < number + times else None
    )


FOREVER = 10**9


def program(model: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """`batchqa run INPUT OUTPUT` as a process of its own."""
    source, output = arguments
    command = [sys.executable, "-m", "batchqa", "run", source, "-o", output, "--model", str(model)]
    command += ["--device", "cpu", "--threads", "1", "--part-rows", "8", "--batch-tokens", "512"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


# ----------------------------------------------------------------------------------------- all is well


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_in_a_store_has_the_bytes_of_a_local_one_and_leaves_no_staging(
    bucket: Bucket, tmp_path: Path, output: str
) -> None:
    small(bucket.uri(f"some/folder/{output}"))
    assert bucket.contents("some/folder/") == undisturbed(tmp_path / "local", output)
    assert bucket.unfinished_uploads() == 0


@pytest.mark.parametrize(
    ("suffix", "output"), [("parquet", "out.jsonl"), ("jsonl", "out.parquet"), ("jsonl", "out/")]
)
def test_a_job_from_a_store_to_a_store_answers_as_a_local_one(
    run: Run, bucket: Bucket, tmp_path: Path, suffix: str, output: str
) -> None:
    data = parquet(ROWS) if suffix == "parquet" else jsonl(ROWS)
    bucket.put(f"in.{suffix}", data)
    (tmp_path / f"in.{suffix}").write_bytes(data)
    (tmp_path / "local").mkdir()
    remote = run(bucket.uri(f"in.{suffix}"), bucket.uri(f"x/{output}"))
    here = run(tmp_path / f"in.{suffix}", f"{tmp_path}/local/{output}")
    assert remote.rows == here.rows == len(ROWS)
    assert remote.output == f"s3://{bucket.name}/x/{output.rstrip('/')}"
    assert rows_of(bucket.contents("x/")) == rows_of(local(tmp_path / "local"))


def rows_of(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """The rows of an output's files, in order."""
    found: list[dict[str, Any]] = []
    for name in sorted(files):
        if name.endswith(".parquet"):
            found += pq.read_table(pa.BufferReader(files[name])).to_pylist()
        elif name.endswith(".jsonl"):
            found += map(json.loads, files[name].splitlines())
    return found


def test_inputs_and_outputs_may_be_local_and_remote_in_any_mixture(
    run: Run, bucket: Bucket, source: str, tmp_path: Path
) -> None:
    (tmp_path / "more.parquet").write_bytes(parquet(ROWS[:5]))
    assert run([source, tmp_path / "more.parquet"], tmp_path / "out.parquet").rows == 35
    assert run(tmp_path / "more.parquet", bucket.uri("x/out.parquet")).rows == 5
    assert len(rows_of(bucket.contents("x/"))) == 5


def test_globs_and_folders_are_read_as_locally_in_the_order_of_their_bytes(bucket: Bucket) -> None:
    names = ["in/b.jsonl", "in/a 1.jsonl", "in/a%20.jsonl", "in/sub/c.jsonl", "in/_no.jsonl", "in/.no.jsonl"]
    for name in names:
        bucket.put(name, jsonl(ROWS[:1]))
    bucket.put("in/sub/", b"")  # what consoles create for a folder

    def found(pattern: str) -> list[str]:
        files = open_source([bucket.uri(pattern)], ReadingSettings()).files
        return [file.uri.removeprefix(f"s3://{bucket.name}/") for file in files]

    assert found("in/") == found("in") == sorted(names[:4], key=str.encode)
    assert found("in/*.jsonl") == sorted(names[:3], key=str.encode)
    assert found("in/**/c.jsonl") == ["in/sub/c.jsonl"]
    assert found("in/?.jsonl") == ["in/b.jsonl"]
    assert found("in/a[ x]1.jsonl") == ["in/a 1.jsonl"]
    assert found("in/a%20.jsonl") == ["in/a%20.jsonl"]


def test_the_endpoint_can_stand_in_the_environment(
    bucket: Bucket, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{proxy.endpoint}")
    small(f"s3://{bucket.name}/out.parquet")
    assert "out.parquet" in bucket.listing()


def test_an_output_that_is_done_is_left_untouched(run: Run, bucket: Bucket, source: str) -> None:
    first = run(source, bucket.uri("x/out/"))
    before = bucket.listing()
    bucket.proxy.reset()
    again = run(source, bucket.uri("x/out/"))
    assert bucket.listing() == before
    assert not [request for request in bucket.proxy.log if request.operation in WRITING]
    assert (again.rows, again.resumed_rows, again.fingerprint) == (30, 30, first.fingerprint)


def test_the_same_content_uploaded_again_is_the_same_input(run: Run, bucket: Bucket, source: str) -> None:
    run(source, bucket.uri("x/out.parquet"))
    before = bucket.listing("x/")
    bucket.put("in.parquet", parquet(ROWS))
    run(source, bucket.uri("x/out.parquet"))
    assert bucket.listing("x/") == before


@pytest.mark.parametrize("output", OUTPUTS)
def test_another_output_in_the_place_is_refused_and_replaced_only_when_asked(
    bucket: Bucket, tmp_path: Path, output: str
) -> None:
    uri = bucket.uri(f"x/{output}")
    small(uri, records=5, part_rows=1)
    before = bucket.listing("x/")
    with pytest.raises(PreconditionError, match="part_rows: 1 -> 3"):
        small(uri)
    assert bucket.listing("x/") == before
    small(uri, overwrite=True)
    expected = undisturbed(tmp_path / "local", output)
    found = bucket.contents("x/")
    assert rows_of(found) == rows_of(expected)
    assert found.keys() == expected.keys()


def test_an_object_that_is_not_of_batchqa_is_never_taken_for_an_output_or_removed(bucket: Bucket) -> None:
    bucket.put("x/out.parquet", parquet(ROWS[:2]))
    with pytest.raises(PreconditionError, match=r"x/out\.parquet exists and is not an output of batchqa"):
        small(bucket.uri("x/out.parquet"))
    bucket.put("y/out/notes.txt", b"mine")
    for overwrite in (False, True):
        with pytest.raises(PreconditionError, match=r"not (an output )?of batchqa"):
            small(bucket.uri("y/out/"), overwrite=overwrite)
    bucket.put("z/out.jsonl.batchqa/notes.txt", b"mine")
    with pytest.raises(PreconditionError, match="this is not of batchqa"):
        small(bucket.uri("z/out.jsonl"))
    assert len(bucket.listing()) == 3


def test_an_output_that_is_or_would_become_an_input_is_refused(bucket: Bucket) -> None:
    def check(output: str, source: str) -> None:
        with pytest.raises(SettingsError, match="input"):
            check_target(Target.parse(bucket.uri(output)), [bucket.uri(source)], overwrite=True)

    check("in.parquet", "in.parquet")
    check("in.parquet", "in.parquet.rejects.jsonl")
    check("in/out.parquet", "in/")
    check("in/out/", "in")
    check("out/", "out/in.jsonl")
    check("in/out.jsonl", "in/*.jsonl")
    check("in/out/", "in/**/*.parquet")
    check_target(Target.parse(bucket.uri("in/out.parquet")), [bucket.uri("in/*.jsonl"), "-"], overwrite=True)
    bucket.put("data.parquet/part-0.parquet", b"")
    with pytest.raises(SettingsError, match="this is a folder"):
        check_target(Target.parse(bucket.uri("data.parquet")), [], overwrite=True)


# --------------------------------------------------------------------------------- stopped and resumed


def kill_at(bucket: Bucket, output: str, number: int) -> bool:
    """Run the small job as a program and kill it at its Nth request, done or not; whether it was killed."""
    bucket.proxy.reset()
    command = [sys.executable, str(ROOT / "tests" / "commit_job.py"), bucket.uri(output), "--short"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:

        def fault(_: Request) -> str | None:
            if len(bucket.proxy.log) != number:
                return None
            process.kill()
            return ("cut before", "cut within", "cut after")[number % 3]

        bucket.proxy.fault = fault
        process.communicate(timeout=60)
        bucket.proxy.reset()
        return process.returncode == -signal.SIGKILL


def check_kill(bucket: Bucket, folder: str, output: str, number: int, expected: dict[str, bytes]) -> bool:
    """Kill a run, look that nothing partial is to be seen, and run again."""
    if not kill_at(bucket, f"{folder}/{output}", number):
        return False
    found = find_output(Target.parse(bucket.uri(f"{folder}/{output}")))
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


def uploading(file: Path, uri: str) -> subprocess.Popen[bytes]:
    """The upload of a file by a process of its own, which forgets it if it fails and ends a little later."""
    code = """
import gc, sys
from pathlib import Path
from batchqa.commit import objects
from batchqa.storage import locate
try:
    objects.put(Path(sys.argv[1]), locate(sys.argv[2]))
except Exception as error:
    failed = type(error).__name__
gc.collect()
sys.exit(failed)
"""
    command = [sys.executable, "-c", code, str(file), uri]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)


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
        >= {name for name in left if "part-00001" in name}
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
    assert storage.is_waiting()
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
        "x/out.parquet.batchqa/part-00000.parquet"
    ]


def test_a_damaged_part_is_made_again_and_a_foreign_one_refused(bucket: Bucket, tmp_path: Path) -> None:
    uri = bucket.uri("x/out.parquet")
    small(uri, stop_at=3)
    part = "x/out.parquet.batchqa/part-00002.parquet"
    good = bucket.get(part)
    bucket.put(part, parquet(ROWS))
    with pytest.raises(PreconditionError, match="this is not of batchqa; it is left alone"):
        small(uri)
    bucket.put(part, good[:-100])
    small(uri, stop_at=3)
    assert bucket.get(part) == good
    bucket.put(part, bytes([*good[:1000], good[1000] ^ 4, *good[1001:]]))
    with pytest.raises(StorageError, match=r"part-00002\.parquet.*checksum.*same command makes it again"):
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
        "AccessDenied" if request.operation == "PutObject" and "out/part-00003" in request.key else None
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
        with pytest.raises(TryAgainError, match="another job has just begun here"):
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


# ----------------------------------------------------------------------------------- the network fails


def test_requests_that_fail_once_are_sent_again(bucket: Bucket, tmp_path: Path) -> None:
    faults = itertools.cycle(["SlowDown", "cut before", "InternalError", "cut within", "cut after"])
    lock = threading.Lock()

    def fault(request: Request) -> str | None:
        with lock:
            return next(faults) if request.number % 6 == 3 else None

    bucket.proxy.fault = fault
    small(bucket.uri("x/out.parquet"))
    bucket.proxy.reset()
    assert bucket.contents("x/") == undisturbed(tmp_path / "local", "out.parquet")


def test_a_few_bytes_are_read_in_spite_of_an_error_whose_text_is_longer(bucket: Bucket) -> None:
    bucket.put("small", b"few")
    bucket.proxy.fault = at("GetObject", 1, "SlowDown", times=2)
    assert objects.get(locate(bucket.uri("small"))) == b"few"


@pytest.mark.parametrize(
    ("operation", "number", "fault"),
    [
        ("PutObject", 6, "SlowDown"),
        ("PutObject", 6, "ExpiredToken"),
        ("PutObject", 6, "cut within"),
        ("GetObject", 5, "cut within"),
        ("GetObject", 5, "ExpiredToken"),
        ("HeadObject", 12, "SlowDown"),
    ],
)
def test_a_store_that_fails_for_good_is_exit_75_and_the_same_command_goes_on_later(
    bucket: Bucket, tmp_path: Path, operation: str, number: int, fault: str
) -> None:
    uri = bucket.uri("x/out.parquet")
    bucket.proxy.fault = at(operation, number, fault, times=FOREVER)
    with pytest.raises(TryAgainError, match="run the same command again") as failed:
        small(uri)
    assert failed.value.exit_code == 75
    assert "\n" not in str(failed.value)
    assert f"s3://{bucket.name}/x/out.parquet" in str(failed.value)
    bucket.proxy.reset()
    before = bucket.listing("x/out.parquet.batchqa/part-")
    assert len(before) >= 3
    commit = small(uri)
    assert commit.state == "resumed"
    assert not [r for r in bucket.proxy.log if r.operation == "PutObject" and "part-00000" in r.key]
    assert bucket.contents("x/") == undisturbed(tmp_path / "local", "out.parquet")


@pytest.mark.parametrize("fault", ["SlowDown", "cut within"])
def test_a_part_that_cannot_be_read_for_the_moment_is_not_taken_for_a_damaged_one(
    bucket: Bucket, fault: str
) -> None:
    uri = bucket.uri("x/out.parquet")
    small(uri, stop_at=3)
    before = bucket.listing()
    bucket.proxy.reset()
    # a short trouble, over again when something else of the part is asked for
    tries = itertools.count(1)
    bucket.proxy.fault = lambda request: (
        fault
        if request.operation == "GetObject" and "part-00001" in request.key and next(tries) <= 2
        else None
    )
    with pytest.raises(TryAgainError):
        small(uri)
    assert bucket.listing() == before


@pytest.mark.parametrize(
    "fault", ["SlowDown", "AccessDenied", pytest.param("wait", marks=pytest.mark.faults)]
)
def test_an_upload_in_parts_that_fails_leaves_no_object(
    bucket: Bucket, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pyarrow completes the upload of a stream that is forgotten, unless it knows that a part has failed.
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    big = tmp_path / "big"
    big.write_bytes(os.urandom(25 * 2**20))
    bucket.proxy.fault = at("UploadPart", 2, fault, times=FOREVER)
    with uploading(big, bucket.uri("big")) as process:
        _, errors = process.communicate(timeout=100)
    assert process.returncode
    assert (b"StorageError" if fault == "AccessDenied" else b"TryAgainError") in errors
    assert not bucket.listing()


def test_an_upload_in_parts_that_is_disturbed_for_a_while_arrives_whole(
    bucket: Bucket, tmp_path: Path
) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(25 * 2**20))
    bucket.proxy.fault = lambda request: (
        "SlowDown"
        if request.operation == "UploadPart" and request.number == 2
        else "cut after"
        if request.operation == "CompleteMultipartUpload" and request.number == 1
        else None
    )
    objects.put(big, locate(bucket.uri("big")))
    assert bucket.get("big") == big.read_bytes()


@pytest.mark.parametrize("fault", ["SlowDown", "cut within"])
def test_an_input_that_cannot_be_read_on_is_exit_75_and_not_called_damaged(
    run: Run, bucket: Bucket, tmp_path: Path, fault: str
) -> None:
    bucket.put("in.jsonl", jsonl(ROWS * 200))
    bucket.proxy.fault = at("GetObject", 4, fault, times=FOREVER)
    with pytest.raises(TryAgainError, match=r"in\.jsonl: the storage cannot be reached"):
        run(bucket.uri("in.jsonl"), tmp_path / "out.jsonl")


def test_a_store_that_refuses_is_one_clear_line(run: Run, bucket: Bucket, source: str) -> None:
    bucket.proxy.fault = at("HeadObject", 1, "AccessDenied", times=FOREVER)
    with pytest.raises(StorageError, match=r"in\.parquet: the storage refuses it \(ACCESS_DENIED"):
        run(source, bucket.uri("x/out.parquet"))
    bucket.proxy.reset()
    bucket.proxy.fault = at("PutObject", 1, "AccessDenied", times=FOREVER)
    with pytest.raises(
        StorageError, match=r"job\.json: the storage refuses it \(ACCESS_DENIED during PutObject"
    ):
        run(source, bucket.uri("x/out.parquet"))


def test_what_is_not_there_is_one_clear_line(run: Run, bucket: Bucket, source: str) -> None:
    elsewhere = bucket.uri("in.parquet").replace(bucket.name, "no-such-bucket")
    with pytest.raises(InputError, match="no-such-bucket"):
        run(elsewhere, bucket.uri("x/out.parquet"))
    with pytest.raises(InputError, match=r"s3://.*/nothing\.parquet names nothing"):
        run(bucket.uri("nothing.parquet"), bucket.uri("x/out.parquet"))
    with pytest.raises(BatchqaError, match=r"s3://no-such-bucket/.*: there is no such bucket") as failed:
        run(source, elsewhere)
    assert failed.value.exit_code in (2, 74)


@pytest.mark.parametrize("change", ["changed", "deleted"])
def test_an_input_that_changes_during_the_run_is_exit_4_and_nothing_is_published(
    run: Run, bucket: Bucket, change: str
) -> None:
    bucket.put("in.jsonl", jsonl(ROWS))

    def disturb(progress: job.Progress) -> None:
        if progress.part == 1 and change == "deleted":
            bucket.client.delete_object(Bucket=bucket.name, Key="in.jsonl")
        elif progress.part == 1:
            bucket.put("in.jsonl", jsonl(ROWS).replace(b"row 3.", b"row 4."))

    with pytest.raises(PreconditionError, match=rf"in\.jsonl was {change} since the job began"):
        run(bucket.uri("in.jsonl"), bucket.uri("x/out.parquet"), progress=disturb)
    assert "x/out.parquet" not in bucket.listing()


# --------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize("fault", [None, "SlowDown", "InvalidAccessKeyId", "option", "bucket"])
def test_credentials_in_a_uri_are_nowhere_to_be_found(
    bucket: Bucket, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str | None
) -> None:
    bucket.put("in.jsonl", jsonl(ROWS))

    def secret(key: str) -> str:
        return bucket.uri(key).replace("s3://", f"s3://{KEY}:{quote(SECRET, safe='')}@")

    output = secret("x/out.jsonl")
    if fault == "option":
        output += "&secret_key=" + quote(SECRET, safe="")
    elif fault == "bucket":
        output = output.replace(bucket.name, "no-such-bucket")
    elif fault:
        bucket.proxy.fault = at("PutObject", 4, fault, times=FOREVER)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with program(tiny_bundle, secret("in.jsonl"), output) as process:
        out, errors = process.communicate(timeout=120)
    assert process.returncode == {None: 0, "SlowDown": 75, "option": 2}.get(fault, 74), errors
    bucket.proxy.reset()
    said = [out, errors, *bucket.contents().values(), *local(tmp_path).values()]
    assert len(bucket.listing("x/")) >= (2 if fault in (None, "SlowDown") else 0)
    for text in said:
        for canary in (KEY, SECRET, quote(SECRET, safe=""), SECRET.partition("/")[2]):
            assert canary.encode() not in text
    assert b"Traceback" not in errors


def test_a_secret_that_is_not_percent_encoded_is_refused_without_repeating_it() -> None:
    for uri in ("s3://AKIA:sec/ret@bucket/in.parquet", "s3://AKIA:sec/ret@bucket/in.parquet?scheme=http"):
        for use in (public, locate, Target.parse):
            with pytest.raises(SettingsError, match="%2F") as refused:
                use(uri)
            assert "ret" not in str(refused.value).replace("secret", "")
            assert "AKIA" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://bucket/a/b.parquet", "s3://bucket/a/b.parquet"),
        ("s3://key:se%2Fcret@bucket/a?region=eu-west-1", "s3://bucket/a"),
        ("S3://bucket/in-?.parquet", "s3://bucket/in-?.parquet"),
        ("s3://bucket/user@host/x", "s3://bucket/user@host/x"),
        ("gs://anonymous@bucket/a b", "gs://bucket/a b"),
        ("abfs://container:password@account.dfs.core.windows.net/a", None),
        ("abfss://:password@account.blob.core.windows.net/container/a", None),
    ],
)
def test_what_is_shown_of_a_uri_names_the_place_and_no_secret(uri: str, shown: str | None) -> None:
    if shown is None:
        assert "password" not in public(uri)
        assert public(uri).endswith(uri.partition("password@")[2])
    else:
        assert public(uri) == shown


def test_an_azure_container_belongs_to_the_place() -> None:
    assert public("abfs://one@account/a") != public("abfs://two@account/a")
