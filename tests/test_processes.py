"""An annotator in several processes: after a fork, pickled, and with another process in between."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchqa import Annotator, ModelError
from batchqa.engines import worker_process as engine
from batchqa.engines.worker_process import WorkerProcess
from tests.models import SENTENCES, write_tiny_bundle

FORK = multiprocessing.get_context("fork")
ALONE = {"threads": 1, "batch_tokens": 256, "device": "cpu"}


def rows(number: int, count: int = 300) -> pa.Table:
    """Rows that no other number has."""
    contexts = [f"{SENTENCES[n % len(SENTENCES)]} It was house {number} of {n}." for n in range(count)]
    return pa.table({"context": contexts, "question": [f"Which house is {n}?" for n in range(count)]})


@pytest.fixture(params=[False, True], ids=["worker_process", "in_process"])
def annotator(request: pytest.FixtureRequest, tiny_bundle: Path) -> Iterator[Annotator]:
    """One whose engine has a process of its own, and one whose engine is in this process."""
    with Annotator(tiny_bundle, in_process=request.param, **ALONE) as loaded:
        yield loaded


def in_forks(work: Callable[[int], Any], count: int) -> list[Any]:
    """What `work` returns in processes forked off this one, all at the same time."""

    def run(number: int, out: Connection) -> None:
        try:
            out.send(work(number))
        except BaseException:
            out.send(traceback.format_exc())
            raise

    pipes = [FORK.Pipe(duplex=False) for _ in range(count)]
    processes = [FORK.Process(target=run, args=(n, pipes[n][1])) for n in range(count)]
    for process in processes:
        process.start()
    try:
        found = [pipe.recv() if pipe.poll(60) else "no answer" for pipe, _ in pipes]
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    assert [process.exitcode for process in processes] == [0] * count, found
    return found


def test_processes_that_share_an_annotator_by_a_fork_get_their_own_answers(annotator: Annotator) -> None:
    expected = [annotator.annotate(rows(number)) for number in range(3)]
    mine = annotator.engine.scorer
    assert in_forks(lambda number: annotator.annotate(rows(number)), 3) == expected
    assert annotator.engine.scorer is mine
    assert annotator.annotate(rows(1)) == expected[1]


def test_a_fork_that_ends_in_the_ordinary_way_leaves_the_engine_of_its_parent_running(
    tiny_bundle: Path,
) -> None:
    code = """
import os, sys, gc
import pyarrow as pa
from batchqa import Annotator
annotator = Annotator(sys.argv[1], device="cpu", threads=1, batch_tokens=256, in_process=sys.argv[2] == "1")
ask = lambda: annotator.annotate(pa.table({"context": ["Ada wrote it."], "question": ["Who?"]}))
ask()
before = annotator.engine.scorer
process = os.fork()
if process == 0:
    if len(sys.argv) > 3:
        ask()
    annotator.close()
    del annotator
    gc.collect()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7
ask()
assert annotator.engine.scorer is before and not getattr(before, "crashes", 0)
"""
    for options in (["0"], ["1", "used"]):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tiny_bundle), *options],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        )
        assert done.returncode == 0, done.stderr


def test_a_stream_that_was_begun_before_a_fork_is_an_error_after_it_and_never_hangs(
    annotator: Annotator,
) -> None:
    stream = annotator.stream(rows(0, 9000).to_batches(max_chunksize=1000))
    next(stream)

    def read_on(_: int) -> str:
        try:
            next(stream)
        except RuntimeError as error:
            return str(error)
        return "read on"

    assert "start a new one there" in in_forks(read_on, 1)[0]
    assert sum(map(len, stream)) > 0


def test_a_pickled_annotator_is_its_recipe_and_gives_the_same_answers_in_another_process(
    annotator: Annotator,
) -> None:
    expected = annotator.annotate(rows(0))
    pickled = pickle.dumps(annotator)
    assert len(pickled) < 5000
    assert pickle.dumps(annotator) == pickled  # `datasets` takes it for the fingerprint of a map
    with pickle.loads(pickled) as copy:
        assert copy._loaded is None
        assert copy.resolved.batch_tokens == annotator.resolved.batch_tokens
        assert copy.annotate(rows(0)) == expected
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert pool.apply(annotator.annotate, (rows(0),)) == expected


def test_a_pickled_annotator_does_not_take_another_bundle_for_its_own(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    with Annotator(tmp_path / "bundle", **ALONE) as loaded:
        pickled = pickle.dumps(loaded)
    write_tiny_bundle(tmp_path / "bundle", seed=1)
    with pytest.raises(ModelError, match="is not the bundle that this annotator was pickled with"):
        pickle.loads(pickled).annotate(rows(0))


IDS = np.full((2, 8), 5, dtype=np.int64)
ONES = np.ones_like(IDS)


def test_an_answer_to_another_batch_is_an_error_and_never_an_answer(tiny_bundle: Path) -> None:
    with Annotator(tiny_bundle, **ALONE) as loaded:
        scorer = loaded.engine.scorer
        assert isinstance(scorer, WorkerProcess)
        worker = scorer._worker
        assert worker is not None
        # as another process would that has a copy of the connection: its batch comes first
        worker.send(engine._NUMBER.pack(1, 99) + engine._packed(512, IDS, ONES, ONES * 0))
        with pytest.raises(RuntimeError, match=r"answered batch .*99.* when asked"):
            scorer.score(IDS, ONES, ONES * 0)
        start, _ = scorer.score(IDS, ONES, ONES * 0)  # by a worker of its own
        assert start.shape == IDS.shape


def test_an_engine_of_another_process_refuses_to_serve(tiny_bundle: Path) -> None:
    with Annotator(tiny_bundle, **ALONE) as loaded:
        scorer = loaded.engine.scorer

        def score(_: int) -> str:
            with pytest.raises(RuntimeError, match="can only be used by the process that started it"):
                scorer.score(IDS, ONES, ONES * 0)
            return "refused"

        assert in_forks(score, 2) == ["refused"] * 2


def test_an_engine_ends_with_its_process_though_a_fork_of_that_one_lives_on(tiny_bundle: Path) -> None:
    code = """
import os, sys, time
from batchqa import Annotator
annotator = Annotator(sys.argv[1], device="cpu", threads=1, batch_tokens=256)
process = os.fork()
if process == 0:
    time.sleep(60)
print(annotator.engine.scorer._worker.process.pid, process, flush=True)
os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", code, str(tiny_bundle)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        started, fork = map(int, process.stdout.readline().split())
        try:
            until = time.monotonic() + 20
            while Path(f"/proc/{started}").exists() and time.monotonic() < until:
                time.sleep(0.05)
            assert not Path(f"/proc/{started}").exists()
            assert Path(f"/proc/{fork}").exists()
        finally:
            os.kill(fork, signal.SIGKILL)
