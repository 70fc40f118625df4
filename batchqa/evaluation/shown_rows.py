"""The rows that a report shows: wrong, uncertain and changed ones, their answers marked in the context."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from batchqa.evaluation.comparing import Comparison
from batchqa.evaluation.result import Evaluation, names_of_rows
from batchqa.records import Float64, Int64
from batchqa.text import LONGEST_WORD, word_after, word_before

SHOWN_ROWS = 50

AROUND = 300
"""Characters of a long context that are shown on both sides of an answer."""

Kind = Literal["wrong", "uncertain", "changed"]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the context and what it is: of the prediction, of a gold answer, of both, or left out."""

    text: str
    mark: Literal["", "predicted", "gold", "both", "cut"]


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One row as the report shows it; `predicted` "" says "no answer", None that there is no prediction."""

    kind: Kind
    name: str
    question: str
    context: tuple[Piece, ...]
    predicted: str | None
    other: str | None
    gold: tuple[str, ...]
    score: float | None
    null_odds: float | None
    exact: float
    f1: float
    other_exact: float | None


def shown_rows(evaluation: Evaluation, prefix: str) -> tuple[ShownRow, ...]:
    """At most 50 rows: the surest of the wrong, the least sure, and where two predictions differ."""
    examples, comparison = evaluation.examples, evaluation.comparison
    chosen = _choose(evaluation)
    numbers = np.array([row for row, _ in chosen], dtype=np.int64)
    if not len(numbers):
        return ()
    contexts = examples.values("context", numbers)
    questions = examples.values("question", numbers)
    begins = examples.starts.take(numbers).to_pylist()
    starts = examples.values(prefix + "start", numbers, of_predictions=True)
    texts = examples.predictions.text.take(numbers).to_pylist()
    others = comparison.predictions.text.take(numbers).to_pylist() if comparison else [None] * len(numbers)
    answers = examples.answers.take(numbers).to_pylist()
    names = names_of_rows(examples, numbers)
    shown = []
    for at, (row, kind) in enumerate(chosen):
        context = contexts[at] or ""
        predicted = _locate(context, texts[at], starts[at])
        gold = _gold_spans(context, answers[at], begins[at])
        shown.append(
            ShownRow(
                kind=kind,
                name=names[at],
                question=questions[at] or "",
                context=_pieces(context, predicted, gold),
                predicted=texts[at],
                other=others[at],
                gold=tuple(dict.fromkeys(answers[at])),
                score=_number(examples.predictions.score[row]),
                null_odds=_number(examples.predictions.null_odds[row]),
                exact=float(evaluation.scores.exact[row]),
                f1=float(evaluation.scores.f1[row]),
                other_exact=float(comparison.scores.exact[row]) if comparison else None,
            )
        )
    return tuple(shown)


def _choose(evaluation: Evaluation) -> list[tuple[int, Kind]]:
    """Row numbers with the reason why they are shown; a row is shown once."""
    examples, comparison = evaluation.examples, evaluation.comparison
    score = examples.predictions.score
    scored = np.flatnonzero(~np.isnan(score))
    wrong = np.flatnonzero((evaluation.scores.exact == 0) & ~examples.missing)
    surest = wrong[np.argsort(-np.nan_to_num(score[wrong], nan=-1.0), kind="stable")]
    uncertain = scored[np.argsort(score[scored], kind="stable")]
    changed = _alternating(comparison) if comparison else np.zeros(0, dtype=np.int64)
    chosen: dict[int, Kind] = {}
    wanted: tuple[tuple[Kind, Int64, int], ...] = (
        ("changed", changed, 20),
        ("uncertain", uncertain, 10 if comparison else 20),
        ("wrong", surest, SHOWN_ROWS),
    )
    for kind, rows, most in wanted:
        fresh = [row for row in rows[: most + len(chosen)].tolist() if row not in chosen][:most]
        for row in fresh[: SHOWN_ROWS - len(chosen)]:
            chosen[row] = kind
    order = ("wrong", "uncertain", "changed")
    return sorted(chosen.items(), key=lambda item: order.index(item[1]))


def _alternating(comparison: Comparison) -> Int64:
    """Lost and gained rows in turn, so that both ways are seen."""
    pairs = max(len(comparison.lost), len(comparison.gained))
    turns = [
        rows[at]
        for at in range(min(pairs, SHOWN_ROWS))
        for rows in (comparison.lost, comparison.gained)
        if at < len(rows)
    ]
    return np.array(turns, dtype=np.int64)


def _locate(context: str, text: str | None, start: Any) -> list[Span]:
    """Where a text stands in its context: at the place given if it is there, else where it first occurs."""
    if not text:
        return []
    if not isinstance(start, int) or context[start : start + len(text)] != text:
        start = context.find(text)
    return [(start, start + len(text))] if start >= 0 else []


def _gold_spans(context: str, texts: list[str], starts: list[int | None]) -> list[Span]:
    """Where the gold answers stand, from SQuAD's `answer_start` where the data has it."""
    return [span for text, start in zip(texts, starts, strict=True) for span in _locate(context, text, start)]


def _pieces(context: str, predicted: list[Span], gold: list[Span]) -> tuple[Piece, ...]:
    """The context in stretches of the same mark, long stretches without a mark cut short."""
    edges = sorted({0, len(context), *(edge for span in predicted + gold for edge in span)})
    pieces: list[Piece] = []
    for start, end in pairwise(edges):
        in_predicted = any(low <= start < high for low, high in predicted)
        in_gold = any(low <= start < high for low, high in gold)
        text = context[start:end]
        if in_predicted or in_gold:
            pieces.append(
                Piece(text, "both" if in_predicted and in_gold else "predicted" if in_predicted else "gold")
            )
        elif len(text) <= 2 * (AROUND + LONGEST_WORD):
            pieces.append(Piece(text, ""))
        else:
            head = word_after(text, AROUND) if start > 0 or end == len(context) else 0
            tail = word_before(text, len(text) - AROUND) if end < len(context) else len(text)
            left_out = Piece(f"[{tail - head:,} characters]", "cut")
            kept = [Piece(text[:head], ""), left_out, Piece(text[tail:], "")]
            pieces += [piece for piece in kept if piece.text]
    return tuple(pieces)


def _number(value: Float64 | float) -> float | None:
    return None if np.isnan(value) else float(value)
