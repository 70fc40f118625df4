"""The notebook in examples/ runs from its first cell to its last, and says what it says on the page."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def run(cell: str, names: dict[str, Any]) -> str:
    """What a cell prints, as Jupyter runs it: `!` is a command, the last expression is shown."""
    if cell.startswith("!"):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            cell[1:], shell=True, capture_output=True, text=True, env={**os.environ, "PATH": path}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "notebook.ipynb", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "notebook.ipynb", "eval"), names)
            if value is not None:
                print(repr(value))  # noqa: T201
    return printed.getvalue()


def test_the_notebook_annotates_evaluates_and_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("polars")
    shutil.copytree(ROOT / "sample_data", tmp_path / "sample_data")
    (tmp_path / "examples").mkdir()
    monkeypatch.chdir(tmp_path / "examples")
    notebook = json.loads((ROOT / "examples" / "notebook.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    said = [run("".join(cell["source"]), names) for cell in cells]
    names["annotator"].close()
    kept = ["".join(line for each in cell["outputs"] for line in each.get("text", ())) for cell in cells]
    assert [text.count("\n") for text in said[2:]] == [text.count("\n") for text in kept[2:]]
    assert "'answer': 'seven'" in said[0]
    assert "HasAns" in said[3]
    assert "49 rows" in said[5]
    assert (tmp_path / "examples" / "answers.html").stat().st_size > 50_000
