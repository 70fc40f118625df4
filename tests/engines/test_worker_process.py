"""The engine in a process of its own: what kills it costs at most the row that did it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchqa import job
from batchqa.annotator import Annotator
from batchqa.bundle import open_bundle
from batchqa.engines import ModelSpec, load, worker_process
from batchqa.engines.worker_process import WorkerProcess
from batchqa.errors import BatchqaError, DeviceError, LimitError, ModelError, StorageError, TryAgainError
from batchqa.steps.scoring import OutOfMemoryError
from tests.models import MARKER, SENTENCES, tiny_tokenizer

IDS = np.arange(5, 37, dtype=np.int64).reshape(4, 8)
ONES = np.ones_like(IDS)


def spec_of(folder: Path) -> ModelSpec:
    bundle = open_bundle(folder)
    manifest = bundle.manifest
    model = bundle.model(manifest.variants[0])
    return ModelSpec("onnxruntime", str(model), manifest.inputs, manifest.outputs, "cpu", 1)


@pytest.fixture
def scorer(tiny_bundle: Path) -> Iterator[WorkerProcess]:
    made = WorkerProcess(spec_of(tiny_bundle))
    yield made
    made.close()


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine dies at MARKER."""
    monkeypatch.setattr(worker_process, "PROGRAM", "from tests.crashing import main; main()")
    monkeypatch.setenv("BATCHQA_TEST_CRASH_AT", str(tiny_tokenizer("bert-uncased").token_to_id(MARKER)))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engines_process_holds_nothing_but_numpy_and_its_engine(engine: str) -> None:
    # it was 40 MB more with pyarrow and tokenizers, once for each worker
    program = (
        "import sys, numpy; from batchqa.engines import worker_process, loading;"
        f"loading.library({engine!r}); print(*{{name.partition('.')[0] for name in sys.modules}})"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert "numpy" in loaded.split()
    assert not {"pyarrow", "tokenizers", "polars", "pandas", "click"} & set(loaded.split())


def _process(scorer: WorkerProcess) -> int:
    assert scorer._worker is not None
    return scorer._worker.process.pid


def _input(path: Path, bad_rows: set[int], rows: int = 40) -> Path:
    contexts = [
        f"{SENTENCES[i % len(SENTENCES)]} {MARKER if i in bad_rows else ''} {i}." for i in range(rows)
    ]
    pq.write_table(
        pa.table({"context": contexts, "question": [f"What is number {i}?" for i in range(rows)]}), path
    )
    return path


def test_the_logits_from_the_worker_are_those_of_the_same_model_in_this_process_to_the_bit(
    scorer: WorkerProcess, tiny_bundle: Path
) -> None:
    here = load(spec_of(tiny_bundle)).score(IDS, ONES, ONES * 0)
    there = scorer.score(IDS, ONES, ONES * 0)
    for ours, theirs in zip(here, there, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert theirs.dtype == np.float32


def test_two_threads_at_once_get_each_their_own_logits(scorer: WorkerProcess, tiny_bundle: Path) -> None:
    here = load(spec_of(tiny_bundle))
    shapes = [(1 + i % 5, 3 + i % 7) for i in range(60)]
    batches = [np.full(shape, 5 + i, dtype=np.int64) for i, shape in enumerate(shapes)]
    with ThreadPoolExecutor(2 * scorer.at_once) as threads:
        answers = list(threads.map(lambda ids: scorer.score(ids, ids * 0 + 1, ids * 0), batches))
    for ids, there in zip(batches, answers, strict=True):
        np.testing.assert_array_equal(there, here.score(ids, ids * 0 + 1, ids * 0))


SAYS_ITS_BUDGET = """
from batchqa.engines import worker_process
from batchqa.engines.onnxruntime import OnnxScorer
OnnxScorer.score = lambda self, ids, mask, types: ((ids * 0 + self.budget).astype('f4'),) * 2
worker_process.main()
"""


def test_the_worker_is_told_how_much_the_engine_may_take_at_once(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path
) -> None:
    monkeypatch.setattr(worker_process, "PROGRAM", SAYS_ITS_BUDGET)
    scorer = WorkerProcess(spec_of(tiny_bundle))
    for budget in (700, 3):
        scorer.budget = budget
        told, _ = scorer.score(IDS, ONES, ONES * 0)
        assert (told == budget).all()
    scorer.close()


def test_a_batch_that_waits_for_its_turn_is_not_blamed_for_the_one_that_kills_the_engine(
    crashing: None, tiny_bundle: Path
) -> None:
    scorer = WorkerProcess(spec_of(tiny_bundle))
    killing = IDS.copy()
    killing[1, 1] = tiny_tokenizer("bert-uncased").token_to_id(MARKER)
    blamed = []

    def score(ids: np.ndarray) -> None:
        try:
            scorer.score(ids, ONES, ONES * 0)
        except worker_process.CrashedError:
            blamed.append(ids is killing)

    with ThreadPoolExecutor(scorer.at_once) as threads:
        list(threads.map(score, [IDS, killing] * 8))
    assert blamed == [True] * 8
    assert scorer.crashes == 8
    scorer.close()


def test_rows_that_crash_the_engine_are_marked_and_all_others_answered(
    crashing: None, tiny_bundle: Path, tmp_path: Path
) -> None:
    source = _input(tmp_path / "in.parquet", {3, 17})
    options = {"model": tiny_bundle, "device": "cpu", "threads": 1, "batch_tokens": 512}
    summary = job.run(source, tmp_path / "out.parquet", max_errors=2, **options)
    assert summary.errors == {"crashed": 2}
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [i for i, row in enumerate(rows) if row["qa_error"] == "crashed"] == [3, 17]
    untouched = Annotator(tiny_bundle, device="cpu", threads=1, batch_tokens=512, in_process=True)
    expected = untouched.annotate(pq.read_table(source)).to_pylist()
    for i, (row, other) in enumerate(zip(rows, expected, strict=True)):
        if i not in (3, 17):
            assert (row["qa_answer"], row["qa_start"]) == (other["qa_answer"], other["qa_start"])


def test_a_row_that_crashes_the_engine_counts_as_an_error(
    crashing: None, tiny_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(LimitError, match=r"crashed at .*in.parquet, row 4"):
        job.run(_input(tmp_path / "in.parquet", {3}), tmp_path / "o.parquet", model=tiny_bundle, device="cpu")


def test_a_worker_that_is_killed_from_outside_costs_no_row(tiny_bundle: Path, tmp_path: Path) -> None:
    table = pq.read_table(_input(tmp_path / "in.parquet", set()))
    with Annotator(tiny_bundle, device="cpu", threads=1, batch_tokens=512) as annotator:
        before = annotator.annotate(table)
        assert isinstance(annotator.engine.scorer, WorkerProcess)
        first = _process(annotator.engine.scorer)
        os.kill(first, signal.SIGKILL)
        assert annotator.annotate(table).equals(before)
        assert _process(annotator.engine.scorer) != first
        assert annotator.engine.scorer.crashes == 1


def test_an_engine_that_crashes_again_and_again_ends_the_job_with_try_again(
    scorer: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "MOST_CRASHES", 2)
    for _ in range(2):
        os.kill(_process(scorer), signal.SIGKILL)
        with pytest.raises(worker_process.CrashedError, match="SIGKILL"):
            scorer.score(IDS, ONES, ONES)
        scorer.score(IDS, ONES, ONES)
    os.kill(_process(scorer), signal.SIGKILL)
    with pytest.raises(TryAgainError, match="crashed 3 times on cpu, the last time with SIGKILL"):
        scorer.score(IDS, ONES, ONES)


def test_an_engine_that_crashes_before_any_row_is_a_device_that_cannot_be_had(
    crashing: None, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("BATCHQA_TEST_CRASH_AT", "1")  # the token with which the budget is measured
    monkeypatch.setenv("BATCHQA_CACHE", str(tmp_path))  # and that is not known yet
    with pytest.raises(DeviceError, match="crashed with SIGSEGV on cpu before any row"):
        Annotator(tiny_bundle, device="cpu", threads=1)


def test_a_model_that_cannot_be_loaded_is_the_same_error_as_in_this_process(tmp_path: Path) -> None:
    path = tmp_path / "model.fp32.onnx"
    path.write_bytes(b"not a model")
    spec = ModelSpec("onnxruntime", str(path), ("input_ids",), ("start", "end"), "cpu", 1)
    with pytest.raises(ModelError) as there:
        WorkerProcess(spec)
    with pytest.raises(ModelError) as here:
        load(spec)
    assert str(there.value) == str(here.value)


@pytest.mark.parametrize("kind", [OutOfMemoryError, ModelError, DeviceError, TryAgainError, StorageError])
def test_every_error_crosses_from_the_worker_as_itself(kind: type[Exception]) -> None:
    error = kind("why")
    with pytest.raises(type(error)) as crossed:
        worker_process._raise_reported(worker_process._report(error))
    assert type(crossed.value) is type(error)
    assert str(crossed.value) == str(error)


def test_a_bug_in_the_worker_is_a_bug_here_with_its_traceback() -> None:
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError as bug:
        report = worker_process._report(bug)
    with pytest.raises(RuntimeError, match="ZeroDivisionError: by nothing") as crossed:
        worker_process._raise_reported(report)
    assert not isinstance(crossed.value, BatchqaError)


def test_closing_the_annotator_ends_the_worker(tiny_bundle: Path) -> None:
    with Annotator(tiny_bundle, device="cpu", threads=1, batch_tokens=512) as annotator:
        assert isinstance(annotator.engine.scorer, WorkerProcess)
        process = _process(annotator.engine.scorer)
        assert _alive(process)
    assert not _alive(process)


def test_an_annotator_that_is_no_longer_used_ends_its_worker(tiny_bundle: Path) -> None:
    annotator = Annotator(tiny_bundle, device="cpu", threads=1, batch_tokens=512)
    assert isinstance(annotator.engine.scorer, WorkerProcess)
    process = _process(annotator.engine.scorer)
    del annotator
    assert not _alive(process)


def test_signals_that_a_scheduler_sends_to_every_process_do_not_end_the_worker(scorer: WorkerProcess) -> None:
    os.kill(_process(scorer), signal.SIGTERM)
    os.kill(_process(scorer), signal.SIGINT)
    scorer.score(IDS, ONES, ONES)
    assert scorer.crashes == 0


@pytest.fixture
def running(tiny_bundle: Path, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts a job that goes on for minutes; ends it when the test is over."""
    source = tmp_path / "in.jsonl"
    row = orjson.dumps({"context": " ".join(SENTENCES), "question": "Who?"}) + b"\n"
    with source.open("wb") as out:
        for i in range(200_000):
            out.write(row.replace(b"Who", b"Who %d" % i))
    command = [sys.executable, "-m", "batchqa", "run", source, "-o", tmp_path / "out.parquet"]
    options = ["--model", tiny_bundle, "--part-rows", "500", "--batch-tokens", "512", "--threads", "1"]
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        parts = tmp_path / "out.parquet.batchqa"
        before = len(list(parts.glob("part-*.parquet")))
        process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(process)
        _wait(lambda: len(list(parts.glob("part-*.parquet"))) > before, "a committed part")
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs Linux's /proc")
def test_the_worker_ends_when_the_job_is_killed_and_the_lock_is_free(
    running: Callable[[], subprocess.Popen[bytes]],
) -> None:
    for _ in range(2):  # the second start would meet the first one's lock
        process = running()
        (engine,) = _children(process.pid)
        assert not [name for name in _open_files(engine) if "out.parquet" in name or "in.jsonl" in name]
        process.send_signal(signal.SIGKILL)
        process.wait()
        _wait(lambda engine=engine: not _alive(engine), "the worker's end")  # type: ignore[misc]


LONG_BATCH = """
import sys, numpy as np
from batchqa.engines.worker_process import WorkerProcess
from tests.engines.test_worker_process import spec_of
from pathlib import Path
scorer = WorkerProcess(spec_of(Path(sys.argv[1])))
print(scorer._worker.process.pid, flush=True)
ones = np.ones((20_000, 512), dtype=np.int64)
scorer.score(ones, ones, ones)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs Linux's /proc")
def test_the_worker_ends_with_the_job_also_in_the_middle_of_a_batch(tiny_bundle: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", LONG_BATCH, tiny_bundle], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        engine = int(process.stdout.readline())
    _wait(lambda: _cpu_seconds(engine) > 1.5, "a batch in work")
    process.kill()
    process.wait()
    _wait(lambda: not _alive(engine), "the worker's end", seconds=2)


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _children(process: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # a process may end while we look
            if int(stat.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(stat.parent.name))
    return found


def _open_files(process: int) -> list[str]:
    return [str(link.readlink()) for link in Path(f"/proc/{process}/fd").iterdir()]


def _alive(process: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _wait(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what} did not come within {seconds} s"
        time.sleep(0.02)
