"""What is remembered within a part, and that it is bounded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchqa.records import EncodedContext
from batchqa.steps.windowing import remembering
from batchqa.steps.windowing.contexts import TiledContext
from batchqa.steps.windowing.remembering import ContextCache, PairNumbers

Pairs = list[tuple[str, str]]

TEXTS = st.sampled_from(["a", "b", "c", "\u00e4", "long " * 40, "long " * 41])


def _number(numbers: PairNumbers, pairs: Pairs) -> tuple[list[int], list[bool]]:
    contexts, questions = (sorted(set(texts)) for texts in zip(*pairs, strict=True))
    found, is_new = numbers.number(
        np.array([contexts.index(context) for context, _ in pairs]),
        np.array([questions.index(question) for _, question in pairs]),
        contexts,
        questions,
    )
    return found.tolist(), is_new.tolist()


@given(st.lists(st.lists(st.tuples(TEXTS, TEXTS), unique=True, min_size=1), max_size=8))
def test_a_pair_has_one_number_in_all_chunks_and_the_numbers_are_in_order(chunks: list[Pairs]) -> None:
    numbers = PairNumbers()
    expected: dict[tuple[str, str], int] = {}
    for pairs in chunks:
        is_new = [pair not in expected for pair in pairs]
        wanted = [expected.setdefault(pair, len(expected)) for pair in pairs]
        assert _number(numbers, pairs) == (wanted, is_new)
        assert numbers.count == len(expected)


def test_a_chunk_without_pairs_changes_nothing() -> None:
    numbers = PairNumbers()
    none = np.zeros(0, dtype=np.int64)
    for texts in ([], ["a"]):
        found, is_new = numbers.number(none, none, texts, texts)
        assert (len(found), len(is_new), numbers.count) == (0, 0, 0)


def test_pairs_are_forgotten_rather_than_too_many_and_no_number_is_given_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remembering, "REMEMBERED_PAIRS", 3)
    numbers = PairNumbers()
    assert _number(numbers, [("a", "1"), ("a", "2")]) == ([0, 1], [True, True])
    assert _number(numbers, [("a", "2"), ("a", "3")]) == ([1, 2], [False, True])
    assert _number(numbers, [("a", "2")]) == ([3], [True])


def test_pairs_that_share_half_of_their_bits_are_different_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def half(texts: list[str]) -> remembering.UInt64:
        return np.array([(0, ord(text)) for text in texts], dtype=np.uint64)

    monkeypatch.setattr(remembering, "_digests", half)
    numbers = PairNumbers()
    first, _ = _number(numbers, [("a", "1"), ("b", "1")])
    second, _ = _number(numbers, [("c", "1"), ("d", "1")])
    assert sorted(first + second) == [0, 1, 2, 3]


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
    monkeypatch.setattr(remembering, "CACHED_BYTES", 2 * one + one // 2)
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
    monkeypatch.setattr(remembering, "CACHED_BYTES", 0)
    cache = ContextCache(_Encoder().contexts)
    assert [context.text for context in cache.encoded(["a", "b", "c"])] == ["a", "b", "c"]
