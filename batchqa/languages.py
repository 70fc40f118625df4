"""What texts look like to a tokenizer: enough to tell that a model was not verified on texts like these.

A model that has not learned a language does not fail on it: it says "no answer". Its tokenizer shows it, by
words that fall into more pieces than usual (Rust et al. 2021 call it fertility), by pieces that it does not
know, or by letters of another script. Only words of letters are counted: numbers look alike everywhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the process of an engine reads a bundle's profile, and has no use for a tokenizer
    from tokenizers import Tokenizer

TEXT_CHARACTERS = 500
"""Of each text, its beginning."""

LEAST_WORDS = 50
"""Fewer words say nothing."""

PROMINENT = 0.1
"""The share of the words that a script must have to be looked at."""

MORE_PIECES = 1.4
"""So many times the pieces per word of the verification's texts are too many (docs/models.md has figures)."""

MORE_UNKNOWN = 0.02
"""So large a share of the pieces may be unknown beyond that of the verification's texts."""

_WORD = re.compile(r"[^\W\d_]+")
_BY_LETTER = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""Scripts without spaces between words: each letter is counted as a word."""


@dataclass(frozen=True, slots=True)
class Script:
    """What the words of one script look like; `share` is that of all words, `unknown` that of the pieces."""

    share: float
    pieces_per_word: float
    unknown: float


@dataclass(frozen=True, slots=True)
class TextProfile:
    """What some texts look like: the scripts of their words by Unicode's names ("LATIN", "ARABIC", "CJK")."""

    words: int
    scripts: Mapping[str, Script]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TextProfile:
        """Read what bundle.json holds."""
        return cls(record["words"], {name: Script(**script) for name, script in record["scripts"].items()})

    def differs_from(self, verified: TextProfile) -> str:
        """How it differs from the texts that a model was verified on, in words; "" where it does not."""
        if self.words < LEAST_WORDS:
            return ""
        for name, script in self.scripts.items():
            if script.share < PROMINENT:
                continue
            known = verified.scripts.get(name)
            named = "Chinese" if name == "CJK" else name.title()
            if known is None or (known.share < PROMINENT and known.share * verified.words < LEAST_WORDS):
                return (
                    f"{script.share:.0%} of the words are in {named} script, which those texts hardly contain"
                )
            if script.pieces_per_word > MORE_PIECES * known.pieces_per_word:
                return (
                    f"a word in {named} script is {script.pieces_per_word:.1f} pieces of the vocabulary on "
                    f"average, {known.pieces_per_word:.1f} in those texts"
                )
            if script.unknown > known.unknown + MORE_UNKNOWN:
                return (
                    f"{script.unknown:.0%} of the pieces in {named} script are not in the vocabulary, "
                    f"{known.unknown:.0%} in those texts"
                )
        return ""


def profile_of(texts: Iterable[str], tokenizer: Tokenizer, unknown: int | None) -> TextProfile:
    """The profile of the beginnings of the texts; `unknown` is the id of the tokenizer's unknown piece."""
    words: dict[str, Counter[str]] = {}
    for text in texts:
        for word in _WORD.findall(text[:TEXT_CHARACTERS]):
            script = script_of(word[0])
            words.setdefault(script, Counter()).update(word if script in _BY_LETTER else (word,))
    total = sum(counts.total() for counts in words.values())
    scripts = {script: _script(counts, total, tokenizer, unknown) for script, counts in words.items()}
    ranked = sorted(scripts.items(), key=lambda item: (-item[1].share, item[0]))
    return TextProfile(total, dict(ranked))


def _script(counts: Counter[str], total: int, tokenizer: Tokenizer, unknown: int | None) -> Script:
    # the space makes byte-level and SentencePiece vocabularies take each as the beginning of a word
    encodings = tokenizer.encode_batch_fast([f" {word}" for word in counts], add_special_tokens=False)
    pieces = missing = 0
    for encoding, count in zip(encodings, counts.values(), strict=True):
        pieces += count * len(encoding.ids)
        missing += count * encoding.ids.count(unknown)
    words = counts.total()
    return Script(round(words / total, 4), round(pieces / words, 4), round(missing / max(pieces, 1), 4))


@cache
def script_of(letter: str) -> str:
    """The script of a letter by the first word of its Unicode name; "OTHER" where it has none."""
    return unicodedata.name(letter, "OTHER").split()[0]
