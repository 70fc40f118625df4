"""Inside Spark and Ray: the answers of `annotate` there are those of a run, in environments of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchqa
from tests.environments import environment, python_that_runs_batchqa_with

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

Bundles = Callable[..., Path]

OPTIONS = {"device": "cpu", "engine": "onnxruntime", "batch_tokens": 512, "top_k": 2}

SPARK = """
import os, sys
import pyarrow as pa
from pyspark.sql import SparkSession
import batchqa.spark

given, output, model = sys.argv[1:]
spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
rows = spark.read.parquet(given).repartition(6)
batchqa.spark.annotate(rows, model, **OPTIONS).write.parquet(output)

def loads(batches):
    for _ in batches:
        found = batchqa.spark._loaded.cache_info()
        yield pa.RecordBatch.from_pylist([{"pid": os.getpid(), "hits": found.hits, "misses": found.misses}])

seen = spark.range(8, numPartitions=8).mapInArrow(loads, "pid long, hits long, misses long").collect()
assert all(worker.misses <= 1 for worker in seen), seen
assert sum({worker.pid: worker.hits + worker.misses for worker in seen}.values()) == 6, seen
"""

QUIET_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # else a token is made and kept in the home folder
    "RAY_raylet_start_wait_time_s": "300",  # a busy machine
}

RAY = """
import sys
import ray
import batchqa.ray

given, output, model = sys.argv[1:]
ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20)
dataset = ray.data.read_parquet(given, override_num_blocks=4)
batchqa.ray.annotate(dataset, model, actors=1, batch_size=50, **OPTIONS).write_parquet(output)
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with columns of many types, one of them without a context."""
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    count = 200
    contexts = [f"Bridge {n} was built in {1000 + n} by the town of Foo." for n in range(count)]
    table = pa.table(
        {
            "id": pa.array(range(count), pa.int64()),
            "context": pa.array([None if n == 7 else context for n, context in enumerate(contexts)]),
            "question": pa.array(["When was it built?", "Who built it?"] * (count // 2)),
            "when": pa.array([1_700_000_000_000_000 + n for n in range(count)], pa.timestamp("us", "UTC")),
            "tags": pa.array([["a", str(n)] for n in range(count)]),
            "place": pa.array(
                [{"x": n / 2, "name": None} for n in range(count)],
                pa.struct({"x": pa.float64(), "name": pa.string()}),
            ),
        }
    )
    pq.write_table(table, path)
    return path


def answers(path: Path) -> list[dict[str, object]]:
    """The rows of an output, in the order of their ids."""
    return sorted(pq.read_table(path).to_pylist(), key=lambda row: row["id"])


@pytest.fixture(scope="module")
def expected(
    rows: Path, tmp_path_factory: pytest.TempPathFactory, bundles: Bundles
) -> list[dict[str, object]]:
    output = tmp_path_factory.mktemp("run") / "out.parquet"
    batchqa.run(rows, output, model=bundles(), in_process=True, **OPTIONS)
    return answers(output)


def assert_alike(found: list[dict[str, object]], expected: list[dict[str, object]]) -> None:
    """All values are equal; floats, which depend on the neighbours in a batch, nearly so."""
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        assert row == {
            name: value if not isinstance(value, float) else pytest.approx(value, abs=1e-4)
            for name, value in wanted.items()
            if name not in ("qa_candidates", "qa_error_detail")
        } | {name: row[name] for name in ("qa_candidates", "qa_error_detail")}
        spans = [[(c["start"], c["end"]) for c in each["qa_candidates"] or ()] for each in (row, wanted)]
        assert spans[0] == spans[1]


@pytest.mark.parametrize("version", ["3.5", "4.0"])
def test_a_data_frame_of_spark_gets_the_answers_of_a_run_and_each_worker_loads_the_model_once(
    version: str, rows: Path, expected: list[dict[str, object]], tmp_path: Path, bundles: Bundles
) -> None:
    if not shutil.which("java"):
        pytest.skip("Spark needs Java (apt-get install default-jre-headless)")
    if version == "3.5":  # takes numpy 1 only, and distutils, which setuptools has
        python = python_that_runs_batchqa_with("spark35", "pyspark==3.5.*", "setuptools", "numpy<2", "pandas")
    else:
        python = python_that_runs_batchqa_with("spark", "pyspark>=4", "pandas")
    run(python, SPARK, rows, tmp_path / "out", bundles(), SPARK_LOCAL_IP="127.0.0.1")
    assert_alike(answers(tmp_path / "out"), expected)


def test_a_dataset_of_ray_gets_the_answers_of_a_run(
    rows: Path, expected: list[dict[str, object]], tmp_path: Path, bundles: Bundles
) -> None:
    python = python_that_runs_batchqa_with("ray", "ray[data]")
    run(python, RAY, rows, tmp_path / "out", bundles(), **QUIET_RAY, HOME=str(tmp_path))
    assert_alike(answers(tmp_path / "out"), expected)


def run(python: Path, script: str, given: Path, output: Path, model: Path, **variables: str) -> None:
    """Run a script in an environment with an engine."""
    script = script.replace("**OPTIONS", f"**{OPTIONS!r}")
    variables = {"PYSPARK_PYTHON": str(python), "BATCHQA_CACHE": os.environ["BATCHQA_CACHE"], **variables}
    ran = subprocess.run(
        [python, "-c", script, given, output, model],
        env=environment(**variables),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
