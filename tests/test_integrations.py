"""docs/integrations.md: every recipe is short, and is run, or is a part of an example that a test runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import clusters
from tests.environments import ROOT, environment, python_that_runs_batchqa_with

PAGE = (ROOT / "docs" / "integrations.md").read_text()
EXAMPLES = ROOT / "examples"
MOST_LINES = 15

RECIPES = [
    (heading, language, code)
    for heading, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    for language, code in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
]

PARTS = {
    ("cron", "ini"): "systemd/batchqa.service",
    ("Airflow", "python"): ("airflow/nightly.py", "airflow/shards.py"),
    ("Dagster", "python"): "dagster/nightly.py",
    ("Prefect", "python"): "prefect/nightly.py",
    ("Kubernetes", "yaml"): "kubernetes/job.yaml",
    ("AWS Batch", "bash"): "aws-batch/submit.sh",
    ("Slurm", "bash"): "slurm/shards.sbatch",
}
"""Recipes that are parts of examples, which test_examples.py, test_flows.py and test_airflow_dags.py run."""

FRAMES = ("frames", "daft", "dask[dataframe]", "duckdb", "datasets", "pandas")
LIBRARIES: dict[str, tuple[str, ...]] = {
    "Spark": ("spark",),
    "Ray": ("ray",),
    "Dask": FRAMES,
    "Daft": FRAMES,
    "Polars": FRAMES,
    "DuckDB": FRAMES,
    "datasets": FRAMES,
    "pandas": FRAMES,
}
"""Recipes that are programs, and the environments they are run in; tests/clusters.py has the first two."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the rows that the recipes read."""
    rows = {
        "id": list(range(20)),
        "context": [f"The bridge was built in {1900 + n} by the town." for n in range(20)],
        "question": ["When was the bridge built?"] * 20,
    }
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    return tmp_path


def answers(folder: Path) -> dict[int, str]:
    """What the recipe has written: the answer of each row."""
    table = pq.read_table(folder / "answers.parquet", columns=["id", "qa_answer"])
    return dict(zip(*(column.to_pylist() for column in table.columns), strict=True))


def test_a_recipe_has_at_most_fifteen_lines() -> None:
    assert len(RECIPES) >= 15
    assert [heading for heading, _, code in RECIPES if len(code.splitlines()) > MOST_LINES] == []


def test_every_recipe_is_run_or_is_a_part_of_an_example() -> None:
    run = {*LIBRARIES, "A shell script", "cron"}
    elsewhere = {*PARTS, ("Airflow", "bash")}  # tests/test_airflow_dags.py runs that one
    assert [h for h, language, _ in RECIPES if h not in run and (h, language) not in elsewhere] == []


@pytest.mark.parametrize(
    ("heading", "language", "code"),
    [recipe for recipe in RECIPES if recipe[:2] in PARTS],
    ids=lambda value: value if value in LIBRARIES else None,
)
def test_a_recipe_that_is_a_part_of_an_example_has_its_lines_in_its_order(
    heading: str, language: str, code: str
) -> None:
    files = PARTS[heading, language]
    texts = [(EXAMPLES / file).read_text() for file in ([files] if isinstance(files, str) else files)]
    assert any(_has_lines(text, code) for text in texts)


def _has_lines(text: str, code: str) -> bool:
    lines = iter(line.strip() for line in text.splitlines())
    return all(any(line == part for line in lines) for part in map(str.strip, code.splitlines()))


def test_the_recipes_for_a_shell_and_for_cron_give_answers(folder: Path) -> None:
    batchqa = Path(sys.executable).with_name("batchqa")
    path = f"{batchqa.parent}:/usr/bin:/bin"
    variables = {
        "PATH": path,
        "BATCHQA_CACHE": os.environ["BATCHQA_CACHE"],
        "BATCHQA_RUN_BATCH_TOKENS": "512",
        "BATCHQA_RUN_ENGINE": "onnxruntime",
        "BATCHQA_RUN_IN_PROCESS": "1",
    }
    (shell,) = [code for heading, _, code in RECIPES if heading == "A shell script"]
    ran = subprocess.run(
        ["/bin/bash", "-c", shell], cwd=folder, env=variables, capture_output=True, text=True
    )
    assert answers(folder)[7] == "1907"
    assert json.loads((folder / "summary.json").read_text())["rows"] == 20
    assert "look" not in ran.stdout

    (line,) = [code for heading, language, code in RECIPES if (heading, language) == ("cron", "")]
    (folder / "in").mkdir()
    (folder / "rows.parquet").rename(folder / "in" / "rows.parquet")
    (folder / "answers.parquet").unlink()
    command = (
        line.split(maxsplit=5)[5]
        .replace("/data/", f"{folder}/")
        .replace("/opt/batchqa/bin/batchqa", str(batchqa))
    )
    ran = subprocess.run(["/bin/sh", "-c", command], env=variables, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert answers(folder)[7] == "1907"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("heading", "code"), [(heading, code) for heading, _, code in RECIPES if heading in LIBRARIES]
)
def test_a_recipe_that_is_a_program_gives_the_answers(heading: str, code: str, folder: Path) -> None:
    name, *libraries = LIBRARIES[heading]
    if libraries:
        python, cluster = python_that_runs_batchqa_with(name, *libraries), nullcontext(environment())
    else:
        python, cluster = clusters.python_of(name), clusters.running(name, folder)
    with cluster as variables:
        ran = subprocess.run(
            [python, "-c", code],
            cwd=folder,
            env={**variables, "HOME": str(folder), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
    assert ran.returncode == 0, ran.stderr
    assert answers(folder) == {n: str(1900 + n) for n in range(20)}
