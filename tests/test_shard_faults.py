"""The real command with --shard and finalize: killed at random, twice at once, under other clocks."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from batchqa.bundle import open_bundle, write_manifest
from batchqa.output import Target, find
from tests import command
from tests.forking import Fork, forks_of
from tests.kill_sweep import contents
from tests.models import SENTENCES

ROWS = 240
SHARDS = [f"{index}/4" for index in range(4)]
KILLS = 100


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A JSONL file with one bad row in each twelve."""
    with (tmp_path / "in.jsonl").open("w") as out:
        for n in range(ROWS):
            row = {
                "id": n,
                "context": f"{SENTENCES[n % 6]} It was {n}. " * (1 + n % 3),
                "question": f"Who {n}?",
            }
            out.write("{broken\n" if n % 12 == 7 else json.dumps(row) + "\n")
    return tmp_path / "in.jsonl"


Begin = Callable[..., Fork]


@pytest.fixture
def begin(tiny_bundle: Path, source: Path) -> Begin:
    """Begin `batchqa run` for a shard (None: the whole job), or `finalize`, as a process of its own."""
    options = [
        "--device",
        "cpu",
        "--threads",
        "1",
        "--batch-tokens",
        "512",
        "--in-process",
        "--part-rows",
        "6",
    ]
    options += ["--on-error", "reject", "--max-errors", str(ROWS), "--model", str(tiny_bundle)]

    def fork(output: str, what: str | None, *more: str) -> Fork:
        if what == "finalize":
            arguments = ["finalize", output]
        else:
            shard = ["--shard", what] if what else []
            arguments = ["run", str(source), "-o", output, *options, *shard]
        started = forks_of(command.__name__).fork(*arguments, *more)
        started.begin()
        return started

    return fork


def ended(*runs: Fork) -> list[int]:
    """Their exit codes; what they said is shown where a test fails."""
    found = [run.end() for run in runs]
    print(*(text for _, text in found))  # noqa: T201
    return [code for code, _ in found]


@pytest.mark.parametrize("output", ["out.parquet", "out/"])
def test_the_same_shard_and_finalize_twice_at_once_and_a_shard_after_them(
    begin: Begin, tmp_path: Path, output: str
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert ended(begin(f"{tmp_path}/one/{output}", None)) == [0]
    given = f"{tmp_path}/two/{output}"
    assert ended(*(begin(given, shard) for shard in ("0/2", "0/2", "1/2", "1/2"))) == [0] * 4
    assert sorted(ended(begin(given, "finalize"), begin(given, "finalize"))) in ([0, 0], [0, 75])
    assert ended(begin(given, "0/2"), begin(given, "finalize")) == [0, 0]
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_shard_that_differs_from_the_plan_ends_with_4_and_the_difference(
    begin: Begin, source: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    output, other = f"{tmp_path}/out.parquet", tmp_path / "other"
    assert begin(output, "0/2").end()[0] == 0
    shutil.copytree(tiny_bundle, other)
    write_manifest(other, replace(open_bundle(other).manifest, name="other"))
    found = [
        begin(output, "1/3").end(),
        begin(output, "1/2", "--top-k", "2").end(),
        begin(output, "1/2", "--model", str(other)).end(),
    ]
    source.write_bytes(source.read_bytes()[:-1])
    found.append(begin(output, "1/2").end())
    assert [code for code, _ in found] == [4] * 4
    for (_, said), what in zip(
        found, ["number of shards: 2 -> 3", "top_k: 0 -> 2", "bundle: ", "size: "], strict=True
    ):
        assert what in said.splitlines()[-1]


def _kill(run: Fork) -> None:
    with suppress(ProcessLookupError):  # it may end at this very moment
        run.kill()


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("output", ["out.parquet", "out.jsonl/"])
def test_four_shards_at_once_and_finalize_killed_a_hundred_times_give_the_output_of_one_run(
    begin: Begin, tmp_path: Path, output: str, record_testsuite_property: Callable[[str, object], None]
) -> None:
    (tmp_path / "one").mkdir()
    start = time.monotonic()
    assert ended(begin(f"{tmp_path}/one/{output}", None)) == [0]
    span = time.monotonic() - start
    chance, kills, rounds = random.Random(23), 0, 0

    def insist(what: str, given: str) -> None:
        """Run it until it ends well, killed at a random moment most times."""
        nonlocal kills
        for _ in range(200):
            run = begin(given, what)
            killer = threading.Timer(chance.uniform(0, span), _kill, (run,))
            if chance.random() < 0.8:
                killer.start()
            code, said = run.end()
            killer.cancel()
            if code == 0:
                return
            # a finalize that was killed may have left its lock for a moment, and never anything else
            assert code in (-9, 75), said
            kills += code == -9
        raise AssertionError("no run of 200 was let live")

    while kills < KILLS:
        folder = tmp_path / str(rounds)
        folder.mkdir()
        given = f"{folder}/{output}"
        work = [threading.Thread(target=insist, args=(shard, given)) for shard in SHARDS]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        assert find(Target.parse(given)) is None
        insist("finalize", given)
        assert ended(begin(given, "2/4"), begin(given, "finalize")) == [0, 0]
        assert contents(folder) == contents(tmp_path / "one"), f"round {rounds}"
        rounds += 1
    record_testsuite_property(f"kills over four shards of {output}, in {rounds} rounds", kills)


_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long skew(void) { const char *text = getenv("TEST_SKEW_SECONDS"); return text ? atol(text) : 0; }
int clock_gettime(clockid_t clock, struct timespec *at) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int failed = real(clock, at);
  if (!failed && clock == CLOCK_REALTIME) at->tv_sec += skew();
  return failed;
}
time_t time(time_t *out) {
  struct timespec at;
  clock_gettime(CLOCK_REALTIME, &at);
  if (out) *out = at.tv_sec;
  return at.tv_sec;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}
"""


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_shards_and_finalize_on_machines_whose_clocks_differ_by_years_give_the_output_of_one_run(
    tmp_path: Path, source: Path, tiny_bundle: Path, begin: Begin
) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler: the clock is set by a library that is loaded before")
    (tmp_path / "clock.c").write_text(_CLOCK)
    library = tmp_path / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "clock.c", "-ldl"], check=True)

    def under(years: int, *arguments: str) -> None:
        skew = str(years * 31_557_600)
        environment = {**os.environ, "LD_PRELOAD": str(library), "TEST_SKEW_SECONDS": skew}
        clock = [sys.executable, "-c", "import time; print(int(time.time()))"]
        told = int(subprocess.run(clock, env=environment, capture_output=True, check=True).stdout)
        assert abs(told - time.time() - int(skew)) < 60
        done = subprocess.run(
            [sys.executable, "-m", "batchqa", *arguments], env=environment, capture_output=True
        )
        assert done.returncode == 0, done.stderr

    options: Sequence[str] = [
        *("--device", "cpu", "--threads", "1", "--batch-tokens", "512", "--in-process", "--part-rows", "6"),
        *("--on-error", "reject", "--max-errors", str(ROWS), "--model", str(tiny_bundle)),
    ]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert ended(begin(f"{tmp_path}/one/out.parquet", None)) == [0]
    given = f"{tmp_path}/two/out.parquet"
    for years, shard in ((-3, "0/3"), (10, "1/3"), (0, "2/3"), (-3, "1/3")):
        under(years, "run", str(source), "-o", given, *options, "--shard", shard)
    under(-8, "finalize", given)
    under(5, "finalize", given)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
