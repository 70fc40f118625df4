"""`make bench`, `bench-full`, `bench-gpu`: batchqa beside its peers, in interleaved rounds. See README.md."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that need not be installed

from batchqa.engines import cuda_is_available
from batchqa.machine import cpu_quota
from benchmarks.chart import draw
from benchmarks.lineup import Contender, all_on_cpu, on_cpu, on_gpu
from benchmarks.measuring import HERE, WORK, keep, measured, spread
from benchmarks.mixes import MIXES, write_mix
from benchmarks.quality import Quality, quality

PEER_BATCHES = (1, 8, 32)
"""Rows that a peer takes at once. It runs with each in every round, and the best for a mix counts: found in
fewer rows or rounds, it would be chance's choice, or that of other rows."""

ROWS = {"squad": 600, "scripts": 400, "long": 40, "single": 400}
TITLES = {
    "squad": "SQuAD 2.0 dev",
    "scripts": "XQuAD in four scripts",
    "long": "Contexts of 2,000 words",
    "single": "A context for each question",
}
GPU_ROWS = 11_873


@dataclass(frozen=True, slots=True)
class Run:
    """What one process did: its own rows, seconds and load_seconds, and what it cost as a whole.

    `peak_mib` is the sum over its processes.
    """

    contender: str
    batch: int
    mix: str
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
            print(f"this needs {needed}; set BATCHQA_MODELS and BATCHQA_DATA. No figures were made.")
            return 0
    if options.lineup == "gpu" and not cuda_is_available():
        print("bench-gpu needs a CUDA device, its driver and `batchqa[cuda,export]`. No figures were made.")
        return 0
    WORK.mkdir(exist_ok=True)
    lineup = {"cpu": on_cpu, "full": all_on_cpu, "gpu": on_gpu}[options.lineup]
    wanted = [c for c in lineup(checkpoint, WORK) if not options.only or c.name in options.only]
    contenders = [sized for contender in wanted for sized in _at_each_batch(contender)]
    mixes = options.mixes or (MIXES if options.lineup == "full" else MIXES[:1])
    counts = dict.fromkeys(mixes, GPU_ROWS) if options.lineup == "gpu" else ROWS
    files = {name: write_mix(name, options.data, options.rows or counts[name], WORK) for name in mixes}
    runs = []
    for number in range(options.rounds):
        for mix, rows in files.items():
            for contender in contenders:
                runs.append(_run(contender, mix, rows, options.threads, number))
                speed = f"{runs[-1].rows_per_second:.1f} rows/s"
                print(f"round {number + 1}: {mix}: {contender.name}, {contender.batch}: {speed}", flush=True)
    qualities = {}
    for contender in wanted if options.quality or options.lineup == "full" else []:
        if contender.kind == "batchqa":
            qualities[contender.name] = quality(contender, squad, options.threads)
            print(f"{contender.name}: {qualities[contender.name]}", flush=True)
    tables = [
        f"### {mix}\n\n{_table(_at_best_batch(contenders, runs, mix), runs, mix, qualities)}" for mix in mixes
    ]
    head = f"{options.threads} threads, {options.rounds} rounds"
    facts = {
        "threads": options.threads,
        "contenders": [
            asdict(c) | {"model": c.model.name, "python": Path(c.python).name} for c in contenders
        ],
        "runs": [asdict(run) for run in runs],
        "squad_2_dev": {name: asdict(found) for name, found in qualities.items()},
    }
    name = keep(options.lineup, options.results, "\n\n".join([head, *tables]), facts)
    draw(
        [(c.name, c.kind, _median(runs, c, mixes[0])) for c in _at_best_batch(contenders, runs, mixes[0])],
        name.with_suffix(".svg"),
        f"{TITLES[mixes[0]]}, {head}",
    )
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lineup", choices=["cpu", "full", "gpu"], default="cpu")
    parser.add_argument("--only", nargs="+", help="contenders by name: fewer, so that rounds are closer")
    parser.add_argument("--quality", action="store_true", help="F1 on all of SQuAD 2.0 dev, for batchqa")
    parser.add_argument("--rows", type=int, help="of each mix")
    parser.add_argument("--mixes", nargs="+", choices=MIXES, help="of rows; squad alone, or all in `full`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cpu_quota())
    parser.add_argument("--data", type=Path, default=os.environ.get("BATCHQA_DATA", "../shared/data"))
    parser.add_argument("--models", type=Path, default=os.environ.get("BATCHQA_MODELS", "../shared/models"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    return parser.parse_args()


def _at_each_batch(contender: Contender) -> list[Contender]:
    """The contender with each of the peers' batch sizes, or with its own alone."""
    return [contender] if contender.batch else [replace(contender, batch=batch) for batch in PEER_BATCHES]


def _at_best_batch(contenders: list[Contender], runs: list[Run], mix: str) -> list[Contender]:
    """Of each name the one that was fastest on a mix, in the same order."""
    best: dict[str, Contender] = {}
    for contender in contenders:
        other = best.get(contender.name)
        if other is None or _median(runs, contender, mix) > _median(runs, other, mix):
            best[contender.name] = contender
    return list(best.values())


def _run(contender: Contender, mix: str, rows: Path, threads: int, number: int) -> Run:
    command = [contender.python, str(HERE / "contenders" / contender.script), "--rows", str(rows)]
    command += ["--model", str(contender.model), "--batch", str(contender.batch), "--threads", str(threads)]
    command += ["--precision", contender.precision, "--engine", contender.engine]
    command += ["--device", contender.device]
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "PYTHONWARNINGS": "ignore",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    process = measured(command, environment)
    return Run(
        contender=contender.name,
        batch=contender.batch,
        mix=mix,
        round=number,
        **json.loads(process.lines[-1]),
        process_seconds=process.seconds,
        cpu_seconds=process.cpu_seconds,
        peak_mib=process.peak_mib,
    )


def _table(contenders: list[Contender], runs: list[Run], mix: str, qualities: Mapping[str, Quality]) -> str:
    """Rows per second, and each form of batchqa as a multiple of them: median (smallest to largest).

    F1 is that of `qualities`, as far as it was looked at.
    """
    own = {contender.name: _of(runs, contender, mix) for contender in contenders}
    speeds = {name: [run.rows_per_second for run in of_it] for name, of_it in own.items()}
    leaders = [contender.name for contender in contenders if contender.kind == "batchqa"]
    ratios = " | ".join(f"{leader} / this" for leader in leaders)
    lines = [
        f"| | batch | rows/s | {ratios} | whole process, s | CPU, s | peak MiB | F1 |",
        "|---|---|---|" + "---|" * len(leaders) + "---|---|---|---|",
    ]
    for contender in contenders:
        name = contender.name
        cells = [
            name,
            str(contender.batch),
            spread(speeds[name], 1),
            *(
                ""
                if leader == name
                else spread([a / b for a, b in zip(speeds[leader], speeds[name], strict=True)], 2)
                for leader in leaders
            ),
            f"{statistics.median(run.process_seconds for run in own[name]):.1f}",
            f"{statistics.median(run.cpu_seconds for run in own[name]):.1f}",
            f"{max(run.peak_mib for run in own[name]):.0f}",
            f"{qualities[name].f1:.2f}" if name in qualities else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _of(runs: list[Run], contender: Contender, mix: str) -> list[Run]:
    """A contender's runs on a mix, round after round."""
    wanted = (contender.name, contender.batch, mix)
    return [run for run in runs if (run.contender, run.batch, run.mix) == wanted]


def _median(runs: list[Run], contender: Contender, mix: str) -> float:
    return statistics.median(run.rows_per_second for run in _of(runs, contender, mix))


if __name__ == "__main__":
    sys.exit(main())
