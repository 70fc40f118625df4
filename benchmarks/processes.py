"""`make bench-processes`: rows per second of `batchqa run --processes 1, 2, ...` with a tiny model, in turns.

A tiny model costs next to nothing, so that the host is the limit: what more processes gain here is what they
gain where a GPU waits for the host. One process uses more than a core by itself (reading, decoding and the
model overlap), so on two cores a second one gains little; with `--cores-each 1` each process has one core and
no more. To be run on an idle machine. The outputs must be equal. Rows are SQuAD 2.0 dev's, again and again,
each time with other contexts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that need not be installed

import pyarrow as pa
import pyarrow.parquet as pq

from batchqa.machine import cpu_quota
from benchmarks.measuring import HERE, WORK, keep, measured, spread
from benchmarks.models import tiny_bundle


def main() -> int:
    """Measure each number of processes in turns, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--part-rows", type=int, default=5_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=cpu_quota(), help="of all processes together")
    parser.add_argument("--cores-each", type=int, default=0, help="0: all cores for any number of processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=os.environ.get("BATCHQA_DATA", "../shared/data"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    squad = options.data / "squad-v2.0-dev.json"
    if not squad.exists():
        print(f"make bench-processes needs {squad}; set BATCHQA_DATA. No figures were made.")
        return 0
    WORK.mkdir(exist_ok=True)
    rows, model = _rows(squad, options.rows), tiny_bundle(WORK)
    figures: dict[int, list[float]] = {count: [] for count in options.processes}
    answers: list[pa.Table] = []
    for number in range(options.rounds):
        for count in options.processes:
            output = WORK / f"processes-{count}.parquet"
            output.unlink(missing_ok=True)  # or the job is already done
            threads = options.cores_each * count or options.threads
            command = [sys.executable, "-m", "batchqa", "run", str(rows), "-o", str(output), "--overwrite"]
            command += ["--model", str(model), "--device", "cpu", "--batch-tokens", "4096", "--quiet"]
            command += ["--part-rows", str(options.part_rows), "--threads", str(threads)]
            if options.cores_each:
                command = ["taskset", "--cpu-list", f"0-{threads - 1}", *command]
            summary = json.loads(measured([*command, "--processes", str(count)]).lines[-1])
            figures[count].append(summary["rows"] / (summary["seconds"] - summary["startup_seconds"]))
            answers = [*answers[:1], pq.read_table(output)]  # their record says how many threads they had
            if not answers[0].equals(answers[-1]):
                print("the outputs differ")
                return 1
            print(f"round {number + 1}: {count} processes: {figures[count][-1]:,.0f} rows/s", flush=True)
    base = figures[options.processes[0]]
    cores = f"{options.cores_each} for each process" if options.cores_each else f"{options.threads} for all"
    lines = [f"{options.rows:,} rows, parts of {options.part_rows:,}, cores: {cores}, a tiny model.", ""]
    lines += ["| processes | rows/s | gain |", "|---|---|---|"]
    for count, speeds in figures.items():
        gain = statistics.median(a / b for a, b in zip(speeds, base, strict=True))
        lines.append(f"| {count} | {spread(speeds, 0)} | {gain:.2f} |")
    about = {
        "rows": options.rows,
        "part_rows": options.part_rows,
        "threads": options.threads,
        "cores_each": options.cores_each,
    }
    keep("processes", options.results, "\n".join(lines), about | {"rows_per_second": figures})
    return 0


def _rows(squad: Path, count: int) -> Path:
    """A Parquet file of so many rows."""
    file = WORK / f"processes-{count}.parquet.in.parquet"
    pairs = [
        (paragraph["context"], question["question"])
        for article in json.loads(squad.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    contexts = [f"{pairs[n % len(pairs)][0]} {n // len(pairs)}" for n in range(count)]
    questions = [pairs[n % len(pairs)][1] for n in range(count)]
    pq.write_table(pa.table({"context": contexts, "question": questions}), file, row_group_size=10_000)
    return file


if __name__ == "__main__":
    sys.exit(main())
