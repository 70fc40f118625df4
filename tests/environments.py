"""Environments of their own for tests with libraries that this project's must not have."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import platformdirs
import pytest

ROOT = Path(__file__).parents[1]


@functools.cache
def python_with(name: str, *libraries: str) -> Path:
    """A Python that has the libraries: $BATCHQA_<NAME>_PYTHON, or one made by pip and kept in the cache."""
    if named := os.environ.get(f"BATCHQA_{name.upper()}_PYTHON"):
        return Path(named)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    folder = platformdirs.user_cache_path("batchqa-tests") / f"{name}-{version}"
    found = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run(
            [found, "-m", "pip", "install", "--quiet", *libraries], check=True, capture_output=True
        )
        (folder / "complete").touch()
    return found


@functools.cache
def python_that_runs_batchqa_with(name: str, *libraries: str) -> Path:
    """The same with what a run on the CPU needs; the test is skipped where it cannot be installed.

    The package itself is found by `environment()`.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [each for each in project["dependencies"] if not each.startswith("onnxruntime-gpu")]
    try:
        return python_with(name, *libraries, *(each.partition(";")[0] for each in needed))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"{', '.join(libraries)} cannot be installed: {error}")


def environment(**variables: str) -> dict[str, str]:
    """The variables for such a Python: this package is on its path; `variables` are added."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **variables}
