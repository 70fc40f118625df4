"""`batchqa/squad.py`: the official rules, by hand, by property, and against a plain restatement."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchqa import squad

LANGUAGES = (None, *squad.MLQA_LANGUAGES, "ru")

# words and characters at which the rules have something to decide
PIECES = [
    "a", "an", "the", "The", "A.", "cat", "Cat", "dog", "U.S.", "don't", "—", "¿", "。", "؟", "„", "$",
    "%", "el", "la", "der", "và", "là", "ال", "القاهرة", "北京", "大学", " ", "  ", "\t", "\n", "\u00a0",
    "\u3000", "\x1c", "_", "ß", "İ", "Σ", "ΟΔΟΣ", "e\u0301", "\u0301", "१२", "\u200b", "𝒜", "5", "5,000", "-",
]  # fmt: skip
texts = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=6).map(" ".join),
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
    st.text(max_size=12),
)
languages = st.sampled_from(LANGUAGES)


def strings(values: list[str | None]) -> pa.Array:
    return pa.array(values, pa.large_string())


def lists(values: list[list[str] | None]) -> pa.Array:
    return pa.array(values, pa.large_list(pa.large_string()))


def score(
    predicted: list[str | None], golds: list[list[str] | None], rules: squad.Rules = "squad2", **named: Any
) -> tuple[list[float], list[float]]:
    scores = squad.score_rows(strings(predicted), lists(golds), rules, **named)
    return scores.exact.tolist(), scores.f1.tolist()


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("", ""),
        ("The Cat", "cat"),
        ("a an the", ""),
        ("...", ""),
        ("  Many   spaces\there ", "many spaces here"),
        ("U.S.A.", "usa"),
        ("theatre and another", "theatre and another"),
        ("the-cat", "thecat"),
        ("an_apple", "anapple"),
        ("“quoted” — dash", "“quoted” — dash"),  # SQuAD knows ASCII's punctuation only
        ("A\u00a0B", "b"),
        ("5,000", "5000"),
    ],
)
def test_squad_takes_out_case_ascii_punctuation_articles_and_spaces(text: str, normal: str) -> None:
    assert squad.normalize(text) == normal


@pytest.mark.parametrize(
    ("language", "text", "normal"),
    [
        ("en", "“The Cat”—again!", "catagain"),
        ("es", "¿El niño y la niña?", "niño y niña"),
        ("es", "the elemento", "the elemento"),
        ("de", "Der Hund des Mannes", "hund mannes"),
        ("vi", "những con mèo là của tôi", "con mèo tôi"),
        ("ar", "القاهرة والجامعة", "قاهرة و جامعة"),
        ("hi", "भारत।", "भारत"),
        ("zh", "北京大学（PKU）1898年", "北 京 大 学 pku1898 年"),
        ("zh", "the 中", "the 中"),
        ("ru", "«Война и мир»", "война и мир"),
    ],
)
def test_mlqa_has_its_own_rule_for_each_language(language: str, text: str, normal: str) -> None:
    assert squad.normalize(text, language) == normal


@pytest.mark.parametrize(
    ("gold", "predicted", "exact", "f1"),
    [
        ("the cat", "Cat!", 1, 1.0),
        ("cat sat", "cat", 0, 2 / 3),
        ("cat cat dog", "cat dog dog", 0, 2 / 3),  # one cat and one dog in common, of three words each
        ("cat", "dog", 0, 0.0),
        ("", "", 1, 1.0),
        ("the", "a", 1, 1.0),
        ("", "cat", 0, 0.0),
        ("cat", "", 0, 0.0),
        ("a b c d", "b c", 0, 2 * 1.0 * (2 / 3) / (1.0 + 2 / 3)),
    ],
)
def test_exact_and_f1_of_cases_worked_out_by_hand(gold: str, predicted: str, exact: int, f1: float) -> None:
    assert score([predicted], [[gold]]) == ([exact], [f1])


def test_the_gold_answer_that_suits_best_counts() -> None:
    assert score(["cat sat"], [["dog", "cat", "the cat sat"]]) == ([1.0], [1.0])
    assert score(["cat sat"], [["dog", "cat"]]) == ([0.0], [2 / 3])


def test_exact_and_f1_may_come_from_different_gold_answers() -> None:
    exact, f1 = score(["cat"], [["cat sat", "dog"]])
    assert (exact, f1) == ([0.0], [2 / 3])


def test_a_row_without_gold_answers_wants_an_empty_prediction() -> None:
    assert score(["", "cat", "the"], [[], [], None]) == ([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])


def test_a_missing_prediction_scores_zero_even_where_no_answer_is_right() -> None:
    assert score([None, None], [[], ["cat"]]) == ([0.0, 0.0], [0.0, 0.0])


def test_the_two_squads_differ_where_no_word_is_left_of_the_gold_answer() -> None:
    # 2.0 ignores such a gold answer, 1.1 compares with it, and its F1 of two empty texts is 0
    assert score(["the"], [["a"]], "squad2") == ([1.0], [1.0])
    assert score(["the"], [["a"]], "squad1") == ([1.0], [0.0])
    assert score([""], [["a", "cat"]], "squad2") == ([0.0], [0.0])
    assert score([""], [["a", "cat"]], "squad1") == ([1.0], [0.0])


def test_scoring_works_on_slices_of_larger_columns() -> None:
    predicted, golds = strings(["x", "cat", "", "y"])[1:3], lists([["x"], ["cat"], [], ["y"]])[1:3]
    scores = squad.score_rows(predicted, golds)
    assert scores.exact.tolist() == [1.0, 1.0]


def test_no_rows_give_no_scores() -> None:
    assert score([], []) == ([], [])


@given(st.lists(texts, max_size=8), languages)
def test_many_texts_are_normalized_as_each_of_them(many: list[str], language: str | None) -> None:
    assert squad.normalize_all(many, language) == [squad.normalize(text, language) for text in many]


@given(texts, languages)
def test_normalizing_leaves_no_outer_or_double_spaces_and_no_ascii_punctuation(
    text: str, language: str | None
) -> None:
    normal = squad.normalize(text, language)
    assert normal == " ".join(normal.split())
    assert not set(normal) & set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


@given(st.sampled_from(PIECES), texts, st.sampled_from(squad.MLQA_LANGUAGES))
def test_unicode_punctuation_does_not_matter_to_mlqa(piece: str, text: str, language: str) -> None:
    assert squad.normalize(f"»{text}…", language) == squad.normalize(text, language)


@given(texts, texts, languages)
def test_f1_and_exact_are_symmetric_and_bounded(one: str, other: str, language: str | None) -> None:
    (exact,), (f1,) = score([one], [[other]], language=language)
    (back_exact,), (back_f1,) = score([other], [[one]], language=language)
    assert 0.0 <= f1 <= 1.0
    assert f1 == pytest.approx(back_f1, abs=1e-15)
    assert exact == back_exact
    assert f1 == 1.0 or not exact


def exact_and_f1(gold: str, predicted: str, language: str | None) -> tuple[int, float]:
    """Two texts by SQuAD 2.0's definition: words count as often as they occur."""
    ours, theirs = (squad.normalize(text, language).split() for text in (gold, predicted))
    if not ours or not theirs:
        return int(ours == theirs), float(ours == theirs)
    same = (Counter(ours) & Counter(theirs)).total()
    precision, recall = same / len(theirs), same / len(ours)
    return int(ours == theirs), 2 * precision * recall / (precision + recall) if same else 0.0


@given(st.lists(st.tuples(st.none() | texts, st.lists(texts, max_size=3)), max_size=8), languages)
def test_columns_score_as_pairs_do_to_the_last_bit(
    rows: list[tuple[str | None, list[str]]], language: str | None
) -> None:
    exact, f1 = score([p for p, _ in rows], [g for _, g in rows], language=language)
    for at, (predicted, golds) in enumerate(rows):
        kept = [gold for gold in golds if squad.normalize(gold, language)] or [""]
        if predicted is None:
            assert (exact[at], f1[at]) == (0.0, 0.0)
        else:
            pairs = [exact_and_f1(gold, predicted, language) for gold in kept]
            assert (exact[at], f1[at]) == tuple(map(max, zip(*pairs, strict=True)))


@given(st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=3)), max_size=6))
def test_squad1_is_the_best_of_all_gold_answers(rows: list[tuple[str, list[str]]]) -> None:
    exact, f1 = score([p for p, _ in rows], [g for _, g in rows], "squad1")
    for at, (predicted, golds) in enumerate(rows):
        pairs = [exact_and_f1(gold, predicted, None) for gold in golds]
        assert exact[at] == max(one for one, _ in pairs)
        each = zip(golds, pairs, strict=True)
        assert f1[at] == max(one if squad.normalize(gold) else 0.0 for gold, (_, one) in each)


@given(st.lists(st.tuples(texts, st.lists(texts, max_size=2)), min_size=1, max_size=5), st.integers(2, 4))
def test_duplicated_rows_score_the_same(rows: list[tuple[str, list[str]]], copies: int) -> None:
    predicted, golds = [p for p, _ in rows], [g for _, g in rows]
    once = score(predicted, golds)
    often = score(predicted * copies, golds * copies)
    assert often == (once[0] * copies, once[1] * copies)


def walk_thresholds(
    scores: list[float], has_answer: list[bool], says: list[bool], odds: list[float]
) -> tuple[float, float]:
    """The official method, restated as a loop: what is lost and won when one more row is answered."""
    total = best = float(has_answer.count(False))
    threshold = 0.0
    for at in sorted(range(len(odds)), key=lambda at: odds[at]):
        if has_answer[at]:
            total += scores[at]
        elif says[at]:
            total -= 1
        if total > best:
            best, threshold = total, odds[at]
    return best, threshold


rows_to_answer = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.booleans(),
        st.booleans(),
        st.sampled_from([-2.0, -0.5, 0.0, 0.1, 3.0]) | st.floats(-9, 9),
    ),
    min_size=1,
    max_size=30,
)


@given(rows_to_answer)
def test_best_thresholds_are_those_of_the_official_walk(rows: list[tuple[float, bool, bool, float]]) -> None:
    scores, has_answer, says, odds = (list(column) for column in zip(*rows, strict=True))
    found = squad.best_threshold(np.array(scores), np.array(has_answer), np.array(says), np.array(odds))
    assert (found.total, found.threshold) == walk_thresholds(scores, has_answer, says, odds)


def test_the_best_threshold_of_a_case_worked_out_by_hand() -> None:
    # answered in this order: right (+1), wrong on an unanswerable row (-1), right (+1), right (+0.5)
    odds = np.array([-3.0, -1.0, 0.5, 2.0])
    has_answer = np.array([True, False, True, True])
    found = squad.best_threshold(np.array([1.0, 0.0, 1.0, 0.5]), has_answer, np.ones(4, dtype=bool), odds)
    # nothing answered: 1; then 2, 1, 2, 2.5
    assert (found.total, found.threshold) == (2.5, 2.0)


def test_where_answering_never_pays_the_threshold_is_the_scripts_zero() -> None:
    found = squad.best_threshold(
        np.zeros(2), np.zeros(2, dtype=bool), np.ones(2, dtype=bool), np.array([4.0, 5.0])
    )
    assert (found.total, found.threshold) == (2.0, 0.0)


def plain_f1(gold: str, predicted: str) -> float:
    common = Counter(gold.split()) & Counter(predicted.split())
    same = sum(common.values())
    if not gold or not predicted:
        return float(gold == predicted)
    if same == 0:
        return 0.0
    precision, recall = same / len(predicted.split()), same / len(gold.split())
    return 2 * precision * recall / (precision + recall)


@pytest.fixture(scope="module")
def peer(data_dir: Path, squad_dev: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    file = data_dir / "peer-predictions" / "squad-v2.0-dev.bert-single.json"
    predictions = json.loads(file.read_text(encoding="utf-8"))
    return [predictions[row["id"]] for row in squad_dev], [row["answers"] for row in squad_dev]


def test_the_peers_predictions_give_the_official_figures(peer: tuple[list[str], list[list[str]]]) -> None:
    exact, f1 = (np.array(values) for values in score(*peer))
    has = np.array([bool(golds) for golds in peer[1]])
    assert (len(has), has.sum()) == (11873, 5928)
    assert 100 * exact.mean() == pytest.approx(78.74168280973637, abs=1e-9)
    assert 100 * f1.mean() == pytest.approx(81.77528052374723, abs=1e-9)
    assert 100 * exact[has].mean() == pytest.approx(74.10593792172739, abs=1e-9)
    assert 100 * f1[has].mean() == pytest.approx(80.18183293833508, abs=1e-9)
    assert 100 * exact[~has].mean() == pytest.approx(83.36417157275021, abs=1e-9)
    assert 100 * f1[~has].mean() == pytest.approx(83.36417157275021, abs=1e-9)


def test_every_row_of_the_peer_scores_as_a_plain_loop_says(peer: tuple[list[str], list[list[str]]]) -> None:
    exact, f1 = score(*peer)
    for at, (predicted, golds) in enumerate(zip(*peer, strict=True)):
        kept = [normal for gold in golds if (normal := squad.normalize(gold))] or [""]
        said = squad.normalize(predicted)
        assert exact[at] == float(said in kept)
        assert math.isclose(f1[at], max(plain_f1(gold, said) for gold in kept), abs_tol=0.0)
