"""An answer begins and ends where a user-perceived character does, whatever the tokenizer makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from batchqa import Annotator
from batchqa.text import trim, widen
from tests.strategies import texts

CONTEXTS = {
    "combining marks": "The song was written by Beyonce\u0301 in Bogota\u0301 in an\u0303o 2000.",
    "two marks on a letter": "Vie\u0323\u0302t Nam la\u0300 mo\u0323\u0302t nu\u031bo\u031b\u0301c.",
    "jamo": "\u1112\u1161\u11ab\u1100\u116e\u11a8 \u1109\u1165\u110b\u116e\u11af",
    "joined emoji": "Here is 👩‍👩‍👧 with 🏳️‍🌈, ❤️ and 👍🏽👍🏿.",
    "flags": "They play 🇪🇸🇩🇪🇫🇷 and win 🇮🇹.",
    "Indic": "क्षत्रिय में निर्माण किया। தமிழ் நாடு",
    "Thai": "น้ำตกที่กำแพงเพชร",
    "enclosed": "Step 1\u20e3 and 2\ufe0f\u20e3.",
}


def ends(text: str) -> set[int]:
    """Where user-perceived characters begin and end."""
    return {0, *(found.end() for found in regex.finditer(r"\X", text))}


@pytest.mark.parametrize("no_answer", ["off", "on"])
def test_answers_and_candidates_are_whole_user_perceived_characters(
    bundles: Callable[..., Path], family: str, no_answer: str
) -> None:
    contexts = list(CONTEXTS.values())
    table = pa.table({"context": contexts, "question": ["Who was it?"] * len(contexts)})
    options = {"no_answer": no_answer, "max_answer_length": 3, "threads": 1, "batch_tokens": 512}
    with Annotator(
        bundles(family), device="cpu", **options, top_k=500, overlapping_candidates=True
    ) as loaded:
        rows = loaded.annotate(table).to_pylist()
    with Annotator(bundles(family), device="cpu", **options) as loaded:
        quick = loaded.annotate(table).to_pylist()
    for name, row, other in zip(CONTEXTS, rows, quick, strict=True):
        text, found = row["context"], row["qa_candidates"]
        assert found, name
        for candidate in found:
            start, end = candidate["start"], candidate["end"]
            assert text[start:end] == candidate["answer"]
            assert {start, end} <= ends(text), (name, candidate["answer"])
        assert len({(c["start"], c["end"]) for c in found}) == len(found)
        if row["qa_answer"] is not None:
            assert {row["qa_start"], row["qa_end"]} <= ends(text), (name, row["qa_answer"])
        assert [other[k] for k in ("qa_answer", "qa_start", "qa_end")] == [
            row[k] for k in ("qa_answer", "qa_start", "qa_end")
        ]


@given(text=texts(), places=st.tuples(st.integers(0, 60), st.integers(0, 60)))
def test_a_span_is_widened_to_the_characters_that_its_ends_are_inside_of(
    text: str, places: tuple[int, int]
) -> None:
    start, end = trim(text, *sorted(min(place, len(text)) for place in places))
    if start == end:
        return
    first = max(place for place in ends(text) if place <= start)
    last = min(place for place in ends(text) if place >= end)
    wanted = (start if text[first].isspace() else first, end if text[last - 1].isspace() else last)
    assert widen(text, start, end) == wanted


def test_a_mark_on_a_space_does_not_draw_the_space_into_the_answer() -> None:
    assert widen("a \u0301b", 2, 4) == (2, 4)
    assert widen("\u0600 b", 0, 1) == (0, 1)  # a number sign, which belongs to what follows it


def test_a_letter_of_a_million_marks_takes_no_longer_than_its_marks() -> None:
    text = "a" + "\u0301" * 1_000_000 + "b"
    assert widen(text, 999_999, 1_000_000) == (0, 1_000_001)
    assert widen("🇩" * 100_001, 99_999, 100_000) == (99_998, 100_000)
