"""Contexts that were tokenized are kept, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from batchqa.records import EncodedContext
from batchqa.steps.windowing import encoder as encoding
from batchqa.steps.windowing.contexts import TiledContext
from batchqa.steps.windowing.encoder import ContextCache


class _Encoder:
    """Tokenizes a text into as many tokens as it has characters, and counts how often."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def contexts(self, texts: list[str]) -> list[EncodedContext]:
        self.asked += texts
        return [
            TiledContext(text, *(np.arange(len(text), dtype=np.int32) for _ in range(3))) for text in texts
        ]


def test_contexts_are_kept_while_they_fit_and_the_least_recently_used_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = _Encoder()
    cache = ContextCache(encoder.contexts)
    one = encoder.contexts(["x" * 1000])[0].nbytes
    assert one > 13 * 1000
    monkeypatch.setattr(encoding, "CACHED_BYTES", 2 * one + one // 2)
    a, b, c = (letter * 1000 for letter in "abc")
    encoder.asked.clear()
    assert [context.text for context in cache.encoded([a, b])] == [a, b]
    cache.encoded([a])
    assert encoder.asked == [a, b]
    assert [context.text for context in cache.encoded([c])] == [c]
    cache.encoded([a])
    assert encoder.asked == [a, b, c]
    cache.encoded([b])
    assert encoder.asked == [a, b, c, b]


def test_more_contexts_than_fit_are_all_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "CACHED_BYTES", 0)
    cache = ContextCache(_Encoder().contexts)
    assert [context.text for context in cache.encoded(["a", "b", "c"])] == ["a", "b", "c"]
