"""Plain texts: those whose characters BERT's normalizer changes one by one, which is most of them.

A tokenizer spends a third of its time on normalizing, and a sixth on what its results hold besides ids. A
plain text is normalized here, by a table that the normalizer itself has filled, and its tokens' places
follow from their lengths: WordPiece's pieces are pieces of the text, so they tile its visible characters. A
text with any other character, or with a word that the vocabulary cannot spell, is not plain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from batchqa.records import Bool, Int32, Int64

from .contexts import TiledContext

PREFIX = "##"
"""What marks a piece that does not begin a word."""

CHARACTERS = 0x3000
"""Characters from here on are not plain: Chinese ones stand alone as words, emoji are mostly unknown."""

AT_ONCE = 2**18
"""Characters that are normalized at once: their arrays fit into the processor's cache."""

_SPACE = ord(" ")
_NOT_PLAIN = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Normalized:
    """Some plain texts: which ones, as the normalizer would change them, and where their letters were.

    number: int64, (texts,), their places in the list they were taken from. length: int64, (texts,), in
    characters. is_visible: bool, (characters of all texts,).
    """

    number: Int64
    length: Int64
    texts: list[str]
    is_visible: Bool


class PlainTokenizer:
    """A BERT tokenizer, WordPiece and all, without its normalizer."""

    def __init__(
        self, tokenizer: Tokenizer, normal: npt.NDArray[np.uint32], letters: Int32, added: list[str]
    ) -> None:
        """`tokenizer` splits words and spells them.

        normal: uint32, (CHARACTERS + 1,), what becomes of each character, or _NOT_PLAIN.
        letters: int32, (vocabulary,), the characters of each piece, none of the unknown token.
        added: words that the whole tokenizer would find in a text before it normalizes it.
        """
        self.tokenizer = tokenizer
        self._normal = normal
        self._letters = letters
        self._added = added

    @classmethod
    def of(cls, tokenizer: Tokenizer, vocabulary: dict[str, int]) -> PlainTokenizer | None:
        """The plain form of a tokenizer, if it is of the kind that has one.

        `vocabulary` has the pieces' ids, without added tokens.
        """
        model, normalizer, splitter = tokenizer.model, tokenizer.normalizer, tokenizer.pre_tokenizer
        added = [
            token
            for token in tokenizer.get_added_tokens_decoder().values()
            if not (token.special and tokenizer.encode_special_tokens)
        ]
        if (
            not isinstance(model, WordPiece)
            or model.continuing_subword_prefix != PREFIX
            or model.unk_token not in vocabulary
            or not isinstance(normalizer, BertNormalizer)
            or not isinstance(splitter, BertPreTokenizer)
            or any(token.normalized for token in added)
        ):
            return None
        plain = Tokenizer(model)
        plain.pre_tokenizer = splitter
        letters = np.zeros(max(vocabulary.values()) + 1, dtype=np.int32)
        spelled = set()
        for piece, index in vocabulary.items():
            spelling = piece.removeprefix(PREFIX)
            letters[index] = len(spelling)
            if len(spelling) == 1:
                spelled.add(spelling)
        letters[vocabulary[model.unk_token]] = 0
        normal = [_normal(chr(code), normalizer, splitter, spelled) for code in range(CHARACTERS)]
        table = np.array([*normal, _NOT_PLAIN], dtype=np.uint32)
        return cls(plain, table, letters, [token.content for token in added])

    def ids(self, texts: list[str]) -> list[list[int] | None]:
        """Each text's token ids, None for one that is not plain."""
        found: list[list[int] | None] = [None] * len(texts)
        for some in self._normalized(texts):
            for number, ids in zip(some.number.tolist(), self._ids(some), strict=True):
                found[number] = ids
        return found

    def contexts(self, texts: list[str]) -> list[TiledContext | None]:
        """Each text's tokens and their places, None for one that is not plain."""
        found: list[TiledContext | None] = [None] * len(texts)
        for some in self._normalized(texts):
            lists = self._ids(some)
            count = np.array([len(ids) for ids in lists], dtype=np.int64)
            ids = np.fromiter(chain.from_iterable(lists), dtype=np.int32, count=int(count.sum()))
            starts, ends, tiled = self._places(some, ids, count)
            tokens = pairwise(_bounds(count).tolist())
            for number, (first, last), is_tiled in zip(
                some.number.tolist(), tokens, tiled.tolist(), strict=True
            ):
                if is_tiled:
                    # copies, because a context may be kept for long, and a view keeps its neighbours too
                    pieces = (column[first:last].copy() for column in (ids, starts, ends))
                    found[number] = TiledContext(texts[number], *pieces)
        return found

    def _ids(self, some: _Normalized) -> list[list[int]]:
        encodings = self.tokenizer.encode_batch_fast(some.texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _places(self, some: _Normalized, ids: Int32, count: Int64) -> tuple[Int32, Int32, Bool]:
        """Where the tokens start and end in their texts, and for each text whether its tokens tile it."""
        letters = self._letters[ids]
        text_bounds, token_bounds = _bounds(some.length), _bounds(count)
        letters_before = np.concatenate([[0], np.cumsum(letters)])
        visible = np.flatnonzero(some.is_visible)
        visible_before = np.searchsorted(visible, text_bounds)
        tiled = np.diff(letters_before[token_bounds]) == np.diff(visible_before)
        # up to the first text that is not tiled both counts are the same, after it each text begins anew
        shift = np.repeat(visible_before[:-1] - letters_before[token_bounds[:-1]], count)
        begin = np.repeat(text_bounds[:-1], count)
        first = letters_before[:-1] + shift
        starts = visible[first.clip(max=len(visible) - 1)] - begin
        ends = visible[(first + letters - 1).clip(min=0)] + 1 - begin
        return starts.astype(np.int32), ends.astype(np.int32), tiled

    def _normalized(self, texts: list[str]) -> Iterator[_Normalized]:
        """The plain ones among the texts, so many at once as AT_ONCE says."""
        length = np.array([len(text) for text in texts], dtype=np.int64)
        group = np.cumsum(length) // AT_ONCE
        for numbers in np.split(np.arange(len(texts)), np.flatnonzero(np.diff(group)) + 1):
            some = self._normalize(texts, numbers, length[numbers])
            if len(some.number):
                yield some

    def _normalize(self, texts: list[str], numbers: Int64, length: Int64) -> _Normalized:
        joined = "".join([texts[number] for number in numbers.tolist()])
        # surrogatepass: a lone surrogate is no valid text, but must not stop a whole chunk
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        normal = self._normal.take(codes, mode="clip")
        plain = np.ones(len(numbers), dtype=bool)
        strange = np.flatnonzero(normal == _NOT_PLAIN)
        plain[np.searchsorted(np.cumsum(length), strange, side="right")] = False
        if self._added:
            held = [any(word in texts[number] for word in self._added) for number in numbers.tolist()]
            plain[np.flatnonzero(held)] = False
        normal = normal[np.repeat(plain, length)]
        number, length = numbers[plain], length[plain]
        whole = normal.tobytes().decode("utf-32-le")
        pieces = [whole[begin:end] for begin, end in pairwise(_bounds(length).tolist())]
        return _Normalized(number, length, pieces, normal != _SPACE)


def _bounds(sizes: Int64) -> Int64:
    """Where each of some pieces begins, and where the last one ends: one more than there are pieces."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])


def _normal(character: str, normalizer: BertNormalizer, splitter: BertPreTokenizer, spelled: set[str]) -> int:
    """What becomes of a character in any text, as a code point; _NOT_PLAIN if that is not a single one.

    The normalizer looks at characters one by one; where it puts combining ones in order (NFD), it removes
    them. A character that no piece spells makes its word an unknown one, and the text not plain.
    """
    normal: str = normalizer.normalize_str(character)
    if len(normal) != 1:
        return _NOT_PLAIN
    if character.isspace():
        separates = len(splitter.pre_tokenize_str(f"a{normal}a")) == 2
        return _SPACE if separates else _NOT_PLAIN
    return ord(normal) if normal in spelled and not normal.isspace() else _NOT_PLAIN
