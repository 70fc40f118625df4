"""What a question costs besides the model where documents are asked many, in CPU microseconds.

The same documents and questions three ways: crossed by hand (a file with a row for each document and
question), and asked by the job, in the long and in the wide layout. The whole road of a job runs over the
file, from reading to the published output, with a scorer that returns ready logits; CPU time of all its
threads is counted. With `--model` the engine works off the same windows as ready batches besides: what share
of a question's time is its.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that need not be installed

from batchqa.annotator import Annotator
from batchqa.machine import peak_memory
from batchqa.output import Target, open_output
from batchqa.settings import ReadingSettings
from batchqa.steps.asking import Questions, asked
from batchqa.steps.batching import padded_batches
from batchqa.steps.chunking import chunks
from batchqa.steps.pairing import AnswerCache, pairs_of
from batchqa.steps.reading import Source, open_source
from batchqa.steps.scoring import score_batch
from batchqa.steps.writing import output_batches, output_schema
from benchmarks.host import ReadyScorer
from benchmarks.measuring import HERE, WORK, keep

WORDS = 800
PART_ROWS = 100_000
WAYS = ("crossed", "long", "wide")


def main() -> int:
    """Measure all ways in turn, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="a bundle, or default: also time its engine")
    parser.add_argument("--scored", type=int, default=20, help="documents that --model scores")
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
    annotator = Annotator(options.model or "default", device="cpu", in_process=True, threads=1)
    costs: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            asks = (
                None if way == "crossed" else Questions.given(questions, "wide" if way == "wide" else "long")
            )
            seconds = _job(
                annotator, WORK / f"asking-{'crossed' if asks is None else 'documents'}.parquet", asks
            )
            costs[way].append(1e6 * seconds / (options.documents * options.questions))
    lines = [f"{options.documents} documents of {WORDS} words, {options.questions} questions each", ""]
    lines += [
        "| way | CPU microseconds a question, besides the model | of the crossed file's |",
        "|---|---|---|",
    ]
    crossed = statistics.median(costs["crossed"])
    lines += [
        f"| {way} | {statistics.median(costs[way]):.0f} ({min(costs[way]):.0f} to {max(costs[way]):.0f}) | "
        f"{statistics.median(costs[way]) / crossed:.2f} |"
        for way in WAYS
    ]
    figures = {"documents": options.documents, "questions": options.questions, "microseconds": costs}
    if options.model:
        engine = 1e6 * _engine_seconds(annotator, questions, options.scored)
        lines += ["", f"the engine alone, on ready batches: {engine:.0f} microseconds a question"]
        lines += [
            f"{way}: {engine / (engine + statistics.median(costs[way])):.4f} of the bare engine's rate"
            for way in WAYS
        ]
        figures["engine_microseconds"] = engine
    lines += ["", f"peak memory of the process: {peak_memory() / 2**20:.0f} MiB"]
    keep("asking", options.results, "\n".join(lines) + "\n", figures)
    return 0


def _files(squad: Path, documents: int, count: int) -> dict[str, str]:
    """Write the documents, and the same crossed with the questions; returns the questions."""
    paragraphs = [
        paragraph
        for article in json.loads(squad.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
    ]
    words = itertools.cycle(" ".join(paragraph["context"] for paragraph in paragraphs).split(" "))
    texts = [" ".join(itertools.islice(words, WORDS)) for _ in range(documents)]
    asks = {f"q{at}": paragraphs[at]["qas"][0]["question"] for at in range(count)}
    numbers = pa.array(range(documents))
    pq.write_table(pa.table({"id": numbers, "context": texts}), WORK / "asking-documents.parquet")
    crossed = {
        "id": pa.array([number for number in range(documents) for _ in asks]),
        "context": [text for text in texts for _ in asks],
        "question": list(asks.values()) * documents,
    }
    pq.write_table(pa.table(crossed), WORK / "asking-crossed.parquet")
    return asks


def _opened(file: Path, asks: Questions | None) -> Source:
    return open_source([str(file)], ReadingSettings() if asks is None else asks.reading(ReadingSettings()))


def _job(annotator: Annotator, file: Path, asks: Questions | None) -> float:
    """CPU seconds of a job whose scorer has its logits ready."""
    began = time.process_time()
    road = replace(annotator.road, scorer=ReadyScorer())
    source = _opened(file, asks)
    names = asks.wide_names if asks else None
    schema = output_schema(source.schema, "qa_", 0, wide=names, asked=asks is not None)
    fields = {"benchmark": time.time_ns()}
    target = Target.parse(str(WORK / "asking-out.parquet"))
    options: Mapping[str, bool] = {"overwrite": True, "restart": True}
    with open_output(
        target, fields=fields, schema=schema, part_rows=PART_ROWS, compression="zstd", **options
    ) as commit:
        commit.begin({})
        part = commit.part(0)
        records = rows = 0
        cut = chunks(source.read(), PART_ROWS, questions=len(asks) if asks else 1)
        for answered in road.answer(cut, questions=asks):
            records += len(answered.chunk.rows)
            for batch in output_batches(answered, schema, wide=names is not None):
                part.write(batch)
                rows += len(batch)
            end = answered.chunk.rows.cursor_after(len(answered.chunk.rows))
        part.commit(records, end, errors={}, counts={}, versions={}, device="cpu", rows_out=rows)
        commit.publish({})
    return time.process_time() - began


def _engine_seconds(annotator: Annotator, questions: Mapping[str, str], documents: int) -> float:
    """CPU seconds a question that the engine takes for ready batches of the first documents."""
    asks = Questions.given(questions, "long")
    source, road = _opened(WORK / "asking-documents.parquet", asks), annotator.road
    first = next(iter(source.read())).slice(0, documents)
    cut = asked(chunks([first], PART_ROWS, questions=len(asks)), asks)
    windower, cache = road.windower.fresh(), AnswerCache()
    windows = [windower.windows(pairs_of(chunk, cache)) for chunk in cut]
    batches = [
        batch
        for each in windows
        for batch in padded_batches(each, road.scorer.budget, road.scorer.length_bucket)
    ]
    score_batch(road.scorer, batches[0])
    began = time.process_time()
    for batch in batches:
        score_batch(road.scorer, batch)
    return (time.process_time() - began) / (documents * len(asks))


if __name__ == "__main__":
    raise SystemExit(main())
