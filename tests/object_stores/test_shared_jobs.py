"""Shards whose output is in an object store: what is created once, and what late ones leave."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from batchqa import TryAgainError, job
from batchqa.job import Progress
from batchqa.store import objects
from batchqa.store.locations import locate
from tests.object_stores.stores import ROWS, Run, jsonl
from tests.s3 import Bucket


@pytest.mark.parametrize(
    ("name", "count"),
    [
        pytest.param("out.parquet", 4),
        pytest.param("out/", 2, marks=pytest.mark.slow),
        pytest.param("out.jsonl", 1, marks=pytest.mark.slow),
    ],
)
def test_shards_in_a_store_give_the_bytes_of_one_run(run: Run, bucket: Bucket, name: str, count: int) -> None:
    bucket.put("in.jsonl", jsonl([*ROWS[:5], {"context": 5}, *ROWS[5:]]))
    options: dict[str, Any] = {"on_error": "reject", "max_errors": 1}
    run(bucket.uri("in.jsonl"), bucket.uri(f"one/{name}"), **options)
    for index in reversed(range(count)):
        run(bucket.uri("in.jsonl"), bucket.uri(f"many/{name}"), shard=f"{index}/{count}", **options)
    assert job.finalize(bucket.uri(f"many/{name}")).rejected == 1
    assert bucket.contents("many/") == bucket.contents("one/")


def test_a_shard_that_is_late_leaves_the_published_output_alone(
    run: Run, bucket: Bucket, source: str
) -> None:
    output = bucket.uri("x/out.parquet")
    before: dict[str, Any] = {}

    def overtaken(_: Progress) -> None:
        if not before:
            before["begun"] = True
            run(source, output, shard="0/2")
            run(source, output, shard="1/2")
            job.finalize(output)
            del before["begun"]
            before.update(bucket.listing("x/"))

    assert run(source, output, shard="0/2", progress=overtaken).already_done
    assert bucket.listing("x/") == before
    assert list(before) == ["x/out.parquet"]
    with pytest.raises(TryAgainError, match="no shard has started"):
        job.finalize(bucket.uri("x/other.parquet"))


@pytest.fixture
def contenders(bucket: Bucket) -> Callable[[], list[bool]]:
    """Eight that create one object at once, all of them after they have seen that there is none."""

    def all_at_once() -> list[bool]:
        place = locate(bucket.uri("x/plan.json"))
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda n: objects.put_if_absent(b"%d" % n, place), range(8)))

    return all_at_once


def test_of_several_that_create_an_object_at_once_one_is_told_that_it_did(
    bucket: Bucket, contenders: Callable[[], list[bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "get", lambda place: None)
    created = contenders()
    assert sum(created) == 1
    assert bucket.get("x/plan.json") == b"%d" % created.index(True)


def test_without_a_conditional_write_this_is_not_so(
    contenders: Callable[[], list[bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "get", lambda place: None)
    monkeypatch.setattr(objects, "put_new", lambda data, to: None)
    assert sum(contenders()) > 1
