"""`make bench-host`: what a row costs besides the model, in CPU microseconds, step by step.

It runs as in a job, over a file, with a scorer that returns ready logits, so that nothing waits for an
engine. Two mixes of SQuAD 2.0 dev: as it is, some ten questions to a context; and one question to a context.
The tokenizer's part of windowing is measured where it stands: the time within its library's calls, of the
tokenizer as it is and of its form for plain texts. What the whole tokenizer would take for all of them stands
beside it.
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

from batchqa.bundle import BUNDLED, open_bundle
from batchqa.output import Target, open_output
from batchqa.records import Cursor
from batchqa.settings import ReadingSettings, WindowSettings
from batchqa.steps.asking import Questions, asked, whole
from batchqa.steps.batching import padded_batches
from batchqa.steps.chunking import CHUNK_ROWS, chunks
from batchqa.steps.decoding import Decoder, DecodingRules
from batchqa.steps.pairing import AnswerCache, answered_rows, pairs_of
from batchqa.steps.reading import open_source
from batchqa.steps.scoring import score_batch
from batchqa.steps.windowing import Windower, open_tokenizer
from batchqa.steps.writing import output_batches, output_schema
from benchmarks.measuring import HERE, WORK, keep, spread

T = TypeVar("T")

STEPS = ("reading", "tokenizer", "windowing", "batching", "scoring", "decoding", "writing", "commit")
BUDGET = 16_384
"""Tokens of a batch, as a GPU takes them."""

ALONE = "the tokenizer as it is, for all texts, and letting go of its results"

ROWS = 11_873
PART_ROWS = 100_000


class ReadyScorer:
    """Logits that are there already: nothing is computed."""

    engine = "none"
    at_once = 1
    device = "cpu"
    budget = BUDGET
    length_bucket = 16

    def __init__(self) -> None:
        self._logits = np.random.default_rng(0).normal(size=(1024, 512)).astype(np.float32)

    def score(self, input_ids: Any, *_: Any) -> tuple[Any, Any]:
        """A piece of random logits of the batch's shape."""
        windows, tokens = input_ids.shape
        piece = self._logits[:windows, :tokens]
        return piece, piece

    def close(self) -> None:
        """There is nothing to end."""


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


class TimedTokenizer:
    """A tokenizer whose encoding is clocked as a step of its own; for the rest it is the tokenizer."""

    def __init__(self, tokenizer: Any, clock: Clock) -> None:
        self._tokenizer = tokenizer
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode_batch(self, texts: list[str], **options: Any) -> Any:
        """The library's, clocked."""
        return self._timed(self._tokenizer.encode_batch, texts, options)

    def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
        """The library's, clocked."""
        return self._timed(self._tokenizer.encode_batch_fast, texts, options)

    def _timed(self, encode: Any, texts: list[str], options: dict[str, Any]) -> Any:
        began = time.process_time()
        encodings = encode(texts, **options)
        self._clock.seconds["tokenizer"] += time.process_time() - began
        return encodings


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
            seconds = pipeline(file)
            runs[name].append({step: 1e6 * seconds[step] / ROWS for step in STEPS} | {ALONE: _alone(file)})
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


def pipeline(file: Path, questions: Questions | None = None) -> dict[str, float]:
    """The pipeline over a file of one part, step by step; CPU seconds. `questions` are asked of each row."""
    bundle, clock = open_bundle(BUNDLED), Clock()
    tokenizer = open_tokenizer(bundle.tokenizer)
    windower = Windower(tokenizer, bundle.manifest.layout, WindowSettings(), 384)
    for holder in (windower.encoder, windower.encoder.plain):
        holder.tokenizer = TimedTokenizer(holder.tokenizer, clock)  # type: ignore[union-attr, assignment]
    scorer, decoder, cache = ReadyScorer(), Decoder(DecodingRules(30, 0.0, True, 0)), AnswerCache()
    settings, wide = ReadingSettings(), questions.wide_names if questions else None
    source = open_source([str(file)], questions.reading(settings) if questions else settings)
    schema = output_schema(source.schema, "qa_", 0, wide=wide, asked=questions is not None)
    rows = clock.each("reading", iter(source.read()))
    cut = asked(chunks(rows, PART_ROWS, questions=len(questions) if questions else 1), questions)
    pairs = clock.each("pairing", (pairs_of(chunk, cache) for chunk in cut))
    windows = clock.each("windowing", (windower.windows(each) for each in pairs))
    batches = clock.each("batching", (b for w in windows for b in padded_batches(w, BUDGET)))
    scored = clock.each("scoring", (score_batch(scorer, batch) for batch in batches))
    decoded = clock.each("decoding", (a for s in scored if (a := decoder.add(s)) is not None))
    answered = clock.each("answered rows", whole(answered_rows(answers, cache) for answers in decoded))
    tables = ((a, b) for a in answered for b in output_batches(a, schema, wide=wide is not None))
    written = clock.each("writing", tables)
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
        part = commit.part(0)
        end, rows_out = Cursor(), 0
        for piece, batch in written:
            began = time.process_time()
            part.write(batch)
            rows_out += len(batch)
            end = piece.chunk.rows.cursor_after(len(piece.chunk.rows))
            clock.seconds["commit"] += time.process_time() - began
        began = time.process_time()
        records = pq.read_metadata(file).num_rows
        part.commit(records, end, errors={}, counts={}, versions={}, device="cpu", rows_out=rows_out)
        commit.publish({})
        clock.seconds["commit"] += time.process_time() - began
    return _own_times(clock.seconds)


def _alone(file: Path) -> float:
    """What the library's tokenizer takes for a chunk's distinct texts; microseconds a row."""
    tokenizer = open_tokenizer(open_bundle(BUNDLED).tokenizer)
    table = pq.read_table(file)
    seconds = 0.0
    for at in range(0, len(table), CHUNK_ROWS):
        contexts, questions = (
            table[name].slice(at, CHUNK_ROWS).unique().to_pylist() for name in ("context", "question")
        )
        began = time.process_time()
        tokenizer.encode_batch(contexts, add_special_tokens=False)
        tokenizer.encode_batch_fast(questions, add_special_tokens=False)
        seconds += time.process_time() - began
    return 1e6 * seconds / len(table)


def _own_times(seconds: dict[str, float]) -> dict[str, float]:
    """Each step's own time: a step's clock runs while the steps before it work for it."""
    nested = [seconds[step] for step in STEPS if step not in ("tokenizer", "commit")]
    own = [later - earlier for earlier, later in zip([0.0, *nested], nested, strict=False)]
    reading, windowing, *rest = own
    tokenizer = seconds["tokenizer"]
    own = [reading, tokenizer, windowing - tokenizer, *rest, seconds["commit"]]
    return dict(zip(STEPS, own, strict=True))


def _table(runs: dict[str, list[dict[str, float]]]) -> str:
    lines = [
        "CPU microseconds a row on one core, median (smallest to largest).",
        "",
        "| | " + " | ".join(runs) + " |",
        "|---|" + "---|" * len(runs),
    ]
    for step in (*STEPS, ALONE):
        cells = [spread([run[step] for run in rounds], 1) for rounds in runs.values()]
        lines.append(f"| {step} | " + " | ".join(cells) + " |")
    totals = {name: [sum(run[step] for step in STEPS) for run in rounds] for name, rounds in runs.items()}
    lines.append(
        "| **whole pipeline** | " + " | ".join(spread(values, 1) for values in totals.values()) + " |"
    )
    rest = {
        name: [total - run["tokenizer"] for total, run in zip(totals[name], rounds, strict=True)]
        for name, rounds in runs.items()
    }
    cells = [spread(values, 1) for values in rest.values()]
    lines.append("| **without the tokenizer** | " + " | ".join(cells) + " |")
    slowest = {
        name: max(set(STEPS) - {"tokenizer"}, key=lambda step: statistics.median(run[step] for run in rounds))
        for name, rounds in runs.items()
    }
    lines += [
        "",
        "Largest step of ours: " + "; ".join(f"{name}: {step}" for name, step in slowest.items()) + ".",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
