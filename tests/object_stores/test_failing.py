"""A store that fails, is silent, refuses, or changes; a proxy injects the faults."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import pytest

from batchqa import BatchqaError, InputError, PreconditionError, StorageError, job
from batchqa.errors import TryAgainError
from batchqa.store import objects
from batchqa.store.locations import locate
from tests.fault_proxy import Request
from tests.object_stores.stores import FOREVER, ROWS, Run, at, jsonl, small, undisturbed, uploading
from tests.s3 import Bucket


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
    assert not [r for r in bucket.proxy.log if r.operation == "PutObject" and "part-0000000" in r.key]
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
        if request.operation == "GetObject" and "part-0000001" in request.key and next(tries) <= 2
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
    with pytest.raises(InputError, match=r"s3://.*/nothing\.parquet does not exist; check the path"):
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

    with pytest.raises(PreconditionError, match=rf"in\.jsonl was {change} after the job started"):
        run(bucket.uri("in.jsonl"), bucket.uri("x/out.parquet"), progress=disturb)
    assert "x/out.parquet" not in bucket.listing()
