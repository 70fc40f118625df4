"""The no-answer threshold, fitted on labelled rows; and such rows made from data with answerable ones only.

A threshold must be fitted on data that no figure is reported on. SQuAD 1.1 has no unanswerable questions, so
`labelled_sample` makes them: a question beside another paragraph of its article that does not hold the
answer. They are easier than SQuAD 2.0's own, which were written to mislead.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from batchqa.bundle import Bundle
from batchqa.errors import InputError
from batchqa.squad import best_threshold
from batchqa.steps.inference import SpanScorer

from .verify import answer, row_scores

ALWAYS = 1e9
"""A threshold that no null odds exceed: every row is answered, and its null odds are told."""


def best_for_f1(bundle: Bundle, scorer: SpanScorer, table: pa.Table) -> float:
    """The threshold with the best F1 on `table` (context, question, answers), halfway to the next row's odds.

    Raises InputError where the rows are not of both kinds, answerable and not.
    """
    if "answers" not in table.schema.names:
        raise InputError("a threshold is fitted on rows with gold answers; the file has no column `answers`")
    given = answer(bundle, scorer, table, abstains=True, threshold=ALWAYS)
    has_answer = np.array([bool(gold["text"]) for gold in table["answers"].to_pylist()])
    if has_answer.all() or not has_answer.any():
        raise InputError(
            "a threshold is fitted on answerable and unanswerable rows; the file has one kind only"
        )
    odds = given.columns["null_odds"].to_numpy().astype(np.float64)
    says = np.array([bool(text) for text in given.columns["answer"].to_pylist()])
    found = best_threshold(row_scores(table, given).f1, has_answer, says, odds).threshold
    above = odds[odds > found]
    # the official method returns a row's own odds, which another batching may miss by a rounding error
    return float((found + above.min()) / 2) if len(above) else float(found)


def labelled_sample(squad: Path, paragraphs: int, seed: int) -> list[dict[str, Any]]:
    """Rows from a SQuAD 1.1 file: a question of each of `paragraphs` paragraphs, answerable and not in turn.

    The unanswerable form has the question with another paragraph of the article without its answers.
    """
    articles = orjson.loads(squad.read_bytes())["data"]
    places = [
        (at, place)
        for at, article in enumerate(articles)
        for place, paragraph in enumerate(article["paragraphs"])
        if paragraph["qas"] and len(article["paragraphs"]) > 1
    ]
    draw = random.Random(seed)  # noqa: S311 -- a repeatable sample, not a secret
    rows = []
    for at, place in draw.sample(places, paragraphs):
        own = articles[at]["paragraphs"][place]
        asked = draw.choice(own["qas"])
        golds = asked["answers"]
        others = [
            paragraph["context"]
            for number, paragraph in enumerate(articles[at]["paragraphs"])
            if number != place
            and not any(gold["text"].casefold() in paragraph["context"].casefold() for gold in golds)
        ]
        if not others:
            continue
        answers = {
            "text": [gold["text"] for gold in golds],
            "answer_start": [gold["answer_start"] for gold in golds],
        }
        rows.append({"context": own["context"], "question": asked["question"], "answers": answers})
        nothing: dict[str, list[Any]] = {"text": [], "answer_start": []}
        rows.append({"context": draw.choice(others), "question": asked["question"], "answers": nothing})
    return rows
