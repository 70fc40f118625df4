"""The reference itself, on cases small enough to be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models import SENTENCES, tiny_tokenizer
from tests.reference import (
    ReferenceWindow,
    decode_reference,
    windows_of_tokenizers,
    windows_of_transformers,
)

CONTEXT = "red boat, blue sea"
OFFSETS = [(0, 3), (4, 8), (8, 9), (10, 14), (15, 18)]


def window(start: list[float], end: list[float], null: float = -100.0, first: int = 0) -> ReferenceWindow:
    """A window of CONTEXT from token `first` on."""
    return ReferenceWindow(start, end, OFFSETS[first : first + len(start)], null)


def test_the_best_span_is_answered_with_its_probability_among_all_spans_and_null() -> None:
    answer = decode_reference(CONTEXT, [window([0, 3], [0, 2], null=1.0)])

    # spans: red 0, red boat 2, boat 5; and null 1
    assert (answer.answer, answer.start, answer.end) == ("boat", 4, 8)
    assert answer.score == pytest.approx(math.exp(5) / (1 + math.exp(2) + math.exp(5) + math.exp(1)))
    assert (answer.no_answer, answer.null_odds) == (False, -4.0)
    assert (answer.span_margin, answer.null_margin) == (3.0, 4.0)


def test_a_span_seen_in_two_windows_has_the_larger_score_and_null_the_smaller() -> None:
    windows = [window([0, 1], [0, 1], null=3.0), window([2, 0], [2, 0], null=1.5, first=1)]

    answer = decode_reference(CONTEXT, windows)

    # boat: 2 in the first window, 4 in the second; it counts once
    assert (answer.answer, answer.null_odds) == ("boat", 1.5 - 4.0)
    total = sum(math.exp(z) for z in (0, 1, 4, 2, 0, 1.5))
    assert answer.score == pytest.approx(math.exp(4) / total)


def test_no_answer_needs_null_to_be_more_than_the_threshold_above() -> None:
    windows = [window([1, 0], [1, 0], null=3.0)]

    assert decode_reference(CONTEXT, windows, threshold=1.0).answer == "red"
    silent = decode_reference(CONTEXT, windows, threshold=0.5)
    assert (silent.answer, silent.no_answer, silent.null_odds) == (None, True, 1.0)
    assert silent.best is not None
    assert silent.best.answer == "red"


def test_a_model_that_does_not_abstain_leaves_null_out() -> None:
    answer = decode_reference(CONTEXT, [window([1.0], [1.0], null=50.0)], abstains=False)

    assert (answer.answer, answer.score, answer.no_answer, answer.null_odds) == ("red", 1.0, None, None)


def test_of_equal_spans_the_earliest_and_then_the_shortest_wins() -> None:
    assert decode_reference(CONTEXT, [window([1, 1, 1], [1, 1, 1])]).answer == "red"
    assert decode_reference(CONTEXT, [window([0, 1, 1], [0, 0, 1])]).answer == "boat,"


def test_an_answer_has_at_most_so_many_tokens() -> None:
    windows = [window([5, 0, 0, 0], [0, 0, 1, 5])]

    assert decode_reference(CONTEXT, windows, max_answer_length=4).answer == "red boat, blue"
    assert decode_reference(CONTEXT, windows, max_answer_length=3).answer == "red boat,"


def test_white_space_is_trimmed_and_blank_spans_are_out() -> None:
    windows = [ReferenceWindow([9, 0, 0], [9, 0, 1], [(0, 1), (1, 4), (3, 5)], -100.0)]

    answer = decode_reference(" ab  ", windows, top_k=5)

    # "(blank)" is out; "(blank)ab" is "ab" again
    assert [(c.answer, c.start, c.end) for c in answer.candidates] == [("ab", 1, 3)]


def test_candidates_are_distinct_by_text_without_case() -> None:
    windows = [ReferenceWindow([3, 2, 1], [3, 2, 1], [(0, 3), (4, 7), (8, 11)], -100.0)]

    answer = decode_reference("Sea sea tea", windows, max_answer_length=1, top_k=3)

    assert [(c.answer, c.start) for c in answer.candidates] == [("Sea", 0), ("tea", 8)]


def test_a_blank_context_has_no_answer() -> None:
    answer = decode_reference("   ", [ReferenceWindow([1.0], [1.0], [(0, 3)], 0.0)])

    assert (answer.answer, answer.no_answer, answer.best) == (None, True, None)


def test_windows_cut_by_hand_are_those_of_transformers(
    family: str, checkpoints: Callable[[str], Path]
) -> None:
    context = "  ".join((*SENTENCES, "a [SEP] b </s> c <pad>"))
    sizes = (70, 20, 64)
    checkpoint = checkpoints(family)
    from transformers import AutoTokenizer

    expected = windows_of_transformers(
        AutoTokenizer.from_pretrained(checkpoint), SENTENCES[1], context, *sizes
    )

    assert len(expected) > 3
    assert windows_of_tokenizers(tiny_tokenizer(family), SENTENCES[1], context, *sizes) == expected


def test_a_long_question_is_cut_after_a_token(family: str) -> None:
    (whole,) = windows_of_tokenizers(tiny_tokenizer(family), "Who repaired it?", "The old bridge", 64, 8, 64)
    (cut,) = windows_of_tokenizers(tiny_tokenizer(family), "Who repaired it?", "The old bridge", 64, 8, 2)

    gone = whole.context_at - cut.context_at
    assert gone > 0
    assert cut.offsets == whole.offsets
    assert cut.ids == whole.ids[:3] + whole.ids[3 + gone :]
