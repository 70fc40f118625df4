"""`--on ray` and `--on spark`: the shards of a job as tasks of a cluster give the bytes of one run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchqa
from batchqa.errors import ModelError, NoInputError, SettingsError, StorageError, TryAgainError
from batchqa.runners import engine_errors, engines
from batchqa.settings import RunSettings, Shard
from tests import clusters
from tests.environments import environment
from tests.models import SENTENCES

Bundles = Callable[..., Path]

ROWS = [
    {"id": n, "context": f"{SENTENCES[n % len(SENTENCES)]} This was {n}.", "question": f"Who was {n % 5}?"}
    for n in range(60)
]
OPTIONS = ["--device=cpu", "--engine=onnxruntime", "--batch-tokens=512", "--threads=1", "--part-rows=9"]

PROGRAM = "import sys; from batchqa.cli.entry import program; sys.exit(program())"

DYING = """
import os
from batchqa.runners import engines
before = engines.TASK

def dying(*arguments):
    import os, signal
    from batchqa.output.part_writer import PartWriter
    try:
        os.close(os.open("KILLED", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return before(*arguments)
    commit = PartWriter.commit
    def last(self, *given, **options):
        commit(self, *given, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    PartWriter.commit = last
    return before(*arguments)

engines.TASK = dying
"""
"""The first task's worker kills itself, as the kernel would, when it has committed a part."""

SPARK_REPORT = """An error occurred while calling z:org.apache.spark.api.python.PythonRDD.collectAndServe.
: org.apache.spark.SparkException: Job aborted due to stage failure: Lost task 0.3 in stage 0.0
  File "worker.py", line 1, in main
batchqa.errors.StorageError: /data/out: no space left

\tat org.apache.spark.api.python.BasePythonRunner
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def run_command(
    python: Path | str, program: str, folder: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-c", program, "run", *arguments],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "on",
    ["dask", "ray:", "ray://", "ray://nowhere", "ray://a b:1", "spark:local", "spark://", "spark://nowhere"],
)
def test_an_address_that_is_none_is_a_mistake_of_usage(on: str, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="must be one of ray, ray://HOST:PORT"):
        batchqa.run(rows, tmp_path / "out.parquet", on=on)


@pytest.mark.parametrize(
    ("address", "master"),
    [
        ("local", "local"),
        ("local[2]", "local[2]"),
        ("yarn", "yarn"),
        ("head:7077", "spark://head:7077"),
        ("a:7077,b:7077", "spark://a:7077,b:7077"),
        ("k8s://https://head:6443", "k8s://https://head:6443"),
        ("", ""),
    ],
)
def test_masters_are_written_as_spark_knows_them(address: str, master: str) -> None:
    assert engines._engine(f"spark://{address}" if address else "spark") == ("spark", address)
    assert engines._master(address) == master


@pytest.mark.parametrize(
    ("inputs", "output", "options", "message"),
    [
        ("rows.parquet", "out.parquet", {"shard": "0/4"}, "--on and --shard cannot be combined"),
        ("rows.parquet", "out.parquet", {"shards": 0}, "--shards must be a whole number"),
        ("-", "out.parquet", {}, "- is a stream, which cannot be split"),
        ("rows.parquet", "-", {}, "- is a stream, which cannot be split"),
        (
            "rows.parquet",
            "out.parquet",
            {"restart": True},
            "run the job once without --on and with --restart",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_refused_before_a_cluster_is_looked_for(
    inputs: str, output: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        batchqa.run(inputs, output, on="ray", **options)


def test_an_engine_of_the_model_can_be_named_beside_the_cluster(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--on and --shard cannot be combined"):
        batchqa.run(rows, tmp_path / "out.parquet", on="ray", engine="onnxruntime", shard="0/4")


def test_a_number_of_shards_alone_is_a_mistake_of_usage(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--shards N goes with --shard auto or --on"):
        batchqa.run(rows, tmp_path / "out.parquet", shards=4)


@pytest.mark.parametrize(("on", "library"), [("ray", "ray"), ("spark", "pyspark")])
def test_a_library_that_is_missing_is_named_with_its_extra(
    on: str, library: str, rows: Path, tmp_path: Path
) -> None:
    program = f"import sys; sys.modules[{library!r}] = None; {PROGRAM}"
    ran = run_command(sys.executable, program, tmp_path, str(rows), "-o", "out.parquet", "--on", on)
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1].endswith(f"pip install 'batchqa[{on}]'")
    assert len(ran.stderr.splitlines()) == 1


def test_a_task_hands_back_what_another_try_would_not_mend_and_raises_the_rest(
    rows: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    settings = RunSettings.from_options(
        {"device": "cpu", "threads": 1, "batch_tokens": 512, "in_process": True}
    )
    work = engines.ShardWork(
        (str(tmp_path / "none"),), str(tmp_path / "out"), str(tiny_bundle), settings, None
    )
    outcome = engines.do_shard(work, Shard(0, 2))
    assert outcome.summary is None
    error = engine_errors.of_task(*outcome.error, "shard 0/2: ")
    assert isinstance(error, NoInputError)
    assert str(error).startswith("shard 0/2: ")
    assert "all workers need the inputs, the model and the output" in str(error)

    too_long = str(tmp_path / f"{'o' * 300}.parquet")  # what the storage refuses
    work = engines.ShardWork((str(rows),), too_long, str(tiny_bundle), settings, None)
    with pytest.raises(StorageError):
        engines.do_shard(work, Shard(0, 2))


@pytest.mark.parametrize(
    ("report", "kind", "message"),
    [
        (
            SPARK_REPORT,
            StorageError,
            "/data/out: no space left",
        ),
        (
            "ray::do_shard() (pid=1)\nModuleNotFoundError: No module named 'batchqa'",
            TryAgainError,
            "ModuleNotFoundError: No module named 'batchqa'",
        ),
        ("batchqa.errors.ModelError: /m: no such bundle", ModelError, "/m: no such bundle"),
        ("the worker died", TryAgainError, "the worker died"),
    ],
)
def test_a_shard_that_was_given_up_is_one_line_with_the_exit_code_of_its_last_error(
    report: str, kind: type[Exception], message: str
) -> None:
    error = engine_errors.given_up("Spark", Exception(report))
    assert type(error) is kind
    assert message in str(error)
    assert len(str(error).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("engine", ["ray", "spark"])
def test_a_job_on_a_cluster_gives_the_bytes_of_one_run_also_when_a_worker_is_killed(
    engine: str, rows: Path, tmp_path: Path, bundles: Bundles
) -> None:
    with clusters.running(engine, tmp_path) as variables:
        _check_jobs_on(engine, variables, rows, tmp_path, bundles())


def _check_jobs_on(engine: str, variables: dict[str, str], rows: Path, tmp_path: Path, bundle: Path) -> None:
    python = clusters.python_of(engine)
    on = ["--on=ray" if engine == "ray" else "--on=spark://local[1,4]", "--shards=3"]
    options = [*OPTIONS, f"--model={bundle}", "--top-k=2"]
    # names that are relative to this process's folder, which is not that of Ray's workers
    one = run_command(python, PROGRAM, tmp_path, rows.name, "-o", "one.parquet", *options, **variables)
    assert one.returncode == 0, one.stderr

    def on_cluster(output: str, *more: str, before: str = "") -> subprocess.CompletedProcess[str]:
        arguments = [rows.name, "-o", output, *options, *on, *more]
        return run_command(python, before + PROGRAM, tmp_path, *arguments, **variables)

    many = on_cluster("many.parquet", "--summary=summary.json")
    assert many.returncode == 0, many.stderr
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "many.parquet").read_bytes()
    alone, together = json.loads(one.stdout), json.loads(many.stdout)
    for key in ("rows", "answered", "no_answer", "errors", "windows", "fingerprint", "resumed_rows"):
        assert alone[key] == together[key], key
    assert together["output"] == alone["output"].replace("one.parquet", "many.parquet")
    assert json.loads((tmp_path / "summary.json").read_text()) == together
    assert "3 of 3 shards are done" in many.stderr
    assert "[Stage" not in many.stderr  # Spark's own bar
    assert not list(tmp_path.glob("*.batchqa"))

    before = (tmp_path / "many.parquet").stat().st_mtime_ns
    again = on_cluster("many.parquet")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["already_done"]
    assert (tmp_path / "many.parquet").stat().st_mtime_ns == before

    task = {"ray": "do_shard", "spark": "_task_of_spark"}[engine]
    dying = DYING.replace("TASK", task).replace("KILLED", f"{tmp_path}/killed")
    killed = on_cluster("killed.parquet", before=dying)
    assert killed.returncode == 0, killed.stderr
    assert (tmp_path / "killed").exists()
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "killed.parquet").read_bytes()
    # Ray's own words about a dead worker come before the summary, which is the last line
    assert json.loads(killed.stdout.splitlines()[-1])["resumed_rows"] == 9

    rows.rename(tmp_path / "elsewhere.parquet")
    missing = on_cluster("other.parquet")
    assert missing.returncode == 2, missing.stderr
    last = missing.stderr.strip().splitlines()[-1]
    assert last.startswith("batchqa: error: shard ")
    assert "all workers need the inputs" in last
    assert missing.stdout == ""
