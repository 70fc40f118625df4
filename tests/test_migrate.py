"""The examples of docs/migrate.md run, and the answers before and after are the same."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "migrate.md"


@pytest.fixture(scope="module")
def page(checkpoints: Callable[[str], Path], fp32_bundles: Callable[[Path], Path]) -> dict[str, Any]:
    """What the page's blocks left behind, run with a tiny checkpoint and its bundle."""
    checkpoint = checkpoints("bert-uncased")
    paths = {'"path/to/checkpoint"': repr(str(checkpoint)), '"bundle"': repr(str(fp32_bundles(checkpoint)))}
    names: dict[str, Any] = {}
    for needs, block in re.findall(
        r"(<!-- needs \w+ -->\n)?```python\n(.*?)```", PAGE.read_text(), re.DOTALL
    ):
        if needs and not importlib.util.find_spec(needs.split()[2]):
            continue
        here = re.sub("|".join(map(re.escape, paths)), lambda found: paths[found[0]], block)
        exec(compile(here, "docs/migrate.md", "exec"), names)
    return names


def test_the_pipelines_answers_come_back_at_their_places(page: dict[str, Any]) -> None:
    context, qa = page["context"], page["qa"]
    for question in page["questions"]:
        before = qa(question=question, context=context, align_to_words=False)
        now = page["annotator"].ask(question, context, handle_impossible_answer=False)
        assert now["answer"] == before["answer"].strip()
        assert context[now["start"] : now["end"]] == now["answer"]
    for before, after in zip(page["before"], page["after"], strict=True):
        assert after["no_answer"] is (before["answer"] == "")


def test_the_shapes_are_those_of_the_page(page: dict[str, Any]) -> None:
    assert all(set(each) == {"answer", "start", "end", "score", "no_answer"} for each in page["after"])
    assert len(page["best"]) == len(page["best_now"]) == 2
    assert [row["question"] for row in page["rows"]] == page["questions"]
    assert all(row["page"] == 4 for row in page["readings"])
    assert all(row["qa_answer"] for row in page["answers"])
