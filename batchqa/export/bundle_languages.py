"""The languages of a bundle, and the texts in them that it was verified on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.languages import TextProfile, profile_of
from batchqa.squad import RowScores
from batchqa.steps.windowing import TextEncoder, open_tokenizer

COLUMN = "language"
"""The built-in passages have it."""

MULTILINGUAL = "multilingual"

RIGHT = 0.5
"""About so many of the answerable questions in a language of its own a model is right at least."""

PROFILED = 2000
"""Distinct contexts that are looked at, and as many questions."""


def languages_answered(table: pa.Table, original: RowScores | None) -> tuple[str, ...]:
    """The languages of the rows in which the original is right at least half of the time, by its scores.

    Empty where the rows name no languages or have no gold answers.
    """
    if COLUMN not in table.schema.names or original is None:
        return ()
    language = np.array(table[COLUMN].to_pylist(), dtype=object)
    answerable = np.array([bool(gold["text"]) for gold in table["answers"].to_pylist()])
    exact = original.exact
    names = dict.fromkeys(language[answerable].tolist())
    return tuple(name for name in names if exact[answerable & (language == name)].mean() >= RIGHT)


def profile_in(table: pa.Table, languages: Sequence[str], tokenizer: Path) -> TextProfile | None:
    """What the rows' texts in these languages look like to the tokenizer; None without texts."""
    texts = texts_in(table, languages)
    encoder = TextEncoder(open_tokenizer(tokenizer))
    return profile_of(texts, encoder.tokenizer, encoder.unknown) if texts else None


def texts_in(table: pa.Table, languages: Sequence[str]) -> list[str]:
    """The distinct texts of the rows in these languages; of all rows where they name none, or for many."""
    if COLUMN in table.schema.names and languages and MULTILINGUAL not in languages:
        codes = sorted({language.partition("-")[0] for language in languages})
        table = table.filter(pc.is_in(table[COLUMN], value_set=pa.array(codes)))
    columns = (table["context"].unique(), table["question"].unique())
    return [text for column in columns for text in column.slice(0, PROFILED).to_pylist()]
