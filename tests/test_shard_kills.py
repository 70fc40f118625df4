"""Shards and finalize under kills and failing storage: nothing is lost, doubled or half published.

The short form takes some places of the kill sweep, the long one (`-m faults`) every one. A store that
creates twice what is to be created once is part of the suite: it must be caught.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from batchqa.output import Target, find
from tests import shard_job
from tests.forking import forks_of
from tests.kill_sweep import CALLS, Program, Sweep, contents, spread
from tests.tracing import why_not

MODULE = shard_job.__name__
OUTPUTS = ["out.parquet", "out.jsonl", "out/", "out.jsonl/"]
SHORT_KILLS = 2
REASON = why_not()
traces = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def second_shard(output: str) -> None:
    shard_job.shard(output, "1/2")


def both_shards(output: str) -> None:
    for which in shard_job.SHARDS:
        shard_job.shard(output, which)


FIRST = Program(MODULE, ["0/2"], again=shard_job.finish, whole=shard_job.whole, publishes=False)
LAST = Program(MODULE, ["0/2"], second_shard, shard_job.finish, shard_job.whole, publishes=False)
# after a kill of finalize it is finalize that does the rest: no shard has to run again
PUBLISHING = Program(MODULE, ["finalize"], both_shards, partial(shard_job.finish, which=()), shard_job.whole)
PROGRAMS = {"first": FIRST, "last": LAST, "finalize": PUBLISHING}


@traces
@pytest.mark.parametrize(("name", "output"), [("first", "out/"), ("finalize", "out.parquet")])
def test_a_shard_or_finalize_killed_at_any_call_is_finished_by_the_same_command(
    tmp_path: Path, name: str, output: str
) -> None:
    sweep = Sweep(tmp_path, output, PROGRAMS[name])
    chosen = spread(sweep.all_places(CALLS), SHORT_KILLS)
    assert {place: bad for place in chosen if (bad := sweep.kill(*place))} == {}
    assert sweep.fired == len(chosen) == SHORT_KILLS


@traces
@pytest.mark.faults
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_shard_or_finalize_killed_at_every_call_is_finished_by_the_same_command(
    tmp_path: Path, name: str, output: str, record_testsuite_property: Callable[[str, object], None]
) -> None:
    sweep = Sweep(tmp_path, output, PROGRAMS[name])
    every = sweep.all_places(CALLS)
    record_testsuite_property(f"kills of {name}, {output}", len(every))
    assert {place: bad for place in every if (bad := sweep.kill(*place))} == {}
    assert sweep.fired == len(every) > 30


@traces
@pytest.mark.faults
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_an_error_of_the_storage_at_every_call_of_a_shard_or_finalize_ends_with_74(
    tmp_path: Path, name: str, output: str, record_testsuite_property: Callable[[str, object], None]
) -> None:
    sweep = Sweep(tmp_path, output, PROGRAMS[name])
    chosen = [(*place, "ENOSPC") for place in sweep.all_places(["write", "openat", "mkdir"])]
    errors = ["getdents64", "write", "fsync", "rename", "link", "unlink", "rmdir"]
    chosen += [(*place, "EIO") for place in sweep.all_places(errors)]
    record_testsuite_property(f"errors injected into {name}, {output}", len(chosen))
    assert {place: bad for place in chosen if (bad := sweep.fail(*place))} == {}
    assert sweep.fired == len(chosen) > 30


def at_once(output: str, *which: str, options: Sequence[str] = ()) -> list[tuple[int, str]]:
    """Programs that begin their work in the same moment; their exit codes and messages."""
    runs = [forks_of(MODULE).fork(output, each, *options) for each in which]
    for run in runs:
        run.begin()
    return [run.end() for run in runs]


def two_plans(folder: Path, *options: str) -> bool:
    """Whether of shards that believe in two and in three shards, begun at once, both kinds went on."""
    folder.mkdir()
    found = at_once(f"{folder}/out.parquet", "0/2", "0/3", "1/2", "1/3", options=options)
    assert all(code == 0 or (code == 4 and "number of shards" in text) for code, text in found), found
    codes = [code for code, _ in found]
    return codes not in ([0, 4, 0, 4], [4, 0, 4, 0])


def test_of_first_shards_at_once_that_disagree_one_plan_wins_and_the_others_end_with_4(
    tmp_path: Path,
) -> None:
    assert not two_plans(tmp_path / "0", "--race")


def test_without_put_if_absent_two_plans_win(tmp_path: Path) -> None:
    assert any(two_plans(tmp_path / str(number), "--broken") for number in range(10))


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_one_plan_wins_in_every_race(tmp_path: Path) -> None:
    assert not any(two_plans(tmp_path / str(n), *["--race"] * (n % 2)) for n in range(40))


@pytest.mark.parametrize("output", ["out.parquet", "out.jsonl/", "out/"])
def test_shards_twice_at_once_and_two_finalizes_at_once_give_the_output_of_one_run(
    tmp_path: Path, output: str
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    shard_job.whole(f"{tmp_path}/one/{output}")
    given = f"{tmp_path}/two/{output}"
    assert [code for code, _ in at_once(given, "0/2", "0/2", "1/2", "1/2")] == [0] * 4
    assert not find(Target.parse(given))
    found = at_once(given, "finalize", "finalize")
    assert sorted(code for code, _ in found) in ([0, 0], [0, 75]), found
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert [code for code, _ in at_once(given, "0/2", "finalize")] == [0, 0]
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("output", OUTPUTS)
def test_shards_and_finalizes_all_at_once_end_with_one_right_output(tmp_path: Path, output: str) -> None:
    (tmp_path / "one").mkdir()
    shard_job.whole(f"{tmp_path}/one/{output}")
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        given = f"{folder}/{output}"
        shard_job.shard(given, "1/2")
        found = at_once(given, "0/2", "finalize", "finalize", "0/2", "finalize", "1/2")
        assert {code for code, _ in found} <= {0, 75}, found
        shard_job.finish(given)
        assert contents(folder) == contents(tmp_path / "one")
