"""Documents that cannot rot: what they show is what the code does."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from batchqa.answer_columns import ANSWER_FIELDS, ROW_ERRORS, ROW_STATUSES
from batchqa.cli.entry import commands
from batchqa.version import VERSION
from tests.conftest import LONG

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of the README in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands_of(program: str) -> list[list[str]]:
    """The README's shell commands that call `program`, split; comments and continued lines understood."""
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in split if words and words[0] == program]


def test_the_command_line_reference_is_what_help_says() -> None:
    run = subprocess.run(
        [sys.executable, "docs/make_cli.py", "--check"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def test_every_batchqa_command_of_the_readme_parses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.toml").write_text("[run]\ntop-k = 3\n")
    shown = commands_of("batchqa")
    assert len(shown) >= 5
    for name, *arguments in shown:
        context = commands.commands[name].make_context(name, arguments, parent=click.Context(commands))
        assert context.params


def test_every_make_command_of_readme_guides_and_workflow_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = {words[0] for words in commands_of("make")}
    assert {"demo", "test"} <= shown <= targets
    workflow = (ROOT / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"run: (.*)", workflow)) == {"make check", "make test"}
    guides = [ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in guides:
        named = set(re.findall(r"`make ([a-z-]+)[ `]", page.read_text(encoding="utf-8")))
        assert named <= targets, page


def test_pre_commit_runs_every_tool_of_make_check() -> None:
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    tools = [re.split(r" (?:--check )?\.$| --check$", line)[0] for line in recipe[1].split("\n\t")]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert len(tools) >= 5
    for tool in tools:
        assert tool.strip().replace("$(BIN)", ".venv/bin") in hooks, tool


@pytest.mark.parametrize("page", ["README.md", "docs/contract.md"])
def test_the_readme_and_the_contract_name_every_column_exit_code_and_row_code(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for field in ANSWER_FIELDS:
        assert f"`qa_{field.name}`" in text
    for code in (0, 2, 3, 4, 5, 74, 75, 130, 143):
        assert re.search(rf"^\|[^|]*\b{code}\b[^|]* \|", text, re.MULTILINE), code
    for code in (*ROW_ERRORS, *ROW_STATUSES):
        assert f"`{code}`" in text, code


def test_the_contract_names_every_command() -> None:
    page = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    for name in commands.commands:
        assert re.search(rf"^\| `batchqa {name}[ `]", page, re.MULTILINE), name


def test_every_link_of_a_document_leads_to_a_file() -> None:
    places = (".", "docs", "docs/decisions", "benchmarks")
    pages = [page for place in places for page in (ROOT / place).glob("*.md")]
    assert len(pages) > 15
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in link
    ]
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []


def test_every_test_that_the_page_of_faults_names_exists() -> None:
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page)
    assert len(named) > 100
    missing = [
        f"{file}::{test}"
        for file, test in named
        if f"def {test}(" not in (ROOT / "tests" / file).read_text(encoding="utf-8")
    ]
    assert not missing


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "sample_data", tmp_path / "sample_data")
    monkeypatch.chdir(tmp_path)
    script = "\n".join(blocks("python"))
    assert "batchqa.run(" in script
    exec(compile(script, "README.md", "exec"), {})


def test_what_the_quick_tests_leave_out_exists_and_is_not_all() -> None:
    tests = ROOT / "tests"
    assert all((tests / name).exists() for name in LONG)
    left_out = {path for name in LONG for path in list((tests / name).rglob("test_*.py")) or [tests / name]}
    assert len(left_out) < len(list(tests.rglob("test_*.py"))) / 2


def test_the_changelog_begins_with_this_version_and_says_whether_it_is_released() -> None:
    page = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first = re.search(r"^## (\S+)( \(unreleased\))?", page, re.MULTILINE)
    assert first is not None
    assert first[1] == VERSION.removesuffix(".dev0")
    assert bool(first[2]) == VERSION.endswith(".dev0")
