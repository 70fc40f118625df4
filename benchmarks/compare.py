"""`make bench`: batchqa beside its peers, in interleaved rounds. See README.md in this folder."""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that need not be installed

from batchqa.annotator import BUNDLED
from batchqa.machine import cpu_quota
from benchmarks.measuring import HERE, WORK, keep, measured, spread
from benchmarks.models import prepare

PEER_BATCHES = (1, 8, 32)
ENGINE_TOKENS = 768
"""Token budget of batchqa and of the bare engine: given, so that both do the same."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A program to be measured. `batch` 0 is to be found: the best of PEER_BATCHES."""

    name: str
    script: str
    model: Path
    batch: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """What one process did: its own rows, seconds and load_seconds, and what it cost as a whole."""

    contender: str
    round: int
    rows: int
    seconds: float
    load_seconds: float
    process_seconds: float
    cpu_seconds: float
    peak_mib: float

    @property
    def rows_per_second(self) -> float:
        """After loading."""
        return self.rows / self.seconds


def main() -> int:
    """Measure, print the table, write the results."""
    options = _options()
    checkpoint = options.models / "minilm-l6-squad"
    squad = options.data / "squad-v2.0-dev.json"
    for needed in (checkpoint, squad):
        if not needed.exists():
            print(f"make bench needs {needed}; set BATCHQA_MODELS and BATCHQA_DATA. No figures were made.")
            return 0
    WORK.mkdir(exist_ok=True)
    rows = _sample(squad, options.rows, WORK / f"rows-{options.rows}.jsonl")
    models = prepare(checkpoint, WORK)
    contenders = [
        Contender("batchqa, default bundle", "batchqa_run.py", BUNDLED, ENGINE_TOKENS),
        Contender("bare engine, same file", "bare_engine.py", BUNDLED, ENGINE_TOKENS),
        Contender("transformers pipeline fp32", "transformers_pipeline.py", checkpoint),
        Contender("optimum pipeline fp32", "optimum_pipeline.py", models.optimum_fp32),
        Contender("optimum pipeline int8 (dynamic)", "optimum_pipeline.py", models.optimum_int8),
    ]
    few = _sample(squad, min(options.rows, 150), WORK / "rows-few.jsonl")
    contenders = [_at_best_batch(contender, few, options.threads) for contender in contenders]
    runs = []
    for number in range(options.rounds):
        for contender in contenders:
            runs.append(_run(contender, rows, options.threads, number))
            print(f"round {number + 1}: {contender.name}: {runs[-1].rows_per_second:.1f} rows/s", flush=True)
    table = f"{options.threads} threads, {options.rows} rows, {options.rounds} rounds\n\n" + _table(
        contenders, runs
    )
    facts = {
        "threads": options.threads,
        "rows": options.rows,
        "contenders": [asdict(c) | {"model": c.model.name} for c in contenders],
        "runs": [asdict(run) for run in runs],
    }
    keep("cpu", options.results, table, facts)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cpu_quota())
    parser.add_argument("--data", type=Path, default=os.environ.get("BATCHQA_DATA", "../shared/data"))
    parser.add_argument("--models", type=Path, default=os.environ.get("BATCHQA_MODELS", "../shared/models"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    return parser.parse_args()


def _sample(squad: Path, count: int, file: Path) -> Path:
    """Consecutive questions of random paragraphs, as a user's file has them."""
    articles = json.loads(squad.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    random.Random(0).shuffle(paragraphs)
    rows = [
        {"id": question["id"], "context": paragraph["context"], "question": question["question"]}
        for paragraph in paragraphs
        for question in paragraph["qas"]
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:count]), encoding="utf-8")
    return file


def _at_best_batch(contender: Contender, rows: Path, threads: int) -> Contender:
    if contender.batch:
        return contender
    candidates = [
        Contender(contender.name, contender.script, contender.model, batch) for batch in PEER_BATCHES
    ]
    best = max(candidates, key=lambda candidate: _run(candidate, rows, threads, -1).rows_per_second)
    print(f"{best.name}: best batch {best.batch}", flush=True)
    return best


def _run(contender: Contender, rows: Path, threads: int, number: int) -> Run:
    command = [sys.executable, str(HERE / "contenders" / contender.script), "--rows", str(rows)]
    command += ["--model", str(contender.model), "--batch", str(contender.batch), "--threads", str(threads)]
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    process = measured(command, environment)
    return Run(
        contender=contender.name,
        round=number,
        **json.loads(process.lines[-1]),
        process_seconds=process.seconds,
        cpu_seconds=process.cpu_seconds,
        peak_mib=process.peak_mib,
    )


def _table(contenders: list[Contender], runs: list[Run]) -> str:
    """Rows per second, and the first contender's ratio to each other one: median (smallest to largest)."""
    first = [run for run in runs if run.contender == contenders[0].name]
    lines = [
        "| | batch | rows/s | batchqa / this | whole process, s | CPU, s |",
        "|---|---|---|---|---|---|",
    ]
    for contender in contenders:
        own = [run for run in runs if run.contender == contender.name]
        speeds = [run.rows_per_second for run in own]
        ratios = [mine.rows_per_second / run.rows_per_second for mine, run in zip(first, own, strict=True)]
        cells = [
            contender.name,
            str(contender.batch),
            spread(speeds, 1),
            spread(ratios, 2),
            f"{statistics.median(run.process_seconds for run in own):.1f}",
            f"{statistics.median(run.cpu_seconds for run in own):.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
