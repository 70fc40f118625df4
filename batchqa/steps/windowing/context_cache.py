"""Contexts that were tokenized, kept for the questions that later chunks ask of them, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from batchqa.records import EncodedContext

CACHED_BYTES = 64 * 2**20
"""Memory of the contexts that are kept for later chunks."""


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
