"""The page of `show --html`: rows stay text, nothing is loaded, and a browser shows it as it should."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from batchqa.cli.entry import main
from tests.browser import look_at
from tests.review.making import CONTEXT, failed, said, write_rows

EVIL = (
    "</script><script>pwned = 1</script><img src=x onerror='pwned=1'> <!-- ]]> \u2028 & \"quotes\" @@data@@ "
)
ARABIC = "عاصمة مصر هي القاهرة وبجوارها الجيزة."


def page_of(tmp_path: Path, rows: list[dict[str, Any]], *arguments: str) -> str:
    output = write_rows(tmp_path / "out.parquet", rows)
    assert main(["show", str(output), "--html", str(tmp_path / "shown.html"), *arguments]) == 0
    return (tmp_path / "shown.html").read_text(encoding="utf-8")


def row(context: str, answer: str | None, question: str = "What?", **others: Any) -> dict[str, Any]:
    return {"id": question, "context": context, "question": question, "said": said(context, answer, **others)}


def embedded(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def many(count: int) -> list[dict[str, Any]]:
    made = []
    for number in range(count):
        context = (
            f"Report {number // 4}. "
            + "It rained for days and the river rose again. " * 20
            + f"Lot {number}."
        )
        made.append(
            row(context, f"Lot {number}", f"Which lot is number {number}?", score=(number * 37 % 1000) / 1000)
        )
    return made


def test_texts_of_rows_cannot_end_the_data_that_they_are_in(tmp_path: Path) -> None:
    page = page_of(tmp_path, [row(f"{EVIL} steel {EVIL}", "steel", EVIL)])
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert "<!--" not in page
    assert embedded(page)["documents"] == [f"{EVIL} steel {EVIL}"]


def test_the_page_loads_nothing_and_runs_its_own_script_alone(tmp_path: Path) -> None:
    page = page_of(tmp_path, [row(CONTEXT, "steel")])
    assert not re.search(r"https?:|\bsrc=|<link|@import|url\(", page)
    assert "default-src 'none'" in page
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", page)


def test_places_are_counted_as_a_browser_counts_and_a_text_is_held_once(tmp_path: Path) -> None:
    context = "\U0001f600\U0001f600 steel \U0001f680"
    data = embedded(page_of(tmp_path, [row(context, "steel", "A?"), row(context, None, "B?")]))
    assert data["documents"] == [context]
    assert data["rows"][0][7] == [["steel", 5, 10, 0.9]]


def test_a_page_has_as_many_rows_as_the_limit_and_says_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = embedded(page_of(tmp_path, many(30), "--limit", "10"))
    assert len(data["rows"]) == 10
    assert data["total"] == 30
    assert "20 more are left out: --limit" in capsys.readouterr().out


LOOK = """
  const all = (pick) => [...page.querySelectorAll(pick)];
  const text = (pick) => all(pick).map((each) => each.textContent);
  await settled();
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_a_browser_shows_evil_rows_as_text_within_its_width(tmp_path: Path, width: int) -> None:
    page = page_of(tmp_path, [row(f"{EVIL} steel {EVIL}", "steel", EVIL * 3), row(CONTEXT, "York", "Where?")])
    found = look_at(
        page,
        tmp_path,
        LOOK
        + """
        const items = all(".item").length;
        page.querySelector(".item").click(); await settled();
        const tools = page.getElementById("tools"), detail = page.getElementById("detail");
        return { items, pwned: "pwned" in view, mark: text("mark.now"), images: all("img").length,
          over: [page.documentElement, tools, detail].map((each) => each.scrollWidth - each.clientWidth) };
        """,
        width=width,
    )
    assert found == {"items": 2, "pwned": False, "mark": ["steel"], "images": 0, "over": [0, 0, 0]}


@pytest.mark.slow
def test_ten_thousand_rows_put_few_elements_into_the_page_and_scroll_to_the_last(tmp_path: Path) -> None:
    found = look_at(
        page_of(tmp_path, many(10_000)),
        tmp_path,
        LOOK
        + """
        const list = page.getElementById("list"), sort = page.getElementById("sort");
        const least = all("*").length;
        list.scrollTop = list.scrollHeight;
        await until(() => text(".item .head").at(-1).endsWith("9999?"));
        const last = text(".item .head").at(-1);
        sort.value = "low"; sort.dispatchEvent(new view.Event("change")); await settled();
        return { least, last, first: text(".item .number")[0] };
        """,
        width=1280,
    )
    assert found["least"] < 600
    assert found["last"] == "Which lot is number 9999?"
    assert found["first"] == "0.000"


@pytest.mark.slow
def test_filters_search_and_keys_lead_to_the_row(tmp_path: Path) -> None:
    rows = [
        row(CONTEXT, "steel", "Of what?"),
        row(CONTEXT, None, "How much?", score=0.3),
        {"id": "x", "context": CONTEXT, "question": "Broken?", "said": failed("crashed")},
    ]
    found = look_at(
        page_of(tmp_path, rows),
        tmp_path,
        LOOK
        + """
        const key = (name) => page.body.dispatchEvent(
          new view.KeyboardEvent("keydown", { key: name, bubbles: true }));
        const heads = () => text(".item .head"), steps = {};
        const press = async (label) => {
          all("#states button, [data-view]").find((each) => each.textContent.startsWith(label)).click();
          await settled();
        };
        steps.states = text("#states button");
        await press("No answer"); steps.none = heads();
        await press("Error"); steps.faults = heads();
        await press("All");
        const search = page.getElementById("search");
        search.value = "OF WHAT"; search.dispatchEvent(new view.Event("input")); await settled();
        steps.searched = heads();
        search.value = ""; search.dispatchEvent(new view.Event("input")); await settled();
        key("ArrowDown"); await settled();
        steps.down = text("#detail h2");
        await press("Documents"); steps.documents = text(".item div:nth-child(2)");
        await press("Questions"); steps.questions = heads(); steps.means = text(".item .foot");
        all(".item")[1].click(); await settled(); steps.one = heads();
        return steps;
        """,
        width=1280,
    )
    assert found == {
        "states": ["All 3", "Answered 1", "No answer 1", "Error 1", "Low score 1"],
        "none": ["How much?"],
        "faults": ["Broken?"],
        "searched": ["Of what?"],
        "down": ["How much?"],
        "documents": ["1 of 3 answered"],
        "questions": ["Of what?", "How much?", "Broken?"],
        "means": ["0.900mean score", "0.300mean score", ""],
        "one": ["How much?"],
    }


@pytest.mark.slow
def test_arabic_reads_from_right_to_left_and_a_dark_screen_gets_a_dark_page(tmp_path: Path) -> None:
    script = (
        LOOK
        + """
      const style = (pick) => view.getComputedStyle(page.querySelector(pick));
      return {
        directions: [".document", "#detail h2", ".item .head", "main"].map((pick) => style(pick).direction),
        back: style("body").backgroundColor };
    """
    )
    page = page_of(tmp_path, [row(ARABIC, "القاهرة", "ما هي عاصمة مصر؟")])
    light = look_at(page, tmp_path, script, width=1280)
    dark = look_at(page, tmp_path, script, width=1280, dark=True)
    assert light == {"directions": ["rtl", "rtl", "rtl", "ltr"], "back": "rgb(245, 246, 248)"}
    assert dark == {**light, "back": "rgb(22, 24, 28)"}
