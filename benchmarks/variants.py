"""Every form of one model beside plain float32: size, speed, quality, equality, independence.

    python benchmarks/variants.py [--rows N] [--rounds N] [--speed-rows N] [--threads N] [--only NAME,...]

Makes the variants of `minilm-l6-squad` (BATCHQA_MODELS), answers SQuAD 2.0 dev (BATCHQA_DATA) with each of
them in batchqa's own pipeline, and writes a table and the raw figures to `benchmarks/results/`. Models and
answers are kept in `.bench/variants/`, so that a run that was stopped goes on with the next variant; they are
made anew when the code that makes them changes. All rows take about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))  # run from a checkout that need not be installed

from batchqa.bundle import Bundle, open_bundle  # noqa: E402
from batchqa.engines import ModelSpec  # noqa: E402
from batchqa.engines.onnxruntime import OnnxScorer  # noqa: E402
from batchqa.export import (  # noqa: E402
    calibration_data,
    exporting,
    extras,
    graphs,
    per_token_int8,
    quantize,
    verify,
)
from batchqa.export.checkpoint import open_checkpoint  # noqa: E402
from batchqa.machine import cpu_quota  # noqa: E402
from benchmarks.measuring import WORK, keep, spread  # noqa: E402

BASE = "fp32, plain graph"
BUDGET, OTHER_BUDGET = 768, 3072
"""Tokens per batch: for the answers and the speed; for the same rows shuffled, which must change nothing."""

EVERY = 8
"""Each how-manieth row is answered a second time, shuffled."""

TOLERANCE = 1e-4
"""By how much null odds may differ between two batchings (docs/contract.md, Equality)."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What a variant's answers are worth; shares of rows are between 0 and 1, exact and F1 in percent.

    `changed` and `moved` are of the rows that were answered a second time: another span, or another span or
    null odds further apart than TOLERANCE.
    """

    megabytes: float
    exact: float
    f1: float
    equal: float
    changed: float
    moved: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds per round over the same batches, and ratios to BASE within a round (above 1: faster)."""

    wall: list[float]
    cpu: list[float]
    wall_ratio: list[float]
    cpu_ratio: list[float]


class Materials:
    """What the variants are made from, made itself when it is first asked for."""

    def __init__(self, checkpoint: Path, train: Path, work: Path) -> None:
        self.checkpoint, self.train, self.work = checkpoint, train, work

    @cached_property
    def bundle(self) -> Bundle:
        """A float32 bundle of the checkpoint: the tokenizer and the rules that all variants share."""
        folder = self.work / "bundle"
        if not folder.exists():
            exporting.export(
                str(self.checkpoint), folder, precisions=("fp32",), abstains="yes", threshold=0.0
            )
        return open_bundle(folder)

    @cached_property
    def plain(self) -> Any:
        """The graph as optimum exports it."""
        self.work.mkdir(parents=True, exist_ok=True)
        with open_checkpoint(str(self.checkpoint), None) as checkpoint:
            return graphs.export_graph(checkpoint, self.work / "graph")

    @cached_property
    def fused(self) -> Any:
        """The same with fused attention."""
        return self._fuse(for_int8=False)

    @cached_property
    def fused_for_int8(self) -> Any:
        """The same with fused attention, its matrix products apart."""
        return self._fuse(for_int8=True)

    @cached_property
    def feeds(self) -> list[calibration_data.Feed]:
        """The rows of SQuAD 1.1 train that quantization looks at, as batches."""
        rows = _labelled_sample(self.train, exporting.CALIBRATION_ROWS // 2, seed=20)
        table = pa.Table.from_pylist([{k: row[k] for k in ("context", "question")} for row in rows])
        return calibration_data.batches_of(self.bundle, table)

    @cached_property
    def observed(self) -> dict[str, calibration_data.Observed]:
        """What calibration saw."""
        return calibration_data.observe(self.fused_for_int8, self.feeds)

    def _fuse(self, *, for_int8: bool) -> Any:
        with open_checkpoint(str(self.checkpoint), None) as checkpoint:
            fused = graphs.fuse(self.plain, checkpoint, self.feeds[:2], for_int8=for_int8)
        assert fused.kept, "the checkpoint's attention could not be fused"
        return fused.model


def _dynamic(materials: Materials, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(_plain_file(materials), target, per_channel=True, weight_type=QuantType.QInt8)


def _static(materials: Materials, target: Path) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    class Reader:
        """The calibration's batches, as onnxruntime asks for them."""

        def __init__(self) -> None:
            self._left: Iterator[calibration_data.Feed] = iter(materials.feeds)

        def get_next(self) -> dict[str, Any] | None:
            """The next batch, None after the last."""
            return dict(feed) if (feed := next(self._left, None)) else None

    quantize_static(
        _plain_file(materials),
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


def _plain_file(materials: Materials) -> Path:
    file = materials.work / "plain.onnx"
    if not file.exists():
        graphs.save(materials.plain, file)
    return file


def _by_blocks(materials: Materials, target: Path) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    copy = type(materials.fused)()
    copy.CopyFrom(materials.fused)
    quantizer = MatMulNBitsQuantizer(copy, bits=8, block_size=32, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    graphs.save(quantizer.model.model, target)


def _by_token(materials: Materials, *, reduce_range: bool = False) -> Any:
    graph = per_token_int8.per_token(materials.fused_for_int8, materials.observed, reduce_range=reduce_range)
    return per_token_int8.without_padding(graph)


def _save(make: Callable[[Materials], Any]) -> Callable[[Materials, Path], None]:
    return lambda materials, target: graphs.save(make(materials), target)


VARIANTS: Mapping[str, Callable[[Materials, Path], None]] = {
    BASE: _save(lambda m: m.plain),
    "fp32, fused attention": _save(lambda m: m.fused),
    "fp16 (computed by the CPU's float32 operators)": _save(lambda m: graphs.half(m.fused)),
    "int8, a scale per token": _save(_by_token),
    "int8, a scale per token, weights of 7 bits": _save(lambda m: _by_token(m, reduce_range=True)),
    "int8 weights, computed in float32": _save(lambda m: quantize.weights_only(m.fused_for_int8, m.observed)),
    "dynamic int8, per channel (onnxruntime)": _dynamic,
    "static int8, QDQ, min-max (onnxruntime)": _static,
    "MatMulNBits, 8 bits, block 32 (onnxruntime)": _by_blocks,
}


def main() -> int:
    """Make, answer, measure, write."""
    options = _options()
    checkpoint = options.models / "minilm-l6-squad"
    dev, train = options.data / "squad-v2.0-dev.json", options.data / "squad-v1.1-train.json"
    for needed in (checkpoint, dev, train):
        if not needed.exists():
            print(f"this needs {needed}; set BATCHQA_MODELS and BATCHQA_DATA. No figures were made.")
            return 0
    names = [name for name in VARIANTS if name == BASE or not options.only or name in options.only]
    materials = Materials(checkpoint, train, WORK / "variants" / _recipe())
    table = _questions(dev, options.rows)
    files = {name: _made(name, materials) for name in names}
    scorers = {name: _scorer(materials, file, options.threads) for name, file in files.items()}
    qualities = {}
    for name in names:
        qualities[name] = _quality(name, files, scorers, materials, table)
        print(f"{name}: {qualities[name]}", flush=True)
    speeds = _speeds(scorers, materials, table.slice(0, options.speed_rows), options.rounds)
    _write(options, len(table), qualities, speeds)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=0, help="spread over SQuAD 2.0 dev; 0: all 11,873")
    parser.add_argument("--speed-rows", type=int, default=240, help="rows of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cpu_quota())
    parser.add_argument("--only", type=lambda text: text.split(";"), default=[], help="names; with ; between")
    parser.add_argument("--data", type=Path, default=os.environ.get("BATCHQA_DATA", "../shared/data"))
    parser.add_argument("--models", type=Path, default=os.environ.get("BATCHQA_MODELS", "../shared/models"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    return parser.parse_args()


def _recipe() -> str:
    """A name for what the models depend on: the code that makes them, and the libraries."""
    code = [
        Path(__file__),
        *(Path(module.__file__ or "") for module in (graphs, quantize, per_token_int8, exporting)),
    ]
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in code))
    digest.update(repr(extras.versions()).encode())
    return digest.hexdigest()[:12]


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())


def _made(name: str, materials: Materials) -> Path:
    """The variant's file, made if it is not there."""
    file = materials.work / f"{_slug(name)}.onnx"
    if not file.exists():
        print(f"making {name}", flush=True)
        materials.work.mkdir(parents=True, exist_ok=True)
        making = file.with_name(f"making-{file.name}")
        VARIANTS[name](materials, making)
        making.rename(file)
    return file


def _scorer(materials: Materials, file: Path, threads: int) -> OnnxScorer:
    manifest = materials.bundle.manifest
    return OnnxScorer(ModelSpec("onnxruntime", str(file), manifest.inputs, manifest.outputs, "cpu", threads))


def _questions(squad: Path, count: int) -> pa.Table:
    """`count` questions spread evenly over the file (0: all), with their gold answers."""
    rows = [
        {
            "context": paragraph["context"],
            "question": question["question"],
            "answers": {
                "text": [gold["text"] for gold in question["answers"]],
                "answer_start": [gold["answer_start"] for gold in question["answers"]],
            },
        }
        for article in orjson.loads(squad.read_bytes())["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    step = len(rows) / count if count else 1.0
    return pa.Table.from_pylist([rows[int(at * step)] for at in range(count or len(rows))])


def _quality(
    name: str,
    files: Mapping[str, Path],
    scorers: Mapping[str, OnnxScorer],
    materials: Materials,
    table: pa.Table,
) -> Quality:
    base = _answers(files[BASE], scorers[BASE], materials, table, BUDGET)
    here = _answers(files[name], scorers[name], materials, table, BUDGET)
    scores = verify.row_scores(table, here)
    picked = np.arange(0, len(table), EVERY)
    shuffled = np.random.default_rng(0).permutation(picked)
    again = _answers(files[name], scorers[name], materials, table.take(shuffled), OTHER_BUDGET)
    first = verify.Answers(here.columns.take(shuffled), 0, 0.0)
    changed = ~_same_spans(first, again)
    odds = [pc.fill_null(each.columns["null_odds"], np.inf).to_numpy() for each in (first, again)]
    with np.errstate(invalid="ignore"):
        moved = changed | (np.abs(odds[0] - odds[1]) > TOLERANCE)
    return Quality(
        megabytes=files[name].stat().st_size / 1e6,
        exact=100 * float(scores.exact.mean()),
        f1=100 * float(scores.f1.mean()),
        equal=float(_same_spans(base, here).mean()),
        changed=float(changed.mean()),
        moved=float(moved.mean()),
    )


def _same_spans(one: verify.Answers, other: verify.Answers) -> Any:
    (a, b), (c, d) = one.spans(), other.spans()
    return (a == c) & (b == d)


def _answers(
    file: Path, scorer: OnnxScorer, materials: Materials, table: pa.Table, budget: int
) -> verify.Answers:
    """A variant's answers to the table, kept beside its file."""
    kept = file.with_name(f"{file.stem}-{len(table)}-rows-{budget}-tokens.parquet")
    if not kept.exists():
        answers = verify.answer(
            materials.bundle, scorer, table.select(["context", "question"]), budget=budget
        )
        making = kept.with_name(f"making-{kept.name}")
        pq.write_table(answers.columns, making)
        making.rename(kept)
    return verify.Answers(pq.read_table(kept), 0, 0.0)


def _speeds(
    scorers: Mapping[str, OnnxScorer], materials: Materials, table: pa.Table, rounds: int
) -> dict[str, Speed]:
    """Each variant over the same batches, in turns; the first round warms up and does not count."""
    batches = calibration_data.batches_of(materials.bundle, table.select(["context", "question"]))
    timed: dict[str, list[tuple[float, float]]] = {name: [] for name in scorers}
    for number in range(rounds + 1):
        for name, scorer in scorers.items():
            took = _seconds(scorer, batches)
            if number:
                timed[name].append(took)
        print(f"round {number} of {rounds}", flush=True)
    base = timed[BASE]
    return {
        name: Speed(
            wall=[wall for wall, _ in took],
            cpu=[cpu for _, cpu in took],
            wall_ratio=[b[0] / t[0] for b, t in zip(base, took, strict=True)],
            cpu_ratio=[b[1] / t[1] for b, t in zip(base, took, strict=True)],
        )
        for name, took in timed.items()
    }


def _seconds(scorer: OnnxScorer, batches: Sequence[calibration_data.Feed]) -> tuple[float, float]:
    """Wall and CPU seconds; the CPU's are those of all threads of the process."""
    wall, cpu = time.perf_counter(), time.process_time()
    for feed in batches:
        ids = feed["input_ids"]
        scorer.score(ids, feed["attention_mask"], feed.get("token_type_ids", np.zeros_like(ids)))
    return time.perf_counter() - wall, time.process_time() - cpu


def _write(
    options: argparse.Namespace,
    rows: int,
    qualities: Mapping[str, Quality],
    speeds: Mapping[str, Speed],
) -> None:
    again = len(range(0, rows, EVERY))
    head = (
        f"{options.threads} threads; {rows} questions of SQuAD 2.0 dev, threshold 0; {again} of them again, "
        f"shuffled; speed over {options.speed_rows} rows in {options.rounds} interleaved rounds, median "
        "(smallest to largest), as a ratio to the first line's. *equal*: the same span as the first line's; "
        f"*changed*: by another batching; *moved*: changed, or null odds off by more than {TOLERANCE:g}."
    )
    facts = {
        "threads": options.threads,
        "rows": rows,
        "rows_answered_again": again,
        "speed_rows": options.speed_rows,
        "rounds": options.rounds,
        "variants": {
            name: {"quality": asdict(quality), "speed": asdict(speeds[name])}
            for name, quality in qualities.items()
        },
    }
    keep("variants", options.results, f"{head}\n\n{_table(qualities, speeds)}", facts)


def _table(qualities: Mapping[str, Quality], speeds: Mapping[str, Speed]) -> str:
    lines = [
        "| variant | MB | CPU, s | speed (CPU time) | speed (wall) | exact | F1 | equal | changed | moved |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, quality in qualities.items():
        speed = speeds[name]
        cells = [
            name,
            f"{quality.megabytes:.0f}",
            f"{statistics.median(speed.cpu):.2f}",
            spread(speed.cpu_ratio, 2),
            spread(speed.wall_ratio, 2),
            f"{quality.exact:.2f}",
            f"{quality.f1:.2f}",
            f"{quality.equal:.2%}",
            f"{quality.changed:.2%}",
            f"{quality.moved:.2%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _labelled_sample(squad: Path, paragraphs: int, seed: int) -> list[dict[str, Any]]:
    """Rows from a SQuAD 1.1 file: a question of each of `paragraphs` paragraphs, answerable and not in turn.

    The unanswerable form has the paragraph without the sentences in which an answer stands; a paragraph of
    which nothing is left is passed over.
    """
    whole = [
        paragraph
        for article in orjson.loads(squad.read_bytes())["data"]
        for paragraph in article["paragraphs"]
        if paragraph["qas"]
    ]
    draw = random.Random(seed)
    rows = []
    for paragraph in draw.sample(whole, paragraphs):
        asked = draw.choice(paragraph["qas"])
        texts = [gold["text"] for gold in asked["answers"]]
        rest = _without(paragraph["context"], texts)
        if not rest:
            continue
        answers = {"text": texts, "answer_start": [gold["answer_start"] for gold in asked["answers"]]}
        nothing: dict[str, list[Any]] = {"text": [], "answer_start": []}
        rows.append({"context": paragraph["context"], "question": asked["question"], "answers": answers})
        rows.append({"context": rest, "question": asked["question"], "answers": nothing})
    return rows


def _without(context: str, answers: list[str]) -> str:
    """The context's sentences in which none of the answers stands."""
    sentences = re.split(r"(?<=[.!?])\s+", context)
    folded = [answer.casefold() for answer in answers]
    return " ".join(s for s in sentences if not any(answer in s.casefold() for answer in folded))


if __name__ == "__main__":
    sys.exit(main())
