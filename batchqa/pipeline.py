"""The spine: chunks in, answered chunks out, in order, every row counted.

Three threads work at the same time and hand over through short queues: the caller's iterator, the
tokenizer and the padding run in one, the model in the second, decoding and whatever the caller does with
the answers in the third (the caller's own). So the device waits for Python only while the queues are empty.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from batchqa.records import AnsweredChunk, Chunk, PaddedBatch
from batchqa.steps.batching import padded_batches
from batchqa.steps.decoding import Decoder, DecodingRules
from batchqa.steps.inference import SpanScorer, score_batch
from batchqa.steps.windowing import Windower

T = TypeVar("T")

BATCHES_AHEAD = 16
"""Batches that wait between two threads at most."""

POLL_SECONDS = 0.1
"""How often a waiting thread looks whether the run was stopped."""

STOP_SECONDS = 2.0
"""How long a stopped run waits for a thread that is in the middle of a batch."""


@dataclass(frozen=True)
class Road:
    """A model and everything that decides about a row; `budget` is the batch's size in tokens."""

    windower: Windower
    scorer: SpanScorer
    rules: DecodingRules
    budget: int

    def answer(self, chunks: Iterable[Chunk]) -> Iterator[AnsweredChunk]:
        """Answer the chunks, in order; they must come part by part.

        Closing the iterator early stops the threads. An error of any step, and of `chunks` itself, is
        raised here.
        """
        decoder = Decoder(self.rules)
        windower = self.windower.fresh()
        stop = threading.Event()
        batches = in_background(self._batches(windower, chunks), BATCHES_AHEAD, "batchqa-host", stop)
        scored = in_background(
            (score_batch(self.scorer, batch) for batch in batches), BATCHES_AHEAD, "batchqa-device", stop
        )
        try:
            for logits in scored:
                answered = decoder.add(logits)
                if answered is not None:
                    _check_count(answered)
                    yield answered
        finally:
            stop.set()
            scored.close()
            with suppress(ValueError):  # a device thread that does not end still runs it
                batches.close()

    def _batches(self, windower: Windower, chunks: Iterable[Chunk]) -> Iterator[PaddedBatch]:
        for chunk in chunks:
            yield from padded_batches(windower.windows(chunk), self.budget)


class _Handover:
    """A bounded queue between two threads that both look whether the run was stopped."""

    def __init__(self, size: int, stop: threading.Event) -> None:
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=size)
        self._stop = stop

    def put(self, kind: str, value: Any) -> bool:
        """Hand over; False if the run was stopped meanwhile."""
        while not self._stop.is_set():
            try:
                self._queue.put((kind, value), timeout=POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def get(self) -> tuple[str, Any]:
        """Take over what was put next; ("end", None) if the run was stopped meanwhile."""
        while not self._stop.is_set():
            try:
                return self._queue.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
        return "end", None


def in_background(
    items: Iterable[T], ahead: int, name: str, stop: threading.Event
) -> Generator[T, None, None]:
    """The same items, produced by a thread that works at most `ahead` items in advance.

    An exception of `items` is raised to the consumer in its place. Once `stop` is set (the consumer sets it
    when it is done, for whatever reason) the thread ends at its next item and nothing more is handed over.
    """
    handover = _Handover(ahead, stop)

    def work() -> None:
        try:
            for item in items:
                if not handover.put("item", item):
                    return
            handover.put("end", None)
        except BaseException as error:  # noqa: BLE001 - the consumer decides what to do about it
            handover.put("error", error)

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = handover.get()
            if kind == "end":
                break
            if kind == "error":
                raise value
            yield value
    finally:
        if stop.is_set():
            # a thread that waits for input cannot be stopped: it dies with the process
            thread.join(STOP_SECONDS)


def _check_count(answered: AnsweredChunk) -> None:
    """No row vanishes: a difference here is a bug, and must not become a shorter file."""
    rows = len(answered.chunk.rows)
    if len(answered.answers) != rows:
        raise RuntimeError(f"{rows} rows were read but {len(answered.answers)} were answered")
