"""Which language each row is in, for the rules by which it is scored."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from batchqa.errors import InputError, SettingsError
from batchqa.evaluation.joining import Examples
from batchqa.records import Int64
from batchqa.squad import MLQA_LANGUAGES

_LANGUAGE_NAMES = {
    "arabic": "ar",
    "chinese": "zh",
    "english": "en",
    "german": "de",
    "hindi": "hi",
    "spanish": "es",
    "vietnamese": "vi",
}


@dataclass(frozen=True, slots=True, eq=False)
class Languages:
    """Each row's language: `codes` (None: SQuAD's rules), and which of them in `row`, int64, (rows,)."""

    codes: tuple[str | None, ...]
    row: Int64

    @classmethod
    def of_all(cls, code: str | None, rows: int) -> Languages:
        """One language for all rows."""
        return cls((code,), np.zeros(rows, dtype=np.int64))


def languages_of(examples: Examples, language: str | None) -> tuple[Languages, tuple[str, ...]]:
    """Each row's language, from a column or one for all; a column's name wins over a code."""
    if language is None:
        return Languages.of_all(None, len(examples)), ()
    if examples.has_column(language):
        column = examples.column(language).cast(pa.large_string()).combine_chunks().dictionary_encode()
        names = [_code(name) for name in column.dictionary.to_pylist()]
        codes: tuple[str | None, ...] = tuple(dict.fromkeys(names))
        place = np.array([codes.index(name) for name in names], dtype=np.int64)
        numbers = column.indices
        if numbers.null_count:
            raise InputError(f"column {language!r}: {numbers.null_count} rows have no language")
        languages = Languages(codes, place[numbers.to_numpy(zero_copy_only=False)])
    elif re.fullmatch(r"[a-z]{2,3}([-_]\w+)*", language) or language in _LANGUAGE_NAMES:
        languages = Languages.of_all(_code(language), len(examples))
    else:
        raise SettingsError(
            f"--language {language!r} is neither a column nor a language's code (en, es, zh, ...)"
        )
    foreign = sorted(code for code in languages.codes if code and code not in MLQA_LANGUAGES)
    if not foreign:
        return languages, ()
    note = (
        f"MLQA's script has no rules for {', '.join(foreign)}: articles are not removed, and "
        "words are separated by white space"
    )
    return languages, (note,)


def _code(name: str) -> str:
    """A language's code without its region or script: zh-CN is zh."""
    lower = name.strip().lower()
    return _LANGUAGE_NAMES.get(lower) or re.split(r"[-_]", lower)[0]
