"""Batches: like lengths together, within the budget, every window once."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from batchqa.records import LENGTH_BUCKET, Chunk, Windows
from batchqa.settings import WindowSettings
from batchqa.steps.batching import HOST_TOKENS, LAST_BATCHES, padded_batches
from batchqa.steps.pairing import AnswerCache, pairs_of
from batchqa.steps.scoring import micro_batches
from batchqa.steps.windowing import Windower, learn_layout
from tests.models import tiny_tokenizer
from tests.steps.rows import rows_of


def _windows(lengths: list[int]) -> Windows:
    tokenizer = tiny_tokenizer("bert-uncased")
    windower = Windower(tokenizer, learn_layout(tokenizer, 0), WindowSettings(), 384)
    pairs = [("a " * length, f"who {i}?") for i, length in enumerate(lengths)]
    return windower.windows(pairs_of(Chunk(rows_of(pairs), 0, last_of_part=True), AnswerCache()))


@given(st.lists(st.integers(1, 60), max_size=30), st.integers(1, 400))
def test_every_window_is_in_one_batch_and_only_the_last_one_is_marked(
    lengths: list[int], budget: int
) -> None:
    windows = _windows(lengths)
    batches = list(padded_batches(windows, budget))
    assert sorted(np.concatenate([b.index for b in batches]).tolist()) == list(range(len(windows)))
    assert [b.last for b in batches] == [False] * (len(batches) - 1) + [True]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 400))
def test_a_batch_stays_within_what_the_host_or_the_engine_takes_unless_it_is_one_window(
    lengths: list[int], budget: int
) -> None:
    most = max(budget, HOST_TOKENS)
    for batch in padded_batches(_windows(lengths), budget):
        assert batch.input_ids.size <= most or len(batch.index) == 1


def test_batches_are_large_for_the_host_and_become_smaller_towards_the_end_of_the_chunk() -> None:
    sizes = [batch.input_ids.size for batch in padded_batches(_windows([40] * 3000), 100)]
    assert HOST_TOKENS - 100 < sizes[0] <= HOST_TOKENS
    assert all(later < earlier + 60 for earlier, later in itertools.pairwise(sizes))  # a window has 47
    assert sizes[-1] <= 100
    # two workers that share them out end at nearly the same time
    assert sizes[-LAST_BATCHES // 2] <= 200


def test_an_engine_that_takes_more_than_the_host_asks_for_gets_full_batches() -> None:
    sizes = [batch.input_ids.size for batch in padded_batches(_windows([40] * 3000), 20_000)]
    assert all(size > 20_000 - 60 for size in sizes[:-1])


@given(st.lists(st.integers(1, 90), min_size=1, max_size=60), st.integers(1, 900))
@example([40] * 30, 170)
def test_no_batch_ends_within_a_micro_batch_of_the_engine(lengths: list[int], budget: int) -> None:
    """Else the engine would meet more shapes, of which each costs it milliseconds when it is new."""
    windows = _windows(lengths)
    (whole,) = padded_batches(windows, 10**9)
    at_once = list(micro_batches(whole.attention_mask, budget, length_bucket=LENGTH_BUCKET))
    batches = list(padded_batches(windows, budget))
    in_batches = [
        part
        for batch in batches
        for part in micro_batches(batch.attention_mask, budget, length_bucket=LENGTH_BUCKET)
    ]
    assert len(in_batches) == len(at_once)


def test_windows_are_sorted_so_that_little_is_padded() -> None:
    windows = _windows([5, 50, 5, 50, 5, 50])
    shapes = [batch.input_ids.shape for batch in padded_batches(windows, 3 * 57)]
    assert [rows for rows, _ in shapes] == [3, 3]
    assert shapes[0][1] > 50 > shapes[1][1]


def test_the_mask_covers_the_real_tokens_and_the_rest_is_padding() -> None:
    windows = _windows([3, 9])
    (batch,) = padded_batches(windows, 10_000)
    for row, window in enumerate(batch.index):
        length = int(windows.length[window])
        assert batch.attention_mask[row].tolist() == [1] * length + [0] * (batch.input_ids.shape[1] - length)
        assert (batch.input_ids[row, length:] == windows.layout.pad_id).all()
        assert (batch.token_type_ids[row, length:] == windows.layout.pad_type).all()


def test_a_chunk_without_windows_still_travels_as_one_empty_batch() -> None:
    (batch,) = padded_batches(_windows([]), 512)
    assert batch.last
    assert batch.input_ids.shape[0] == 0
