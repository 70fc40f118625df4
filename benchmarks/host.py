"""`make bench-host`: what a row costs besides the model, in CPU microseconds, step by step.

The road runs as in a job, over a file, with a scorer that returns ready logits, so that nothing waits for an
engine. Two mixes of SQuAD 2.0 dev: as it is, some ten questions to a context; and one question to a context.
The tokenizer alone is measured beside it: the same texts through the same library, nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that need not be installed

from batchqa.annotator import BUNDLED
from batchqa.bundle import open_bundle
from batchqa.commit import Target, open_output
from batchqa.settings import ReadingSettings, WindowSettings
from batchqa.steps.batching import padded_batches
from batchqa.steps.chunking import chunks
from batchqa.steps.decoding import Decoder, DecodingRules
from batchqa.steps.inference import score_batch
from batchqa.steps.reading import open_source
from batchqa.steps.windowing import Windower, open_tokenizer
from batchqa.steps.writing import output_batch, output_schema
from benchmarks.measuring import HERE, WORK, keep, spread

T = TypeVar("T")

STEPS = ("reading", "windowing", "batching", "scoring", "decoding", "writing", "commit")
BUDGET = 16_384
"""Tokens of a batch, as a GPU takes them."""

ROWS = 11_873
PART_ROWS = 100_000


class ReadyScorer:
    """Logits that are there already: nothing is computed."""

    engine = "none"
    unpadded = False
    device = "cpu"

    def __init__(self) -> None:
        self._logits = np.random.default_rng(0).normal(size=(1024, 512)).astype(np.float32)

    def score(self, input_ids: Any, *_: Any) -> tuple[Any, Any]:
        """A piece of random logits of the batch's shape."""
        windows, tokens = input_ids.shape
        piece = self._logits[:windows, :tokens]
        return piece, piece


class Clock:
    """CPU seconds of the process by step: only one thread works at a time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def each(self, step: str, items: Iterator[T]) -> Iterator[T]:
        """The items; the time that making them takes is the step's."""
        while True:
            began = time.process_time()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.seconds[step] += time.process_time() - began
            yield item


def main() -> int:
    """Measure both mixes, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=os.environ.get("BATCHQA_DATA", "../shared/data"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    squad = options.data / "squad-v2.0-dev.json"
    if not squad.exists():
        print(f"make bench-host needs {squad}; set BATCHQA_DATA. No figures were made.")
        return 0
    WORK.mkdir(exist_ok=True)
    os.environ["RAYON_NUM_THREADS"] = "1"  # CPU time of one thread is what is counted
    mixes = {"about 10 questions to a context": _mix(squad, 10), "one question to a context": _mix(squad, 1)}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in mixes}
    for number in range(options.rounds):
        for name, file in mixes.items():
            runs[name].append(_tokenizer_alone(file) | _road(file))
            total = sum(runs[name][-1][step] for step in STEPS)
            print(f"round {number + 1}: {name}: {total:.0f} microseconds a row", flush=True)
    keep("host", options.results, _table(runs), {"rows": ROWS, "microseconds_per_row": runs})
    return 0


def _mix(squad: Path, questions: int) -> Path:
    """A Parquet file of ROWS rows with so many questions to a context (10: as SQuAD has them)."""
    file = WORK / f"host-{questions}.parquet"
    contexts, asked = [], []
    for article in json.loads(squad.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                number = f" {len(asked)}" if questions == 1 else ""
                contexts.append(paragraph["context"] + number)
                asked.append(question["question"])
    pq.write_table(pa.table({"context": contexts, "question": asked}), file)
    return file


def _tokenizer_alone(file: Path) -> dict[str, float]:
    """Each distinct context (with offsets) and question once through the tokenizer; microseconds a row."""
    tokenizer = open_tokenizer(open_bundle(BUNDLED).tokenizer)
    table = pq.read_table(file)
    contexts, questions = (table[name].unique().to_pylist() for name in ("context", "question"))
    began = time.process_time()
    for at in range(0, len(contexts), 1000):
        tokenizer.encode_batch(contexts[at : at + 1000], add_special_tokens=False)
    for at in range(0, len(questions), 1000):
        tokenizer.encode_batch_fast(questions[at : at + 1000], add_special_tokens=False)
    return {"tokenizer alone": 1e6 * (time.process_time() - began) / len(table)}


def _road(file: Path) -> dict[str, float]:
    """The road over a file, step by step; microseconds a row."""
    bundle, clock = open_bundle(BUNDLED), Clock()
    windower = Windower(open_tokenizer(bundle.tokenizer), bundle.manifest.layout, WindowSettings(), 384)
    scorer, decoder = ReadyScorer(), Decoder(DecodingRules(30, 0.0, True, 0))
    source = open_source([str(file)], ReadingSettings())
    schema = output_schema(source.schema, "qa_", 0)
    rows = clock.each("reading", iter(source.read()))
    windows = clock.each("windowing", (windower.windows(chunk) for chunk in chunks(rows, PART_ROWS)))
    batches = clock.each("batching", (b for w in windows for b in padded_batches(w, BUDGET)))
    scored = clock.each("scoring", (score_batch(scorer, batch) for batch in batches))
    answered = clock.each("decoding", (a for s in scored if (a := decoder.add(s)) is not None))
    written = clock.each("writing", ((a, output_batch(a, schema)) for a in answered))
    target = Target.parse(str(WORK / "host-out.parquet"))
    with open_output(
        target,
        fields={"benchmark": time.time_ns()},
        schema=schema,
        part_rows=PART_ROWS,
        compression="zstd",
        overwrite=True,
        restart=True,
    ) as commit:
        commit.begin({})
        part = None
        for piece, batch in written:
            began = time.process_time()
            part = part or commit.part(piece.chunk.part)
            part.write(batch)
            if piece.chunk.last_of_part:
                end = piece.chunk.rows.cursor_after(len(piece.chunk.rows))
                part.commit(ROWS, end, errors={}, counts={}, versions={}, device="cpu")
            clock.seconds["commit"] += time.process_time() - began
        began = time.process_time()
        commit.publish({})
        clock.seconds["commit"] += time.process_time() - began
    return _own_times(clock.seconds)


def _own_times(seconds: dict[str, float]) -> dict[str, float]:
    """Each step's own time: a step's clock runs while the steps before it work for it."""
    nested = [seconds[step] for step in STEPS[:-1]]
    own = [later - earlier for earlier, later in zip([0.0, *nested], nested, strict=False)]
    times = dict(zip(STEPS, [*own, seconds["commit"]], strict=True))
    return {step: 1e6 * value / ROWS for step, value in times.items()}


def _table(runs: dict[str, list[dict[str, float]]]) -> str:
    lines = [
        "CPU microseconds a row on one core, median (smallest to largest). Windowing holds the tokenizer.",
        "",
        "| | " + " | ".join(runs) + " |",
        "|---|" + "---|" * len(runs),
    ]
    for step in ("tokenizer alone", *STEPS):
        cells = [spread([run[step] for run in rounds], 1) for rounds in runs.values()]
        lines.append(f"| {step} | " + " | ".join(cells) + " |")
    totals = {name: [sum(run[step] for step in STEPS) for run in rounds] for name, rounds in runs.items()}
    lines.append("| **whole road** | " + " | ".join(spread(values, 1) for values in totals.values()) + " |")
    rest = [
        spread([total - run["tokenizer alone"] for total, run in zip(totals[name], rounds, strict=True)], 1)
        for name, rounds in runs.items()
    ]
    lines.append("| **without the tokenizer** | " + " | ".join(rest) + " |")
    slowest = {
        name: max(STEPS, key=lambda step: statistics.median(run[step] for run in rounds))
        for name, rounds in runs.items()
    }
    lines += ["", "Largest step: " + "; ".join(f"{name}: {step}" for name, step in slowest.items()) + "."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
