"""`make bench` and `make bench-full`: batchqa beside its peers, in interleaved rounds. See README.md."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that need not be installed

from batchqa.annotator import BUNDLED
from batchqa.machine import cpu_quota
from benchmarks.chart import draw
from benchmarks.measuring import HERE, WORK, keep, measured, spread
from benchmarks.mixes import MIXES, write_mix
from benchmarks.models import haystack_python, prepare

PEER_BATCHES = (1, 8, 32)
ENGINE_TOKENS = 768
"""Token budget of batchqa and of the bare engines: given, so that all do the same."""

ROWS = {"squad": 600, "scripts": 400, "long": 40, "single": 400}
FEW = 120
"""Rows on which a peer's best batch size is found."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A program to be measured. `batch` 0 is to be found: the best of PEER_BATCHES."""

    name: str
    script: str
    model: Path
    batch: int = 0
    precision: str = "fp32"
    engine: str = "onnxruntime"
    python: str = sys.executable
    kind: str = "peer"


@dataclass(frozen=True, slots=True)
class Run:
    """What one process did: its own rows, seconds and load_seconds, and what it cost as a whole."""

    contender: str
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
            print(f"make bench needs {needed}; set BATCHQA_MODELS and BATCHQA_DATA. No figures were made.")
            return 0
    WORK.mkdir(exist_ok=True)
    contenders = _contenders(checkpoint, full=options.full)
    few = write_mix("squad", options.data, FEW, WORK)
    contenders = [_at_best_batch(contender, few, options.threads) for contender in contenders]
    mixes = MIXES if options.full else MIXES[:1]
    files = {name: write_mix(name, options.data, options.rows or ROWS[name], WORK) for name in mixes}
    runs = []
    for number in range(options.rounds):
        for mix, rows in files.items():
            for contender in contenders:
                runs.append(_run(contender, mix, rows, options.threads, number))
                speed = f"{runs[-1].rows_per_second:.1f} rows/s"
                print(f"round {number + 1}: {mix}: {contender.name}: {speed}", flush=True)
    table = "\n\n".join(
        [
            f"{options.threads} threads, {options.rounds} rounds",
            *(f"### {mix}\n\n{_table(contenders, [run for run in runs if run.mix == mix])}" for mix in mixes),
        ]
    )
    facts = {
        "threads": options.threads,
        "contenders": [
            asdict(c) | {"model": c.model.name, "python": Path(c.python).name} for c in contenders
        ],
        "runs": [asdict(run) for run in runs],
    }
    name = keep("full" if options.full else "cpu", options.results, table, facts)
    draw(
        [(c.name, c.kind, _median(runs, c.name, "squad")) for c in contenders],
        name.with_suffix(".svg"),
        f"SQuAD 2.0 dev, {options.threads} CPU threads",
    )
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all mixes and contenders")
    parser.add_argument("--rows", type=int, help="of each mix")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cpu_quota())
    parser.add_argument("--data", type=Path, default=os.environ.get("BATCHQA_DATA", "../shared/data"))
    parser.add_argument("--models", type=Path, default=os.environ.get("BATCHQA_MODELS", "../shared/models"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    return parser.parse_args()


def _contenders(checkpoint: Path, *, full: bool) -> list[Contender]:
    """Batchqa first: the others are compared with it."""
    models = prepare(checkpoint, WORK)
    found = [
        Contender(
            "batchqa int8, onnxruntime", "batchqa_run.py", BUNDLED, ENGINE_TOKENS, "int8", kind="batchqa"
        ),
        Contender("bare onnxruntime, same int8", "bare_engine.py", BUNDLED, ENGINE_TOKENS, kind="limit"),
        Contender("transformers pipeline fp32", "transformers_pipeline.py", checkpoint),
        Contender("optimum pipeline fp32", "optimum_pipeline.py", models.optimum_fp32),
        Contender("optimum pipeline int8 (dynamic)", "optimum_pipeline.py", models.optimum_int8),
    ]
    if models.openvino:
        fp32 = models.fp32_bundle
        found += [
            Contender(
                "batchqa fp32, OpenVINO",
                "batchqa_run.py",
                fp32,
                ENGINE_TOKENS,
                "fp32",
                "openvino",
                kind="batchqa",
            ),
            Contender(
                "bare OpenVINO bf16", "bare_engine.py", fp32, ENGINE_TOKENS, "bf16", "openvino", kind="limit"
            ),
        ]
    if full:
        found += [
            Contender(
                "batchqa fp32, onnxruntime",
                "batchqa_run.py",
                models.fp32_bundle,
                ENGINE_TOKENS,
                kind="batchqa",
            ),
            Contender("transformers pipeline bf16", "transformers_pipeline.py", checkpoint, precision="bf16"),
            Contender("sorted PyTorch loop fp32", "sorted_torch.py", checkpoint),
            Contender("sorted PyTorch loop bf16", "sorted_torch.py", checkpoint, precision="bf16"),
            Contender("Haystack reader fp32", "haystack_reader.py", checkpoint, python=haystack_python(WORK)),
        ]
    return found


def _at_best_batch(contender: Contender, rows: Path, threads: int) -> Contender:
    if contender.batch:
        return contender
    candidates = [replace(contender, batch=batch) for batch in PEER_BATCHES]
    best = max(candidates, key=lambda candidate: _run(candidate, "", rows, threads, -1).rows_per_second)
    print(f"{best.name}: best batch {best.batch}", flush=True)
    return best


def _run(contender: Contender, mix: str, rows: Path, threads: int, number: int) -> Run:
    command = [contender.python, str(HERE / "contenders" / contender.script), "--rows", str(rows)]
    command += ["--model", str(contender.model), "--batch", str(contender.batch), "--threads", str(threads)]
    command += ["--precision", contender.precision, "--engine", contender.engine]
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
        mix=mix,
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
        f"| | batch | rows/s | {contenders[0].name} / this | whole process, s | CPU, s | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for contender in contenders:
        own = [run for run in runs if run.contender == contender.name]
        ratios = [mine.rows_per_second / run.rows_per_second for mine, run in zip(first, own, strict=True)]
        cells = [
            contender.name,
            str(contender.batch),
            spread([run.rows_per_second for run in own], 1),
            spread(ratios, 2),
            f"{statistics.median(run.process_seconds for run in own):.1f}",
            f"{statistics.median(run.cpu_seconds for run in own):.1f}",
            f"{max(run.peak_mib for run in own):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _median(runs: list[Run], name: str, mix: str) -> float:
    return statistics.median(run.rows_per_second for run in runs if (run.contender, run.mix) == (name, mix))


if __name__ == "__main__":
    sys.exit(main())
