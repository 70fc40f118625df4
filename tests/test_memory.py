"""Memory does not grow with the input."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.models import SENTENCES
from tests.processes import peak_memory

pytestmark = pytest.mark.slow


def _generate(path: Path, rows: int) -> Path:
    """Rows with short contexts, most of them distinct, in row groups of 100,000."""
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, pa.schema([("context", pa.string()), ("question", pa.string())])) as writer:
        for begin in range(0, rows, 100_000):
            numbers = range(begin, min(begin + 100_000, rows))
            picks = rng.integers(0, len(SENTENCES), (len(numbers), 2)).tolist()
            contexts = [f"{SENTENCES[a]} Number {n // 2}." for (a, _), n in zip(picks, numbers, strict=True)]
            asked = [SENTENCES[b][:20] for _, b in picks]
            questions = [f"What is {n}, {text}?" for text, n in zip(asked, numbers, strict=True)]
            writer.write_table(pa.table({"context": contexts, "question": questions}))
    return path


def _peak_mib(source: Path, bundle: Path, *options: str) -> float:
    """Peak resident memory of `batchqa run`, the larger of the job's process and the engine's, in MiB."""
    out = source.with_suffix(".out.parquet")
    command = [sys.executable, "-m", "batchqa", "run", str(source), "-o", str(out), "--model", str(bundle)]
    command += ["--device", "cpu", "--threads", "1", "--batch-tokens", "2048", "--quiet"]
    code, peak, said, _ = peak_memory([*command, *options])
    assert code == 0
    summary = json.loads(said.splitlines()[-1])
    assert summary["questions"] == pq.read_metadata(out).num_rows
    assert summary["rows"] == pq.read_metadata(source).num_rows
    return peak / 2**20


def test_ten_questions_of_a_row_take_no_more_memory_than_ten_rows(
    tiny_bundle: Path, tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    peaks = []
    for rows, questions in ((200_000, 1), (20_000, 10)):
        contexts = [f"Report {n}. {' '.join(SENTENCES[n % 6 : n % 6 + 3])}" for n in range(rows)]
        file = tmp_path / f"{rows}.parquet"
        pq.write_table(pa.table({"context": contexts}), file, row_group_size=5_000)
        asked = [f"q{n}={SENTENCES[n % len(SENTENCES)][:20]} {n}?" for n in range(questions)]
        peaks.append(_peak_mib(file, tiny_bundle, *(each for one in asked for each in ("--ask", one))))
    one, ten = peaks
    record_testsuite_property(
        "peak_mib", f"{one:.0f} with 200,000 rows, {ten:.0f} with ten questions of 20,000"
    )
    assert ten <= 1.1 * one, f"{one:.0f} MiB became {ten:.0f} MiB"


def test_ten_times_the_rows_take_the_same_memory(
    tiny_bundle: Path, tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    fewer = _peak_mib(_generate(tmp_path / "100k.parquet", 100_000), tiny_bundle)
    more = _peak_mib(_generate(tmp_path / "1m.parquet", 1_000_000), tiny_bundle)
    record_testsuite_property("peak_mib", f"{fewer:.0f} at 100,000 rows, {more:.0f} at 1,000,000")
    assert more <= 1.1 * fewer, f"{fewer:.0f} MiB became {more:.0f} MiB"
