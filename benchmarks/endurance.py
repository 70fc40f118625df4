"""`make bench-endurance`: does a long run slow down or grow? A million rows with a tiny model.

    python benchmarks/endurance.py [--rows N] [--rounds N] [--threads N] [--part-rows N]

10,000 questions of SQuAD 2.0 dev, again and again, so that the first 20,000 rows and the last are alike; each
time with another number behind context and question, so that no pair is met twice. The model is so small that
reading, tokenizing, decoding and writing are most of the work.

Speed is taken between the job's own reports, without starting and merging. The last rows of a run pay for
the end of a part and the first do not, but nothing is windowed beside them any more; with `--part-rows
20000` both pay for an end. A shared machine's own speed changes within a run, by more than what is looked
for: at each report a fixed piece of work is timed too, and the job's speed is also given in units of that.
Memory is the sum over the job's processes, beside that of a run of a tenth of the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from itertools import cycle, islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that need not be installed

import batchqa
from batchqa.bundle import open_bundle
from batchqa.job import Progress
from batchqa.machine import cpu_quota
from batchqa.settings import OutputSettings
from batchqa.steps.windowing import open_tokenizer
from benchmarks.measuring import HERE, WORK, Process, keep, measured, spread
from benchmarks.mixes import write_mix
from benchmarks.models import tiny_bundle

PERIOD = 10_000
STRETCH = 2 * PERIOD
"""Rows at the start and at the end that are compared."""

ROW_GROUP = 50_000

PIECE = ["Which of the old bridges over the river was closed for repairs in the spring of 1987?"] * 200
"""The fixed piece of work: to tokenize these questions."""


class Report(NamedTuple):
    """What a job had done at one moment, and the CPU time that the fixed piece of work took then."""

    rows: int
    seconds: float
    piece_seconds: float


def main() -> int:
    """Measure, print, write the results; or, with --once, be the process that is measured."""
    options = _options()
    if options.once:
        print(json.dumps(_reports(options.once, options)))
        return 0
    if not (options.data / "squad-v2.0-dev.json").exists():
        print(f"this needs squad-v2.0-dev.json in {options.data}; set BATCHQA_DATA. No figures were made.")
        return 0
    WORK.mkdir(exist_ok=True)
    model = tiny_bundle(WORK)
    rows = write_mix("squad", options.data, PERIOD, WORK)
    figures: dict[str, list[float]] = {}
    curves = []
    for number in range(options.rounds):
        fewer, more = (
            _measure(_repeated(rows, count), model, options) for count in (options.rows // 10, options.rows)
        )
        reports = [Report(*report) for report in json.loads(more.lines[-1]) if report[0] > 0]
        curves.append(_curve(reports))
        found = _speeds(reports) | {
            f"peak memory / that of {options.rows // 10:,} rows": more.peak_mib / fewer.peak_mib,
            "rows/s of the whole process": options.rows / more.seconds,
            "peak memory of all processes, MiB": more.peak_mib,
        }
        for name, value in found.items():
            figures.setdefault(name, []).append(value)
        print(f"round {number + 1}: " + "; ".join(f"{n} {v:.3f}" for n, v in found.items()), flush=True)
    run = f"{options.rows:,} rows, parts of {options.part_rows:,}, {options.threads} threads, a tiny model"
    lines = [
        f"{run}; {options.rounds} rounds",
        "",
        "| | median (smallest to largest) |",
        "|---|---|",
        *(f"| {n} | {spread(values, 3 if max(values) < 100 else 0)} |" for n, values in figures.items()),
    ]
    facts = {"rows": options.rows, "part_rows": options.part_rows, "threads": options.threads}
    keep("endurance", options.results, "\n".join(lines), facts | {"figures": figures, "curves": curves})
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=cpu_quota())
    parser.add_argument("--part-rows", type=int, default=OutputSettings().part_rows)
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


def _measure(rows: Path, model: Path, options: argparse.Namespace) -> Process:
    command = [sys.executable, __file__, "--once", str(rows), "--model", str(model)]
    command += ["--threads", str(options.threads), "--part-rows", str(options.part_rows)]
    return measured(command)


def _reports(rows: Path, options: argparse.Namespace) -> list[Report]:
    """The job's reports of one run."""
    reports = []
    tokenizer = open_tokenizer(open_bundle(options.model).tokenizer)

    def report(state: Progress) -> None:
        since, began = time.monotonic(), time.thread_time()
        for question in PIECE:
            tokenizer.encode(question)
        reports.append(Report(state.rows, since, time.thread_time() - began))

    with TemporaryDirectory(dir=WORK) as folder:
        batchqa.run(
            str(rows),
            str(Path(folder, "out.parquet")),
            model=str(options.model),
            device="cpu",
            threads=options.threads,
            part_rows=options.part_rows,
            batch_tokens=4096,
            progress=report,
        )
    return reports


def _speeds(reports: list[Report]) -> dict[str, float]:
    """The last rows beside the first, and the last fifth beside the first, by the clock and by the piece."""
    speeds = {}
    for rows in (STRETCH, reports[-1].rows // 5):
        first = [r for r in reports if r.rows <= reports[0].rows + rows]
        last = [r for r in reports if r.rows >= reports[-1].rows - rows]
        for name, at_first, at_last in zip(("second", "piece"), _speed(first), _speed(last), strict=True):
            speeds[f"last {rows:,} rows / first {rows:,}, rows per {name}"] = at_last / at_first
    return speeds


def _curve(reports: list[Report]) -> list[list[float]]:
    """Rows per second and per piece of one stretch after the other."""
    ends = range(reports[0].rows, reports[-1].rows + 1, STRETCH)
    stretches = [[r for r in reports if low <= r.rows <= high] for low, high in pairwise(ends)]
    return [[round(speed, 1) for speed in _speed(stretch)] for stretch in stretches]


def _speed(reports: list[Report]) -> tuple[float, float]:
    """Rows per second from the first report to the last, and per median time of the fixed piece of work."""
    since, until = reports[0], reports[-1]
    speed = (until.rows - since.rows) / (until.seconds - since.seconds)
    return speed, speed * statistics.median(report.piece_seconds for report in reports)


if __name__ == "__main__":
    sys.exit(main())
