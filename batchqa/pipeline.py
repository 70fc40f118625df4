"""The spine: chunks in, answered chunks out, in order, every row counted.

Threads work at the same time and hand over through short queues: the caller's iterator and windowing run in
one, batching in another, the model in one for each scorer that works side by side, decoding and whatever the
caller does with the answers in the caller's own. So a device waits for Python only when a queue is empty.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from batchqa.records import AnsweredChunk, BatchLogits, Chunk, PaddedBatch, Windows
from batchqa.steps.asking import Questions, asked, whole
from batchqa.steps.batching import padded_batches
from batchqa.steps.decoding import Decoder, DecodingRules
from batchqa.steps.pairing import AnswerCache, EarlierAnswers, answered_rows, pairs_of
from batchqa.steps.scoring import SpanScorer, score_batch
from batchqa.steps.windowing import Windower

T = TypeVar("T")
R = TypeVar("R")

BATCHES_AHEAD = 16
"""Batches that wait between two threads at most."""

CHUNKS_AHEAD = 1
"""Chunks that are windowed in advance: a fast model has used up the batches that wait before a chunk is."""

POLL_SECONDS = 0.1
"""How often a waiting thread looks whether the run was stopped."""

STOP_SECONDS = 2.0
"""How long a stopped run waits for a thread that is in the middle of a batch."""


@dataclass(frozen=True)
class Pipeline:
    """A model and everything that decides about a row."""

    windower: Windower
    scorer: SpanScorer
    rules: DecodingRules

    def answer(
        self,
        chunks: Iterable[Chunk],
        on_scored: Callable[[Chunk, float], None] | None = None,
        earlier: EarlierAnswers | None = None,
        questions: Questions | None = None,
    ) -> Iterator[AnsweredChunk]:
        """Answer the chunks, in order; they must come part by part.

        With `questions` each row is asked them all. `on_scored` is told after each batch which share of its
        chunk has been scored: a chunk can take minutes. Pairs that `earlier` answers are not scored. Closing
        the iterator early stops the threads. An error of any step, and of `chunks` itself, is raised here.
        """
        cache = AnswerCache(self.rules.top_k, self.rules.most_answers, earlier)
        windower, decoder = self.windower.fresh(), Decoder(self.rules)
        stop, process = threading.Event(), os.getpid()
        windows = side_by_side(
            lambda chunk: windower.windows(pairs_of(chunk, cache)),
            asked(chunks, questions),
            width=1,
            ahead=CHUNKS_AHEAD,
            name="batchqa-windowing",
            stop=stop,
        )
        batches = in_background(self._batches(windows), BATCHES_AHEAD, "batchqa-batching", stop)
        scored = side_by_side(
            lambda batch: score_batch(self.scorer, batch),
            batches,
            width=self.scorer.at_once,
            ahead=BATCHES_AHEAD + self.scorer.at_once,
            name="batchqa-device",
            stop=stop,
        )
        try:
            yield from whole(_decoded(scored, decoder, cache, self.rules, on_scored))
        finally:
            if os.getpid() == process:  # else the threads are another process's
                stop.set()
                scored.close()
                with suppress(ValueError):  # a device thread that does not end still runs it
                    batches.close()

    def _batches(self, windows: Iterable[Windows]) -> Iterator[PaddedBatch]:
        for chunk in windows:
            yield from padded_batches(chunk, self.scorer.budget, self.scorer.length_bucket)


def _decoded(
    scored: Iterable[BatchLogits],
    decoder: Decoder,
    cache: AnswerCache,
    rules: DecodingRules,
    on_scored: Callable[[Chunk, float], None] | None,
) -> Iterator[AnsweredChunk]:
    tokens = 0
    for logits in scored:
        answers = decoder.add(logits)
        batch = logits.batch
        tokens = 0 if batch.last else tokens + int(batch.windows.length[batch.index].sum())
        if on_scored is not None and tokens:
            on_scored(*_share(batch.windows.pairs.chunk, tokens / int(batch.windows.length.sum())))
        if answers is not None:
            answered = answered_rows(answers, cache, rules.threshold if rules.abstains else None)
            _check_count(answered)
            yield answered


def _share(chunk: Chunk, share: float) -> tuple[Chunk, float]:
    """The chunk of records that a chunk of questions belongs to, and which share of those is scored."""
    if chunk.asked is None:
        return chunk, share
    first, end = chunk.asked.record[0], chunk.asked.record[-1] + 1
    return chunk.asked.records, float(first + share * (end - first)) / len(chunk.asked.records.rows)


class _Handover:
    """A bounded queue of results to come; those at both ends look whether the run was stopped."""

    def __init__(self, size: int, stop: threading.Event) -> None:
        self._queue: queue.Queue[Future[Any] | None] = queue.Queue(maxsize=size)
        self._stop = stop
        self._process = os.getpid()

    def put(self, place: Future[Any] | None) -> bool:
        """Hand over, None at the end; False if the run was stopped meanwhile."""
        while not self._stop.is_set():
            try:
                self._queue.put(place, timeout=POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def get(self) -> Future[Any] | None:
        """Take over what was put next; None at the end, or if the run was stopped meanwhile."""
        if os.getpid() != self._process:
            raise RuntimeError("a stream cannot be continued in a forked process: start a new one there")
        while not self._stop.is_set():
            try:
                return self._queue.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
        return None


def in_background(
    items: Iterable[T], ahead: int, name: str, stop: threading.Event
) -> Generator[T, None, None]:
    """The same items, produced by a thread that works at most `ahead` items in advance; see side_by_side."""
    return side_by_side(lambda item: item, items, width=1, ahead=ahead, name=name, stop=stop)


def side_by_side(
    work: Callable[[T], R], items: Iterable[T], *, width: int, ahead: int, name: str, stop: threading.Event
) -> Generator[R, None, None]:
    """`work` of each item, done by `width` threads, handed over in the items' order.

    They work at most `ahead` items in advance (and one more each). An exception of `items` or `work` is
    raised to the consumer in its place. Once `stop` is set (the consumer sets it when it is done, for
    whatever reason) the threads end at their next item and nothing more is handed over.
    """
    handover = _Handover(ahead, stop)
    one_at_a_time = threading.Lock()
    source = iter(items)

    def take() -> tuple[T, Future[R]] | None:
        """The next item and the place of its result, queued in the same breath: that keeps the order."""
        with one_at_a_time:
            place: Future[R] = Future()
            try:
                item = next(source)
            except StopIteration:
                handover.put(None)
                return None
            except BaseException as error:  # noqa: BLE001 - the consumer decides what to do about it
                place.set_exception(error)
                handover.put(place)
                return None
            return (item, place) if handover.put(place) else None

    def run() -> None:
        while taken := take():
            item, place = taken
            try:
                place.set_result(work(item))
            except BaseException as error:  # noqa: BLE001 - as above
                place.set_exception(error)
                return

    threads = [threading.Thread(target=run, name=name, daemon=True) for _ in range(width)]
    for thread in threads:
        thread.start()
    try:
        while (place := handover.get()) is not None and _is_done(place, stop):
            yield place.result()
    finally:
        if stop.is_set():
            # a thread that waits for input cannot be stopped: it dies with the process
            until = time.monotonic() + STOP_SECONDS
            for thread in threads:
                thread.join(max(until - time.monotonic(), 0))


def _is_done(place: Future[Any], stop: threading.Event) -> bool:
    """Wait for a result; False if the run was stopped meanwhile."""
    while not place.done():
        wait([place], timeout=POLL_SECONDS)
        if stop.is_set():
            return False
    return True


def _check_count(answered: AnsweredChunk) -> None:
    """No row vanishes: a difference here is a bug, and must not become a shorter file."""
    rows = len(answered.chunk.rows)
    if len(answered.answers) != rows:
        raise RuntimeError(f"{rows} rows were read but {len(answered.answers)} were answered")
