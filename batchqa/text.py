"""White space at the ends of a span, and texts with nothing to read in them."""

from __future__ import annotations

import unicodedata

import numpy as np
import numpy.typing as npt

_LAST_SPACE = 0x3000
"""The last character that `str.isspace` knows: the ideographic space."""

_IS_SPACE = np.array([chr(c).isspace() for c in range(_LAST_SPACE + 2)])


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
