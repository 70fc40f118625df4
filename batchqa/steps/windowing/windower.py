"""Chunk -> windows: texts become tokens, and long contexts become overlapping windows.

Each distinct context is tokenized once however many questions it has, each distinct question once, and a
(context, question) that the part has had before is not windowed again.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from batchqa.records import Bool, Chunk, EncodedContext, Int32, Int64, Layout, Ragged, RowFault, Windows
from batchqa.settings import WindowSettings
from batchqa.text import is_blank

from .encoder import TextEncoder
from .remembering import ContextCache, PairNumbers


@dataclass(frozen=True, slots=True, eq=False)
class _Questions:
    """The distinct questions: tokens with the specials before and after, or why they cannot be asked."""

    prefixes: Ragged
    cut: Bool
    faults: list[str | None]


class Windower:
    """Makes the windows of one chunk after the other; remembers contexts and pairs within a part."""

    def __init__(
        self, tokenizer: Tokenizer, layout: Layout, settings: WindowSettings, max_length: int
    ) -> None:
        """`max_length` is the length of a window in tokens, special ones included."""
        self.encoder = TextEncoder(tokenizer)
        self.max_length = max_length
        self._layout = layout
        self._settings = settings
        self.forget()

    def fresh(self) -> Windower:
        """A windower with the same tokenizer and settings that remembers nothing: one for each stream."""
        other = copy(self)
        other.forget()
        return other

    def forget(self) -> None:
        """Begin a part: what was tokenized and windowed before it plays no role in it."""
        self._part = -1
        self._contexts = ContextCache(self.encoder.contexts)
        self._pairs = PairNumbers()

    def windows(self, chunk: Chunk) -> Windows:
        """All windows of a chunk. The chunks of a part must come in order."""
        if chunk.part != self._part:
            self.forget()
            self._part = chunk.part
        context_codes, context_texts = _distinct(chunk.rows.context)
        question_codes, question_texts = _distinct(chunk.rows.question)
        contexts = self._contexts.encoded(context_texts)
        questions = self._encode_questions(question_texts)
        context_faults = [
            "empty_context" if not len(c.ids) or is_blank(t) else None
            for t, c in zip(context_texts, contexts, strict=True)
        ]
        faults = dict(chunk.rows.faults)
        faults |= self._status_faults(chunk, context_codes, context_faults, question_codes, questions)
        judged = np.ones(len(chunk.rows), dtype=bool)
        judged[list(faults)] = False

        first_pair = self._pairs.count
        keys = context_codes * max(len(question_texts), 1) + question_codes
        row_pair = np.full(len(chunk.rows), -1, dtype=np.int32)
        distinct, inverse = _in_order_of_appearance(keys[judged])
        pair_context, pair_question = np.divmod(distinct, max(len(question_texts), 1))
        numbers, is_new = self._pairs.number(pair_context, pair_question, context_texts, question_texts)
        row_pair[judged] = numbers[inverse]
        return self._lay_out(
            chunk,
            contexts,
            questions.prefixes,
            pair_context[is_new].astype(np.int32),
            pair_question[is_new].astype(np.int32),
            row_pair,
            first_pair,
            faults,
            int(questions.cut[question_codes[judged]].sum()),
        )

    def places(self, tokens: Int64, prefix: Int64) -> tuple[Int64, Int64, Int64]:
        """For contexts of so many `tokens` behind prefixes of so many, three columns.

        How many context tokens a window shows, by how many the next one is further on, how many there are.
        """
        capacity = self.max_length - prefix - len(self._layout.after)
        # a stride that leaves no room to step is halved, instead of never coming to an end
        shared = np.where(self._settings.stride < capacity, self._settings.stride, capacity // 2)
        step = capacity - shared
        return capacity, step, 1 + -(-np.maximum(tokens - capacity, 0) // np.maximum(step, 1))

    def _encode_questions(self, texts: list[str]) -> _Questions:
        longest = self._settings.max_question_length
        room = self.max_length - self._layout.special_tokens - 1
        prefixes: list[int] = []
        lengths, cut = [], []
        faults: list[str | None] = []
        for text, ids in zip(texts, self.encoder.questions(texts), strict=True):
            asked = min(len(ids), longest)
            prefixes += self._layout.before
            prefixes += ids[:longest]
            prefixes += self._layout.between
            lengths.append(len(self._layout.before) + asked + len(self._layout.between))
            cut.append(len(ids) > longest)
            if not ids or is_blank(text):
                faults.append("empty_question")
            else:
                faults.append("question_too_long" if asked > room else None)
        return _Questions(
            Ragged.of(np.array(prefixes, dtype=np.int32), lengths), np.array(cut, dtype=bool), faults
        )

    def _status_faults(
        self,
        chunk: Chunk,
        context_codes: Int64,
        context_faults: list[str | None],
        question_codes: Int64,
        questions: _Questions,
    ) -> dict[int, RowFault]:
        """Rows whose texts have nothing to read, or whose question leaves no room for the context."""
        bad_context = np.array([f is not None for f in context_faults] + [False], dtype=bool)
        bad_question = np.array([f is not None for f in questions.faults] + [False], dtype=bool)
        faults = {}
        for row in np.flatnonzero(bad_context[context_codes] | bad_question[question_codes]).tolist():
            if row in chunk.rows.faults:
                continue
            context_fault = context_faults[context_codes[row]] if context_codes[row] >= 0 else None
            code = context_fault or questions.faults[question_codes[row]]
            if code is not None:
                faults[row] = RowFault(code, chunk.rows.locate(row))
        return faults

    def _lay_out(
        self,
        chunk: Chunk,
        contexts: list[EncodedContext],
        prefixes: Ragged,
        pair_context: Int32,
        pair_question: Int32,
        row_pair: Int32,
        first_pair: int,
        faults: dict[int, RowFault],
        questions_cut: int,
    ) -> Windows:
        """Place the windows: each shows as many context tokens as fit, and shares `stride` with the next."""
        tokens = np.array([len(c.ids) for c in contexts], dtype=np.int64)[pair_context]
        prefix = prefixes.length[pair_question]
        capacity, step, count = self.places(tokens, prefix)
        first = np.cumsum(count) - count
        pair = np.repeat(np.arange(len(count)), count)
        begin = (np.arange(len(pair)) - first[pair]) * step[pair]
        size = np.minimum(capacity[pair], tokens[pair] - begin)
        return Windows(
            chunk=chunk,
            layout=self._layout,
            contexts=contexts,
            prefixes=prefixes,
            pair_context=pair_context,
            pair_question=pair_question,
            pair_first=first.astype(np.int32),
            pair_count=count.astype(np.int32),
            pair=pair.astype(np.int32),
            begin=begin.astype(np.int32),
            size=size.astype(np.int32),
            length=(prefix[pair] + size + len(self._layout.after)).astype(np.int32),
            row_pair=row_pair,
            first_pair=first_pair,
            faults=faults,
            questions_cut=questions_cut,
        )


def _distinct(texts: pa.Array) -> tuple[Int64, list[str]]:
    """Codes (int64, (rows,), -1 for null) and the distinct texts that they count."""
    encoded = texts.dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, encoded.dictionary.to_pylist()


def _in_order_of_appearance(
    keys: Int64,
) -> tuple[Int64, Int64]:
    """The distinct keys in the order in which they first appear, and for each key its place among them."""
    distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return distinct[order], rank[inverse]
