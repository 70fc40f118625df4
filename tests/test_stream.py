"""A stream of any length is answered in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchqa import Annotator, annotator
from batchqa.records import Float32, Int64
from batchqa.steps import chunking
from batchqa.steps.pairing import AnswerCache
from tests.models import SENTENCES

HUNDRED_THOUSAND = 100_000


def rows(count: int) -> pa.RecordBatch:
    """Rows of which each stands twice in its 50."""
    numbers = [n // 50 * 25 + n % 25 for n in range(count)]
    contexts = [f"{SENTENCES[n % len(SENTENCES)]} It was house {n}." for n in numbers]
    return pa.record_batch({"context": contexts, "question": [f"Which house is {n}?" for n in numbers]})


def test_a_stream_forgets_its_rows_part_by_part_and_answers_them_all_the_same(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    take = AnswerCache.take

    def watched(self: AnswerCache, numbers: Int64) -> pa.RecordBatch:
        held.append(self.answers_kept)
        return take(self, numbers)

    batch = rows(400)
    with Annotator(tiny_bundle, device="cpu", threads=1, batch_tokens=256) as loaded:
        expected = pa.Table.from_batches(loaded.stream([batch]))
        monkeypatch.setattr(annotator, "STREAM_PART_ROWS", 50)
        monkeypatch.setattr(chunking, "CHUNK_ROWS", 10)
        monkeypatch.setattr(AnswerCache, "take", watched)
        streamed = pa.Table.from_batches(loaded.stream([batch]))
    assert len(held) == 40
    assert max(held) == 25  # those of one part, each once
    inexact = ["qa_score", "qa_null_odds"]
    assert streamed.drop(inexact) == expected.drop(inexact)
    for name in inexact:
        np.testing.assert_allclose(streamed[name].to_numpy(), expected[name].to_numpy(), atol=1e-4)


class Instant:
    """A scorer that costs nothing."""

    engine, device, at_once = "none", "cpu", 1
    budget, length_bucket = 1024, 16

    def score(self, ids: Int64, *_: Any) -> tuple[Float32, Float32]:
        logits = ids.astype(np.float32) % 7
        return logits, logits


def _repeated(batches: list[pa.RecordBatch], count: int) -> Iterator[pa.RecordBatch]:
    for number in range(count):
        yield batches[number % len(batches)]


def _memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_million_rows_take_no_more_memory_at_their_end(
    tiny_bundle: Path, record_testsuite_property: Any
) -> None:
    total, size = 20 * HUNDRED_THOUSAND, 2_000
    long = " ".join(SENTENCES)[:1100]  # 2.2 GB of text in all, of which a third repeats
    batches = [
        pa.record_batch(
            {
                "context": [f"{long} {min(n, 1300)} {number}" for n in range(size)],
                "question": [f"Who {n if n < 1300 else 0}?" for n in range(size)],
            }
        )
        for number in range(60)
    ]
    with Annotator(tiny_bundle, device="cpu", threads=1, batch_tokens=1024) as loaded:
        here = loaded._here()
        loaded._loaded = replace(here, pipeline=replace(here.pipeline, scorer=Instant()))
        seconds, memory, done, began = [], [], 0, time.process_time()
        for answered in loaded.stream(_repeated(batches, total // size)):
            done += len(answered)
            if done >= HUNDRED_THOUSAND * (len(seconds) + 1):
                seconds.append(time.process_time() - began)
                memory.append(_memory())
                began = time.process_time()
    assert done == total
    # how long each took is kept in the report: a noisy machine must not fail the test
    record_testsuite_property("CPU seconds per 100,000", str([round(s, 1) for s in seconds]))
    assert max(memory[-5:]) < max(memory[1:6]) + 16 * 2**20
