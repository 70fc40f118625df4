"""The field's own rules: answer normalization, exact match, F1 and best thresholds. Pure: no files, no model.

Sources of the rules, all restated here:

- SQuAD 1.1 and 2.0: Rajpurkar et al. 2016 and 2018, the official scripts `evaluate-v1.1.py` and
  `evaluate-v2.0.py`
- MLQA: Lewis et al. 2020, the official script `mlqa_evaluation_v1.py` (articles and segmentation by language)

`exact` and `f1` judge one pair of texts; `score_rows` judges columns of them, with the same result to the
last bit. It is fast because it works on distinct values only: distinct texts are normalized once, distinct
(prediction, gold) pairs are compared once, and the comparison is a search in sorted integers.
"""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.records import Bool, Float64, Int64

Rules = Literal["squad1", "squad2"]
"""Which script's rules: they differ where normalization leaves nothing of a text (see `score_rows`)."""

MLQA_LANGUAGES = ("ar", "de", "en", "es", "hi", "vi", "zh")
"""The languages that MLQA's script knows; others get its general rule (no articles, spaces part words)."""

# The articles that MLQA's script takes out; Hindi and Chinese have none. Arabic's goes inside words too.
_ARTICLES = {
    "ar": "ال",
    "de": r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "en": r"\b(?:a|an|the)\b",
    "es": r"\b(?:un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(?:của|là|cái|chiếc|những)\b",
}
_HAN = re.compile("([\u4e00-\u9fa5])")

_SEPARATOR = "\0"
"""Between texts that are normalized together: no letter, no mark, no space, no punctuation; rare in text."""

_TEXTS_AT_ONCE = 100_000
_PAIRS_AT_ONCE = 1_000_000


def normalize(text: str, language: str | None = None) -> str:
    """A text as the official scripts compare it: lower case, no punctuation, no articles, single spaces.

    `language` None is SQuAD's rule (ASCII punctuation, English articles). A language code is MLQA's rule
    (all Unicode punctuation, that language's articles, Chinese split into characters).
    """
    return " ".join(_normalizer(language)(text).split())


def normalize_all(texts: Sequence[str], language: str | None = None) -> list[str]:
    """`normalize` for many texts: joined into one, so that Python's loop runs over the result only."""
    normalized: list[str] = []
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        block = texts[first : first + _TEXTS_AT_ONCE]
        joined = _SEPARATOR.join(block)
        if joined.count(_SEPARATOR) == len(block) - 1:
            parts = _normalizer(language)(joined).split(_SEPARATOR)
            normalized += [" ".join(part.split()) for part in parts]
        else:  # a text with a NUL character
            normalized += [normalize(text, language) for text in block]
    return normalized


@dataclass(frozen=True, slots=True, eq=False)
class RowScores:
    """What each row scored against its best gold answer: exact (0 or 1) and f1, float64, (rows,)."""

    exact: Float64
    f1: Float64


def score_rows(
    predicted: pa.Array, golds: pa.Array, rules: Rules = "squad2", language: str | None = None
) -> RowScores:
    """Judge each row's prediction by the gold answer that suits it best.

    predicted: strings, (rows,); "" says "no answer", null is a missing prediction and scores 0.
    golds: lists of strings, (rows,); an empty or null list says "not answerable".

    squad2: gold answers without a word left are ignored; a row with no other gold answer wants an empty
    prediction. squad1 (MLQA's too): all gold answers count, and F1 without words is 0; a row without gold
    answers, which these rules do not know, scores 0.
    """
    rows = len(predicted)
    given = pc.is_valid(predicted).to_numpy(zero_copy_only=False)
    counts = pc.fill_null(pc.list_value_length(golds), 0).to_numpy(zero_copy_only=False)
    forms, codes = _normal_forms(
        [pc.fill_null(predicted, ""), pc.fill_null(pc.list_flatten(golds), "")], language
    )
    predicted_form = codes[:rows]

    pair_row = np.repeat(np.arange(rows), counts)
    pair_gold = codes[rows:]
    if rules == "squad2":
        kept = pair_gold != 0
        pair_row, pair_gold = pair_row[kept], pair_gold[kept]
    pair_exact = (predicted_form[pair_row] == pair_gold).astype(np.float64)
    pair_f1 = _f1_of_pairs(forms, predicted_form[pair_row], pair_gold)

    row_exact, row_f1 = np.zeros(rows), np.zeros(rows)
    judged, first = np.unique(pair_row, return_index=True)
    if len(judged):
        row_exact[judged] = np.maximum.reduceat(pair_exact, first)
        row_f1[judged] = np.maximum.reduceat(pair_f1, first)
    if rules == "squad2":
        unanswerable = np.ones(rows, dtype=bool)
        unanswerable[judged] = False
        row_exact[unanswerable] = row_f1[unanswerable] = predicted_form[unanswerable] == 0
    return RowScores(row_exact * given, row_f1 * given)


@dataclass(frozen=True, slots=True)
class BestThreshold:
    """The best total (not yet divided by the rows) and the threshold on the null odds that gives it."""

    total: float
    threshold: float


def best_threshold(
    scores: Float64, has_answer: Bool, says_something: Bool, null_odds: Float64
) -> BestThreshold:
    """The threshold with the best total, by the official SQuAD 2.0 script's method.

    scores: what each row's best span scores, float64, (rows,). has_answer: whether the row has gold answers.
    says_something: whether the best span is not empty. A row is answered when its null odds are at or below
    the threshold. The method starts from "nothing is answered" (threshold 0.0 if that is never beaten) and
    answers the rows in order of their null odds; among equal odds the rows' order counts.
    """
    order = np.argsort(null_odds, kind="stable")
    gain = np.where(has_answer, scores, np.where(says_something, -1.0, 0.0))[order]
    nothing_answered = float((~has_answer).sum())
    # a sequential sum, started at the first total, is bit for bit the script's running total
    totals = np.cumsum(np.concatenate([[nothing_answered], gain]))
    best = int(np.argmax(totals))
    return BestThreshold(float(totals[best]), float(null_odds[order][best - 1]) if best else 0.0)


@cache
def _punctuation() -> re.Pattern[str]:
    """All characters of the Unicode categories P*, and ASCII's punctuation."""
    unicode_ones = (chr(c) for c in range(sys.maxunicode) if unicodedata.category(chr(c)).startswith("P"))
    return re.compile("[" + re.escape("".join({*unicode_ones, *string.punctuation})) + "]+")


@cache
def _normalizer(language: str | None) -> Callable[[str], str]:
    """All of a language's normalization but the white space."""
    ascii_punctuation = re.compile("[" + re.escape(string.punctuation) + "]+")
    punctuation = ascii_punctuation if language is None else _punctuation()
    pattern = _ARTICLES.get("en" if language is None else language)
    articles = re.compile(pattern) if pattern else None

    def bare(text: str) -> str:
        text = punctuation.sub("", text.lower())
        if articles:
            text = articles.sub(" ", text)
        # MLQA's "mixed segmentation": each Han character is a word
        return _HAN.sub(r" \1 ", text) if language == "zh" else text

    return bare


def _normal_forms(columns: list[pa.Array], language: str | None) -> tuple[list[str], Int64]:
    """The distinct normal forms of all texts, "" first, and for each text the place of its form."""
    texts = pa.chunked_array([column.cast(pa.large_string()) for column in columns])
    encoded = texts.combine_chunks().dictionary_encode()
    places = {"": 0}
    normal = normalize_all(encoded.dictionary.to_pylist(), language)
    place = np.array([places.setdefault(form, len(places)) for form in normal], dtype=np.int64)
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    return list(places), place[codes] if len(place) else np.zeros(len(codes), dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Words:
    """The words of all normal forms: form f has words[first[f] : first[f] + count[f]].

    A word is a number for the word and how often it occurred in the form before, so that the number of
    common words of two forms, counted as often as they occur, is the size of a set's intersection.
    `known` holds form * vocabulary + word of all forms, ascending.
    """

    words: Int64
    first: Int64
    count: Int64
    vocabulary: int
    known: Int64


def _words_of(forms: list[str]) -> _Words:
    split = pc.split_pattern(pa.array(forms, pa.large_string()), " ")
    count = pc.list_value_length(split).to_numpy(zero_copy_only=False).astype(np.int64)
    form = np.repeat(np.arange(len(forms)), count)
    encoded = pc.list_flatten(split).dictionary_encode()
    word = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    distinct = len(encoded.dictionary)

    # sorted, equal words of a form are neighbours: their distance to the first is the occurrence's number
    order = np.argsort(form * distinct + word, kind="stable")
    key = (form * distinct + word)[order]
    run_starts = np.flatnonzero(np.diff(key, prepend=-1))
    occurrence = np.arange(len(key)) - np.repeat(run_starts, np.diff(run_starts, append=len(key)))
    longest = int(occurrence.max(initial=0)) + 1
    words = np.empty_like(word)
    _, words[order] = np.unique(word[order] * longest + occurrence, return_inverse=True)
    vocabulary = int(words.max(initial=0)) + 1
    return _Words(words, np.cumsum(count) - count, count, vocabulary, np.sort(form * vocabulary + words))


def _f1_of_pairs(forms: list[str], predicted: Int64, gold: Int64) -> Float64:
    """F1 of pairs of normal forms (by their places); 0 where one of them is the empty form, place 0."""
    keys, inverse = np.unique(predicted * len(forms) + gold, return_inverse=True)
    left, right = np.divmod(keys, len(forms))
    words = _words_of(forms)
    scores = np.zeros(len(keys))
    for first in range(0, len(keys), _PAIRS_AT_ONCE):
        block = slice(first, first + _PAIRS_AT_ONCE)
        scores[block] = _f1_of_distinct_pairs(words, left[block], right[block])
    scores[(left == 0) | (right == 0)] = 0.0
    return scores[inverse]


def _f1_of_distinct_pairs(words: _Words, left: Int64, right: Int64) -> Float64:
    count = words.count[left]
    pair = np.repeat(np.arange(len(left)), count)
    at = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count) + words.first[left][pair]
    wanted = right[pair] * words.vocabulary + words.words[at]
    place = np.minimum(np.searchsorted(words.known, wanted), len(words.known) - 1)
    same = np.bincount(pair, weights=words.known[place] == wanted, minlength=len(left))
    precision, recall = same / count, same / words.count[right]
    with np.errstate(invalid="ignore"):
        scores: npt.NDArray[np.float64] = 2 * precision * recall / (precision + recall)
    return np.nan_to_num(scores, nan=0.0)
