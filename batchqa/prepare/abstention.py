"""Whether a model was trained to say "no answer": it is asked what the passage plainly does not answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow.compute as pc

from batchqa.bundle import Abstention, Bundle
from batchqa.steps.inference import SpanScorer

from .passages import answerable, unanswerable
from .verify import answer

Abstains = Literal["auto", "yes", "no"]


@dataclass(frozen=True, slots=True)
class Probed:
    """How often "no answer" won over the best span: `null_wins` of `pairs`, asked in `language`."""

    language: str
    null_wins: int
    pairs: int


def probe(bundle: Bundle, scorer: SpanScorer) -> Probed:
    """Ask the unanswerable pairs of the model's own language, with a threshold of 0.

    Its language is the one in which it answers most of the answerable pairs: in the others it guesses, and
    what it says there shows nothing.
    """
    language = _language_of(bundle, scorer)
    table = unanswerable()
    table = table.filter(pc.equal(table["language"], language))
    odds = answer(bundle, scorer, table, abstains=True).columns["null_odds"]
    return Probed(
        language, int((np.nan_to_num(odds.to_numpy().astype(np.float64), nan=-1.0) > 0).sum()), len(table)
    )


def _language_of(bundle: Bundle, scorer: SpanScorer) -> str:
    table = answerable()
    given = answer(bundle, scorer, table, abstains=False).columns["answer"].to_pylist()
    asked, right = (
        Counter(table["language"].to_pylist()),
        Counter(dict.fromkeys(table["language"].to_pylist(), 0)),
    )
    for language, answers, text in zip(
        table["language"].to_pylist(), table["answers"].to_pylist(), given, strict=True
    ):
        right[language] += text in answers["text"]
    best: str = max(right, key=lambda language: right[language] / asked[language])
    return best


def decide(wanted: Abstains, bundle: Bundle, scorer: SpanScorer) -> Abstention:
    """`auto`: the model abstains if null wins on at least half of the pairs."""
    seen = probe(bundle, scorer)
    if wanted == "auto":
        how = (
            f"null wins on {seen.null_wins} of {seen.pairs} plainly unanswerable pairs ({seen.language}); "
            "at least half means yes"
        )
        return Abstention(2 * seen.null_wins >= seen.pairs, how, seen.null_wins, seen.pairs)
    return Abstention(wanted == "yes", f"--abstains {wanted}", seen.null_wins, seen.pairs)
