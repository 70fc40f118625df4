"""The example DAGs, run by `airflow dags test` in an environment with a real Airflow."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from batchqa.version import VERSION
from tests import s3
from tests.environments import ROOT, environment, python_that_runs_batchqa_with

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

EXAMPLES = ROOT / "examples" / "airflow"


@dataclass
class Airflow:
    """An Airflow of its own: its folder, its command, and what the DAGs call `data`."""

    home: Path
    python: Path
    bundle: Path
    data: Path

    def variables(self, **more: str) -> dict[str, str]:
        """The environment of its commands."""
        return environment(
            AIRFLOW_HOME=str(self.home),
            AIRFLOW__CORE__LOAD_EXAMPLES="False",
            AIRFLOW__CORE__DAGS_FOLDER=str(self.home / "dags"),
            **more,
        )

    def test(
        self,
        dag: str,
        meanwhile: Callable[[int], None] = lambda _: None,
        date: str = "2026-03-01",
        **given: Any,
    ) -> str:
        """Run a DAG with these `params` and variables; `meanwhile` has the process's number. The log."""
        params = {"data": str(self.data), "model": str(self.bundle), **given.pop("params", {})}
        log = self.home / f"{dag}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                [self.python, "-m", "airflow", "dags", "test", dag, date, "--conf", json.dumps(params)],
                env=self.variables(**given),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            with process:
                meanwhile(process.pid)
        return log.read_text()

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What its database says."""
        with contextlib.closing(sqlite3.connect(self.home / "airflow.db")) as database:
            return database.execute(query, values).fetchall()

    def tasks(self, dag: str) -> dict[str, tuple[str, int]]:
        """State and number of tries of each task of the DAG's last run; a mapped one is NAME[INDEX]."""
        found = self.rows(
            "SELECT task_id, map_index, state, try_number FROM task_instance WHERE dag_id = ? AND run_id = "
            "(SELECT run_id FROM dag_run WHERE dag_id = ? ORDER BY id DESC LIMIT 1)",
            dag,
            dag,
        )
        return {
            name if index < 0 else f"{name}[{index}]": (state, tries) for name, index, state, tries in found
        }

    def summary(self, dag: str, task: str) -> dict[str, Any]:
        """The XCom of a task of the DAG's last run."""
        query = "SELECT value FROM xcom WHERE dag_id = ? AND task_id = ? ORDER BY timestamp DESC LIMIT 1"
        ((value,),) = self.rows(query, dag, task)
        return json.loads(value) if isinstance(value, str | bytes) else value

    def write(self, name: str, rows: int, **columns: Any) -> None:
        """A file of so many rows."""
        path = self.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (
            {"id": n, "context": f"Bridge {n} was built in {1000 + n}.", "question": "When?", **columns}
            for n in range(rows)
        )
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, bundles: Callable[..., Path]) -> Airflow:
    python = python_that_runs_batchqa_with("airflow", "apache-airflow==3.*")
    made = Airflow(tmp_path_factory.mktemp("airflow"), python, bundles(), Path())
    (made.home / "dags").mkdir()
    for example in EXAMPLES.glob("*.py"):
        # nobody wants to wait for five minutes here; small parts, so that there is something to resume
        text = example.read_text().replace("minutes=5", "seconds=1").replace("20_000", "200")
        (made.home / "dags" / example.name).write_text(text)
    subprocess.run(
        [python, "-m", "airflow", "db", "migrate"], env=made.variables(), check=True, capture_output=True
    )
    return made


@pytest.fixture
def airflow(installed: Airflow, tmp_path: Path) -> Airflow:
    """The Airflow with a `data` of this test."""
    return replace(installed, data=tmp_path)


def test_a_nightly_run_gives_its_summary_and_its_asset_and_a_night_without_rows_is_skipped(
    airflow: Airflow,
) -> None:
    airflow.write("in/2026-03-01/rows.jsonl", 300)
    log = airflow.test("batchqa_nightly")
    assert airflow.tasks("batchqa_nightly") == {"annotate": ("success", 1)}
    output = airflow.data / "out" / "2026-03-01.parquet"
    assert pq.read_metadata(output).num_rows == 300
    summary = airflow.summary("batchqa_nightly", "annotate")
    assert (summary["rows"], summary["skipped"]) == (300, False)
    ((uri, extra),) = airflow.rows(
        "SELECT asset.uri, asset_event.extra FROM asset_event JOIN asset ON asset.id = asset_event.asset_id"
    )
    assert uri == output.as_uri()
    assert json.loads(extra) == {"rows": 300, "fingerprint": summary["fingerprint"]}
    assert re.search(r"\[info +\] loading tiny-bert-uncased", log), (
        "a line of the log is a line of the task's"
    )

    airflow.test("batchqa_nightly", date="2026-03-02")
    assert airflow.tasks("batchqa_nightly") == {"annotate": ("skipped", 1)}
    assert not (airflow.data / "out" / "2026-03-02.parquet").exists()


def test_a_task_that_is_killed_and_one_whose_command_is_killed_are_tried_again_and_resume(
    airflow: Airflow,
) -> None:
    airflow.write("in/2026-03-03/rows.jsonl", 20_000)
    staging = airflow.data / "out" / "2026-03-03.parquet.batchqa"

    def command_after(parts: int, task: int) -> int:
        """The process number of the command, once so many parts are committed."""
        while True:
            time.sleep(0.05)
            for number in Path(f"/proc/{task}/task/{task}/children").read_text().split():
                with contextlib.suppress(OSError):
                    is_command = b"-m\0batchqa\0run" in Path(f"/proc/{number}/cmdline").read_bytes()
                    if is_command and len([*staging.glob("part-*.parquet")]) >= parts:
                        return int(number)

    ended_after: list[float] = []

    def kill_twice(task: int) -> None:
        command = command_after(2, task)
        began = time.monotonic()
        os.kill(task, signal.SIGTERM)  # what Airflow's supervisor sends: on_kill
        while Path(f"/proc/{command}").exists():
            time.sleep(0.05)
        ended_after.append(time.monotonic() - began)
        os.kill(command_after(5, task), signal.SIGKILL)  # what the kernel does where memory is short

    log = airflow.test("batchqa_nightly", kill_twice, date="2026-03-03")
    assert airflow.tasks("batchqa_nightly") == {"annotate": ("success", 3)}
    assert ended_after[0] < 10
    assert "exit code 143: stopped by SIGTERM; finished parts are kept" in log
    assert "exit code -9" in log
    summary = airflow.summary("batchqa_nightly", "annotate")
    assert summary["rows"] == 20_000
    assert summary["resumed_rows"] >= 1000
    table = pq.read_table(airflow.data / "out" / "2026-03-03.parquet")
    assert table.column("id").to_pylist() == list(range(20_000))


def test_a_failed_gate_stops_the_dag_and_is_not_tried_again(airflow: Airflow) -> None:
    airflow.write("labelled.jsonl", 20, answers={"text": ["Bridge"], "answer_start": [0]})
    airflow.write("rows.jsonl", 20)
    log = airflow.test("batchqa_gate")
    assert airflow.tasks("batchqa_gate") == {"score": ("failed", 1), "annotate": ("upstream_failed", 0)}
    assert "exit code 3: F1 is" in log
    assert not (airflow.data / "answers.parquet").exists()

    airflow.test("batchqa_gate", params={"min_f1": 0.0})
    assert airflow.tasks("batchqa_gate") == {"score": ("success", 1), "annotate": ("success", 1)}


def test_an_object_store_is_reached_through_a_connection_whose_secrets_are_nowhere_to_be_read(
    airflow: Airflow,
) -> None:
    boto3 = pytest.importorskip("boto3")
    with s3.running_server() as server:
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{server}",
            region_name="us-east-1",
            aws_access_key_id=s3.KEY,
            aws_secret_access_key=s3.SECRET,
        )
        client.create_bucket(Bucket="my-bucket")
        line = b'{"context": "It was built in 1894.", "question": "When?"}\n'
        client.put_object(Bucket="my-bucket", Key="in/rows.jsonl", Body=line)
        connection = {
            "conn_type": "aws",
            "login": s3.KEY,
            "password": s3.SECRET,
            "extra": {"region_name": "us-east-1", "endpoint_url": f"http://{server}"},
        }
        log = airflow.test("batchqa_object_store", AIRFLOW_CONN_AWS_DEFAULT=json.dumps(connection))
        assert airflow.tasks("batchqa_object_store") == {"annotate": ("success", 1)}
        listed = client.list_objects_v2(Bucket="my-bucket", Prefix="out/")["Contents"]
    # an empty object may stand for the folder
    assert [each["Key"] for each in listed if each["Key"] != "out/"] == ["out/answers.parquet"]
    assert s3.SECRET not in log


def test_batchqa_run_in_a_task_of_another_environment_gives_its_summary_to_the_next(airflow: Airflow) -> None:
    airflow.write("rows.jsonl", 20)
    log = airflow.test("batchqa_taskflow", params={"python": str(airflow.python)})
    assert airflow.tasks("batchqa_taskflow") == {"annotate": ("success", 1), "report": ("success", 1)}
    assert re.search(r"\d+ of 20 rows are answered", log)


def test_four_mapped_shards_and_a_finalize_step_publish_one_output(airflow: Airflow) -> None:
    airflow.write("rows.jsonl", 1000)
    airflow.test("batchqa_shards")
    shards = {f"shard[{number}]": ("success", 1) for number in range(4)}
    assert airflow.tasks("batchqa_shards") == {**shards, "finalize": ("success", 1)}
    table = pq.read_table(airflow.data / "answers.parquet")
    assert table.column("id").to_pylist() == list(range(1000))


def test_airflow_knows_the_provider(airflow: Airflow, tmp_path: Path) -> None:
    info = tmp_path / f"batchqa-{VERSION}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: batchqa\nVersion: {VERSION}\n")
    point = "provider_info = batchqa.airflow:get_provider_info"
    (info / "entry_points.txt").write_text(f"[apache_airflow_provider]\n{point}\n")
    code = (
        "from airflow.providers_manager import ProvidersManager\n"
        "print(ProvidersManager().providers['batchqa'].version)"
    )
    variables = airflow.variables()
    variables["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
    said = subprocess.run([airflow.python, "-c", code], env=variables, capture_output=True, text=True)
    assert said.stdout.split()[-1:] == [VERSION], said.stderr


def test_the_first_steps_in_the_docs_lead_from_a_clone_to_answers(airflow: Airflow, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "integrations.md").read_text()
    (recipe,) = re.findall(r"^## Airflow\n.*?^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    made, installed, *steps = recipe.splitlines()
    assert made.startswith("python3 -m venv airflow")
    assert installed == "pip install '.[airflow]'"  # both are done
    clone = tmp_path / "clone"
    for name in ("examples/airflow/nightly.py", "sample_data/sample.jsonl"):
        (clone / name).parent.mkdir(parents=True)
        (clone / name).write_text((ROOT / name).read_text().replace('"/data"', f'"{tmp_path}/data"'))
    variables = environment(
        HOME=str(tmp_path),
        PATH=f"{airflow.python.parent}:/usr/bin:/bin",
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
    )
    variables.pop("AIRFLOW_HOME", None)
    script = "\n".join(steps).replace("/data/", f"{tmp_path}/data/")
    ran = subprocess.run(
        ["/bin/bash", "-ec", script], cwd=clone, env=variables, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert "state=success" in ran.stdout + ran.stderr
    table = pq.read_table(tmp_path / "data" / "out" / "2026-03-01.parquet")
    assert table.num_rows == len((ROOT / "sample_data" / "sample.jsonl").read_text().splitlines())
    assert table.column("qa_answer").null_count < table.num_rows
