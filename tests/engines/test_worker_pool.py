"""Several scorers side by side: the same answers as one, and none is lost when a member fails."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from batchqa.annotator import Annotator
from batchqa.bundle import open_bundle
from batchqa.engines import Resolved, selecting
from batchqa.engines.devices import devices_of
from batchqa.engines.worker_pool import WorkerPool
from batchqa.engines.worker_process import WorkerProcess
from batchqa.settings import MachineSettings
from batchqa.steps.scoring import OutOfMemoryError
from tests.models import SENTENCES

TABLE = pa.table(
    {
        "context": [f"{SENTENCES[i % len(SENTENCES)]} This was {i}." for i in range(300)],
        "question": [f"What is number {i % 7}?" for i in range(300)],
    }
)


class Member:
    """Says who it is; two must work at the same time."""

    engine = "none"
    at_once = 1
    budget = length_bucket = 16

    def __init__(self, number: int, together: threading.Barrier, device: str = "cpu") -> None:
        self.number, self.together, self.device = number, together, device

    def score(self, ids: np.ndarray, *_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.together.wait()
        if ids[0, 0] == 1:
            raise OutOfMemoryError("full")
        return np.full(1, self.number), ids


def test_members_work_at_the_same_time_and_one_that_failed_is_free_again() -> None:
    together = threading.Barrier(2, timeout=10)
    pool = WorkerPool([Member(0, together), Member(1, together)])
    for first in (0, 1, 0):
        seen: list[object] = []

        def call(value: int = first, seen: list[object] = seen) -> None:
            ids = np.full((1, 1), value)
            try:
                seen.append(int(pool.score(ids, ids, ids)[0][0]))
            except OutOfMemoryError as error:
                seen.append(str(error))

        threads = [threading.Thread(target=call) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(str, seen)) == (["full", "full"] if first else ["0", "1"])


def test_a_batch_goes_to_the_member_with_the_least_to_do() -> None:
    asked, go_on = [], threading.Event()

    class Slow(Member):
        def score(self, ids: np.ndarray, *_: object) -> tuple[np.ndarray, np.ndarray]:
            asked.append(self.number)
            if ids[0, 0]:
                go_on.wait(10)
            return ids, ids

    pool = WorkerPool([Slow(i, threading.Barrier(1)) for i in range(2)])
    long = np.ones((1, 1), dtype=np.int64)
    busy = threading.Thread(target=pool.score, args=(long, long, long))
    busy.start()
    while not asked:
        time.sleep(0.001)
    for _ in range(3):
        pool.score(long * 0, long, long)
    go_on.set()
    busy.join()
    assert asked == [0, 1, 1, 1]
    pool.score(long * 0, long, long)
    assert asked[-1] == 0


def test_a_worker_pool_names_its_devices_as_the_option_does() -> None:
    together = threading.Barrier(1)
    assert WorkerPool([Member(i, together) for i in range(3)]).device == "cpu"
    assert WorkerPool([Member(i, together, f"cuda:{i}") for i in (0, 2)]).device == "cuda:0,2"


@pytest.mark.parametrize("in_process", [False, True])
def test_any_number_of_workers_gives_the_same_bits(tiny_bundle: Path, in_process: bool) -> None:
    def annotated(workers: int) -> pa.Table:
        options = {"threads": workers, "workers": workers, "batch_tokens": 256, "in_process": in_process}
        with Annotator(tiny_bundle, device="cpu", **options) as annotator:
            assert annotator.resolved.workers == workers
            return annotator.annotate(TABLE)

    alone = annotated(1)
    assert annotated(2).equals(alone)
    assert annotated(5).equals(alone)


def test_a_worker_that_dies_is_replaced_and_no_row_is_lost(tiny_bundle: Path) -> None:
    options = {"threads": 2, "batch_tokens": 256}
    with Annotator(tiny_bundle, device="cpu", **options) as annotator:
        before = annotator.annotate(TABLE)
        assert isinstance(annotator.engine.scorer, WorkerPool)
        processes = []
        for member in annotator.engine.scorer.members:
            assert isinstance(member, WorkerProcess)
            assert member._worker is not None
            processes.append(member._worker.process)
            os.kill(processes[-1].pid, signal.SIGKILL)
        assert annotator.annotate(TABLE).equals(before)
    assert all(process.poll() is not None for process in processes)


def test_threads_are_shared_out_among_the_workers_and_memory_limits_them(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(tiny_bundle)
    found = selecting.candidates(bundle, MachineSettings(device="cpu"), "cpu")
    monkeypatch.setattr(selecting, "memory_limit", lambda: 64 * 2**30)
    assert selecting.workers_for(bundle, found, 16) == 16
    monkeypatch.setattr(selecting, "memory_limit", lambda: 2 * 2**30)
    assert selecting.workers_for(bundle, found, 16) == 5
    monkeypatch.setattr(selecting, "memory_limit", lambda: 2**20)
    assert selecting.workers_for(bundle, found, 16) == 1
    specs = []
    monkeypatch.setattr(selecting, "load", lambda spec: specs.append(spec) or Member(0, None))  # type: ignore[func-returns-value, arg-type]
    selecting.select(
        bundle, MachineSettings(device="cpu", threads=8, workers=3, batch_tokens=512, in_process=True)
    )
    assert [spec.threads for spec in specs] == [2, 2, 2]


def test_several_gpus_have_a_worker_each(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices_of(MachineSettings(device="cuda:0,3")) == ["cuda:0", "cuda:3"]
    assert devices_of(MachineSettings(device="cuda")) == ["cuda:0"]
    assert devices_of(MachineSettings(device="cpu")) == ["cpu"]


def test_a_resumed_job_takes_the_workers_of_the_machine_at_hand() -> None:
    before = Resolved("cpu", "onnxruntime", "int8", 4, 768, None, 2)
    assert before.pin(MachineSettings()).workers is None
    assert before.pin(MachineSettings(workers=3)).workers == 3
    assert Resolved.from_dict(before.to_dict()) == before
