"""A tokenized context: where its tokens stand in the text. Two forms of `records.EncodedContext`."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from batchqa.records import Int32
from batchqa.text import trim, trim_offsets, visible_before

ENCODED_BYTES = 100
"""What the library's encoding and the ids take of memory for a token."""

OBJECT_BYTES = 500
"""What a context takes besides its text and its tokens: its objects, their arrays' heads, a cache's entry."""

_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")

_FEW_PLACES = 50
"""Up to so many characters are looked at one by one before all are."""


@dataclass(frozen=True, slots=True, eq=False)
class TiledContext:
    """An `EncodedContext` whose tokens cover its visible characters one after the other, none shared.

    starts, ends: int32, (tokens,) each, in characters.
    """

    text: str
    ids: Int32
    starts: Int32
    ends: Int32

    @property
    def regular(self) -> bool:
        """Always: every token has visible characters of its own."""
        return True

    @property
    def nbytes(self) -> int:
        """As `EncodedContext` says."""
        arrays = self.ids.nbytes + self.starts.nbytes + self.ends.nbytes
        return OBJECT_BYTES + sys.getsizeof(self.text) + arrays

    def trimmed_offsets(self) -> tuple[Int32, Int32]:
        """As `EncodedContext` says."""
        return self.starts, self.ends

    def characters(self, first_token: int, last_token: int) -> tuple[int, int]:
        """As `EncodedContext` says."""
        return int(self.starts[first_token]), int(self.ends[last_token])


class LookedUpContext:
    """An `EncodedContext` whose offsets are looked up in the library's encoding, one token at a time.

    A list of all offsets would cost more than the rest of the pipeline.
    """

    __slots__ = ("_encoding", "_trimmed", "ids", "regular", "text")

    def __init__(self, text: str, encoding: Any, ids: Int32, may_be_blank: bool) -> None:
        """`encoding` is a tokenizers.Encoding of `text`, `ids` are its token ids.

        `may_be_blank` says that a token may cover white space only, as far as its id tells.
        """
        self.text = text
        self.ids = ids
        self._encoding = encoding
        self._trimmed: tuple[Int32, Int32] | None = None
        self.regular = not (may_be_blank or self._may_share()) or not self._spans_repeat()

    @property
    def nbytes(self) -> int:
        """As `EncodedContext` says."""
        return OBJECT_BYTES + sys.getsizeof(self.text) + ENCODED_BYTES * len(self.ids)

    def trimmed_offsets(self) -> tuple[Int32, Int32]:
        """As `EncodedContext` says."""
        if self._trimmed is None:
            self._trimmed = trim_offsets(self.text, self._offsets())
        return self._trimmed

    def characters(self, first_token: int, last_token: int) -> tuple[int, int]:
        """As `EncodedContext` says."""
        if self._trimmed is not None:
            return int(self._trimmed[0][first_token]), int(self._trimmed[1][last_token])
        start = self._encoding.token_to_chars(first_token)[0]
        end = self._encoding.token_to_chars(last_token)[1]
        return trim(self.text, start, end)

    def _offsets(self) -> Int32:
        """Where each token starts and ends in the text, white space included: int32, (tokens, 2)."""
        # numpy would take several times as long over a list of tuples
        numbers = chain.from_iterable(self._encoding.offsets)
        return np.fromiter(numbers, dtype=np.int32, count=2 * len(self.ids)).reshape(-1, 2)

    def _may_share(self) -> bool:
        """Whether a character may have several tokens, or a token none but white space beyond ASCII.

        Tokens never share a character of ASCII, and most texts have few others: asking for the tokens of
        those alone costs a fifth of what all offsets cost.
        """
        if self.text.isascii():
            return False
        places = [found.start() for found in _BEYOND_ASCII.finditer(self.text)]
        return len(places) > _FEW_PLACES or any(self._may_share_at(place) for place in places)

    def _may_share_at(self, place: int) -> bool:
        if self.text[place].isspace():
            return True
        token = self._encoding.char_to_token(place)
        if token is None or token + 1 == len(self.ids):
            return False
        return bool(self._encoding.token_to_chars(token + 1)[0] <= place)

    def _spans_repeat(self) -> bool:
        # counted in visible characters, white space at the ends of a span makes no difference
        offsets = visible_before(self.text)[self._offsets()]
        return bool(np.any(offsets[:, 0] >= offsets[:, 1]) or np.any(offsets[1:] <= offsets[:-1]))
