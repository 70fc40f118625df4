"""Each variant beside the PyTorch original, both on the road that `batchqa run` takes.

The original is a `SpanScorer` like any other, so that windows, batches and decoding are the same and every
difference is the graph's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.bundle import Bundle, Variant
from batchqa.errors import DeviceError, InputError, ModelError
from batchqa.gold import gold_column, read_gold
from batchqa.machine import cpu_quota
from batchqa.pipeline import Road
from batchqa.records import Cursor, Float32, Int64
from batchqa.settings import DEFAULT_MAX_LENGTH, DecodingSettings, ReadingSettings, WindowSettings
from batchqa.squad import RowScores, score_rows
from batchqa.steps.chunking import chunks
from batchqa.steps.decoding import DecodingRules
from batchqa.steps.inference import (
    OnnxScorer,
    OpenVinoScorer,
    SpanScorer,
    best_arithmetic,
    cuda_is_available,
    score_in_portions,
)
from batchqa.steps.reading import ColumnPlan, open_source, pieces
from batchqa.steps.windowing import Windower, open_tokenizer

from .extras import load

BUDGET = 768
"""Tokens per batch: near the fastest on CPUs, and the same for every variant."""

OTHER_BUDGET = 1536
"""The other batching, on other threads, that must change nothing."""

FLOAT_TOLERANCE = 1e-4
"""By how much null odds and scores may differ between two batchings (docs/contract.md, Equality)."""


class TorchScorer:
    """The PyTorch original on the CPU, in float32."""

    engine = "torch"
    device = "cpu"
    at_once = 1

    def __init__(self, model: Any, inputs: Sequence[str]) -> None:
        self._torch = load("torch")
        self._model = model
        self._inputs = tuple(inputs)

    def score(
        self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64, budget: int | None = None
    ) -> tuple[Float32, Float32]:
        """See SpanScorer.score."""
        return score_in_portions(self._run, input_ids, attention_mask, token_type_ids, budget)

    def _run(self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64) -> tuple[Float32, Float32]:
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        with self._torch.inference_mode():
            output = self._model(**{name: self._torch.from_numpy(given[name]) for name in self._inputs})
        return output.start_logits.numpy(), output.end_logits.numpy()


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """A scorer's answers to a table: the columns of `ANSWER_FIELDS`, and the time that the model took."""

    columns: pa.Table
    windows: int
    seconds: float

    def spans(self) -> tuple[Int64, Int64]:
        """Start and end of every row's answer, -1 where there is none, int64, (rows,)."""
        start, end = (
            pc.fill_null(self.columns[name], -1).to_numpy().astype(np.int64) for name in ("start", "end")
        )
        return start, end


@dataclass(frozen=True, slots=True)
class Comparison:
    """A variant beside the original. `figures` go into bundle.json."""

    precision: str
    agreement: float
    f1_drop: float | None
    figures: Mapping[str, Any]

    @property
    def windows_per_second(self) -> float:
        """The model's own speed on the verification's rows."""
        return float(self.figures["windows_per_second"])


class _Timed:
    """A scorer that adds up the time it takes."""

    def __init__(self, scorer: SpanScorer) -> None:
        self._scorer = scorer
        self.engine, self.device, self.at_once = scorer.engine, scorer.device, 1
        self.seconds = 0.0
        self.windows = 0

    def score(
        self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64, budget: int | None = None
    ) -> tuple[Float32, Float32]:
        """See SpanScorer.score."""
        began = time.perf_counter()
        logits = self._scorer.score(input_ids, attention_mask, token_type_ids, budget)
        self.seconds += time.perf_counter() - began
        self.windows += len(input_ids)
        return logits


def read_examples(path: str | Path, limit: int | None = None) -> pa.Table:
    """The rows of any input file: context, question, and the texts of the gold answers, where it has any.

    Raises InputError where the file has no row that can be judged, or a column of gold answers that is none.
    """
    source = open_source([str(path)], ReadingSettings())
    tables = []
    left = limit if limit is not None else 2**62
    for rows in source.read():
        columns = {"context": rows.context.cast(pa.string()), "question": rows.question.cast(pa.string())}
        if gold := gold_column(rows.columns.schema.names):
            columns["answers"] = read_gold(rows.columns[gold], f"{path}: column {gold!r}").texts
        tables.append(pa.table(columns).slice(0, left))
        left -= len(tables[-1])
        if left <= 0:
            break
    table = pa.concat_tables(tables) if tables else pa.table({"context": [], "question": []})
    table = table.filter(pc.and_(pc.is_valid(table["context"]), pc.is_valid(table["question"])))
    if not len(table):
        raise InputError(f"{path} has no row with a context and a question; give another --verify-on")
    return table


def answer(
    bundle: Bundle,
    scorer: SpanScorer,
    table: pa.Table,
    *,
    abstains: bool | None = None,
    threshold: float | None = None,
    budget: int = BUDGET,
) -> Answers:
    """Answer a table of (context, question) rows with `scorer` and the bundle's tokenizer.

    `abstains` and `threshold` None mean the bundle's.
    """
    manifest = bundle.manifest
    rules = DecodingRules.join(
        DecodingSettings(raw_score=True, no_answer_threshold=threshold),
        manifest.abstains.value if abstains is None else abstains,
        manifest.threshold.value,
        None,
    )
    max_length = min(DEFAULT_MAX_LENGTH, manifest.max_length)
    windower = Windower(open_tokenizer(bundle.tokenizer), manifest.layout, WindowSettings(), max_length)
    timed = _Timed(scorer)
    road = Road(windower, timed, rules, budget)
    plan = ColumnPlan.of(table.schema, ReadingSettings(keep=()), "the table")
    first, rows = 0, []
    for batch in table.to_batches():
        for piece in pieces(batch):
            rows.append(plan.rows(piece, str, first, Cursor(row=first)))
            first += len(piece)
    batches = [answered.answers for answered in road.answer(chunks(rows, part_rows=2**62))]
    return Answers(pa.Table.from_batches(batches), timed.windows, timed.seconds)


def onnx_scorer(bundle: Bundle, precision: str, threads: int | None = None) -> OnnxScorer:
    """A variant of the bundle in onnxruntime, on the CPU; one for CUDA alone there, if it can be had.

    A float16 graph runs on the CPU too: in float32, rounded to float16 between operators.
    """
    manifest = bundle.manifest
    variant = next(v for v in manifest.variants if v.precision == precision and "onnxruntime" in v.engines)
    model, threads = bundle.model(variant), threads or cpu_quota()
    if "cpu" not in variant.devices and cuda_is_available():
        with suppress(DeviceError):
            return OnnxScorer(model, manifest.inputs, manifest.outputs, "cuda:0", threads)
    return OnnxScorer(model, manifest.inputs, manifest.outputs, "cpu", threads)


def compare(
    bundle: Bundle,
    precision: str,
    table: pa.Table,
    original: Answers,
    verified_on: str,
    logit_difference: float,
) -> Comparison:
    """Run one variant on the table and set it beside the original's answers."""
    threads = cpu_quota()
    scorers = [onnx_scorer(bundle, precision, count) for count in (threads, max(1, threads - 1))]
    return _compared(bundle, scorers, precision, table, original, verified_on, logit_difference)


def compare_openvino(
    bundle: Bundle, variant: Variant, table: pa.Table, original: Answers, verified_on: str
) -> Comparison:
    """The same with OpenVINO, in the arithmetic that it takes by itself on this processor.

    Raises ModelError where it cannot run the file.
    """
    threads, manifest, arithmetic = cpu_quota(), bundle.manifest, best_arithmetic()
    scorers = [
        OpenVinoScorer(
            bundle.model(variant), manifest.inputs, manifest.outputs, count, arithmetic, manifest.max_length
        )
        for count in (threads, max(1, threads - 1))
    ]
    found = _compared(bundle, scorers, variant.precision, table, original, verified_on, None)
    return replace(found, figures={**found.figures, "arithmetic": arithmetic})


def _compared(
    bundle: Bundle,
    scorers: Sequence[SpanScorer],
    precision: str,
    table: pa.Table,
    original: Answers,
    verified_on: str,
    logit_difference: float | None,
) -> Comparison:
    """The first scorer's answers beside the original's; the second's, batched otherwise, beside these."""
    scorer, other = scorers
    here = answer(bundle, scorer, table)
    again = answer(bundle, other, table, budget=OTHER_BUDGET)
    equal = agreement(original, here)
    figures: dict[str, Any] = {
        "verified_on": verified_on,
        "verified_with": f"{scorer.engine} on {scorer.device}",
        "rows": len(table),
        "span_agreement": equal,
        "changed_by_batching": _changed(here, again),
        **({} if logit_difference is None else {"largest_logit_difference": logit_difference}),
        "windows_per_second": here.windows / here.seconds if here.seconds else 0.0,
        "speed_up_over_torch": original.seconds / here.seconds if here.seconds else 0.0,
    }
    drop = None
    if "answers" in table.schema.names:
        exact, f1 = _scores(table, here)
        exact_before, f1_before = _scores(table, original)
        drop = f1_before - f1
        figures |= {
            "exact": exact,
            "f1": f1,
            "exact_of_original": exact_before,
            "f1_of_original": f1_before,
        }
    return Comparison(precision, equal, drop, figures)


def logit_difference(
    original: SpanScorer, variant: SpanScorer, feeds: Sequence[Mapping[str, Int64]]
) -> float:
    """Largest difference of any logit of a real token; infinite where one is not finite."""
    worst = 0.0
    for feed in feeds:
        ids, mask = feed["input_ids"], feed["attention_mask"]
        types = feed.get("token_type_ids", np.zeros_like(ids))
        pairs = zip(original.score(ids, mask, types), variant.score(ids, mask, types), strict=True)
        for left, right in pairs:
            difference = np.abs(left[mask > 0] - right[mask > 0])
            worst = max(worst, float(difference.max()) if np.isfinite(difference).all() else float("inf"))
    return worst


@dataclass(frozen=True, slots=True)
class Shortfall:
    """By what a variant misses the limits, and which option would let it pass ("" where none would)."""

    why: str
    advice: str


def shortfall(
    comparison: Comparison, min_agreement: float, max_f1_drop: float, *, independent: bool
) -> Shortfall | None:
    """What is wrong with a variant, None where it keeps the limits. `independent`: of the batching, too."""
    changed, drop = comparison.figures["changed_by_batching"], comparison.f1_drop or 0.0
    if independent and changed:
        return Shortfall(f"changes {changed} rows with the batching", "")
    if comparison.agreement < min_agreement:
        why = (
            f"gives the original's answer on {comparison.agreement:.2%} of "
            f"{comparison.figures['rows']} rows, below --min-agreement {min_agreement:g}"
        )
        return Shortfall(
            why, f"; --min-agreement {math.floor(comparison.agreement * 1000) / 1000:g} accepts it"
        )
    if drop > max_f1_drop:
        why = f"loses {drop:.2f} points of F1, more than --max-f1-drop {max_f1_drop:g}"
        return Shortfall(why, f"; --max-f1-drop {math.ceil(drop * 100) / 100:g} accepts it")
    return None


def require(comparison: Comparison, name: str, min_agreement: float, max_f1_drop: float) -> None:
    """Raise ModelError where a variant is below the limits."""
    short = shortfall(comparison, min_agreement, max_f1_drop, independent=False)
    if short:
        raise ModelError(f"{name}: {comparison.precision} {short.why}; nothing was written{short.advice}")


def agreement(one: Answers, other: Answers) -> float:
    """Share of rows with the same span, or with none in both."""
    (a, b), (c, d) = one.spans(), other.spans()
    return float(((a == c) & (b == d)).mean()) if len(a) else 1.0


def _changed(one: Answers, other: Answers) -> int:
    """Rows whose answer, or a float beyond the tolerance, depends on how the rows were batched."""
    (a, b), (c, d) = one.spans(), other.spans()
    changed = (a != c) | (b != d)
    for name in ("score", "null_odds"):
        left, right = (
            x.columns[name].to_numpy(zero_copy_only=False).astype(np.float64) for x in (one, other)
        )
        with np.errstate(invalid="ignore"):
            changed |= np.abs(left - right) > FLOAT_TOLERANCE
    return int(changed.sum())


def row_scores(table: pa.Table, answers: Answers) -> RowScores:
    """Each row's exact match and F1 against the column `answers`, by SQuAD 2.0's rules."""
    golds = read_gold(table["answers"], "the column `answers`").texts
    given = pa.concat_arrays(pc.fill_null(answers.columns["answer"], "").chunks)
    return score_rows(given, golds)


def _scores(table: pa.Table, answers: Answers) -> tuple[float, float]:
    """Exact match and F1 in percent."""
    scores = row_scores(table, answers)
    return 100 * float(scores.exact.mean()), 100 * float(scores.f1.mean())


Progress = Callable[[str], None]
"""Says in one line what an export is doing."""
