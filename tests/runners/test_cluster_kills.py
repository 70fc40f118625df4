"""A job on Ray or Spark whose driver or executor is killed: nothing is lost or doubled, and it resumes."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import clusters
from tests.models import SENTENCES

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(1800)]

COUNT = 2_400
OPTIONS = [
    "--device=cpu",
    "--engine=onnxruntime",
    "--batch-tokens=512",
    "--threads=1",
    "--in-process",
    "--part-rows=25",
    "--shards=4",
]


class Job:
    """`batchqa run` over many small parts, on a cluster."""

    def __init__(self, engine: str, folder: Path, model: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self._variables = variables
        self._command = [
            clusters.python_of(engine),
            "-m",
            "batchqa",
            "run",
            "rows.parquet",
            f"--model={model}",
        ]
        texts = [f"{SENTENCES[n % len(SENTENCES)]} This was {n}." for n in range(COUNT)]
        columns = {"id": range(COUNT), "context": texts, "question": ["Who was it?"] * COUNT}
        pq.write_table(pa.table(columns), folder / "rows.parquet")
        with self.begun("one.parquet", on="") as alone:
            pass
        assert alone.returncode == 0

    def begun(self, output: str, on: str) -> subprocess.Popen[str]:
        """The command as a process; what it says is in OUTPUT.log."""
        where = [f"--on={on}"] if on else []
        options = OPTIONS if on else OPTIONS[:-1]
        with (self.folder / f"{output}.log").open("a") as log:
            return subprocess.Popen(
                [*self._command, "-o", output, *options, *where],
                cwd=self.folder,
                env=self._variables,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def log(self, output: str) -> str:
        return (self.folder / f"{output}.log").read_text()

    def wait_for_parts(self, count: int, output: str, process: subprocess.Popen[str]) -> None:
        """Until so many are committed."""
        while clusters.parts_of(self.folder / output) < count:
            assert process.poll() is None, self.log(output)
            time.sleep(0.02)

    def ends_with_the_bytes_of_one_run(self, output: str, process: subprocess.Popen[str]) -> int:
        """Checks that it does; how many rows it found done."""
        said, _ = process.communicate()
        assert process.returncode == 0, self.log(output)
        assert (self.folder / output).read_bytes() == (self.folder / "one.parquet").read_bytes()
        assert not list(self.folder.glob("*.batchqa"))
        summary = json.loads(said.splitlines()[-1])
        assert summary["rows"] == COUNT
        return int(summary["resumed_rows"])


def test_the_driver_of_a_ray_job_that_is_killed_is_started_again_and_resumes(
    tmp_path: Path, bundles: Callable[..., Path]
) -> None:
    with clusters.running("ray", tmp_path) as variables:
        job = Job("ray", tmp_path, bundles(), variables)
        for kind in (signal.SIGKILL, signal.SIGTERM):
            output = f"{kind.name}.parquet"
            with job.begun(output, "ray") as driver:
                job.wait_for_parts(5, output, driver)
                driver.send_signal(kind)
            assert driver.returncode == (-9 if kind == signal.SIGKILL else 143), job.log(output)
            # at once: tasks of the first driver may still be at work
            resumed = job.ends_with_the_bytes_of_one_run(output, job.begun(output, "ray"))
            assert resumed >= 125


@pytest.mark.parametrize("victim", ["driver", "java"])
def test_the_driver_of_a_spark_job_or_its_java_is_killed_and_the_next_run_resumes(
    victim: str, tmp_path: Path, bundles: Callable[..., Path]
) -> None:
    job = Job("spark", tmp_path, bundles(), clusters.variables("spark", tmp_path))
    with job.begun("out.parquet", "spark://local[2,4]") as driver:
        job.wait_for_parts(5, "out.parquet", driver)
        (java,) = [pid for pid, line in clusters.descendants(driver.pid).items() if "SparkSubmit" in line]
        clusters.kill(java if victim == "java" else driver.pid)
    last = job.log("out.parquet").strip().splitlines()[-1]
    if victim == "java":
        assert driver.returncode == 75, job.log("out.parquet")
        assert last.startswith("batchqa: error: Spark's Java has ended before the job was done")
    resumed = job.ends_with_the_bytes_of_one_run(
        "out.parquet", job.begun("out.parquet", "spark://local[2,4]")
    )
    assert resumed >= 125


def test_the_shards_of_a_spark_executor_that_is_killed_are_done_by_another(
    tmp_path: Path, bundles: Callable[..., Path]
) -> None:
    job = Job("spark", tmp_path, bundles(), clusters.variables("spark", tmp_path))
    with job.begun("out.parquet", "spark://local-cluster[1,2,1024]") as driver:
        job.wait_for_parts(5, "out.parquet", driver)
        executor, *_ = [
            pid
            for pid, line in clusters.descendants(driver.pid).items()
            if "java" in line and "CoarseGrainedExecutorBackend" in line
        ]
        clusters.kill(executor)
        assert job.ends_with_the_bytes_of_one_run("out.parquet", driver) >= 25
