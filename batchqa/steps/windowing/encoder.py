"""Texts -> tokens, each in the quickest way; contexts are kept for the questions of later chunks."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from itertools import chain

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import Unigram

from batchqa.records import EncodedContext, Int32

from .contexts import LookedUpContext
from .plain import PlainTokenizer

# A token of ASCII text covers no visible character only if its piece is blank. Blank pieces are spelled with
# SentencePiece's underline or, in byte-level vocabularies, with the letters that stand for bytes 0 to 32.
_BLANK_PIECES = {"\u2581", *(chr(c) for c in range(33)), *(chr(256 + c) for c in range(33))}


CACHED_BYTES = 64 * 2**20
"""Memory of the contexts that are kept for later chunks."""


class TextEncoder:
    """Tokenizes contexts and questions: plain texts as such, all others by the tokenizer as it is."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        vocabulary = tokenizer.get_vocab(with_added_tokens=False)
        self.tokenizer = tokenizer
        self.plain = PlainTokenizer.of(tokenizer, vocabulary)
        self.highest_id = max(chain(vocabulary.values(), tokenizer.get_added_tokens_decoder()))
        self._is_blank = np.zeros(self.highest_id + 1, dtype=bool)
        self._is_blank[_blank_ids(vocabulary)] = True
        self.unknown = _unknown_id(tokenizer, vocabulary)
        if self.unknown is not None:
            self._is_blank[self.unknown] = True

    def contexts(self, texts: list[str]) -> list[EncodedContext]:
        """The contexts, tokenized, without special tokens."""
        found = self.plain.contexts(texts) if self.plain else [None] * len(texts)
        left = [text for text, context in zip(texts, found, strict=True) if context is None]
        others = iter(self._looked_up(left))
        return [next(others) if context is None else context for context in found]

    def questions(self, texts: list[str]) -> list[list[int]]:
        """The questions' token ids, without special tokens."""
        found = self.plain.ids(texts) if self.plain else [None] * len(texts)
        left = [text for text, ids in zip(texts, found, strict=True) if ids is None]
        encodings = iter(self.tokenizer.encode_batch_fast(left, add_special_tokens=False))
        return [next(encodings).ids if ids is None else ids for ids in found]

    def _looked_up(self, texts: list[str]) -> list[LookedUpContext]:
        contexts = []
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            ids = np.array(encoding.ids, dtype=np.int32)
            may_be_blank = bool(np.count_nonzero(self._is_blank[ids]))
            contexts.append(LookedUpContext(text, encoding, ids, may_be_blank))
        return contexts


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


def _blank_ids(vocabulary: dict[str, int]) -> Int32:
    """Vocabulary entries that can cover white space only, besides the unknown token."""
    blank = [i for piece, i in vocabulary.items() if _BLANK_PIECES.issuperset(piece)]
    return np.array(blank, dtype=np.int32)


def _unknown_id(tokenizer: Tokenizer, vocabulary: dict[str, int]) -> int | None:
    """The token of what the vocabulary cannot spell, if there is one.

    In Unigram vocabularies these are also the characters 28 to 31, which are white space (`str.isspace`).
    """
    if isinstance(tokenizer.model, Unigram):
        # only the file says it, and to parse all of it for one number takes 60 MB with 250,000 pieces
        found = re.search(r'[{,]"unk_id":(\d+)', tokenizer.to_str())
        return int(found[1]) if found else None
    return vocabulary.get(tokenizer.model.unk_token)
