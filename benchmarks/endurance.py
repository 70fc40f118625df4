"""`make bench-endurance`: does a long run slow down or grow? A million rows with a tiny model.

    python benchmarks/endurance.py [--rows N] [--rounds N] [--threads N]

10,000 questions of SQuAD 2.0 dev, again and again, so that the first 20,000 rows and the last are alike; each
time with another number behind context and question, so that no pair is met twice. The model is so small that
reading, tokenizing, decoding and writing are most of the work. Speed is taken between the job's own reports,
without starting and merging; memory is the sum over the job's processes, beside that of a run of a tenth of
the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that need not be installed

import batchqa
from batchqa.machine import cpu_quota
from benchmarks.measuring import HERE, WORK, Process, keep, measured, spread
from benchmarks.mixes import write_mix
from benchmarks.models import tiny_bundle

PERIOD = 10_000
STRETCH = 2 * PERIOD
"""Rows at the start and at the end that are compared."""

ROW_GROUP = 50_000


def main() -> int:
    """Measure, print, write the results; or, with --once, be the process that is measured."""
    options = _options()
    if options.once:
        print(json.dumps(_reports(options.once, options.model, options.threads)))
        return 0
    if not (options.data / "squad-v2.0-dev.json").exists():
        print(f"this needs squad-v2.0-dev.json in {options.data}; set BATCHQA_DATA. No figures were made.")
        return 0
    WORK.mkdir(exist_ok=True)
    model = tiny_bundle(WORK)
    rows = write_mix("squad", options.data, PERIOD, WORK)
    ratios, speeds, growths, peaks = [], [], [], []
    for number in range(options.rounds):
        fewer, more = (
            _measure(_repeated(rows, count), model, options.threads)
            for count in (options.rows // 10, options.rows)
        )
        first, last = _speeds(json.loads(more.lines[-1]))
        ratios.append(last / first)
        speeds.append(options.rows / more.seconds)
        growths.append(more.peak_mib / fewer.peak_mib)
        peaks.append(more.peak_mib)
        print(
            f"round {number + 1}: first {first:.0f}, last {last:.0f} rows/s; {more.peak_mib:.0f} MiB",
            flush=True,
        )
    lines = [
        f"{options.rows:,} rows, {options.threads} threads, {options.rounds} rounds; a tiny model",
        "",
        "| | median (smallest to largest) |",
        "|---|---|",
        f"| last {STRETCH:,} rows / first {STRETCH:,}, rows/s | {spread(ratios, 3)} |",
        f"| peak memory / that of {options.rows // 10:,} rows | {spread(growths, 3)} |",
        f"| rows/s of the whole process | {spread(speeds, 0)} |",
        f"| peak memory of all processes, MiB | {spread(peaks, 0)} |",
    ]
    facts = {"rows": options.rows, "threads": options.threads, "last_to_first": ratios, "memory": growths}
    keep(
        "endurance", options.results, "\n".join(lines), facts | {"rows_per_second": speeds, "peak_mib": peaks}
    )
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=cpu_quota())
    parser.add_argument("--data", type=Path, default=os.environ.get("BATCHQA_DATA", "../shared/data"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _repeated(rows: Path, count: int) -> Path:
    """A Parquet file of `count` rows: those of a JSONL file, again and again, numbered."""
    file = WORK / f"endurance-{count}.parquet"
    if not file.exists():
        read = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
        making = file.with_suffix(".making")
        with pq.ParquetWriter(making, pa.Table.from_pylist(read[:1]).schema) as writer:
            source = islice(enumerate(cycle(read)), count)
            while group := list(islice(source, ROW_GROUP)):
                writer.write_table(
                    pa.Table.from_pylist([_numbered(row, at // len(read)) for at, row in group])
                )
        making.rename(file)
    return file


def _numbered(row: dict[str, str], number: int) -> dict[str, str]:
    added = f" ({number:03})"
    return row | {"context": row["context"] + added, "question": row["question"] + added}


def _measure(rows: Path, model: Path, threads: int) -> Process:
    command = [
        sys.executable,
        __file__,
        "--once",
        str(rows),
        "--model",
        str(model),
        "--threads",
        str(threads),
    ]
    return measured(command)


def _reports(rows: Path, model: Path, threads: int) -> list[tuple[float, int]]:
    """When the job had done how many rows: seconds, rows."""
    reports = []
    with TemporaryDirectory(dir=WORK) as folder:
        batchqa.run(
            str(rows),
            str(Path(folder, "out.parquet")),
            model=str(model),
            device="cpu",
            threads=threads,
            batch_tokens=4096,
            progress=lambda state: reports.append((time.monotonic(), state.rows)),
        )
    return reports


def _speeds(reports: list[tuple[float, int]]) -> tuple[float, float]:
    """Rows per second over the first rows, from the first report on, and over the last ones."""
    begun = [report for report in reports if report[1] > 0]
    since, until = begun[0], begun[-1]
    first = next(report for report in begun if report[1] >= since[1] + STRETCH)
    last = next(report for report in reversed(begun) if report[1] <= until[1] - STRETCH)
    return tuple((b[1] - a[1]) / (b[0] - a[0]) for a, b in ((since, first), (last, until)))  # type: ignore[return-value]


if __name__ == "__main__":
    sys.exit(main())
