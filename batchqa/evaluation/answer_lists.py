"""Lists of answers against lists of gold answers: every answer counts, not the best of them alone.

Two ways of the field. MultiSpanQA (Li et al. 2022, "MultiSpanQA: A Dataset for Multi-Span Question
Answering") asks how many of the answers are right and how many of the gold answers were found, as texts that
are equal after SQuAD's normalization, and by their longest common piece. CUAD (Hendrycks et al. 2021) lets a
threshold on the score vary: precision where 80 % of the gold answers are found, and the area under precision
against recall; an answer counts as found where half of the words, or more, are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from batchqa.records import Float64

SHARED_WORDS = 0.5
"""CUAD: two texts are one answer if their sets of words share this much of their union (Jaccard)."""

THRESHOLDS = (*(hundredth / 100 for hundredth in range(99, 0, -1)), 0.001, 0.0)
"""CUAD: the scores that an answer must exceed, one point of the curve each."""

Scored = tuple[str, float]
"""An answer's text and its score, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Precision, recall and their harmonic mean, in percent."""

    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, right: float, given: int, found: float, gold: int) -> Rates:
        """`right` of the `given` answers, and `found` of the `gold` ones; 0 where there are none."""
        precision = right / given if given else 0.0
        recall = found / gold if gold else 0.0
        both = precision + recall
        f1 = 2 * precision * recall / both if both else 0.0
        return cls(100 * precision, 100 * recall, 100 * f1)


@dataclass(frozen=True, slots=True)
class AnswerLists:
    """Figures of lists of answers, in percent; `exact` and `partial` are MultiSpanQA's, the rest CUAD's.

    `precision_at_80_recall` is 0 where no threshold finds 80 % of the gold answers.
    """

    exact: Rates
    partial: Rates
    precision_at_80_recall: float
    area_under_curve: float


def score_lists(
    gold: Sequence[Sequence[str]], answers: Sequence[Sequence[Scored]], normalize: Callable[[str], str]
) -> AnswerLists:
    """Figures of rows, each with its gold answers (all right; none: not answerable) and answers."""
    exact, partial = _multi_span(gold, [[text for text, _ in row] for row in answers], normalize)
    precision, recall = _curve(gold, answers)
    reached = np.flatnonzero(recall >= 0.8)
    return AnswerLists(
        exact,
        partial,
        100 * float(precision[reached[0]]) if len(reached) else 0.0,
        100 * float((np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum()),
    )


def _multi_span(
    gold: Iterable[Sequence[str]], answers: Iterable[Sequence[str]], normalize: Callable[[str], str]
) -> tuple[Rates, Rates]:
    """Micro-averages over all rows; one without gold answers counts as one, right if nothing is answered."""
    wanted = given = 0
    same = pieces_right = pieces_found = 0.0
    for of_gold, of_row in zip(gold, answers, strict=True):
        golds, texts = ({normalize(text) for text in row} - {""} for row in (of_gold, of_row))
        wanted += max(len(golds), 1)
        given += max(len(texts), 1)
        if not golds or not texts:
            right = float(not golds and not texts)
            same, pieces_right, pieces_found = same + right, pieces_right + right, pieces_found + right
            continue
        same += len(golds & texts)
        common = np.array([[_longest_common(a, b) for b in sorted(texts)] for a in sorted(golds)])
        pieces_right += float((common.max(axis=0) / [len(text) for text in sorted(texts)]).sum())
        pieces_found += float((common.max(axis=1) / [len(text) for text in sorted(golds)]).sum())
    return Rates.of(same, given, same, wanted), Rates.of(pieces_right, given, pieces_found, wanted)


def _longest_common(one: str, other: str) -> int:
    """Characters of the longest piece that both texts have."""
    return SequenceMatcher(None, one, other, autojunk=False).find_longest_match().size


def _curve(gold: Sequence[Sequence[str]], answers: Sequence[Sequence[Scored]]) -> tuple[Float64, Float64]:
    """Precision and recall at each threshold, from (1, 0) on: float64, (thresholds + 1,) each.

    The precision at a recall is the best that this or any larger recall has.
    """
    found_at: list[float] = []  # of each gold answer: the score up to which it is found, -1: never
    wrong_at: list[float] = []  # of each answer that matches no gold answer: its score
    for of_gold, of_row in zip(gold, answers, strict=True):
        # CUAD's answers are distinct texts: one that was found at several places has its best score
        texts = {text: score for text, score in sorted(of_row, key=lambda one: one[1]) if text}
        matches = {text: [is_one_answer(each, text) for each in of_gold] for text in texts}
        found_at += [
            max((score for text, score in texts.items() if matches[text][number]), default=-1.0)
            for number in range(len(of_gold))
        ]
        wrong_at += [texts[text] for text in texts if not any(matches[text])]
    limits = np.array(THRESHOLDS)[:, None]
    right = (np.array(found_at)[None, :] > limits).sum(axis=1)
    wrong = (np.array(wrong_at)[None, :] > limits).sum(axis=1)
    recall = np.concatenate([[0.0], right / max(len(found_at), 1)])
    given = right + wrong
    precision = np.concatenate([[1.0], np.where(given > 0, right / np.maximum(given, 1), 0.0)])
    return np.maximum.accumulate(precision[::-1])[::-1], recall


def is_one_answer(one: str, other: str) -> bool:
    """CUAD's measure: the words of both, without case and some punctuation, are half the same or more."""
    words, others = _words(one), _words(other)
    union = words | others
    return bool(union) and len(words & others) >= SHARED_WORDS * len(union)


def _words(text: str) -> set[str]:
    for mark in ".,;:":
        text = text.replace(mark, "")
    return set(text.lower().replace("/", " ").split())
