"""The spine: errors of any thread reach the caller, and a caller that leaves stops the threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchqa import pipeline
from batchqa.annotator import Annotator
from batchqa.errors import ModelError, StorageError
from batchqa.pipeline import in_background, side_by_side
from batchqa.records import AnsweredChunk, Chunk, PairAnswers, Pairs, Windows
from batchqa.steps.chunking import chunks
from batchqa.steps.pairing import AnswerCache, answered_rows
from batchqa.steps.windowing import Windower
from tests.steps.rows import rows_of

PAIRS = [(f"The bridge number {i} is old.", "What is old?") for i in range(50)]


def _names() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("batchqa-")}


def _endless() -> Iterator[Chunk]:
    for number in range(10**9):
        yield Chunk(rows_of(PAIRS, first_record=50 * number), number, last_of_part=True)


@pytest.fixture
def annotator(tiny_bundle: Path) -> Annotator:
    return Annotator(tiny_bundle, device="cpu", threads=1, batch_tokens=512)


def test_items_come_in_order_and_the_producer_runs_ahead_of_the_consumer_by_a_bounded_number() -> None:
    made: list[int] = []

    def produce() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    items = in_background(produce(), 3, "batchqa-test", threading.Event())
    assert next(items) == 0
    time.sleep(0.3)
    assert 1 < len(made) <= 1 + 3 + 1
    assert list(items) == list(range(1, 100))


def test_work_done_side_by_side_is_handed_over_in_order_and_really_is_done_side_by_side() -> None:
    together = threading.Barrier(3, timeout=10)

    def work(item: int) -> int:
        together.wait()  # passes only if three threads are in here at once
        time.sleep(0.01 * (item % 3))
        return item * item

    stop = threading.Event()
    done = side_by_side(work, range(99), width=3, ahead=5, name="batchqa-test", stop=stop)
    assert list(done) == [item * item for item in range(99)]


def test_an_error_of_one_item_is_raised_in_its_place_and_ends_the_others() -> None:
    def work(item: int) -> int:
        if item == 20:
            raise StorageError("the twenty-first")
        return item

    before, stop = _names(), threading.Event()
    done = side_by_side(work, range(10**9), width=3, ahead=5, name="batchqa-test", stop=stop)
    assert [next(done) for _ in range(20)] == list(range(20))
    with pytest.raises(StorageError, match="twenty-first"):
        next(done)
    stop.set()
    done.close()
    _wait_for(lambda: _names() == before)


def _wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_an_error_while_reading_reaches_the_caller_after_the_rows_before_it(annotator: Annotator) -> None:
    def failing() -> Iterator[Chunk]:
        yield Chunk(rows_of(PAIRS), 0, last_of_part=True)
        raise StorageError("in.parquet, row group 1: damaged")

    answered = annotator.pipeline.answer(failing())
    assert len(next(answered).answers) == 50
    with pytest.raises(StorageError, match="row group 1"):
        next(answered)


def test_an_error_of_the_model_reaches_the_caller(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: np.ndarray) -> None:
        raise ModelError("the model failed on cpu")

    monkeypatch.setattr(annotator.engine.scorer, "score", fail)
    with pytest.raises(ModelError, match="failed on cpu"):
        list(annotator.pipeline.answer(_endless()))


def test_the_next_chunk_and_no_more_is_windowed_while_the_model_works_on_this_one(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    windowed: list[int] = []
    make, score = Windower.windows, annotator.engine.scorer.score

    def windows(self: Windower, pairs: Pairs) -> Windows:
        made = make(self, pairs)
        windowed.append(pairs.chunk.part)
        return made

    def score_late(*batch: Any) -> Any:
        if not at_first_batch:
            _wait_for(lambda: len(windowed) > 1)
            time.sleep(0.3)
            at_first_batch[:] = windowed
        return score(*batch)

    monkeypatch.setattr(Windower, "windows", windows)
    monkeypatch.setattr(annotator.engine.scorer, "score", score_late)
    at_first_batch: list[int] = []
    many = [(f"The bridge number {i} is old.", "What is old?") for i in range(3000)]
    parts = (Chunk(rows_of(many, first_record=3000 * i), i, last_of_part=True) for i in range(4))
    assert [answered.chunk.part for answered in annotator.pipeline.answer(parts)] == windowed == [0, 1, 2, 3]
    assert at_first_batch == [0, 1]


def test_a_caller_that_leaves_stops_the_threads(annotator: Annotator) -> None:
    before = _names()
    answered = annotator.pipeline.answer(_endless())
    next(answered)
    assert _names() > before
    answered.close()  # type: ignore[attr-defined]
    assert _names() == before


def test_a_row_that_vanished_is_a_bug_and_not_a_shorter_file(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(answers: PairAnswers, cache: AnswerCache, threshold: float | None) -> AnsweredChunk:
        whole = answered_rows(answers, cache, threshold)
        return replace(whole, answers=whole.answers.slice(1))

    monkeypatch.setattr(pipeline, "answered_rows", short)
    with pytest.raises(RuntimeError, match="50 rows were read but 49 were answered"):
        list(annotator.pipeline.answer(chunks([rows_of(PAIRS)], 100)))


def test_progress_is_told_after_each_batch_of_a_chunk(tiny_bundle: Path) -> None:
    told: list[tuple[int, float]] = []
    rows = chunks([rows_of(PAIRS * 10)], 1000)
    with Annotator(tiny_bundle, batch_tokens=64, threads=1, in_process=True) as annotator:
        answered = list(
            annotator.pipeline.answer(rows, lambda chunk, share: told.append((chunk.part, share)))
        )
    assert len(answered) == 1
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert all(0 < share < 1 for share in shares)
    assert len(shares) >= 1
