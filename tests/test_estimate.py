"""`--dry-run`: what is predicted, beside what a run of the same rows says."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchqa import job
from batchqa.job import counting, estimate
from batchqa.machine import cpu_quota
from batchqa.records import Cursor, Rows
from tests.models import SENTENCES

Row = dict[str, Any]
OPTIONS = {"device": "cpu", "batch_tokens": 1024, "max_length": 64, "stride": 16, "part_rows": 4000}


def _row(number: int, sentences: int, text: str = SENTENCES[0]) -> Row:
    return {"context": f"{number} " + " ".join([text] * sentences), "question": f"What is number {number}?"}


def _parquet(path: Path, rows: list[Row]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def _predicted_and_real(bundle: Path, source: Path) -> tuple[estimate.Estimate, job.Summary]:
    options: dict[str, Any] = {"model": bundle, "in_process": True, **OPTIONS}
    predicted = job.dry_run(source, source.with_suffix(".out.parquet"), **options)
    return predicted, job.run(source, source.with_suffix(".out.parquet"), **options)


def test_the_windows_of_a_mixed_file_are_predicted_where_its_end_is_unlike_its_start(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    short = [_row(n, 1) for n in range(9000)]
    chinese = [_row(n, 12, SENTENCES[9]) for n in range(600)]
    long = [_row(n, 60) for n in range(400)]
    predicted, real = _predicted_and_real(
        tiny_bundle, _parquet(tmp_path / "in.parquet", short + chinese + long)
    )
    assert real.windows > 20_000
    assert predicted.rows == real.rows
    assert predicted.windows == pytest.approx(real.windows, rel=0.1)


def test_few_long_rows_that_the_sample_misses_count_in_full(tiny_bundle: Path, tmp_path: Path) -> None:
    rows = [_row(n, 4000 if n in (999, 8999) else 1) for n in range(12_000)]
    predicted, real = _predicted_and_real(tiny_bundle, _parquet(tmp_path / "in.parquet", rows))
    assert real.windows > 15_000
    assert predicted.windows == pytest.approx(real.windows, rel=0.1)


def test_a_pair_that_stands_in_a_part_many_times_is_counted_once(tiny_bundle: Path, tmp_path: Path) -> None:
    rows = [_row(n % 100, 8) for n in range(10_000)]
    predicted, real = _predicted_and_real(tiny_bundle, _parquet(tmp_path / "in.parquet", rows))
    assert real.windows < 3000
    assert predicted.windows == pytest.approx(real.windows, rel=0.1)


def test_a_small_file_is_predicted_exactly(tiny_bundle: Path, tmp_path: Path) -> None:
    rows = [_row(n, 1 + n % 40) for n in range(500)]
    predicted, real = _predicted_and_real(tiny_bundle, _parquet(tmp_path / "in.parquet", rows))
    assert predicted.windows == real.windows


def test_the_memory_is_that_of_all_the_workers(tiny_bundle: Path, tmp_path: Path) -> None:
    source = _parquet(tmp_path / "in.parquet", [_row(n, 1) for n in range(100)])
    dry_run = partial(job.dry_run, source, tmp_path / "out.parquet", model=tiny_bundle, **OPTIONS)
    one, three = dry_run(workers=1), dry_run(workers=3)  # type: ignore[arg-type]
    assert (one.workers, three.workers) == (1, 3)
    # a Python with an engine in it takes some 80 MB
    assert three.memory_bytes - one.memory_bytes > 2 * 40 * 2**20


def test_the_memory_grows_with_what_a_part_has_to_remember(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [_row(n, 30) for n in range(4000)]
    source = _parquet(tmp_path / "in.parquet", rows)
    # what processes take differs from run to run by more than this is about, and contexts outlive their part
    monkeypatch.setattr(estimate, "peak_memory", lambda: 0)
    monkeypatch.setattr(estimate, "CACHED_BYTES", 0)
    output = tmp_path / "out.parquet"
    dry_run = partial(job.dry_run, source, output, model=tiny_bundle, device="cpu", in_process=True)
    small_parts = dry_run(part_rows=10)
    whole = dry_run(part_rows=100_000)
    text = sum(len(row["context"]) for row in rows)
    assert whole.memory_bytes - small_parts.memory_bytes > text / 2


def test_host_and_model_overlap_and_the_slower_one_decides() -> None:
    def together(device: str, host: float, model: float, count: int, cpu: float | None = None) -> float:
        return estimate._together(device, np.array([host, host if cpu is None else cpu]), model, count)

    assert together("cuda:0", host=10.0, model=1.0, count=1000) == pytest.approx(10.0, rel=0.01)
    assert together("cuda:0", host=1.0, model=10.0, count=1000) == pytest.approx(10.0, rel=0.01)
    assert together("cuda:0", host=3.0, model=5.0, count=1) == 8.0, "one chunk overlaps with nothing"
    # on a CPU the model's workers and the host need the same cores
    assert together("cpu", host=10.0, model=1.0, count=1000) >= 10.0
    shared = 10.0 + 4.0 / cpu_quota()
    assert together("cpu", host=1.0, cpu=4.0, model=10.0, count=1000) == pytest.approx(shared, rel=0.01)
    assert together("cuda:0", host=1.0, cpu=4.0, model=10.0, count=1000) == pytest.approx(10.0, rel=0.01)


def test_where_the_host_is_the_limit_the_estimate_says_so(tiny_bundle: Path, tmp_path: Path) -> None:
    source = _parquet(tmp_path / "in.parquet", [_row(n, 1) for n in range(3000)])
    predicted = job.dry_run(source, tmp_path / "out.parquet", model=tiny_bundle, device="cpu")
    assert predicted.host_seconds > 0
    assert predicted.model_seconds > 0
    working = predicted.seconds - predicted.startup_seconds
    assert working >= max(predicted.host_seconds, predicted.model_seconds)


def test_the_model_is_timed_however_few_batches_fit_into_the_sample(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "SAMPLE_SECONDS", 0.0)
    source = _parquet(tmp_path / "in.parquet", [_row(n, 1) for n in range(500)])
    predicted = job.dry_run(source, tmp_path / "out.parquet", model=tiny_bundle, workers=2, **OPTIONS)
    assert predicted.tokens > 0
    assert predicted.model_seconds > 0


def test_nothing_to_read_costs_nothing_but_the_start(tiny_bundle: Path, tmp_path: Path) -> None:
    rows = [{"context": None, "question": "Who?"}, {"context": "", "question": "Where?"}]
    source = _parquet(tmp_path / "in.parquet", rows)
    predicted = job.dry_run(source, tmp_path / "out.parquet", model=tiny_bundle, device="cpu")
    assert (predicted.rows, predicted.windows, predicted.tokens, predicted.model_seconds) == (2, 0, 0, 0)
    assert predicted.statuses == {"null_context": 1, "empty_context": 1}


@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=120))
def test_the_slices_are_bounded_and_evenly_spread(sizes: list[int]) -> None:
    slices, total = counting.Slices(), 0
    for size in sizes:
        texts = pa.array([f"{total + row}" for row in range(size)])
        columns = pa.record_batch([texts], names=["context"])
        slices.add(Rows(columns, texts, texts, {}, total, lambda n: Cursor(row=n), str))
        total += size
    kept = slices.rows()
    taken = [int(text) for rows in kept for text in rows.context.to_pylist()]
    assert len(kept) <= counting.SLICES
    assert taken == sorted(set(taken))
    gaps = [after - before for before, after in zip([-1, *taken], [*taken, total], strict=True)]
    every = -(-sum(-(-size // counting.SLICE_ROWS) for size in sizes) // (counting.SLICES // 2))
    assert max(gaps) <= 1 + counting.SLICE_ROWS * every
