"""1, 4 and 16 shards and four processes give the bytes of one run: every format, a file and a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kill_sweep import contents
from tests.shard_equality import COUNTS, INPUTS, OPTIONS, Jobs, check_summaries

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("place", ["file", "folder"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", INPUTS)
def test_any_number_of_shards_and_four_processes_give_the_bytes_of_one_run(
    tmp_path: Path, tiny_bundle: Path, kind: str, options: str, place: str
) -> None:
    jobs = Jobs(tmp_path, tiny_bundle, kind, options)
    source, name = tmp_path / jobs.name, f"out.{jobs.format}" + ("/" if place == "folder" else "")
    source.write_bytes(jobs.content)
    one = jobs.one(str(source), f"{tmp_path}/one/{name}")
    assert one.rows >= 53
    assert (one.reused_rows > 0) == (options == "reused")
    for count in COUNTS:
        summary = jobs.shards(str(source), f"{tmp_path}/{count}/{name}", count)
        assert contents(tmp_path / str(count)) == contents(tmp_path / "one"), f"{count} shards"
        check_summaries(one, summary)
    summary = jobs.processes(str(source), f"{tmp_path}/processes/{name}")
    assert contents(tmp_path / "processes") == contents(tmp_path / "one")
    check_summaries(one, summary)
