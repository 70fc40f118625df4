"""What is remembered within a part: contexts that were tokenized, and which pairs there were.

Both are bounded, and neither changes an answer: what is forgotten is tokenized, or asked, once more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from batchqa.records import Bool, EncodedContext, Int32, Int64

CACHED_BYTES = 64 * 2**20
"""Memory of the contexts that are kept for later chunks."""

REMEMBERED_PAIRS = 1_000_000
"""Distinct pairs of a part that later rows can be recognised as copies of."""

PAIR_BYTES = 20
"""What is kept of such a pair."""

_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: no two digests become the same
_LAST = np.full(1, 2**64 - 1, dtype=np.uint64)

UInt64 = npt.NDArray[np.uint64]


class ContextCache:
    """Tokenizes each distinct context once, as long as it is kept; the least recently asked for go first."""

    def __init__(self, encode: Callable[[list[str]], list[EncodedContext]]) -> None:
        self._encode = encode
        self._kept: OrderedDict[str, EncodedContext] = OrderedDict()
        self._bytes = 0

    def encoded(self, texts: list[str]) -> list[EncodedContext]:
        """The contexts, tokenized; `texts` are distinct."""
        missing = [text for text in texts if text not in self._kept]
        for text, context in zip(missing, self._encode(missing), strict=True):
            self._kept[text] = context
            self._bytes += context.nbytes
        contexts = []
        for text in texts:
            self._kept.move_to_end(text)
            contexts.append(self._kept[text])
        while self._bytes > CACHED_BYTES:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes
        return contexts


class PairNumbers:
    """Numbers the distinct (context, question) pairs of a part, in the order in which they first come.

    A pair is known by 128 bits that its texts' digests make, in arrays: a dictionary of the texts would take
    500 bytes a pair, and its tables would leave holes in the heap.
    """

    def __init__(self) -> None:
        self.count = 0
        self._forget()

    def _forget(self) -> None:
        # sorted by the low half; the last entry is no pair, so that every search ends at an entry
        self._low, self._high = _LAST, _LAST
        self._number = np.full(1, -1, dtype=np.int32)

    def number(
        self, context: Int64, question: Int64, contexts: list[str], questions: list[str]
    ) -> tuple[Int32, Bool]:
        """Each pair's number in the part, and whether it is new in it.

        context, question: (pairs,), places in the lists of distinct texts; the pairs are distinct too.
        """
        if len(self._number) > REMEMBERED_PAIRS:
            self._forget()
        # the digests' halves are mixed each by itself, modulo 2**64
        low, high = (_digests(contexts)[context] * _MIX + _digests(questions)[question]).T
        place = np.searchsorted(self._low, low)
        is_new = (self._low[place] != low) | (self._high[place] != high)
        new = np.flatnonzero(is_new)
        numbers = self._number[place]
        numbers[new] = self.count + np.arange(len(new))
        self.count += len(new)
        added = new[np.argsort(low[new])]
        self._low = np.insert(self._low, place[added], low[added])
        self._high = np.insert(self._high, place[added], high[added])
        self._number = np.insert(self._number, place[added], numbers[added])
        return numbers, is_new


def _digests(texts: list[str]) -> UInt64:
    """128 bits of each text: uint64, (texts, 2)."""
    joined = b"".join([blake2b(text.encode(), digest_size=16).digest() for text in texts])
    return np.frombuffer(joined, dtype=np.uint64).reshape(-1, 2)
