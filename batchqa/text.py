"""Where a span begins and ends: white space, user-perceived characters; and texts with nothing to read."""

from __future__ import annotations

import unicodedata

import numpy as np
import numpy.typing as npt
import regex

_LAST_SPACE = 0x3000
"""The last character that `str.isspace` knows: the ideographic space."""

_IS_SPACE = np.array([chr(c).isspace() for c in range(_LAST_SPACE + 2)])

_BREAKS = " \n\t\u3000"
LONGEST_WORD = 40
"""How far the end of a word is looked for: some scripts have no spaces."""

_CHARACTER = regex.compile(r"\X")


def harmless(text: str) -> str:
    """`text` without what a terminal would obey, control and direction characters; its lines stay."""
    return "".join(
        "�" if (unicodedata.category(c) in ("Cc", "Cs") and c != "\n") or c in _DIRECTIONS else c
        for c in text
    )


_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the text around until they are taken back, on lines that are not theirs too."""


def word_before(text: str, place: int) -> int:
    """Where the word that `place` is in begins; `place` itself where no word begins close before it."""
    if place <= 0:
        return 0
    space = max(text.rfind(each, max(0, place - LONGEST_WORD), place) for each in _BREAKS)
    return space + 1 if space >= 0 else place


def word_after(text: str, place: int) -> int:
    """Where the word that `place` is in ends; `place` itself where no word ends close behind it."""
    if place >= len(text):
        return len(text)
    found = [at for each in _BREAKS if (at := text.find(each, place, place + LONGEST_WORD)) >= 0]
    return min(found) if found else place


def is_blank(text: str) -> bool:
    """Whether a text has only white space (`str.isspace`) and invisible format characters (category Cf)."""
    if text.isascii():  # none of ASCII is in Cf
        return not text or text.isspace()
    return all(c.isspace() or unicodedata.category(c) == "Cf" for c in text)


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """The span [start, end) of `text` without white space at its ends; start == end if it is blank."""
    piece = text[start:end]
    trimmed = piece.lstrip()
    start += len(piece) - len(trimmed)
    return start, start + len(trimmed.rstrip())


def widen(text: str, start: int, end: int) -> tuple[int, int]:
    """The span [start, end) of `text`, not blank, with its first and last user-perceived character whole.

    Those are UAX 29's extended grapheme clusters: a letter with its combining marks, Hangul's jamo, joined
    emoji, flags. An end that would be white space, which can have marks too, stays where it is.
    """
    first = _character_at(text, start)[0]
    last = _character_at(text, end)[1]
    return start if text[first].isspace() else first, end if text[last - 1].isspace() else last


def _character_at(text: str, place: int) -> tuple[int, int]:
    """Where the user-perceived character around `place` begins and ends; between two, `place` and `place`."""
    # of ASCII only a line's two ends belong together, and no span has them at its ends
    if not 0 < place < len(text) or (text[place - 1].isascii() and text[place].isascii()):
        return place, place
    reach = 1
    while True:
        begin = max(place - reach, 0)
        # a match looks at what is before it too: it ends where a character does, wherever it begins
        found = next(m for m in _CHARACTER.finditer(text, begin, place + 1) if m.end() >= place)
        if found.end() == place:
            return place, place
        if found.start() > begin or not begin:
            return found.start(), _CHARACTER.match(text, place - 1).end()
        reach *= 8


def trim_offsets(
    text: str, offsets: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """`trim` for the two ends of many spans at once.

    offsets: int32, (spans, 2), in characters, end excluded. Returns for each the first visible character
    at or after its start, and the end of the last visible character before its end: int32, (spans,) each.
    """
    visible = _visible(text)
    place = np.arange(len(visible), dtype=np.int32)
    length = np.int32(len(visible))
    next_visible = np.minimum.accumulate(np.where(visible, place, length)[::-1])[::-1]
    last_visible = np.maximum.accumulate(np.where(visible, place + np.int32(1), np.int32(0)))
    starts = np.append(next_visible, length)[offsets[:, 0]]
    ends = np.insert(last_visible, 0, np.int32(0))[offsets[:, 1]]
    return starts.astype(np.int32), ends.astype(np.int32)


def visible_before(text: str) -> npt.NDArray[np.int32]:
    """How many visible characters stand before each place of `text`, its end included: (characters + 1,)."""
    return np.concatenate([[0], _visible(text).cumsum(dtype=np.int32)], dtype=np.int32)


def _visible(text: str) -> npt.NDArray[np.bool_]:
    """Which characters are not white space."""
    # surrogatepass: a lone surrogate is no valid text, but must not stop a whole chunk
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return ~_IS_SPACE[np.minimum(characters, _LAST_SPACE + 1)]
