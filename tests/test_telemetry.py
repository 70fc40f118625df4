"""Nothing that batchqa loads calls home or writes outside output, cache and temporary folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from batchqa import telemetry
from batchqa.cli.doctor import examine
from batchqa.engines import library
from tests.models import SENTENCES
from tests.tracing import clean_environment, sockets, traced, why_not, written

REASON = why_not()
can_trace = pytest.mark.skipif(REASON is not None, reason=str(REASON))
needs_openvino = pytest.mark.skipif(
    not library("openvino").is_installed(), reason="needs the extra `openvino`"
)
ENGINES = ["onnxruntime", pytest.param("openvino", marks=needs_openvino)]
LONG = 22  # seconds; onnxruntime's first upload comes after some ten

ROWS = "".join(
    json.dumps({"context": text, "question": f"Who repaired {number}?"}) + "\n"
    for number, text in enumerate(SENTENCES)
)


class Place:
    """Folders of one run: what it may write to, and a home that it may not, beside its cache."""

    def __init__(self, folder: Path, home: str) -> None:
        self.work, self.temporary = folder / "work", folder / "tmp"
        self.home = {"writable": folder / "home", "unwritable": Path("/proc"), "none": None}[home]
        for made in (self.work, self.temporary, folder / "home"):
            made.mkdir(parents=True)
        self.log = folder / "log"

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """`batchqa`, watched."""
        command = [sys.executable, "-m", "batchqa", *map(str, arguments)]
        return subprocess.Popen(
            traced(command, self.log),
            cwd=self.work,
            env=clean_environment(self.home, self.temporary),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def check(self, process: subprocess.Popen[str]) -> str:
        """Wait for its end; what it said. It reached nobody and wrote where it may."""
        _, said = process.communicate()
        assert process.returncode == 0, said
        assert sockets(self.log) == []
        cache = self.home / ".cache" if self.home else self.temporary
        allowed = [self.work, self.temporary, cache / "batchqa"]
        paths = written(self.log, self.work)
        assert paths
        outside = [path for path in paths if not any(path.is_relative_to(root) for root in allowed)]
        assert [path for path in outside if path != cache] == []
        return said


@pytest.fixture
def both(bundles: Callable[..., Path]) -> Path:
    """A tiny bundle that both engines run."""
    return bundles(engines=("onnxruntime", "openvino"))


@can_trace
@pytest.mark.parametrize(
    ("engine", "home"), [("onnxruntime", "writable"), pytest.param("openvino", "none", marks=needs_openvino)]
)
def test_a_run_opens_no_socket_and_writes_nothing_but_output_cache_and_temporary_files(
    engine: str, home: str, both: Path, tmp_path: Path
) -> None:
    place = Place(tmp_path, home)
    (place.work / "in.jsonl").write_text(ROWS, encoding="utf-8")
    said = place.check(
        place.start("run", "in.jsonl", "-o", "out.parquet", "--model", both, "--engine", engine)
    )
    assert said.count("there is no home folder") == (home == "none")


@can_trace
@pytest.mark.slow
def test_a_run_of_some_time_calls_nobody_whatever_the_home_folder_is(both: Path, tmp_path: Path) -> None:
    running = {}
    for engine in ("onnxruntime", "openvino") if library("openvino").is_installed() else ("onnxruntime",):
        for home in ("writable", "unwritable", "none"):
            place = Place(tmp_path / f"{engine}-{home}", home)
            running[place] = place.start(
                "run",
                "-",
                "-o",
                "out.parquet",
                "--model",
                both,
                "--engine",
                engine,
                "--part-rows",
                len(SENTENCES),
            )
    for process in running.values():
        assert process.stdin is not None
        process.stdin.write(ROWS * 2)
        process.stdin.flush()
    time.sleep(LONG)
    for place, process in running.items():
        assert process.poll() is None
        said = place.check(process)
        assert said.count("are kept in") == (place.home != place.work.parent / "home")


@can_trace
@pytest.mark.slow
@pytest.mark.parametrize("home", ["writable", "none"])
def test_export_doctor_and_evaluate_call_nobody_either(
    home: str, both: Path, checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    gold = {"context": SENTENCES[0], "question": "When?", "answers": {"text": ["1987"], "answer_start": [71]}}
    commands = {
        "doctor": ["--model", both],
        "evaluate": ["gold.jsonl", "--model", both, "--report", "report.html"],
        "export": [
            checkpoints("bert-uncased"),
            "-o",
            "bundle",
            "--abstains",
            "yes",
            "--min-agreement",
            "0.01",
        ],
    }
    for name, arguments in commands.items():
        place = Place(tmp_path / name, home)
        (place.work / "gold.jsonl").write_text(json.dumps(gold), encoding="utf-8")
        place.check(place.start(name, *arguments))


def in_a_program(code: str, home: Path) -> str:
    """What a program that uses batchqa prints."""
    environment = clean_environment(home, home, PYTHONPATH=str(Path(__file__).parent.parent))
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout


@needs_openvino
def test_openvino_s_telemetry_is_not_loaded_with_it_and_can_be_imported_afterwards(tmp_path: Path) -> None:
    code = """
import sys, batchqa
from batchqa.telemetry import import_openvino
assert import_openvino().Core
assert "openvino_telemetry" not in sys.modules
from openvino.tools.ovc import telemetry_utils
assert telemetry_utils.tm.__name__.endswith("stub")
import openvino_telemetry
"""
    in_a_program(code, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_telemetry_is_switched_off_whatever_the_environment_says(tmp_path: Path) -> None:
    code = """
import os
os.environ["ORT_DISABLE_TELEMETRY"] = "0"
import batchqa, onnxruntime
from batchqa.engines import worker_process
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""
    assert in_a_program(code, tmp_path) == "1\n"
    assert list(tmp_path.iterdir()) == []
    assert {os.environ.get(name) for name in telemetry.SWITCHES} == set(telemetry.SWITCHES.values())


def test_doctor_says_that_telemetry_is_off_unless_the_program_had_loaded_an_engine_first(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    (found,) = (finding for finding in examine(str(tiny_bundle)) if finding.name == "telemetry")
    assert found.level == "ok"
    assert found.found.startswith("off in onnxruntime, OpenVINO")
    code = """
import onnxruntime, batchqa
from batchqa.cli import doctor
print(doctor._telemetry())
"""
    assert "onnxruntime may send telemetry" in in_a_program(code, tmp_path)
