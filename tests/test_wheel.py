"""The wheel: it holds what a run needs and nothing else, and runs the demo by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the working tree with the build tools that are installed."""
    pytest.importorskip("hatchling", reason="needs the extra `dev` (build, hatchling)")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_the_model_the_types_and_the_licence_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("batchqa/py.typed", "batchqa/bundled/bundle.json", "batchqa/bundled/tokenizer.json"):
        assert needed in names
    assert any(name.startswith("batchqa/bundled/model.") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"batchqa"}


def test_the_wheel_asks_for_nothing_that_only_an_export_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    needed = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert needed
    assert not [line for line in needed if any(name in line for name in ("torch", "transformers", "optimum"))]


@pytest.mark.slow
def test_the_wheel_in_a_clean_environment_runs_the_demo(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    constraints = ROOT / "requirements" / "constraints-cpu.txt"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-c", constraints, wheel], check=True)
    out = tmp_path / "out.parquet"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [tmp_path / "venv" / "bin" / "batchqa", "run", ROOT / "sample_data" / "sample.jsonl", "-o", out]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    summary = json.loads(run.stdout.splitlines()[-1])
    assert (summary["rows"], summary["errors"]) == (49, {})
    show = [python, ROOT / "sample_data" / "show.py", out]
    shown = subprocess.run(show, env=environment, capture_output=True, text=True, check=True)
    assert "Tobias Fenn" in shown.stdout
