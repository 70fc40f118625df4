"""SQuAD 2.0's official metrics, in plain Python, written from the rules of its evaluation script.

The rules (https://worksheets.codalab.org, "evaluate-v2.0.py", and Rajpurkar et al. 2018): texts are compared
in lower case, without punctuation, without the articles a, an, the, and with single spaces. A question
scores the best over its gold answers; gold answers that are empty after that do not count, and a question
without any has the one gold answer "". The test of `batchqa.squad` compares it with this module.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """A text as it is compared."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(gold: str, given: str) -> float:
    """1.0 where both are the same text, else 0.0."""
    return float(normalized(gold) == normalized(given))


def f1(gold: str, given: str) -> float:
    """Harmonic mean of precision and recall of the words; against an empty text all or nothing."""
    expected, got = normalized(gold).split(), normalized(given).split()
    if not expected or not got:
        return float(expected == got)
    shared = (Counter(expected) & Counter(got)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(got), shared / len(expected)
    return 2 * precision * recall / (precision + recall)


def gold_answers(texts: Iterable[str]) -> list[str]:
    """The gold answers that count: those with something left, or "" for a question without an answer."""
    return [text for text in texts if normalized(text)] or [""]


def best_of(metric: Callable[[str, str], float], golds: Iterable[str], given: str) -> float:
    """The best score of a prediction over a question's gold answers."""
    return max(metric(gold, given) for gold in gold_answers(golds))


def evaluate(golds: Mapping[str, Sequence[str]], predictions: Mapping[str, str]) -> dict[str, float]:
    """The script's figures, in percent, under the script's names.

    `golds` maps a question's id to its gold answers (none: unanswerable); every question is predicted ("":
    no answer). HasAns and NoAns appear where there are such questions.
    """
    figures = _figures("", list(golds), golds, predictions)
    answerable = [question for question, texts in golds.items() if texts]
    unanswerable = [question for question, texts in golds.items() if not texts]
    for name, questions in (("HasAns_", answerable), ("NoAns_", unanswerable)):
        if questions:
            figures |= _figures(name, questions, golds, predictions)
    return figures


def _figures(
    prefix: str, questions: Sequence[str], golds: Mapping[str, Sequence[str]], predictions: Mapping[str, str]
) -> dict[str, float]:
    def mean(metric: Callable[[str, str], float]) -> float:
        return 100 * sum(best_of(metric, golds[q], predictions[q]) for q in questions) / len(questions)

    return {
        f"{prefix}exact": mean(exact_match),
        f"{prefix}f1": mean(f1),
        f"{prefix}total": len(questions),
    }


def best_threshold(
    metric: Callable[[str, str], float],
    golds: Mapping[str, Sequence[str]],
    best_spans: Mapping[str, str],
    null_odds: Mapping[str, float],
) -> tuple[float, float]:
    """(score in percent, threshold) that is best if questions with null odds above it get no answer.

    `best_spans` are the answers that would be given if one had to be. Of equally good thresholds the lowest;
    0.0 where giving no answer at all is the best. As in the script, a threshold is one of the odds.
    """
    score = float(sum(not texts for texts in golds.values()))  # nothing is answered
    best, threshold = score, 0.0
    ordered = sorted(golds, key=lambda question: null_odds[question])
    for place, question in enumerate(ordered):
        given = best_spans[question]
        if golds[question]:
            score += best_of(metric, golds[question], given)
        else:
            score -= bool(given)
        # Questions with equal odds are answered together or not at all.
        last_of_equals = place + 1 == len(ordered) or null_odds[ordered[place + 1]] > null_odds[question]
        if last_of_equals and score > best:
            best, threshold = score, null_odds[question]
    return 100 * best / len(golds), threshold
