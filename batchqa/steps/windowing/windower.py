"""Pairs -> windows: texts become tokens, and long contexts become overlapping windows.

Each distinct context is tokenized once however many questions it has, and each distinct question once.
"""

from __future__ import annotations

from copy import copy

import numpy as np
from tokenizers import Tokenizer

from batchqa.records import Bool, Int64, Layout, Pairs, Ragged, Windows
from batchqa.settings import WindowSettings

from .encoder import ContextCache, TextEncoder


class Windower:
    """Makes the windows of one chunk's pairs after the other; remembers contexts."""

    def __init__(
        self, tokenizer: Tokenizer, layout: Layout, settings: WindowSettings, max_length: int
    ) -> None:
        """`max_length` is the length of a window in tokens, special ones included."""
        self.encoder = TextEncoder(tokenizer)
        self.max_length = max_length
        self._layout = layout
        self._settings = settings
        self._contexts = ContextCache(self.encoder.contexts)

    def fresh(self) -> Windower:
        """A windower with the same tokenizer and settings that remembers nothing: one for each stream."""
        other = copy(self)
        other._contexts = ContextCache(self.encoder.contexts)  # noqa: SLF001 - its own
        return other

    def windows(self, pairs: Pairs) -> Windows:
        """All windows of the pairs to ask: each shows as many context tokens as fit, and shares `stride`."""
        context_used, pair_context = np.unique(pairs.context[pairs.to_ask], return_inverse=True)
        question_used, pair_question = np.unique(pairs.question[pairs.to_ask], return_inverse=True)
        contexts = self._contexts.encoded([pairs.contexts[at] for at in context_used.tolist()])
        prefixes, question_cut = self._prefixes([pairs.questions[at] for at in question_used.tolist()])

        tokens = np.array([len(c.ids) for c in contexts], dtype=np.int64)[pair_context]
        prefix = prefixes.length[pair_question]
        capacity, step, count = self.places(tokens, prefix)
        asks_nothing = prefix == len(self._layout.before) + len(self._layout.between)
        count[(tokens == 0) | asks_nothing | (capacity < 1)] = 0
        first = np.cumsum(count) - count
        pair = np.repeat(np.arange(len(count)), count)
        begin = (np.arange(len(pair)) - first[pair]) * step[pair]
        size = np.minimum(capacity[pair], tokens[pair] - begin)
        return Windows(
            pairs=pairs,
            layout=self._layout,
            contexts=contexts,
            prefixes=prefixes,
            question_cut=question_cut,
            pair_context=pair_context.astype(np.int32),
            pair_question=pair_question.astype(np.int32),
            pair_first=first.astype(np.int32),
            pair_count=count.astype(np.int32),
            pair=pair.astype(np.int32),
            begin=begin.astype(np.int32),
            size=size.astype(np.int32),
            length=(prefix[pair] + size + len(self._layout.after)).astype(np.int32),
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

    def _prefixes(self, questions: list[str]) -> tuple[Ragged, Bool]:
        """What stands before the context for each question, and whether the question was cut for it."""
        longest = self._settings.max_question_length
        prefixes: list[int] = []
        lengths, cut = [], []
        for ids in self.encoder.questions(questions):
            prefix = [*self._layout.before, *ids[:longest], *self._layout.between]
            prefixes += prefix
            lengths.append(len(prefix))
            cut.append(len(ids) > longest)
        return Ragged.of(np.array(prefixes, dtype=np.int32), lengths), np.array(cut, dtype=bool)
