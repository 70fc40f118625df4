"""`make bench-scoring`: a million predictions scored, beside the official algorithm in plain Python.

SQuAD 2.0 dev is annotated once by the package's model (kept in .bench), and its rows are repeated. Both
programs read the same file; they must find the same figures and thresholds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that need not be installed

from benchmarks.measuring import HERE, WORK, Process, keep, measured, spread

BATCHQA = (sys.executable, "-m", "batchqa")
FIGURES = ("exact", "f1", "total", "best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh")


def main() -> int:
    """Measure both in turns, compare what they found, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=os.environ.get("BATCHQA_DATA", "../shared/data"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    squad = options.data / "squad-v2.0-dev.json"
    if not squad.exists():
        print(f"make bench-scoring needs {squad}; set BATCHQA_DATA. No figures were made.")
        return 0
    file = _repeated(_annotated(squad), options.rows)
    command = [*BATCHQA, "evaluate", str(file), "--json", "--quiet"]
    plain = [sys.executable, str(HERE / "plain_scoring.py"), str(file)]
    ours: list[Process] = []
    theirs: list[Process] = []
    for number in range(options.rounds):
        ours.append(measured(command))
        theirs.append(measured(plain))
        print(f"round {number + 1}: {ours[-1].seconds:.1f} s, {theirs[-1].seconds:.1f} s", flush=True)
    found, expected = json.loads(ours[-1].lines[-1]), json.loads(theirs[-1].lines[-1])
    for name in FIGURES:
        if not math.isclose(found[name], expected[name], rel_tol=1e-9, abs_tol=1e-9):
            raise SystemExit(f"{name} is {found[name]} here and {expected[name]} there")
    rows = pq.read_metadata(file).num_rows
    table = _table(rows, ours, theirs)
    facts = {
        "rows": rows,
        "figures": {name: found[name] for name in FIGURES},
        "evaluate": [[p.seconds, p.cpu_seconds, p.peak_mib] for p in ours],
        "plain_python": [[p.seconds, p.cpu_seconds, p.peak_mib] for p in theirs],
        "columns": ["seconds", "cpu_seconds", "peak_mib"],
    }
    keep("scoring", options.results, table, facts)
    return 0


def _annotated(squad: Path) -> Path:
    out = WORK / "dev.parquet"
    WORK.mkdir(exist_ok=True)
    measured(
        [*BATCHQA, "run", str(squad), "-o", str(out), "--top-k", "1", "--batch-tokens", "768", "--quiet"]
    )
    return out


def _repeated(annotated: Path, rows: int) -> Path:
    """At least `rows` rows: the annotated file again and again."""
    out = WORK / f"predictions-{rows}.parquet"
    if not out.exists():
        table = pq.read_table(annotated)
        with pq.ParquetWriter(out.with_suffix(".tmp"), table.schema, compression="zstd") as writer:
            for _ in range(-(-rows // len(table))):
                writer.write_table(table)
        out.with_suffix(".tmp").rename(out)
    return out


def _table(rows: int, ours: list[Process], theirs: list[Process]) -> str:
    def cells(name: str, runs: list[Process]) -> str:
        seconds = spread([run.seconds for run in runs], 1)
        cpu = spread([run.cpu_seconds for run in runs], 1)
        return f"| {name} | {seconds} | {cpu} | {max(run.peak_mib for run in runs):.0f} |"

    ratios = [their.seconds / our.seconds for our, their in zip(ours, theirs, strict=True)]
    told = (
        f"{rows:,} predictions, the whole process each time: figures, best thresholds, intervals and "
        f"calibration by `evaluate`; figures and best thresholds alone in plain Python, which takes "
        f"{spread(ratios, 1)} times as long."
    )
    return "\n".join(
        [
            told,
            "",
            "| | seconds | CPU seconds | peak MiB |",
            "|---|---|---|---|",
            cells("batchqa evaluate", ours),
            cells("the official algorithm in plain Python", theirs),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
