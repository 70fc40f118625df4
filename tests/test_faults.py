"""Whole runs of the real command under faults: kills, signals, two at once, large rows, no network, secrets.

What can be shown with parts of the program stands beside them (`docs/faults.md` lists all). The long forms
run with the model in the package (`make test-faults`, `make test-slow`).
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import zstandard

from tests.models import SENTENCES
from tests.processes import peak_memory

ROWS = 60
PART_ROWS = 6
STOP_SECONDS = 5
MEMORY_LIMIT = 3 * 2**30
CANARY = "xylophone-canary-8731"


def command(source: object, output: object, *options: object) -> list[str]:
    """`batchqa run` at a fixed budget and thread count."""
    fixed = ["--device", "cpu", "--threads", "1", "--batch-tokens", "768"]
    given = [str(part) for part in (source, "-o", output, *options)]
    return [sys.executable, "-m", "batchqa", "run", *given, *fixed]


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    given = {"capture_output": True, "text": True, "encoding": "utf-8", "timeout": 1800} | options
    return subprocess.run(command(*arguments), **given)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A JSONL file of ROWS rows, one in each part bad."""
    return _rows(tmp_path / "in.jsonl", sentences=1)


def _rows(path: Path, sentences: int) -> Path:
    with path.open("w", encoding="utf-8") as out:
        for i in range(ROWS):
            texts = (SENTENCES[(i + j) % len(SENTENCES)] for j in range(sentences))
            row = {
                "id": i,
                "context": f"{' '.join(texts)} It was {i}.",
                "question": f"Who {i}?",
            }
            out.write("{broken\n" if i % PART_ROWS == 4 else json.dumps(row, ensure_ascii=False) + "\n")
    return path


BAD = ["--on-error", "reject", "--max-errors", str(ROWS), "--part-rows", str(PART_ROWS)]


def contents(output: Path) -> dict[str, bytes]:
    """Output and rejects, byte for byte."""
    return {path.name: path.read_bytes() for path in sorted(output.parent.glob(f"{output.name}*"))}


# --- signals, kills, two at once


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_within_seconds_and_the_same_command_finishes_it(
    tiny_bundle: Path, source: Path, tmp_path: Path, number: int, code: int
) -> None:
    def delays() -> Iterator[float]:
        chance = random.Random(number)
        for _ in range(3):
            yield chance.uniform(0.5, 1.5)

    undisturbed = tmp_path / "undisturbed" / "out.parquet"
    done = run(source, undisturbed, "--model", tiny_bundle, *BAD)
    assert done.returncode == 0, done.stderr
    output = tmp_path / "stopped" / "out.parquet"
    for delay in delays():
        process = subprocess.Popen(
            command(source, output, "--model", tiny_bundle, *BAD),
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        time.sleep(delay)
        process.send_signal(number)
        _, said = process.communicate(timeout=STOP_SECONDS)
        # a run that is over, or has not yet begun to listen, ends in its own way
        assert process.returncode in (0, code, -number), said.decode()
        assert b"Traceback" not in said or process.returncode == -number
    assert run(source, output, "--model", tiny_bundle, *BAD).returncode == 0
    assert contents(output) == contents(undisturbed)


def _kill_at_random_times(
    source: Path, folder: Path, times: int, options: list[object]
) -> tuple[int, list[str]]:
    """Kill a run `times` times and finish it each time; how many had committed parts, and what went wrong."""
    undisturbed = folder / "undisturbed" / "out.parquet"
    began = time.monotonic()
    assert run(source, undisturbed, *options, *BAD).returncode == 0
    whole = time.monotonic() - began
    expected = contents(undisturbed)
    chance = random.Random(4)
    with_parts, wrong = 0, []
    for number in range(times):
        output = folder / str(number) / "out.parquet"
        process = subprocess.Popen(
            command(source, output, *options, *BAD), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        time.sleep(chance.uniform(0.2, whole))
        process.send_signal(signal.SIGKILL)
        process.wait()
        with_parts += any((output.parent / "out.parquet.batchqa").glob("part-*.parquet"))
        if output.exists() and output.read_bytes() != expected["out.parquet"]:
            wrong.append(f"{number}: a partial output was visible")
        again = run(source, output, *options, *BAD)
        if again.returncode != 0:
            wrong.append(f"{number}: {again.stderr}")
        elif contents(output) != expected:
            wrong.append(f"{number}: the output differs")
        shutil.rmtree(output.parent)
    return with_parts, wrong


def test_a_run_that_is_killed_at_any_time_is_finished_by_the_same_command(
    tiny_bundle: Path, source: Path, tmp_path: Path
) -> None:
    _, wrong = _kill_at_random_times(source, tmp_path, 3, ["--model", tiny_bundle])
    assert not wrong


@pytest.mark.faults
@pytest.mark.timeout(7200)
def test_two_hundred_kills_of_runs_with_the_package_s_model_lose_and_double_nothing(
    tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    # contexts of so many sentences that the rows take longer than the start
    source = _rows(tmp_path / "in.jsonl", sentences=5)
    with_parts, wrong = _kill_at_random_times(source, tmp_path, 200, [])
    record_testsuite_property("killed_with_committed_parts", f"{with_parts} of 200")
    assert not wrong
    assert with_parts > 20, "the kills came too early to say much"


def _two_at_once(source: Path, folder: Path, options: list[object]) -> None:
    """Start two runs of one output: one does the work, the other one says that it is being done."""
    output = folder / "out.parquet"
    both = [
        subprocess.Popen(
            command(source, output, *options, *BAD), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[1].decode() for process in both]
    codes = sorted(process.returncode for process in both)
    # 0 twice: the second looked only after the first was done
    assert codes in ([0, 75], [0, 0]), said
    assert "Traceback" not in "".join(said)


@pytest.mark.faults
def test_twenty_times_two_runs_of_one_output_give_one_right_output(
    tiny_bundle: Path, source: Path, tmp_path: Path
) -> None:
    options: list[object] = ["--model", tiny_bundle]
    undisturbed = tmp_path / "undisturbed" / "out.parquet"
    assert run(source, undisturbed, *options, *BAD).returncode == 0
    for number in range(20):
        _two_at_once(source, tmp_path / str(number), options)
        assert contents(tmp_path / str(number) / "out.parquet") == contents(undisturbed)


def test_of_two_runs_of_one_output_one_does_the_work(tiny_bundle: Path, source: Path, tmp_path: Path) -> None:
    _two_at_once(source, tmp_path / "both", ["--model", tiny_bundle])
    assert pq.read_metadata(tmp_path / "both" / "out.parquet").num_rows == ROWS - ROWS // PART_ROWS


# --- what is said and left behind


def test_neither_texts_nor_secrets_are_in_anything_but_the_rows(tiny_bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    rows: list[Any] = [{"context": f"{CANARY} {i}", "question": f"{CANARY}?"} for i in range(9)]
    rows[3] = {"context": [CANARY], "question": CANARY}
    rows[4] = {"context": None, "question": CANARY}
    text = "".join(json.dumps(row) + "\n" for row in rows) + f'{{"context": "{CANARY}\n'
    source.write_text(text, encoding="utf-8")
    environment = {**os.environ, "AWS_SECRET_ACCESS_KEY": CANARY, "HF_TOKEN": CANARY}
    options = ["--model", tiny_bundle, "--part-rows", 4]
    for limit, code in ((0, 3), (5, 0)):
        done = run(source, tmp_path / "out.parquet", *options, "--max-errors", limit, env=environment)
        assert done.returncode == code, done.stderr
        assert CANARY not in done.stdout + done.stderr
        for job_file in tmp_path.rglob("job.json"):
            assert CANARY not in job_file.read_text(encoding="utf-8")
    metadata = pq.read_metadata(tmp_path / "out.parquet").metadata or {}
    assert CANARY.encode() not in b"".join(value for key, value in metadata.items() if key != b"ARROW:schema")
    done = run(source, f"{tmp_path}/folder/", *options, "--max-errors", 5, env=environment)
    assert CANARY not in (tmp_path / "folder" / "_SUCCESS").read_text(encoding="utf-8") + done.stderr


def test_other_readers_see_the_rows_of_a_folder_output_and_nothing_else(
    tiny_bundle: Path, source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    assert run(source, f"{folder}/", "--model", tiny_bundle, *BAD).returncode == 0
    rows = ROWS - ROWS // PART_ROWS
    assert pyarrow.dataset.dataset(folder).count_rows() == rows
    assert pl.scan_parquet(folder / "*.parquet").select(pl.len()).collect().item() == rows
    assert not [path for path in folder.rglob("*.parquet") if path.parent != folder]


def _can_unshare() -> bool:
    return bool(shutil.which("unshare")) and subprocess.run(["unshare", "-rn", "true"]).returncode == 0


@pytest.mark.skipif(not _can_unshare(), reason="this machine does not let us take the network away")
def test_a_run_needs_no_network(tiny_bundle: Path, source: Path, tmp_path: Path) -> None:
    arguments = command(source, tmp_path / "out.parquet", "--model", tiny_bundle, *BAD)
    done = subprocess.run(["unshare", "-rn", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# --- bounded memory


def _words(number: int, characters: int) -> str:
    """A text of many short words, other for each number."""
    words = [word for word in " ".join(SENTENCES).split() if word.isascii()]
    chance = random.Random(number)
    text = " ".join(chance.choices(words, k=5000)) + f" {number}. "
    return (text * (characters // len(text) + 1))[:characters]


def _large_row_group(path: Path) -> list[object]:
    """1 GB of context text in one row group."""
    schema = pa.schema([("context", pa.large_string()), ("question", pa.string())])
    contexts = pa.array([_words(i, 250_000) for i in range(4000)], pa.large_string())
    with pq.ParquetWriter(path, schema, use_dictionary=False) as out:
        out.write_table(pa.table([contexts, ["Who was it?"] * 4000], schema=schema), row_group_size=10**9)
    assert pq.read_metadata(path).num_row_groups == 1
    return ["--max-length", 512, "--stride", 0]


def _large_context(path: Path) -> list[object]:
    """A context of 10 MB."""
    pq.write_table(pa.table({"context": [_words(0, 10_000_000)], "question": ["Who was it?"]}), path)
    return []


def _dictionary_bomb(path: Path) -> list[object]:
    """A file of some hundred bytes that stands for 2 GB: the same text of 1 MB, 2,000 times."""
    table = pa.table({"context": ["A" * 10**6] * 2000, "question": ["Who was it?"] * 2000})
    pq.write_table(table, path, compression="zstd")
    assert path.stat().st_size < 20_000
    return []


def _compressed_line(path: Path) -> list[object]:
    """A line of 1 GB in a megabyte of gzip, and one in a zstd frame after it."""
    line = b'{"question": "Who?", "context": "' + b"A" * 2**30 + b'"}\n'
    good = b'{"question": "Who?", "context": "Ada wrote it."}\n'
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(line + good)
    (path.parent / "b.jsonl.zst").write_bytes(zstandard.compress(line + good))
    return [path.parent / "b.jsonl.zst", "--max-errors", 2]


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("make", [_large_row_group, _large_context, _dictionary_bomb, _compressed_line])
def test_rows_of_any_size_are_answered_or_refused_in_less_than_3_gb(
    tiny_bundle: Path,
    tmp_path: Path,
    make: Callable[[Path], list[object]],
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    path = tmp_path / ("a.jsonl.gz" if make is _compressed_line else "a.parquet")
    options = make(path)
    output = tmp_path / "out.parquet"
    began = time.monotonic()
    code, peak, _, said = peak_memory(command(path, output, *options, "--model", tiny_bundle, "--quiet"))
    took = time.monotonic() - began
    record_testsuite_property(f"peak{make.__name__}", f"{peak / 2**30:.2f} GiB, {took:.0f} s")
    assert code == 0, said
    assert peak < MEMORY_LIMIT
