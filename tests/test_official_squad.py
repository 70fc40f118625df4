"""The tests' own SQuAD metrics agree with the official script, so that they can judge the package's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.official_squad import best_of, best_threshold, evaluate, exact_match, f1, normalized

OFFICIAL = {
    "exact": 78.74168280973637,
    "f1": 81.77528052374723,
    "total": 11873,
    "HasAns_exact": 74.10593792172739,
    "HasAns_f1": 80.18183293833508,
    "HasAns_total": 5928,
    "NoAns_exact": 83.36417157275021,
    "NoAns_f1": 83.36417157275021,
    "NoAns_total": 5945,
}
"""What the official script prints for the published predictions of peer-predictions/."""


def test_the_published_predictions_get_the_figures_that_the_official_script_prints(
    data_dir: Path, squad_dev: list[dict[str, Any]]
) -> None:
    file = data_dir / "peer-predictions" / "squad-v2.0-dev.bert-single.json"
    predictions = json.loads(file.read_text(encoding="utf-8"))

    figures = evaluate({row["id"]: row["answers"] for row in squad_dev}, predictions)

    assert figures == pytest.approx(OFFICIAL, abs=1e-9)
    assert list(figures) == list(OFFICIAL)


@pytest.mark.parametrize(
    ("text", "compared"),
    [
        ("The  Old-Bridge, a landmark!", "oldbridge landmark"),
        ("  an  A the ", ""),
        ("theory of another", "theory of another"),
        ("¿Año? «1.932»", "¿año «1932»"),
    ],
)
def test_texts_are_compared_without_case_punctuation_articles_and_extra_space(
    text: str, compared: str
) -> None:
    assert normalized(text) == compared


def test_f1_counts_every_shared_word_once() -> None:
    assert f1("red red boat", "red boat") == pytest.approx(2 * 1.0 * (2 / 3) / (1.0 + 2 / 3))
    assert f1("boat", "ship") == 0.0


def test_no_answer_is_right_only_where_there_is_none() -> None:
    assert best_of(exact_match, [], "") == best_of(f1, [], "") == 1.0
    assert best_of(exact_match, [], "boat") == best_of(f1, [], "boat") == 0.0
    assert best_of(exact_match, ["boat"], "") == best_of(f1, ["boat"], "") == 0.0


def test_a_gold_answer_of_articles_alone_does_not_make_a_question_answerable_by_silence() -> None:
    assert best_of(exact_match, ["the", "boat"], "") == 0.0
    assert best_of(exact_match, ["the"], "") == 1.0


def test_the_best_gold_answer_counts() -> None:
    assert best_of(f1, ["a very long boat", "boat"], "the boat") == 1.0


def test_the_best_threshold_answers_the_questions_that_gain_and_no_others() -> None:
    golds = {"right": ["boat"], "wrong": ["sea"], "none": [], "late": ["rope"]}
    spans = {"right": "boat", "wrong": "boat", "none": "boat", "late": "rope"}
    odds = {"right": -3.0, "wrong": -1.0, "none": 0.5, "late": 2.0}

    assert best_threshold(exact_match, golds, spans, odds) == (50.0, -3.0)


def test_questions_of_equal_odds_are_answered_together() -> None:
    golds: dict[str, list[str]] = {"right": ["boat"], "none": []}
    spans = {"right": "boat", "none": "boat"}

    assert best_threshold(f1, golds, spans, {"right": 1.0, "none": 1.0}) == (50.0, 0.0)
