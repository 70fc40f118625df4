"""The promise under kills and failing storage: strace injects a fault at some call, the job runs again.

The short form takes some N of every kind of call, the long one (`-m faults`) every N. A protocol that is
broken on purpose is part of the suite: it must be caught.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import commit_job
from tests.forking import ROOT
from tests.kill_sweep import CALLS, Program, Sweep, contents, spread
from tests.tracing import why_not

SCRIPT = Path(commit_job.__file__)
JOB = Program()
OUTPUTS = ["out.parquet", "out.jsonl", "out/", "out.jsonl/", "out.csv"]
SHORT_KILLS = 3  # per kind of output, spread over all calls; each takes a second


REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.fixture(params=OUTPUTS)
def sweep(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sweep]:
    sweep = Sweep(tmp_path, request.param)
    yield sweep
    print(f"{request.param}: {sweep.fired} injections fired")  # noqa: T201


def test_a_kill_at_any_call_leaves_nothing_partial_and_the_same_command_finishes_the_job(
    sweep: Sweep,
) -> None:
    chosen = spread(sweep.all_places(CALLS), SHORT_KILLS)
    assert {place: bad for place in chosen if (bad := sweep.kill(*place))} == {}
    assert sweep.fired == len(chosen) == SHORT_KILLS


def test_a_full_or_failing_disk_ends_with_74_and_the_same_command_finishes_the_job(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "out.parquet")
    chosen = [(*place, "ENOSPC") for place in spread(sweep.all_places(["write"]), 2)]
    chosen += [(*place, "EIO") for place in spread(sweep.all_places(["fsync"]), 2)]
    chosen += [(*place, "EIO") for place in spread(sweep.all_places(["rename"]), 1)]
    assert {place: bad for place in chosen if (bad := sweep.fail(*place))} == {}
    assert sweep.fired == len(chosen)


def test_the_sweep_catches_a_protocol_without_rename(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "out.parquet")
    (tmp_path / "broken").mkdir()
    last_write = JOB.places(sweep.path("broken"), tmp_path / "log", "--broken")["write"][-1]
    assert sweep.kill("write", last_write - 3, "--broken") == "a partial output is to be seen"


def test_a_failed_fsync_is_never_tried_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    (tmp_path / "counted").mkdir()
    number = JOB.places(str(tmp_path / "counted" / "out.parquet"), log)["fsync"][8]
    failed = JOB.run(str(tmp_path / "out.parquet"), inject=f"fsync:error=EIO:when={number}", log=log)
    assert failed.returncode == 74
    after = log.read_text(errors="replace").partition("(INJECTED)")[2]
    assert "fsync(" not in after
    assert "rename(" not in after


def test_a_file_is_durable_before_it_is_renamed_and_its_folder_after(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert JOB.run(str(tmp_path / "out.parquet"), log=log).returncode == 0
    calls = re.findall(r"^\d+ +(fsync|rename|write)\(", log.read_text(errors="replace"), re.MULTILINE)
    renames = [index for index, call in enumerate(calls) if call == "rename"]
    assert len(renames) == 8 + 4 + 1 + 1  # parts, their rejects, all rejects, the output; job.json is a link
    for index in renames:
        assert calls[index - 1] == "fsync"
        assert calls[index + 1] == "fsync"


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_a_kill_at_every_call_leaves_nothing_partial_and_the_same_command_finishes_the_job(
    sweep: Sweep, record_testsuite_property: Callable[[str, object], None]
) -> None:
    every = sweep.all_places(CALLS)
    record_testsuite_property(f"kills of {sweep.name}", len(every))
    assert {place: bad for place in every if (bad := sweep.kill(*place))} == {}
    assert sweep.fired == len(every) > 100


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_an_error_of_the_storage_at_every_call_ends_with_74_and_the_same_command_finishes(
    sweep: Sweep, record_testsuite_property: Callable[[str, object], None]
) -> None:
    chosen = [(*place, "ENOSPC") for place in sweep.all_places(["write", "openat", "mkdir"])]
    chosen += [(*place, "EIO") for place in sweep.all_places(["write", "fsync", "rename", "unlink", "rmdir"])]
    record_testsuite_property(f"errors injected into {sweep.name}", len(chosen))
    assert {place: bad for place in chosen if (bad := sweep.fail(*place))} == {}
    assert sweep.fired == len(chosen) > 100


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_the_full_sweep_finds_many_places_at_which_a_protocol_without_rename_breaks(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "out.parquet")
    (tmp_path / "broken").mkdir()
    writes = JOB.places(sweep.path("broken"), tmp_path / "log", "--broken")["write"]
    bad = [number for number in writes[-40:] if sweep.kill("write", number, "--broken")]
    assert len(bad) > 20


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_of_two_runs_at_once_one_finishes_and_the_other_ends_with_75(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    seen = []
    for round_ in range(20):
        output = tmp_path / str(round_) / "out.parquet"
        command = [sys.executable, str(SCRIPT), str(output), "--slow"]
        runs = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
        for run in runs:
            run.communicate(timeout=60)
        seen.append(sorted(run.returncode for run in runs))
        assert pq.read_table(output)["number"].to_pylist() == commit_job.kept(commit_job.RECORDS)
    # A run that began only after the other had ended finds the output done.
    assert all(codes in ([0, 75], [0, 0]) for codes in seen)
    assert seen.count([0, 75]) >= 10


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_job_that_is_killed_again_and_again_at_random_times_is_finished_in_the_end(
    tmp_path: Path, output: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    start = time.monotonic()
    command = [sys.executable, str(SCRIPT), f"{tmp_path / 'undisturbed'}/{output}", "--slow"]
    subprocess.run(command, env=environment, check=True)
    span = time.monotonic() - start
    command = [sys.executable, str(SCRIPT), f"{tmp_path / 'killed'}/{output}", "--slow"]
    kills = 0
    while kills < 200:
        run = subprocess.Popen(command, env=environment)
        try:
            code = run.wait(timeout=span * (0.3 + 0.07 * (kills % 11)))
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.wait()
            kills += 1
            time.sleep(0.01)
            continue
        assert code == 0
        break
    assert kills > 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


@pytest.mark.faults
def test_a_limit_on_file_sizes_ends_with_74_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = f"ulimit -f 40; exec {sys.executable} {SCRIPT} {output}"
    run = subprocess.run(["bash", "-c", command], env=environment, capture_output=True)
    assert run.returncode == 74
    assert b"ulimit -f" in run.stderr
    assert b"Traceback" not in run.stderr
    assert len(list(Path(f"{output}.batchqa").glob("part-*.parquet"))) == 8
    commit_job.run(output)
    table = pq.read_table(output)
    assert table.equals(pa.Table.from_batches([commit_job.rows_of(commit_job.kept(commit_job.RECORDS))]))
