"""The examples for schedulers: their formats, and what they run, run with what a scheduler would give it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from batchqa.cli.entry import commands
from tests.environments import ROOT, python_with

EXAMPLES = ROOT / "examples"
BATCHQA = Path(sys.executable).with_name("batchqa")
FOR_GOOD, AGAIN = {2, 3, 4, 5}, {74, 75}
"""Exit codes after which the same command would fail again, and those after which it may not."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """What the examples call /data, with the rows of yesterday."""
    folder = tmp_path / "data"
    yesterday = datetime.now().astimezone().date() - timedelta(days=1)
    (folder / "in" / str(yesterday)).mkdir(parents=True)
    (folder / "out").mkdir()
    rows = ({"id": n, "context": f"Bridge {n} was built in 1894.", "question": "When?"} for n in range(100))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "in" / str(yesterday) / "rows.jsonl").write_text(text)
    return folder


def bare(home: Path, **variables: str) -> dict[str, str]:
    """The environment that cron gives, with a cache of its own, and a home that does not exist."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
        "BATCHQA_CACHE": str(home / "cache"),
        "BATCHQA_RUN_IN_PROCESS": "1",
        "BATCHQA_RUN_BATCH_TOKENS": "512",
        "BATCHQA_RUN_ENGINE": "onnxruntime",
        **variables,
    }


def is_understood(arguments: list[str]) -> bool:
    """Whether the command line takes these arguments; a usage error is raised."""
    name, *rest = arguments
    commands.commands[name].make_context(name, rest)
    return True


def kubernetes() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((EXAMPLES / "kubernetes" / "job.yaml").read_text()))


def test_a_pod_of_kubernetes_is_tried_again_where_the_exit_code_says_so_and_only_there() -> None:
    shards, finalize = kubernetes()
    rules = {
        rule["action"]: set(rule["onExitCodes"]["values"])
        for rule in shards["spec"]["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }
    assert rules == {"FailIndex": FOR_GOOD, "Count": AGAIN}
    (rule,) = finalize["spec"]["podFailurePolicy"]["rules"]
    assert (rule["action"], set(rule["onExitCodes"]["values"])) == ("FailJob", FOR_GOOD)


def test_the_shards_of_kubernetes_are_as_many_as_its_pods() -> None:
    spec = kubernetes()[0]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert f"--shards={spec['completions']}" in container["args"]


@pytest.mark.slow
def test_the_manifest_of_kubernetes_has_its_schema() -> None:
    try:
        python = python_with("kubernetes", "kubernetes-validate")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"kubernetes-validate cannot be installed: {error}")
    checked = subprocess.run(
        [python, "-m", "kubernetes_validate", "--strict", EXAMPLES / "kubernetes" / "job.yaml"],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_job_definition_of_aws_batch_is_one_and_tries_again_where_the_exit_code_says_so() -> None:
    session = pytest.importorskip("botocore.session").get_session()
    from botocore.validate import validate_parameters

    definition = json.loads((EXAMPLES / "aws-batch" / "job-definition.json").read_text())
    shape = session.get_service_model("batch").operation_model("RegisterJobDefinition").input_shape
    validate_parameters(definition, shape)
    *ends, rest = definition["retryStrategy"]["evaluateOnExit"]
    assert {int(rule["onExitCode"]) for rule in ends if rule["action"] == "EXIT"} == FOR_GOOD
    assert rest == {"onReason": "*", "action": "RETRY"}


@pytest.mark.parametrize("script", sorted(EXAMPLES.rglob("*.s*h*")), ids=lambda path: path.name)
def test_a_script_is_one_that_its_shell_can_read(script: Path) -> None:
    shell = script.read_text().splitlines()[0].removeprefix("#!")
    read = subprocess.run([shell, "-n", script], capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")


def test_the_script_for_cron_runs_in_its_bare_environment_and_a_day_without_rows_is_no_error(
    data: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    environment = bare(tmp_path, DATA=str(data), BATCHQA=str(BATCHQA), BATCHQA_RUN_MODEL=str(tiny_bundle))
    nightly = ["/bin/sh", EXAMPLES / "cron" / "nightly.sh"]
    run = subprocess.run(nightly, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    (output,) = (data / "out").glob("*.parquet")
    assert pq.read_metadata(output).num_rows == 100

    shutil.rmtree(data / "in")
    output.unlink()
    run = subprocess.run(nightly, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert not output.exists()


def test_the_script_for_cron_tries_again_after_75_and_gives_the_last_code(data: Path, tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    busy = tmp_path / "busy"
    busy.write_text(f"#!/bin/sh\necho again >> {tries}\nexit ${{CODE}}\n")
    busy.chmod(0o755)
    nightly = ["/bin/sh", EXAMPLES / "cron" / "nightly.sh"]
    for code, count in ((75, 3), (3, 1)):
        tries.unlink(missing_ok=True)
        environment = bare(tmp_path, DATA=str(data), BATCHQA=str(busy), PAUSE="0", CODE=str(code))
        assert subprocess.run(nightly, env=environment).returncode == code
        assert len(tries.read_text().split()) == count


def test_the_service_of_systemd_runs_with_what_systemd_gives_it(
    data: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    unit = (EXAMPLES / "systemd" / "batchqa.service").read_text()
    (line,) = re.findall(r"^ExecStart=/bin/sh -c '(.*)'$", unit, re.MULTILINE)
    line = line.replace("$$", "$").replace("%%", "%").replace("/data/", f"{data}/")
    line = line.replace("/opt/batchqa/bin/batchqa", str(BATCHQA))
    run = subprocess.run(
        ["/bin/sh", "-c", line], env=bare(tmp_path, BATCHQA_RUN_MODEL=str(tiny_bundle)), capture_output=True
    )
    assert run.returncode == 0, run.stderr
    assert len([*(data / "out").glob("*.parquet")]) == 1
    (codes,) = re.findall(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)
    assert {int(code) for code in codes.split()} == FOR_GOOD


def test_systemd_takes_the_units() -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not here")
    units = sorted((EXAMPLES / "systemd").iterdir())
    checked = subprocess.run(
        [analyze, "verify", "--recursive-errors=no", *units], capture_output=True, text=True
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_image_runs_as_no_root_without_a_home_and_with_the_command_as_its_entry() -> None:
    lines = (EXAMPLES / "docker" / "Dockerfile").read_text().splitlines()
    instructions = [line.split(maxsplit=1) for line in lines if re.match(r"[A-Z]+ ", line)]
    last = dict(instructions[[word for word, _ in instructions].index("FROM", 1) :])
    assert last["USER"] == "65532:65532"
    assert json.loads(last["ENTRYPOINT"]) == ["batchqa"]
    assert "BATCHQA_CACHE=/tmp/" in last["ENV"]
    assert "RUN" not in last, (
        "what is installed is copied from the first stage, without what installing it left"
    )


def shards_exist() -> bool:
    return "finalize" in commands.commands


@pytest.mark.skipif(not shards_exist(), reason="this version has no shards")
def test_what_the_schedulers_run_is_what_the_command_line_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    for job in kubernetes():
        for container in job["spec"]["template"]["spec"]["containers"]:
            assert is_understood(container["args"])
    batch = EXAMPLES / "aws-batch"
    definition = json.loads((batch / "job-definition.json").read_text())
    assert is_understood(definition["containerProperties"]["command"])
    (overrides,) = re.findall(r"--container-overrides '(.*)'", (batch / "submit.sh").read_text())
    assert is_understood(json.loads(overrides)["command"])


def array_of_slurm(script: Path, number: int, **variables: str) -> int:
    """Run an array's script as Slurm would run one of its tasks; the exit code."""
    given = {
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": str(number),
        "SLURM_ARRAY_TASK_COUNT": "1",  # as where a shard is done again
        "SLURM_CPUS_PER_TASK": "1",
    }
    return subprocess.run(["/bin/bash", script], env={**variables, **given}).returncode


@pytest.mark.skipif(not shards_exist(), reason="this version has no shards")
def test_an_array_of_slurm_does_the_shards_in_any_order(
    data: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    output, script = tmp_path / "answers.parquet", tmp_path / "shards.sbatch"
    text = (EXAMPLES / "slurm" / "shards.sbatch").read_text()
    script.write_text(text.replace("SHARDS=16", "SHARDS=3"))
    environment = bare(
        tmp_path,
        PATH=f"{BATCHQA.parent}:/usr/bin:/bin",
        INPUT=str(data / "in"),
        OUTPUT=str(output),
        BATCHQA_RUN_MODEL=str(tiny_bundle),
        BATCHQA_RUN_PART_ROWS="20",
    )
    assert [array_of_slurm(script, number, **environment) for number in (2, 0)] == [0, 0]
    finalize = [BATCHQA, "finalize", output]
    assert subprocess.run(finalize, env=environment, capture_output=True).returncode == 75
    assert array_of_slurm(script, 1, **environment) == 0
    assert subprocess.run(finalize, env=environment, capture_output=True).returncode == 0
    assert pq.read_table(output).column("id").to_pylist() == list(range(100))


def test_an_array_of_slurm_asks_for_another_try_where_the_exit_code_says_so(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    for name, does in (("batchqa", "exit $CODE"), ("scontrol", f'echo "$@" >> {asked}')):  # Slurm is not here
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    script, path = EXAMPLES / "slurm" / "shards.sbatch", f"{tmp_path}:/usr/bin:/bin"
    for code in sorted({0, 130} | FOR_GOOD):
        assert array_of_slurm(script, 1, PATH=path, CODE=str(code)) == code
    assert not asked.exists()
    for code in AGAIN:
        assert array_of_slurm(script, 1, PATH=path, CODE=str(code)) == 0
    assert asked.read_text() == "requeue 77_1\n" * 2
    assert array_of_slurm(script, 1, PATH=path, CODE="75", SLURM_RESTART_COUNT="5") == 75
