"""Inside Spark and Ray: the answers of `annotate` there are those of a run, in environments of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchqa
from tests import clusters
from tests.models import MARKER, tiny_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

Bundles = Callable[..., Path]

OPTIONS = {"device": "cpu", "engine": "onnxruntime", "batch_tokens": 512, "top_k": 2}

SPARK = """
import os, sys
import pyarrow as pa
from pyspark.sql import SparkSession
import batchqa.spark

given, output, model = sys.argv[1:]
builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
# else Spark writes timestamps in a form of old, which has no zone
builder = builder.config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
spark = builder.getOrCreate()
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

RAY = """
import sys
import ray
import batchqa.ray

given, output, model = sys.argv[1:]
ray.init()
dataset = ray.data.read_parquet(given, override_num_blocks=4)
batchqa.ray.annotate(dataset, model, actors=1, batch_size=50, **OPTIONS).write_parquet(output)
"""

CRASHING_SPARK = """
import os
import batchqa.spark
annotated = batchqa.spark._annotated

def dying(*arguments):
    from batchqa.engines import worker_process
    os.environ["BATCHQA_TEST_CRASH_AT"] = "TOKEN"
    worker_process.PROGRAM = "from tests.crashing import main; main()"
    return annotated(*arguments)

batchqa.spark._annotated = dying
"""
CRASHING_RAY = """
import os
import batchqa.ray

class Dying(batchqa.ray._Annotate):
    def __init__(self, recipe):
        from batchqa.engines import worker_process
        os.environ["BATCHQA_TEST_CRASH_AT"] = "TOKEN"
        worker_process.PROGRAM = "from tests.crashing import main; main()"
        super().__init__(recipe)

batchqa.ray._Annotate = Dying
"""
"""In the engine's workers, the model's process dies at MARKER."""


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


@pytest.mark.parametrize("engine", ["spark35", "spark"])
def test_a_data_frame_of_spark_gets_the_answers_of_a_run_and_each_worker_loads_the_model_once(
    engine: str, rows: Path, expected: list[dict[str, object]], tmp_path: Path, bundles: Bundles
) -> None:
    run(engine, SPARK, rows, tmp_path / "out", bundles())
    assert_alike(answers(tmp_path / "out"), expected)


def test_a_dataset_of_ray_gets_the_answers_of_a_run(
    rows: Path, expected: list[dict[str, object]], tmp_path: Path, bundles: Bundles
) -> None:
    run("ray", RAY, rows, tmp_path / "out", bundles())
    assert_alike(answers(tmp_path / "out"), expected)


@pytest.mark.parametrize("engine", ["spark35", "spark", "ray"])
def test_a_row_that_crashes_the_engine_is_one_row_inside_spark_and_ray_too(
    engine: str,
    rows: Path,
    expected: list[dict[str, object]],
    tmp_path: Path,
    bundles: Bundles,
) -> None:
    table = pq.read_table(rows)
    contexts = table.column("context").to_pylist()
    contexts[30] += f" {MARKER}"
    given = tmp_path / "given.parquet"
    pq.write_table(table.set_column(1, "context", pa.array(contexts)), given)
    token = str(tiny_tokenizer("bert-uncased").token_to_id(MARKER))
    script = CRASHING_RAY + RAY if engine == "ray" else CRASHING_SPARK + SPARK.partition("def loads")[0]
    run(engine, script.replace("TOKEN", token), given, tmp_path / "out", bundles())
    found = answers(tmp_path / "out")
    assert (found[30]["qa_error"], found[30]["qa_answer"]) == ("crashed", None)
    assert_alike(found[:30] + found[31:], expected[:30] + expected[31:])


def run(engine: str, script: str, given: Path, output: Path, model: Path) -> None:
    """Run a script in an environment with an engine."""
    script = script.replace("**OPTIONS", f"**{OPTIONS!r}")
    with clusters.running(engine, output.parent) as variables:
        ran = subprocess.run(
            [clusters.python_of(engine), "-c", script, given, output, model],
            env=variables,
            capture_output=True,
            text=True,
        )
    assert ran.returncode == 0, ran.stderr
