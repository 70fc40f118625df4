"""The examples for Dagster and Prefect, run by a real Dagster and a real Prefect."""

from __future__ import annotations

import fcntl
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.environments import ROOT, environment, python_that_runs_batchqa_with

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DAY = "2026-03-01"
AGAIN = r"STEP_UP_FOR_RETRY|Retry 1/3"
"""What Dagster and Prefect say before they try again."""


@dataclass
class Flow:
    """An engine with its example, in which nobody waits for five minutes."""

    folder: Path
    command: list[str]

    @property
    def output(self) -> Path:
        return self.folder / "out" / f"{DAY}.parquet"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def begun(self) -> subprocess.Popen[bytes]:
        variables = environment(
            DATA=str(self.folder),
            HOME=str(self.folder),
            DAGSTER_HOME=str(self.folder),
            DAGSTER_DISABLE_TELEMETRY="1",
            PREFECT_HOME=str(self.folder / "prefect"),
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="600",  # a busy machine
            DO_NOT_TRACK="1",
        )
        with (self.folder / "log").open("w") as log:
            return subprocess.Popen(
                self.command, cwd=self.folder, env=variables, stdout=log, stderr=subprocess.STDOUT
            )


@pytest.fixture(params=["dagster", "prefect"])
def flow(request: pytest.FixtureRequest, tmp_path: Path) -> Flow:
    python = python_that_runs_batchqa_with("flows", "dagster==1.*", "prefect==3.*")
    example = tmp_path / "nightly.py"
    text = (ROOT / "examples" / request.param / "nightly.py").read_text()
    example.write_text(text.replace("300", "1"))
    assert text.count("300") == 1
    options = {
        "dagster": f"-m dagster asset materialize -f nightly.py --select=answers --partition={DAY}".split(),
        "prefect": ["nightly.py", DAY],
    }
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    return Flow(tmp_path, [str(python), *options[request.param]])


def write(folder: Path) -> None:
    """Twenty rows of the day."""
    folder.mkdir()
    rows = {
        "id": list(range(20)),
        "context": [f"The bridge was built in {1900 + n} by the town." for n in range(20)],
        "question": ["When was the bridge built?"] * 20,
    }
    pq.write_table(pa.table(rows), folder / "rows.parquet")


def test_a_day_whose_output_another_run_holds_is_tried_again_and_done(flow: Flow) -> None:
    write(flow.folder / "in" / DAY)
    lock = flow.output.with_name(f"{DAY}.parquet.batchqa") / "_batchqa" / "lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with flow.begun() as process:
            while "another run" not in flow.log:
                assert process.poll() is None, flow.log
                time.sleep(0.1)
            fcntl.flock(file, fcntl.LOCK_UN)
    assert process.returncode == 0, flow.log
    assert re.search(AGAIN, flow.log)
    table = pq.read_table(flow.output, columns=["id", "qa_answer"])
    assert table.column("id").to_pylist() == list(range(20))
    assert table.column("qa_answer")[7].as_py() == "1907"


def test_a_day_without_rows_fails_at_once(flow: Flow) -> None:
    with flow.begun() as process:
        pass
    assert process.returncode != 0
    assert f"{flow.folder}/in/{DAY}/ does not exist" in flow.log
    assert not re.search(AGAIN, flow.log)
    assert not flow.output.exists()
