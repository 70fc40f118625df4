"""Texts and pairs known by 128 bits: what is remembered of those that were asked before."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.records import Float64, Int32, Int64

UInt64 = npt.NDArray[np.uint64]

_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: no two digests become the same


@dataclass(frozen=True, slots=True, eq=False)
class DistinctTexts:
    """A column of texts: the distinct ones, and each row's place among them.

    codes: int64, (rows,), -1 for null. threshold: float64, (texts,): each question's own no-answer threshold,
    NaN for those without; None where no question has one. A text with two thresholds is two.
    """

    codes: Int64
    texts: list[str]
    threshold: Float64 | None = None

    @classmethod
    def of(cls, column: pa.Array) -> DistinctTexts:
        """The texts of a plain or a dictionary array.

        A dictionary may hold texts twice, or that no row has; those that rows repeat are not looked at again.
        """
        if not pa.types.is_dictionary(column.type):
            encoded = column.dictionary_encode()
            return cls(_codes(encoded), encoded.dictionary.to_pylist())
        used, place = np.unique(_codes(column), return_inverse=True)
        encoded = column.dictionary.take(pa.array(used, mask=used < 0)).dictionary_encode()
        return cls(_codes(encoded)[place], encoded.dictionary.to_pylist())

    def split_by(self, threshold: Float64) -> DistinctTexts:
        """The same with a threshold for each row: float64, (rows,)."""
        distinct, place = np.unique(threshold, return_inverse=True)
        both = np.where(self.codes < 0, -1, self.codes * len(distinct) + place)
        used = np.unique(both[both >= 0])
        text, own = np.divmod(used, len(distinct))
        codes = np.where(both < 0, -1, np.searchsorted(used, both))
        return DistinctTexts(codes, [self.texts[at] for at in text.tolist()], distinct[own])

    def digests(self) -> UInt64:
        """128 bits of each distinct text: uint64, (texts, 2)."""
        texts = [text.encode() for text in self.texts]
        if self.threshold is not None:
            own = zip(texts, self.threshold, strict=True)
            texts = [text if np.isnan(of_text) else text + b"\0" + of_text.tobytes() for text, of_text in own]
        joined = b"".join([blake2b(text, digest_size=16).digest() for text in texts])
        return np.frombuffer(joined, dtype=np.uint64).reshape(-1, 2)


def _codes(encoded: pa.DictionaryArray) -> Int64:
    codes: Int64 = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def pair_digests(
    contexts: DistinctTexts, questions: DistinctTexts, context: Int32 | Int64, question: Int32 | Int64
) -> tuple[UInt64, UInt64]:
    """128 bits of each pair in two halves: uint64, (pairs,) each.

    context, question: (pairs,), places among the distinct texts, each of which is hashed once.
    """
    # the digests' halves are mixed each by itself, modulo 2**64
    low, high = (contexts.digests()[context] * _MIX + questions.digests()[question]).T
    return low, high
