"""Files of other programs: what each of them reads back of its own file after a run."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from batchqa import job
from tests.environments import python_with
from tests.writers import OPTIONS, WRITERS

LIBRARIES = ("pandas", "fastparquet", "polars", "duckdb", "datasets", "deltalake", "pyspark")
SCRIPT = Path(__file__).parent / "writers.py"


python = functools.partial(python_with, "writers", *LIBRARIES)


@functools.cache
def installed() -> tuple[set[str], str]:
    """The writers that can be tried, and why there are none."""
    try:
        names = subprocess.run([python(), SCRIPT, "names"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return set(), f"their libraries cannot be installed: {error}"
    return {*names.stdout.split()}, "its library is not there"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_writer_reads_its_own_columns_and_ours_from_the_output(
    writer: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    names, why = installed()
    if writer not in names:
        pytest.skip(f"{writer}: {why}")
    if writer.startswith("spark") and not shutil.which("java"):
        pytest.skip("Spark needs Java (apt-get install default-jre-headless)")
    if writer == "deltalake":
        pytest.importorskip("deltalake", reason="the run itself needs deltalake to read a Delta table")
    given, output = tmp_path / "given", tmp_path / "out.parquet"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "SPARK_LOCAL_IP": "127.0.0.1"}
    tried = functools.partial(subprocess.run, capture_output=True, text=True, env=environment)
    written = tried([python(), SCRIPT, "write", writer, given])
    assert written.returncode == 0, written.stderr
    options = {"device": "cpu", "threads": 1, "batch_tokens": 512, "top_k": 2, **OPTIONS.get(writer, {})}
    job.run(given, output, model=tiny_bundle, **options)
    compared = tried([python(), SCRIPT, "compare", writer, given, output])
    assert compared.returncode == 0, compared.stdout + compared.stderr
