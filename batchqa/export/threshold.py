"""The no-answer threshold, fitted on labelled rows; and such rows made from data with answerable ones only.

A threshold must be fitted on data that no figure is reported on. SQuAD 1.1 has no unanswerable questions, so
`labelled_sample` makes them: the question beside its own paragraph without the sentences that hold an answer.
SQuAD 2.0's own were written to mislead, about the paragraph they stand beside (Rajpurkar et al. 2018); a
question beside any other paragraph would be much easier than those.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.bundle import Bundle
from batchqa.errors import InputError
from batchqa.gold import read_gold
from batchqa.records import Bool
from batchqa.squad import best_threshold
from batchqa.steps.scoring import SpanScorer

from .verify import answer, read_examples, row_scores

ALWAYS = 1e9
"""A threshold that no null odds exceed: every row is answered, and its null odds are told."""


def read_labelled(path: str | Path) -> pa.Table:
    """Rows of both kinds, answerable and not, on which a threshold can be fitted. Raises InputError."""
    table = read_examples(path)
    if "answers" not in table.schema.names:
        raise InputError(
            f"{path} has no gold answers (no column `answers` or `answer`) to fit a threshold on"
        )
    has_answer = _has_answer(table)
    if has_answer.all() or not has_answer.any():
        raise InputError(
            f"{path} has rows of one kind only; fitting a threshold needs answerable and unanswerable ones"
        )
    return table


def _has_answer(table: pa.Table) -> Bool:
    golds = read_gold(table["answers"], "the column `answers`").texts
    return np.asarray(pc.list_value_length(golds).to_numpy(zero_copy_only=False) > 0)


def best_for_f1(bundle: Bundle, scorer: SpanScorer, table: pa.Table) -> float:
    """The threshold with the best F1 on `table` of `read_labelled`, halfway to the next row's odds."""
    given = answer(bundle, scorer, table, abstains=True, threshold=ALWAYS)
    has_answer = _has_answer(table)
    odds = given.columns["null_odds"].to_numpy().astype(np.float64)
    says = np.array([bool(text) for text in given.columns["answer"].to_pylist()])
    found = best_threshold(row_scores(table, given.columns["answer"]).f1, has_answer, says, odds).threshold
    above = odds[odds > found]
    # the official method returns a row's own odds, which another batching may miss by a rounding error
    return float((found + above.min()) / 2) if len(above) else float(found)


def labelled_sample(squad: Path, paragraphs: int, seed: int) -> list[dict[str, Any]]:
    """Rows from a SQuAD 1.1 file: a question of each of `paragraphs` paragraphs, answerable and not in turn.

    The unanswerable form has the paragraph without the sentences in which an answer stands; a paragraph of
    which nothing is left is passed over.
    """
    whole = [
        paragraph
        for article in orjson.loads(squad.read_bytes())["data"]
        for paragraph in article["paragraphs"]
        if paragraph["qas"]
    ]
    draw = random.Random(seed)  # noqa: S311 -- a repeatable sample, not a secret
    rows = []
    for paragraph in draw.sample(whole, paragraphs):
        asked = draw.choice(paragraph["qas"])
        texts = [gold["text"] for gold in asked["answers"]]
        rest = _without(paragraph["context"], texts)
        if not rest:
            continue
        answers = {"text": texts, "answer_start": [gold["answer_start"] for gold in asked["answers"]]}
        nothing: dict[str, list[Any]] = {"text": [], "answer_start": []}
        rows.append({"context": paragraph["context"], "question": asked["question"], "answers": answers})
        rows.append({"context": rest, "question": asked["question"], "answers": nothing})
    return rows


def _without(context: str, answers: list[str]) -> str:
    """The context's sentences in which none of the answers stands."""
    sentences = re.split(r"(?<=[.!?])\s+", context)
    folded = [answer.casefold() for answer in answers]
    return " ".join(s for s in sentences if not any(answer in s.casefold() for answer in folded))
