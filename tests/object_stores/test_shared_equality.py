"""1, 4 and 16 shards and four processes give the bytes of one run from a bucket to a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.s3 import Bucket
from tests.shard_equality import COUNTS, INPUTS, OPTIONS, Jobs, check_summaries

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("place", ["file", "folder"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", INPUTS)
def test_any_number_of_shards_and_four_processes_give_the_bytes_of_one_run_in_a_bucket(
    bucket: Bucket, tmp_path: Path, tiny_bundle: Path, kind: str, options: str, place: str
) -> None:
    jobs = Jobs(tmp_path, tiny_bundle, kind, options)
    name = f"out.{jobs.format}" + ("/" if place == "folder" else "")
    bucket.put(jobs.name, jobs.content)
    source = bucket.uri(jobs.name)
    one = jobs.one(source, bucket.uri(f"one/{name}"))
    for count in COUNTS:
        summary = jobs.shards(source, bucket.uri(f"{count}/{name}"), count)
        assert bucket.contents(f"{count}/") == bucket.contents("one/"), f"{count} shards"
        check_summaries(one, summary)
    summary = jobs.processes(source, bucket.uri(f"processes/{name}"))
    assert bucket.contents("processes/") == bucket.contents("one/")
    check_summaries(one, summary)
