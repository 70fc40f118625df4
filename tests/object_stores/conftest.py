"""An S3 server on loopback, and the proxy in front of it that injects faults."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from batchqa import job
from tests.fault_proxy import FaultProxy
from tests.object_stores.stores import ROWS, Run, parquet
from tests.s3 import Bucket, running_server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    pytest.importorskip("moto", reason="needs moto[server] (the extra `dev`)")
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


@pytest.fixture(scope="session")
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
    options = {"device": "cpu", "threads": 1, "batch_tokens": 512, "part_rows": 8, "in_process": True}
    return partial(job.run, model=tiny_bundle, **options)


@pytest.fixture
def source(bucket: Bucket) -> str:
    bucket.put("in.parquet", parquet(ROWS))
    return bucket.uri("in.parquet")
