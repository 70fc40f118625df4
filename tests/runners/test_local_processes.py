"""`--processes N`: the same output bit by bit as one process, whatever ends before its time."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchqa
from batchqa.engines import Resolved, worker_process
from batchqa.errors import LimitError, SettingsError, TryAgainError
from batchqa.job.ranges import RangeReader, single_parts
from batchqa.output import PartRange
from batchqa.records import Cursor
from batchqa.runners import local_processes
from batchqa.runners.local_processes import share_of
from batchqa.settings import MachineSettings, ReadingSettings
from batchqa.steps.reading import open_source
from tests.models import MARKER, SENTENCES, tiny_tokenizer

ROWS = [
    {
        "id": str(n),
        "context": f"{SENTENCES[n % len(SENTENCES)]} This was {n // 3}." * (1 + n % 3),
        "question": f"Who was {n % 5}?",
    }
    for n in range(50)
]
OPTIONS: dict[str, Any] = {
    "device": "cpu",
    "threads": 1,
    "batch_tokens": 512,
    "part_rows": 7,
    "in_process": True,
}
"""Each process runs the model itself, but where it is tested that engines have processes of their own."""


def _parquet(folder: Path) -> list[Path]:
    for name, rows in (("a", ROWS[:20]), ("b", ROWS[20:23]), ("c", ROWS[23:])):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet", row_group_size=9)
    return [folder / f"{name}.parquet" for name in "abc"]


def _lines(rows: list[dict[str, str]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _jsonl(folder: Path) -> list[Path]:
    bad = b'{"context": "no end\n'
    (folder / "a.jsonl").write_bytes(_lines(ROWS[:18]) + bad)
    (folder / "b.jsonl").write_bytes(_lines(ROWS[18:]))
    return [folder / "a.jsonl", folder / "b.jsonl"]


def _gzip(folder: Path) -> list[Path]:
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(_lines(ROWS[:30])))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(_lines(ROWS[30:])))
    return [folder / "a.jsonl.gz", folder / "b.jsonl.gz"]


def _squad(folder: Path) -> list[Path]:
    paragraphs = [
        {"context": row["context"], "qas": [{"id": row["id"], "question": row["question"], "answers": []}]}
        for row in ROWS
    ]
    document = {"version": "1", "data": [{"title": "t", "paragraphs": paragraphs}]}
    (folder / "squad.json").write_text(json.dumps(document), encoding="utf-8")
    return [folder / "squad.json"]


INPUTS = {"parquet": _parquet, "jsonl": _jsonl, "gzip": _gzip, "squad": _squad}


@pytest.mark.parametrize("kind", sorted(INPUTS))
def test_two_processes_give_the_bytes_of_one(kind: str, tiny_bundle: Path, tmp_path: Path) -> None:
    inputs = INPUTS[kind](tmp_path)
    options = {**OPTIONS, "model": tiny_bundle, "max_errors": 1, "on_error": "reject", "top_k": 2}
    suffix = "jsonl" if kind in ("jsonl", "gzip") else "parquet"
    outputs = [tmp_path / f"{name}.{suffix}" for name in ("one", "two")]
    summaries = [
        batchqa.run(inputs, output, processes=count, **options).to_dict()
        for count, output in enumerate(outputs, 1)
    ]
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    rejects = [output.with_name(f"{output.name}.rejects.jsonl") for output in outputs]
    assert [path.exists() for path in rejects] == [kind == "jsonl"] * 2
    if kind == "jsonl":
        assert rejects[0].read_bytes() == rejects[1].read_bytes() != b""
    for key in ("rows", "answered", "no_answer", "errors", "rejected", "windows", "fingerprint"):
        assert summaries[0][key] == summaries[1][key], key


def test_a_folder_of_parts_is_the_same_and_progress_counts_every_row_once(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    inputs, told = _parquet(tmp_path), []
    options = {**OPTIONS, "model": tiny_bundle, "limit": 45, "in_process": False}
    batchqa.run(inputs, tmp_path / "one", **options)
    summary = batchqa.run(inputs, tmp_path / "two", processes=3, progress=told.append, **options)
    assert summary.rows == 45
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("one", "two")]
    assert files[0] == files[1]
    for name in files[0]:
        if name.startswith("part-"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert [progress.rows for progress in told] == sorted(progress.rows for progress in told)
    assert told[-1].rows == 45
    assert told[-1].answered == summary.answered


def _killed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, when: str) -> None:
    """The first process to reach the place kills itself as the kernel would."""
    program = f"""
import os, signal
from batchqa.output.part_writer import PartWriter
from batchqa.runners import local_processes
before = PartWriter.{when}
def dying(self, *args, **options):
    try:
        os.close(os.open({str(tmp_path / "killed")!r}, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return before(self, *args, **options)
    os.kill(os.getpid(), signal.SIGKILL)
PartWriter.{when} = dying
local_processes.main()
"""
    monkeypatch.setattr(local_processes, "PROGRAM", f"exec({program!r})")


@pytest.mark.faults
@pytest.mark.parametrize("when", ["write", "commit"])
def test_the_parts_of_a_process_that_is_killed_are_done_by_the_others(
    when: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _killed_once(monkeypatch, tmp_path, when)
    inputs, notes = _parquet(tmp_path), []
    options = {**OPTIONS, "model": tiny_bundle}
    batchqa.run(inputs, tmp_path / "one.parquet", **options)
    batchqa.run(inputs, tmp_path / "two.parquet", processes=2, on_note=notes.append, **options)
    assert (tmp_path / "killed").exists()
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert [note for note in notes if "processes ended with SIGKILL; the others do its parts" in note]
    assert not list(tmp_path.glob("*.batchqa"))


@pytest.mark.faults
def test_a_job_whose_processes_are_all_killed_keeps_what_is_done_and_is_resumed(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
import os, signal
from batchqa.output.part_writer import PartWriter
from batchqa.runners import local_processes
commit = PartWriter.commit
def once(self, *args, **options):
    commit(self, *args, **options)
    os.kill(os.getpid(), signal.SIGKILL)
PartWriter.commit = once
local_processes.main()
"""
    inputs, output = _parquet(tmp_path), tmp_path / "out.parquet"
    options = {**OPTIONS, "model": tiny_bundle}
    with monkeypatch.context() as patch:
        patch.setattr(local_processes, "PROGRAM", f"exec({program!r})")
        with pytest.raises(TryAgainError, match="the last of 2 processes ended with SIGKILL"):
            batchqa.run(inputs, output, processes=2, **options)
    summary = batchqa.run(inputs, output, processes=2, **options)
    assert summary.resumed_rows == 14
    batchqa.run(inputs, tmp_path / "one.parquet", **options)
    assert output.read_bytes() == (tmp_path / "one.parquet").read_bytes()


def test_the_limit_of_errors_is_that_of_all_processes_together_and_names_rows(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    rows = b"".join(_lines(ROWS[n : n + 6]) + b"no json\n" for n in range(0, 48, 6))
    (tmp_path / "in.jsonl").write_bytes(rows)
    options = {**OPTIONS, "model": tiny_bundle, "processes": 2}
    with pytest.raises(
        LimitError, match=r"4 of \d+ rows are errors, but --max-errors allows 3: bad_json at .*line"
    ):
        batchqa.run(tmp_path / "in.jsonl", tmp_path / "out.jsonl", max_errors=3, **options)
    summary = batchqa.run(tmp_path / "in.jsonl", tmp_path / "out.jsonl", max_errors=8, **options)
    assert summary.errors == {"bad_json": 8}
    assert summary.resumed_rows >= 28


def test_standard_input_is_read_by_one_process_whatever_is_asked(tiny_bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "batchqa", "run", "-", "-o", str(tmp_path / "out.jsonl")]
    command += ["--model", str(tiny_bundle), "--processes", "2", "--device", "cpu", "--batch-tokens", "512"]
    done = subprocess.run(command, input=_lines(ROWS[:3]), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == 3
    assert b"work with one process only" in done.stderr


def test_zero_processes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--processes must be a whole number from 1"):
        batchqa.run(tmp_path / "in.jsonl", tmp_path / "out.jsonl", processes=0)


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_job_ends_all_processes_and_the_same_command_resumes(
    number: signal.Signals, tiny_bundle: Path, tmp_path: Path
) -> None:
    many = [{**row, "context": f"{row['context']} {n}"} for n in range(40) for row in ROWS]
    (tmp_path / "in.jsonl").write_bytes(_lines(many))
    command = [sys.executable, "-m", "batchqa", "run", str(tmp_path / "in.jsonl")]
    command += ["-o", str(tmp_path / "out.jsonl"), "--model", str(tiny_bundle), "--processes", "2"]
    command += ["--device", "cpu", "--batch-tokens", "512", "--part-rows", "20", "--threads", "1"]
    staging = tmp_path / "out.jsonl.batchqa"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
        _wait(lambda: len(list(staging.glob("part-*"))) > 1)
        below = _below(job.pid)
        job.send_signal(number)
        job.communicate(timeout=60)
    assert job.returncode == (-9 if number is signal.SIGKILL else 128 + number)
    assert len(below) >= 4  # two processes, an engine each
    _wait(lambda: not any(_alive(each) for each in below))
    again = subprocess.run(command, capture_output=True)
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout.splitlines()[-1])
    assert summary["rows"] == len(many)
    assert 40 <= summary["resumed_rows"] < len(many)


def _wait(condition: Any, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def _below(process: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *_below(int(child))]
    return found


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_threads_workers_and_gpus_are_divided_among_the_processes() -> None:
    cpu = Resolved("cpu", "onnxruntime", "int8", threads=8, batch_tokens=768, workers=8)
    machine = MachineSettings(device="cpu", batch_tokens=768)
    assert [share_of(machine, cpu, n, 3).threads for n in range(3)] == [2, 2, 2]
    assert share_of(MachineSettings(workers=4), cpu, 0, 2).workers == 2
    assert share_of(machine, cpu, 0, 16).threads == 1
    gpus = Resolved("cuda:0,1,3", "onnxruntime", "fp16", threads=8, batch_tokens=8192)
    assert [share_of(machine, gpus, n, 2).device for n in range(2)] == ["cuda:0,3", "cuda:1"]
    shared = [share_of(machine, gpus, n, 4).device for n in range(4)]
    assert shared == ["cuda:0", "cuda:1", "cuda:3", "cuda:0"]


@pytest.mark.parametrize("kind", sorted(INPUTS))
def test_each_part_is_read_from_its_own_place_in_any_order(kind: str, tmp_path: Path) -> None:
    inputs = [str(path) for path in INPUTS[kind](tmp_path)]
    source = open_source(inputs, ReadingSettings())
    everything = [row for rows in source.read() for row in rows.context.to_pylist()]
    missing = [PartRange(0, 0, Cursor(), None)]
    parts = list(single_parts(source, missing, 7, None))
    assert [part.first_record for part in parts] == list(range(0, len(everything), 7))
    for order in (parts, parts[::-1], parts[::2] + parts[1::2]):
        reader = RangeReader(source)
        for part in order:
            rows = reader.rows(part.cursor, part.first_record, part.first_record + 7)
            texts = [text for piece in rows for text in piece.context.to_pylist()]
            assert texts == everything[part.first_record : part.first_record + 7]


def test_a_compressed_file_is_read_on_and_not_once_more_for_each_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source([str(path) for path in _gzip(tmp_path)], ReadingSettings())
    parts = list(single_parts(source, [PartRange(0, 0, Cursor(), None)], 7, None))
    reads, read = [], type(source).read
    monkeypatch.setattr(type(source), "read", lambda *args: reads.append(args) or read(*args))
    reader = RangeReader(source)
    for part in parts[::2]:
        assert list(reader.rows(part.cursor, part.first_record, part.first_record + 7))
    assert len(reads) <= 2  # once for each file


def test_no_part_is_begun_behind_the_limit_or_without_a_record(tmp_path: Path) -> None:
    for inputs in (_parquet(tmp_path), _jsonl(tmp_path)):
        source = open_source([str(path) for path in inputs], ReadingSettings())
        missing = [PartRange(0, 0, Cursor(), 1), PartRange(3, 21, next(_at(source, 21)), None)]
        assert [part.first_part for part in single_parts(source, missing, 7, 28)] == [0, 3]
        assert [part.first_part for part in single_parts(source, missing, 7, 29)] == [0, 3, 4]


def _at(source: Any, record: int) -> Any:
    for rows in source.read():
        if rows.first_record <= record < rows.first_record + len(rows):
            yield rows.cursor_after(record - rows.first_record)


def test_what_is_reused_is_reused_by_each_process(tiny_bundle: Path, tmp_path: Path) -> None:
    inputs, options = _parquet(tmp_path), {**OPTIONS, "model": tiny_bundle}
    old = tmp_path / "old.parquet"
    batchqa.run(inputs[0], old, **options)
    outputs = [tmp_path / f"{count}.parquet" for count in (1, 2)]
    summaries = [
        batchqa.run(inputs, output, processes=count, reuse=(str(old),), **options)
        for count, output in enumerate(outputs, 1)
    ]
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert [summary.to_dict()["reused_rows"] for summary in summaries] == [20, 20]


@pytest.mark.faults
def test_a_row_that_crashes_the_engine_is_one_row_in_any_process(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "from tests.crashing import main; main()"
    token = tiny_tokenizer("bert-uncased").token_to_id(MARKER)
    monkeypatch.setenv("BATCHQA_TEST_CRASH_AT", str(token))
    monkeypatch.setattr(worker_process, "PROGRAM", program)
    inside = f"from batchqa.engines import worker_process; worker_process.PROGRAM = {program!r}"
    monkeypatch.setattr(local_processes, "PROGRAM", f"{inside}; {local_processes.PROGRAM}")
    rows = [
        {**row, "context": f"{row['context']} {MARKER}"} if n == 30 else row for n, row in enumerate(ROWS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    options = {**OPTIONS, "model": tiny_bundle, "max_errors": 1, "in_process": False}
    for count in (1, 2):
        output = tmp_path / f"{count}.parquet"
        assert batchqa.run(tmp_path / "in.parquet", output, processes=count, **options).errors == {
            "crashed": 1
        }
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


@pytest.mark.parametrize("layout", ["long", "wide"])
def test_many_questions_of_a_row_are_asked_by_each_process(
    layout: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    inputs = _jsonl(tmp_path)
    options = {**OPTIONS, "model": tiny_bundle, "max_errors": 1, "layout": layout}
    options["ask"] = ("who=Who was it?", "when=When was {id} built?")
    for count in (1, 2):
        batchqa.run(inputs, tmp_path / f"{count}.parquet", processes=count, **options)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
    assert pq.read_metadata(tmp_path / "1.parquet").num_rows == (102 if layout == "long" else 51)


def test_a_shard_is_done_by_several_processes_too(tiny_bundle: Path, tmp_path: Path) -> None:
    inputs, options = _parquet(tmp_path), {**OPTIONS, "model": tiny_bundle}
    for shard in ("1/2", "0/2"):
        batchqa.run(inputs, tmp_path / "shards.parquet", processes=2, shard=shard, **options)
    batchqa.finalize(tmp_path / "shards.parquet")
    batchqa.run(inputs, tmp_path / "one.parquet", **options)
    given, expected = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("shards", "one"))
    assert given.equals(expected)
