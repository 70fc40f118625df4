"""What an Airflow task does apart from Airflow: the command as a child process, and its environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batchqa.airflow.command import Command, CommandOutcome, flags, holds_credentials
from batchqa.airflow.connections import environment_of
from batchqa.version import VERSION
from tests.environments import ROOT


def connection(kind: str, **fields: Any) -> Any:
    """A connection as Airflow hands it over."""
    return SimpleNamespace(
        **{"conn_id": "store", "conn_type": kind, "login": None, "password": None, "extra_dejson": {}}
        | fields
    )


@pytest.fixture
def arguments(tiny_bundle: Path, tmp_path: Path) -> list[str]:
    """A small run."""
    (tmp_path / "in.jsonl").write_text('{"context": "It was built in 1894.", "question": "When?"}\n')
    options = {"device": "cpu", "in_process": True, "batch_tokens": 512, "model": tiny_bundle}
    return ["run", f"--output={tmp_path / 'out.parquet'}", *flags(options), "--", str(tmp_path / "in.jsonl")]


def is_gone(pid: int, seconds: float) -> bool:
    """Whether a process is gone, or will be within so many seconds."""
    end = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_options_become_the_flags_of_the_command_line() -> None:
    options = {"top_k": 3, "strict": True, "overwrite": False, "limit": None, "keep": ["id", "-x"]}
    assert flags(options) == ["--top-k=3", "--strict", "--keep=id", "--keep=-x"]
    assert flags({"ask": {"date": "When is {title}?"}}) == ["--ask=date=When is {title}?"]


def test_a_command_gives_its_log_its_exit_code_and_its_summary(arguments: list[str]) -> None:
    log: list[str] = []
    outcome = Command(arguments).run(log.append)
    assert "batchqa: loading tiny-bert-uncased" in log
    assert outcome.exit_code == 0
    assert outcome.summary is not None
    assert outcome.summary["rows"] == 1


def test_a_command_that_fails_gives_its_error(tmp_path: Path) -> None:
    missing = tmp_path / "missing.jsonl"
    outcome = Command(["run", f"--output={tmp_path / 'out.parquet'}", "--", str(missing)]).run(print)
    assert outcome == CommandOutcome(2, f"{missing} does not exist; check the path", None)


def test_stopping_a_command_ends_it_and_its_processes_even_if_it_ignores_sigterm(tmp_path: Path) -> None:
    stubborn = tmp_path / "stubborn"
    stubborn.write_text("#!/bin/sh\ntrap '' TERM\nsleep 300 &\necho $! >&2\nwait\nwait\n")
    stubborn.chmod(0o755)
    command, grandchildren = Command(["run"], python=str(stubborn)), []

    def stop(line: str) -> None:
        grandchildren.append(int(line))
        command.stop(grace=0.2)

    assert command.run(stop).exit_code == -signal.SIGKILL
    assert is_gone(*grandchildren, seconds=5)


def test_a_stopped_command_says_that_it_can_be_run_again_and_it_can(arguments: list[str]) -> None:
    command = Command(arguments)
    outcome = command.run(lambda line: command.stop() if "loading" in line else None)
    assert outcome.exit_code == 143
    assert outcome.error.endswith("run the same command again to resume")
    assert Command(arguments).run(print).exit_code == 0


def test_a_command_is_stopped_where_its_task_is_interrupted(arguments: list[str], tmp_path: Path) -> None:
    def interrupted(line: str) -> None:
        if "loading" in line:
            raise TimeoutError

    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = children.read_text()
    with pytest.raises(TimeoutError):
        Command(arguments).run(interrupted)
    assert children.read_text() == before
    assert not (tmp_path / "out.parquet").exists()


def test_a_command_does_not_outlive_the_task_that_started_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in.jsonl")  # nobody writes into it: the run waits for ever
    endless = ["run", f"--output={tmp_path / 'out.parquet'}", "--", str(tmp_path / "in.jsonl")]
    program = (
        "import json, sys\n"
        "from batchqa.airflow.command import Command\n"
        "Command(json.loads(sys.argv[1])).run(print)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, json.dumps(endless)]) as task:
        children = Path(f"/proc/{task.pid}/task/{task.pid}/children")
        command = Path("/proc/none")
        while not command.exists() or b"-m\0batchqa" not in command.read_bytes():
            time.sleep(0.05)
            command = Path(f"/proc/{children.read_text().strip() or 'none'}/cmdline")
        task.kill()
    assert is_gone(int(command.parent.name), seconds=5)


def test_a_password_in_a_uri_is_seen() -> None:
    assert holds_credentials("s3://key:secret@bucket/in.parquet")
    assert holds_credentials("--output=s3://key:se@cret@bucket/out.parquet")
    assert not holds_credentials("s3://bucket/12:30@noon.parquet")
    assert not holds_credentials("--ask=date=When: at 12:30 @ noon?")


@pytest.mark.parametrize(
    ("given", "variables"),
    [
        (
            connection("aws", login="key", password="secret", extra_dejson={"region_name": "eu-west-1"}),
            {
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_DEFAULT_REGION": "eu-west-1",
                "AWS_REGION": "eu-west-1",
            },
        ),
        (connection("aws"), {}),
        (
            connection("google_cloud_platform", extra_dejson={"key_path": "/secrets/key.json"}),
            {"GOOGLE_APPLICATION_CREDENTIALS": "/secrets/key.json"},
        ),
        (
            connection("wasb", login="app", password="secret", extra_dejson={"tenant_id": "t"}),
            {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "app", "AZURE_CLIENT_SECRET": "secret"},
        ),
    ],
)
def test_a_connection_becomes_the_variables_of_its_store(given: Any, variables: dict[str, str]) -> None:
    with environment_of(given) as found:
        assert found == variables


def test_a_key_of_google_is_a_private_file_while_the_command_runs() -> None:
    key = {"type": "service_account", "private_key": "secret"}
    with environment_of(connection("google_cloud_platform", extra_dejson={"keyfile_dict": key})) as found:
        file = Path(found["GOOGLE_APPLICATION_CREDENTIALS"])
        assert json.loads(file.read_text()) == key
        assert file.stat().st_mode & 0o077 == 0
    assert not file.exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (connection("postgres"), "store has the type 'postgres', which is not one of an object store"),
        (connection("aws", extra_dejson={"role_arn": "arn:aws:iam::1:role/x"}), "a role to assume"),
        (connection("wasb", login="account", password="key"), "an account key"),
    ],
)
def test_a_connection_that_cannot_be_handed_on_says_why(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message), environment_of(given):
        pass


def test_the_package_is_a_provider_for_airflow_and_its_information_needs_no_airflow() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"]["apache_airflow_provider"].items()
    assert EntryPoint(name, value, "apache_airflow_provider").load()()["versions"] == [VERSION]
