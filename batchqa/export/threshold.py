"""The no-answer threshold, fitted on labelled rows, on which no figure may be reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
