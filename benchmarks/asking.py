"""What a question costs besides the model where documents are asked many, in CPU microseconds.

The same documents and questions four ways: crossed by hand (a file with a row for each document and
question), document by document and question by question, and asked by the job, in the long and in the wide
layout. Beside them the documents with a single question each: what a question costs where nothing is shared.
A job remembers 64 MiB of tokenized contexts (some 3,500 documents of 800 words): of more, a file that goes
question by question has each context tokenized once for each question. A job's whole pipeline runs over the
file, as in `host.py`. With `--model` a real engine answers the first documents, and works off the same
windows as ready batches: what share of a question's time is its. CPU time is what is compared, so other work
on the machine matters little.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that need not be installed

from batchqa.annotator import Annotator
from batchqa.records import PaddedBatch
from batchqa.settings import ReadingSettings
from batchqa.steps.asking import Questions, asked
from batchqa.steps.batching import padded_batches
from batchqa.steps.chunking import chunks
from batchqa.steps.pairing import AnswerCache, pairs_of
from batchqa.steps.reading import open_source
from batchqa.steps.scoring import score_batch
from benchmarks.host import PART_ROWS, STEPS, pipeline
from benchmarks.measuring import HERE, WORK, keep, spread

WORDS = 800
PIECE = 20
"""Documents that the engine and the job answer in turn."""

WAYS = ("crossed", "by question", "long", "wide", "one question each")


def main() -> int:
    """Measure all ways in turn, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="a bundle, or default: also let its engine answer")
    parser.add_argument("--scored", type=int, default=100, help="documents that --model answers")
    parser.add_argument("--data", type=Path, default=os.environ.get("BATCHQA_DATA", "../shared/data"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    squad = options.data / "squad-v2.0-dev.json"
    if not squad.exists():
        print(f"this needs {squad}; set BATCHQA_DATA. No figures were made.")
        return 0
    WORK.mkdir(exist_ok=True)
    os.environ["RAYON_NUM_THREADS"] = "1"  # CPU time of one thread is what is counted
    questions = _files(squad, options.documents, options.questions)
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            asks = Questions.given(questions, way) if way in ("long", "wide") else None
            count = options.documents * (1 if way == WAYS[-1] else options.questions)
            seconds = pipeline(_file("documents" if asks else way), asks)
            runs[way].append({step: 1e6 * seconds[step] / count for step in STEPS})
    table = _table(runs, options.documents, options.questions)
    figures = {"documents": options.documents, "questions": options.questions, "microseconds": runs}
    if options.model:
        rounds = _with_engine(options.model, questions, options.scored)
        share = [engine / job for engine, job in rounds]
        table += (
            f"\n{options.scored} documents answered, {PIECE} in turn, CPU milliseconds a question: by a job "
            f"{spread([1e3 * job for _, job in rounds], 1)}, by its engine on ready batches "
            f"{spread([1e3 * engine for engine, _ in rounds], 1)}; "
            f"the job's rate is {spread(share, 3)} of the bare engine's.\n"
        )
        figures["engine_and_job_seconds"] = rounds
    keep("asking", options.results, table, figures)
    return 0


def _file(way: str) -> Path:
    return WORK / f"asking-{way.split(maxsplit=1)[0]}.parquet"


def _files(squad: Path, documents: int, count: int) -> dict[str, str]:
    """Write the documents, alone, with a question each and with each question; returns the questions."""
    paragraphs = [
        paragraph
        for article in json.loads(squad.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
    ]
    words = itertools.cycle(" ".join(paragraph["context"] for paragraph in paragraphs).split(" "))
    texts = [" ".join(itertools.islice(words, WORDS)) for _ in range(documents)]
    asks = {f"q{at}": paragraphs[at]["qas"][0]["question"] for at in range(count)}
    table = pa.table({"id": pa.array(range(documents)), "context": texts})
    pq.write_table(table, _file("documents"))
    numbers = [number for _ in asks for number in range(documents)]
    each = [question for question in asks.values() for _ in range(documents)]
    by_question = table.take(pa.array(numbers)).append_column("question", pa.array(each))
    pq.write_table(by_question, _file("by question"))
    one = next(iter(asks.values()))
    pq.write_table(table.append_column("question", pa.array([one] * documents)), _file("one question each"))
    crossed = table.take(pa.array([number for number in range(documents) for _ in asks]))
    pq.write_table(
        crossed.append_column("question", pa.array(list(asks.values()) * documents)), _file("crossed")
    )
    return asks


def _table(runs: Mapping[str, list[dict[str, float]]], documents: int, questions: int) -> str:
    """A line for each step, a column for each way; and what a document's reading and tokenizing costs."""
    lines = [
        f"{documents} documents of {WORDS} words, {questions} questions each.",
        "CPU microseconds a question besides the model, median (smallest to largest):",
        "",
        "| | " + " | ".join(runs) + " |",
        "|---|" + "---|" * len(runs),
    ]
    lines += [
        f"| {step} | "
        + " | ".join(spread([own[step] for own in rounds], 1) for rounds in runs.values())
        + " |"
        for step in STEPS
    ]
    totals = {way: [sum(each.values()) for each in rounds] for way, rounds in runs.items()}
    lines.append(
        "| **whole pipeline** | " + " | ".join(spread(values, 0) for values in totals.values()) + " |"
    )
    for other in ("crossed", "by question", WAYS[-1]):
        ratios = [
            spread([own / its for own, its in zip(totals[way], totals[other], strict=True)], 2)
            for way in runs
        ]
        lines.append(f"| of *{other}* | " + " | ".join(ratios) + " |")
    lines += ["", "Reading and tokenizing a document, all its questions included:", ""]
    for way, rounds in runs.items():
        times = 1 if way == WAYS[-1] else questions
        texts = [times * sum(each[step] for step in ("reading", "tokenizer", "windowing")) for each in rounds]
        lines.append(f"- {way}: {spread(texts, 0)}")
    return "\n".join(lines) + "\n"


def _with_engine(model: str, questions: Mapping[str, str], documents: int) -> list[tuple[float, float]]:
    """CPU seconds a question of the engine on ready batches, and of a job with it, in turn."""
    annotator = Annotator(model, device="cpu", in_process=True, threads=1)
    own = annotator.pipeline
    table = pq.read_table(_file("documents")).slice(0, documents)
    score_batch(own.scorer, _ready_batches(annotator, questions, table.slice(0, 1))[0])
    costs = []
    for at in range(0, len(table), PIECE):
        piece = table.slice(at, PIECE)
        batches = _ready_batches(annotator, questions, piece)
        count = len(piece) * len(questions)
        began = time.process_time()
        for batch in batches:
            score_batch(own.scorer, batch)
        engine = time.process_time()
        annotator.annotate(piece, dict(questions))
        costs.append(((engine - began) / count, (time.process_time() - engine) / count))
    return costs


def _ready_batches(
    annotator: Annotator, questions: Mapping[str, str], documents: pa.Table
) -> list[PaddedBatch]:
    """What the engine is given for the documents and their questions."""
    pq.write_table(documents, _file("scored"))
    asks, own = Questions.given(questions, "long"), annotator.pipeline
    source = open_source([str(_file("scored"))], asks.reading(ReadingSettings()))
    windower, cache = own.windower.fresh(), AnswerCache()
    return [
        batch
        for chunk in asked(chunks(source.read(), PART_ROWS, questions=len(asks)), asks)
        for batch in padded_batches(
            windower.windows(pairs_of(chunk, cache)), own.scorer.budget, own.scorer.length_bucket
        )
    ]


if __name__ == "__main__":
    raise SystemExit(main())
