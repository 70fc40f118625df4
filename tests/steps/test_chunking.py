"""Chunks: bounded, never across a part, and cut by the rows alone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchqa.records import RowFault, Rows
from batchqa.steps import chunking
from batchqa.steps.chunking import chunks
from tests.steps.rows import rows_of


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Iterator[None]:
    """Chunks of at most 4 rows and 40 bytes, so that a few rows make several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "CHUNK_ROWS", 4)
        patch.setattr(chunking, "CHUNK_BYTES", 40)
        yield


def _cut(
    sizes: list[int], part_rows: int, lengths: list[int] | None = None
) -> list[tuple[int, int, int, bool]]:
    """(part, first record, rows, last of part) of the chunks of pieces with `sizes` rows."""
    pieces, first = [], 0
    for size in sizes:
        texts = [("x" * (lengths[first + i] if lengths else 1), "") for i in range(size)]
        pieces.append(rows_of(texts, first_record=first))
        first += size
    return [(c.part, c.rows.first_record, len(c.rows), c.last_of_part) for c in chunks(pieces, part_rows)]


def test_a_stream_without_rows_has_no_chunk() -> None:
    assert _cut([], 10) == []
    assert _cut([0, 0], 10) == []


def test_a_part_is_cut_evenly_and_its_last_chunk_is_marked() -> None:
    assert _cut([10], 10) == [(0, 0, 4, False), (0, 4, 3, False), (0, 7, 3, True)]
    assert _cut([9, 3], 9) == [(0, 0, 3, False), (0, 3, 3, False), (0, 6, 3, True), (1, 9, 3, True)]


def test_a_stream_whose_end_is_not_known_is_cut_into_chunks_of_the_largest_size() -> None:
    assert _cut([10], 2**63 - 1) == [(0, 0, 4, False), (0, 4, 4, False), (0, 8, 2, True)]


def test_a_part_that_ends_with_the_stream_is_complete_and_no_empty_one_follows() -> None:
    assert _cut([3, 3], 3) == [(0, 0, 3, True), (1, 3, 3, True)]


def test_a_chunk_never_crosses_a_part() -> None:
    assert _cut([3, 2, 2], 5) == [(0, 0, 3, False), (0, 3, 2, True), (1, 5, 2, True)]


def test_a_chunk_is_bounded_in_bytes_but_one_large_row_is_one_chunk() -> None:
    lengths = [30, 15, 100, 1, 1]
    assert [rows for _, _, rows, _ in _cut([5], 99, lengths)] == [1, 1, 1, 2]


def test_rows_keep_their_faults_wherever_the_cut_falls() -> None:
    faults = {i: RowFault("bad_json", f"line {i}") for i in (0, 3, 4, 5)}
    pieces = [rows_of([("c", "q")] * 6, faults), rows_of([("c", "q")] * 2, {1: RowFault("bad_utf8", "x")}, 6)]
    found = {
        chunk.rows.first_record + row: fault
        for chunk in chunks(pieces, 5 + 3)
        for row, fault in chunk.rows.faults.items()
    }
    assert found == faults | {7: RowFault("bad_utf8", "x")}


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=40),
    st.lists(st.integers(1, 5), max_size=3),
    st.sampled_from([3, 7, 100]),
)
def test_chunks_are_the_same_however_the_rows_were_read(
    lengths: list[int], sizes: list[int], part_rows: int
) -> None:
    rows = len(lengths)
    # pieces end where parts end, as the reader promises
    ends_of_parts = {*range(0, rows, part_rows), rows}
    other_ends = {min(end, rows) for end in accumulate(sizes)}
    pieces = [b - a for a, b in pairwise(sorted(ends_of_parts | other_ends))]
    parts = [b - a for a, b in pairwise(sorted(ends_of_parts))]
    assert _cut(pieces, part_rows, lengths) == _cut(parts, part_rows, lengths)


def test_a_stream_of_chunks_keeps_nothing_of_what_went_before() -> None:
    seen: list[weakref.ref[Rows]] = []

    def pieces() -> Iterator[Rows]:
        for number in range(20):
            rows = rows_of([("c", "q")] * 3, first_record=3 * number)
            seen.append(weakref.ref(rows.context))
            yield rows
            del rows

    for number, _ in enumerate(chunks(pieces(), 1000)):
        if number == 10:
            break
    gc.collect()
    assert sum(ref() is not None for ref in seen) <= 4


def test_rows_that_come_one_by_one_are_measured_a_few_times_each_however_many_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = []
    text_bytes = chunking._text_bytes
    monkeypatch.setattr(chunking, "CHUNK_ROWS", 1000)
    monkeypatch.setattr(chunking, "CHUNK_BYTES", 10**6)
    monkeypatch.setattr(
        chunking, "_text_bytes", lambda held, n: measured.append(len(held)) or text_bytes(held, n)
    )
    assert _cut([1] * 3000, 100_000)
    assert sum(measured) <= 2 * 3000
