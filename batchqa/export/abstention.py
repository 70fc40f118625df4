"""Whether a model was trained to say "no answer": it is asked what the passage plainly does not answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow.compute as pc

from batchqa.bundle import Abstention, Bundle
from batchqa.steps.scoring import SpanScorer

from .builtin_passages import answerable, unanswerable
from .verify import answer

Abstains = Literal["auto", "yes", "no"]


@dataclass(frozen=True, slots=True)
class Probed:
    """How often "no answer" won over the best span: `null_wins` of `pairs`, asked in `language`.

    `right` of `asked` plainly answerable questions in that language were answered right.
    """

    language: str
    right: int
    asked: int
    null_wins: int
    pairs: int

    @property
    def doubt(self) -> str | None:
        """What to check in a checkpoint that answers next to nothing of what is plain."""
        if self.right * 5 >= self.asked:
            return None
        return (
            f"it answers only {self.right} of {self.asked} plain questions in the best of English, Spanish, "
            "Chinese and Arabic: expected for a model of another language; otherwise its tokenizer may be "
            "another model's"
        )


def probe(bundle: Bundle, scorer: SpanScorer) -> Probed:
    """Ask the unanswerable pairs of the model's own language, with a threshold of 0.

    Its language is the one in which it answers most of the answerable pairs: in the others it guesses, and
    what it says there shows nothing.
    """
    language, right, asked = _language_of(bundle, scorer)
    table = unanswerable()
    table = table.filter(pc.equal(table["language"], language))
    odds = answer(bundle, scorer, table, abstains=True).columns["null_odds"]
    wins = int((np.nan_to_num(odds.to_numpy().astype(np.float64), nan=-1.0) > 0).sum())
    return Probed(language, right, asked, wins, len(table))


def _language_of(bundle: Bundle, scorer: SpanScorer) -> tuple[str, int, int]:
    """The language with the most right answers, how many they are, and of how many questions."""
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
    return best, right[best], asked[best]


def decide(wanted: Abstains, seen: Probed) -> Abstention:
    """`auto`: the model abstains if null wins on at least half of the pairs."""
    if wanted == "auto":
        how = (
            f"null wins on {seen.null_wins} of {seen.pairs} plainly unanswerable pairs ({seen.language}); "
            "at least half means yes"
        )
        return Abstention(2 * seen.null_wins >= seen.pairs, how, seen.null_wins, seen.pairs)
    return Abstention(wanted == "yes", f"--abstains {wanted}", seen.null_wins, seen.pairs)
