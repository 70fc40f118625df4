"""The report: one page without scripts or network; text of rows stays text, Arabic reads right to left."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from batchqa.errors import SettingsError
from batchqa.evaluation import evaluate
from batchqa.evaluation.shown_rows import AROUND, shown_rows
from tests.browser import look_at
from tests.evaluation.making import ANSWERS, Row, simulated, table_of, write, write_squad

pytest.importorskip("jinja2", reason="needs the extra `report` (jinja2)")
pytest.importorskip("matplotlib", reason="needs the extra `report` (matplotlib)")

EVIL = "<script>window.pwned = 1</script><img src=x onerror='pwned=1'> & \"quotes\" {{ 7*7 }} "
ARABIC = Row(
    span="القاهرة",
    gold=("الجيزة",),
    context="عاصمة مصر هي القاهرة وبجوارها الجيزة.",
    question="ما هي عاصمة مصر؟",
    title="مصر",
    score=0.99,
)


class Elements(HTMLParser):
    """The names of a page's elements, and all their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs


def page_of(tmp_path: Path, rows: list[Row], **options: object) -> str:
    report = tmp_path / "report.html"
    evaluate(write(tmp_path / "a.parquet", rows), report=report, **options)
    return report.read_text(encoding="utf-8")


def evil_rows() -> list[Row]:
    evil = Row(
        span="Rome</mark><script>",
        gold=("Paris<script>",),
        context=f"{EVIL}Rome</mark><script> or Paris<script>",
        question=EVIL,
        title=EVIL,
        id=EVIL,
    )
    return [evil, *simulated(100)]


def test_row_text_is_escaped_wherever_it_stands(tmp_path: Path) -> None:
    other = write(tmp_path / "b.parquet", [replace(row, span="Paris") for row in evil_rows()])
    page = page_of(tmp_path, evil_rows(), by=["title"], compare=other)
    names = set(Elements(page).names)
    assert not names & {"script", "img", "iframe", "object", "embed", "link", "base", "form"}
    assert html.escape("<script>window.pwned = 1</script>") in page
    assert "{{ 7*7 }}" in page.replace("&#34;", '"')
    assert not any(name.startswith("on") for name, _ in Elements(page).attributes)


def test_the_page_is_one_file_that_asks_the_network_for_nothing(tmp_path: Path) -> None:
    page = page_of(tmp_path, simulated(300), by=["title"])
    assert not re.search(r"https?:|//[a-z]", page)
    attributes = Elements(page).attributes
    assert not {name for name, _ in attributes} & {"src", "srcset", "action", "background"}
    links = [value for name, value in attributes if name in ("href", "xlink:href")]
    assert all(value is not None and value.startswith("#") for value in links)
    assert "default-src 'none'" in page


def test_the_page_has_the_figures_plots_groups_and_fifty_rows(
    tmp_path: Path, bundles: Callable[..., Path]
) -> None:
    rows = simulated(1000)
    other = write(tmp_path / "b.parquet", simulated(1000, seed=1))
    page = page_of(tmp_path, rows, by=["title"], compare=other, model=bundles(), tune=tmp_path / "new")
    found = evaluate(tmp_path / "a.parquet")
    assert f"<b>{found.figures.all.f1:.2f}</b>" in page
    assert page.count("<svg") == 5
    for needed in (
        "Precision and coverage",
        "Reliability of the score",
        "Risk and coverage",
        "Scores of answers",
        "By <bdi>title</bdi>",
    ):
        assert needed in page
    assert "tuned, held-out rows" in page
    assert "fitted on the other 4 of 5 folds" in page
    kinds = re.findall(r'<article class="row (\w+)"', page)
    assert {kind: kinds.count(kind) for kind in ("wrong", "uncertain", "changed")} == {
        "wrong": 20, "uncertain": 10, "changed": 20,
    }  # fmt: skip


def test_the_same_figures_make_the_same_page(tmp_path: Path) -> None:
    rows = simulated(200)
    assert page_of(tmp_path, rows) == page_of(tmp_path, rows)


def test_plain_predictions_get_a_page_without_what_they_do_not_carry(tmp_path: Path) -> None:
    gold = write_squad(tmp_path / "gold.json", [Row(), Row(span="Rome")])
    predictions = tmp_path / "p.json"
    predictions.write_text(json.dumps({"q0": "Paris", "q1": "Rome"}))
    report = tmp_path / "report.html"
    evaluate(predictions, gold=gold, report=report)
    page = report.read_text(encoding="utf-8")
    assert "<svg" not in page
    assert '<mark class="predicted">Rome</mark>' in page
    assert '<mark class="gold">Paris</mark>' in page


def test_answers_are_marked_where_they_stand_not_where_they_first_occur(tmp_path: Path) -> None:
    context = "Rome, they say. Rome is old, Rome."
    table = table_of([Row(span="Rome", gold=("Rome",), context=context)])
    gold = pa.array([{"text": ["Rome"], "answer_start": [29]}], ANSWERS)
    table = table.set_column(table.column_names.index("answers"), "answers", gold)
    table = table.set_column(table.column_names.index("qa_start"), "qa_start", pa.array([16], pa.int32()))
    pieces = shown_rows(evaluate(write(tmp_path / "a.parquet", table)), "qa_")[0].context
    assert [(piece.text, piece.mark) for piece in pieces] == [
        ("Rome, they say. ", ""), ("Rome", "predicted"), (" is old, ", ""), ("Rome", "gold"), (".", ""),
    ]  # fmt: skip


def test_an_answer_that_overlaps_the_gold_one_is_marked_as_both(tmp_path: Path) -> None:
    row = Row(span="the big city", gold=("big city of Rome",), context="In the big city of Rome.")
    pieces = shown_rows(evaluate(write(tmp_path / "a.parquet", [row])), "qa_")[0].context
    assert [(piece.text, piece.mark) for piece in pieces] == [
        ("In ", ""), ("the ", "predicted"), ("big city", "both"), (" of Rome", "gold"), (".", ""),
    ]  # fmt: skip


def test_a_long_context_is_cut_down_to_what_surrounds_the_answers(tmp_path: Path) -> None:
    row = Row(span="Rome", gold=("Paris",), context="x" * 5000 + "Rome" + "y" * 5000 + "Paris" + "z" * 5000)
    pieces = shown_rows(evaluate(write(tmp_path / "a.parquet", [row])), "qa_")[0].context
    assert [piece.mark for piece in pieces] == ["cut", "", "predicted", "", "cut", "", "gold", "", "cut"]
    assert pieces[0].text == f"[{5000 - AROUND:,} characters]"
    assert [len(piece.text) for piece in pieces if piece.mark == ""] == [AROUND] * 4


def test_what_surrounds_an_answer_begins_and_ends_at_a_word(tmp_path: Path) -> None:
    context = f"{'elephants ' * 500}Rome{' elephants' * 500}"
    pieces = shown_rows(evaluate(write(tmp_path / "a.parquet", [Row(span="Rome", context=context)])), "qa_")[
        0
    ].context
    around = [piece.text for piece in pieces if piece.mark == ""]
    assert {word for text in around for word in text.split()} == {"elephants"}
    assert all(AROUND <= len(text) < AROUND + 40 for text in around)
    cut = sum(int(re.sub(r"\D", "", piece.text)) for piece in pieces if piece.mark == "cut")
    assert cut + sum(map(len, around)) + len("Rome") == len(context)


def test_the_head_names_the_model_its_threshold_and_the_day(
    tmp_path: Path, bundles: Callable[..., Path]
) -> None:
    data = write_squad(tmp_path / "gold.json", [Row(), Row(span="Rome")])
    report = tmp_path / "report.html"
    evaluate(
        data,
        model=bundles(),
        report=report,
        annotated=tmp_path / "a.parquet",
        no_answer_threshold=1.25,
        no_answer="on",
    )
    page = report.read_text(encoding="utf-8")
    assert re.search(r"Model: <bdi>tiny[^<]*</bdi> \(\w+\) · no-answer threshold: 1.2500", page)
    assert re.search(r"Evaluated on \d{4}-\d\d-\d\d", page)
    assert page.count("Null odds: the model’s score for “no answer”") == 1


def test_a_report_without_its_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchqa.evaluation.report.find_spec", lambda name: None)
    with pytest.raises(
        SettingsError, match=r"--report needs jinja2 and matplotlib: pip install 'batchqa\[report\]'"
    ):
        evaluate(write(tmp_path / "a.parquet", [Row()]), report=tmp_path / "report.html")


@pytest.fixture
def browse(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], dict[str, object]]:
    """`browse(page, width)`: what Chromium makes of the page in a frame of that width; skips without it."""
    folder = tmp_path_factory.mktemp("browser")
    script = """
      const style = (pick) => {
        const element = page.querySelector(pick);
        return element ? view.getComputedStyle(element).direction : null;
      };
      const all = (pick) => [...page.querySelectorAll(pick)];
      const shown = (kind) => all(".row." + kind).filter((row) => row.offsetHeight).length;
      const before = [shown("wrong"), shown("uncertain")];
      page.querySelector("label[for=pick-uncertain]")?.click();
      return {
        overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
        question: style(".question"), context: style(".context"), page: style("main"),
        pwned: "pwned" in view, before, after: [shown("wrong"), shown("uncertain")],
        plots: all("svg").map((plot) => Math.round(plot.getBoundingClientRect().width)),
        tables: all(".panel").map((panel) => panel.scrollWidth - panel.clientWidth),
      };
    """
    return lambda page, width: look_at(page, folder, script, width=width)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390], ids=["wide", "phone"])
def test_a_browser_shows_the_page_without_scrolling_sideways_or_running_anything(
    tmp_path: Path, browse: Callable[[str, int], dict[str, object]], width: int
) -> None:
    found = browse(page_of(tmp_path, evil_rows(), by=["title"]), width)
    assert found["overflow"] == 0
    assert found["pwned"] is False
    assert set(found["tables"]) == {0}
    plots = found["plots"]
    assert isinstance(plots, list)
    assert len(plots) == 5
    assert all(250 < plot < width for plot in plots)


@pytest.mark.slow
def test_a_browser_shows_arabic_from_right_to_left_in_a_page_that_is_not(
    tmp_path: Path, browse: Callable[[str, int], dict[str, object]]
) -> None:
    long = replace(ARABIC, context="مصر بلد في أفريقيا. " * 200 + ARABIC.context)
    for row in (ARABIC, long):  # a cut at the beginning must not turn the text round
        found = browse(page_of(tmp_path, [row]), 600)
        assert (found["page"], found["question"], found["context"]) == ("ltr", "rtl", "rtl")


@pytest.mark.slow
def test_a_browser_picks_the_rows_of_one_kind_without_scripts(
    tmp_path: Path, browse: Callable[[str, int], dict[str, object]]
) -> None:
    found = browse(page_of(tmp_path, simulated(500)), 800)
    assert (found["before"], found["after"]) == ([30, 20], [0, 20])
