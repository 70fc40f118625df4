"""Lists of answers: figures worked out by hand, by MultiSpanQA's and CUAD's definitions."""

from __future__ import annotations

import pytest

from batchqa.evaluation.answer_lists import is_one_answer, score_lists
from batchqa.squad import normalize

ROWS = [
    # gold, answers
    (["Paris", "Rome"], [("Paris", 0.9), ("Milan", 0.4)]),
    (["two red cars"], [("the red cars", 0.7)]),
    ([], []),
    ([], [("wrong", 0.2)]),
    (["never found"], []),
]


def figures(rows: list[tuple[list[str], list[tuple[str, float]]]]):
    return score_lists([gold for gold, _ in rows], [answers for _, answers in rows], normalize)


def test_exact_counts_equal_texts_over_all_rows():
    exact = figures(ROWS).exact
    # right: Paris, and the row that rightly has none; given: 2 + 1 + 1 + 1 + 1; gold: 2 + 1 + 1 + 1 + 1
    assert exact.precision == pytest.approx(100 * 2 / 6)
    assert exact.recall == pytest.approx(100 * 2 / 6)
    assert exact.f1 == pytest.approx(100 * 2 / 6)


def test_partial_counts_the_longest_common_piece_of_each_answer_with_its_best_gold_answer():
    # "the" goes by SQuAD's rules: "red cars" is the whole answer, and 8 characters of 12
    row = figures([(["two red cars"], [("the red cars", 0.7)])]).partial
    assert row.precision == pytest.approx(100 * 8 / 8)
    assert row.recall == pytest.approx(100 * 8 / 12)
    two = figures([(["abcd", "xy"], [("abc", 0.5)])]).partial
    assert two.precision == pytest.approx(100)
    assert two.recall == pytest.approx(100 * (3 / 4 + 0) / 2)


def test_an_answer_where_there_is_none_is_wrong_and_none_where_there_is_none_is_right():
    assert figures([([], [])]).partial.f1 == figures([([], [])]).exact.f1 == 100
    assert figures([([], [("x", 1.0)])]).exact.f1 == 0


def test_the_curve_is_cuad_s():
    rows = [(["alpha beta"], [("alpha beta", 0.9), ("other", 0.5)]), (["gamma"], [("gamma", 0.3)])]
    found = figures(rows)
    # above 0.9: nothing; to 0.5: recall 1/2 at precision 1; to 0.3: 1/2 at 1/2; below: 1 at 2/3
    assert found.precision_at_80_recall == pytest.approx(100 * 2 / 3)
    # from (0, 1) to (1/2, 1), there down to 2/3 at the same recall, then to (1, 2/3)
    assert found.area_under_curve == pytest.approx(100 * (0.5 + 0.5 * 2 / 3))


def test_a_text_at_several_places_has_the_best_of_its_scores():
    once = [(["alpha"], [("alpha", 0.9), ("other", 0.5)])]
    again = [(["alpha"], [("alpha", 0.9), ("other", 0.5), ("alpha", 0.2)])]
    assert figures(again) == figures(once)
    assert figures(again).area_under_curve == 100


def test_precision_at_a_recall_that_no_threshold_reaches_is_nought():
    assert figures([(["a", "b"], [("a", 0.9)])]).precision_at_80_recall == 0
    assert figures([(["a"], [])]).area_under_curve == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("January 1, 2020", "january 1 2020;", True),
        ("a b c", "a b c d e f", True),
        ("a b c", "a b c d e f g", False),
        ("licensor/licensee", "Licensee licensor", True),
        (".", ".", False),
    ],
)
def test_texts_are_one_answer_if_half_of_their_words_are(one: str, other: str, same: bool):
    assert is_one_answer(one, other) == same
