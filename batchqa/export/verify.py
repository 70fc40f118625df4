"""Each variant, run as `batchqa run` does, compared with the original in transformers.

The original is `reference.py`'s. `parity.py` has compared the plain float32 graph with it before any variant
is made: there every difference is a fault of the pipeline or of the export, and none is rounding's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.bundle import Bundle, Manifest, Variant
from batchqa.engines import ModelSpec, cuda_is_available
from batchqa.engines import load as load_model
from batchqa.engines.openvino import best_compute_dtype
from batchqa.errors import DeviceError, InputError
from batchqa.gold import gold_column, plain_array, read_gold
from batchqa.machine import cpu_quota
from batchqa.pipeline import Pipeline
from batchqa.records import Cursor, Float32, Int64
from batchqa.settings import DEFAULT_MAX_LENGTH, DecodingSettings, ReadingSettings, WindowSettings
from batchqa.squad import RowScores, score_rows
from batchqa.steps.chunking import chunks
from batchqa.steps.decoding import DecodingRules
from batchqa.steps.reading import ColumnPlan, open_source, pieces
from batchqa.steps.scoring import MicroBatchScorer, SpanScorer
from batchqa.steps.windowing import Windower, open_tokenizer

from .calibration_data import BUDGET
from .extras import load
from .limits import LEAST_F1, MeasuredAgreement, mean_interval
from .reference import Raw

OTHER_BUDGET = 1536
"""The other batching, on other threads, that must change nothing."""

FLOAT_TOLERANCE = 1e-4
"""By how much null odds and scores may differ between two batchings (docs/contract.md, Equality)."""


class TorchScorer(MicroBatchScorer):
    """The PyTorch original on the CPU, in float32."""

    engine = "torch"
    device = "cpu"

    def __init__(self, model: Any, inputs: Sequence[str], *, unpadded: bool = False) -> None:
        self._torch = load("torch")
        self._model = model
        self._inputs = tuple(inputs)
        self.together = 1 if unpadded else None

    def unpadded(self) -> TorchScorer:
        """The same, with only windows of equal length together."""
        return TorchScorer(self._model, self._inputs, unpadded=True)

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


@dataclass(frozen=True, slots=True, eq=False)
class Original:
    """The original's answers to a table, by transformers, and each row's scores against gold answers."""

    start: Int64
    end: Int64
    raw: Raw
    scores: RowScores | None

    @classmethod
    def of(cls, raw: Raw, table: pa.Table, manifest: Manifest) -> Original:
        """The decisions by the bundle's rules, and what they score where the table has gold answers."""
        start, end = raw.decided(manifest.abstains.value, manifest.threshold.value)
        spans = zip(table["context"].to_pylist(), start.tolist(), end.tolist(), strict=True)
        texts = pa.array([context[begin:stop] if begin >= 0 else "" for context, begin, stop in spans])
        has_gold = "answers" in table.schema.names
        return cls(start, end, raw, row_scores(table, texts) if has_gold else None)


@dataclass(frozen=True, slots=True)
class VerifiedOn:
    """The rows of a verification: their file's name, and whether they are the user's own."""

    name: str
    is_users: bool


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """The rows that variants are verified on, and the original's answers to them."""

    rows: pa.Table
    on: VerifiedOn
    original: Original


@dataclass(frozen=True, slots=True)
class VariantComparison:
    """A variant compared with the original. `figures` go into bundle.json; `measured` is judged."""

    precision: str
    measured: MeasuredAgreement
    figures: Mapping[str, Any]

    @property
    def windows_per_second(self) -> float:
        """The model's own speed on the verification's rows."""
        return float(self.figures["windows_per_second"])

    @property
    def changed(self) -> int:
        """Rows whose answer depends on the other rows of its batch, floats within the tolerance aside."""
        return int(self.figures["answers_changed_by_batching"])

    def record(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"precision": self.precision, "measured": asdict(self.measured), "figures": dict(self.figures)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> VariantComparison:
        """The inverse of `record`."""
        measured = dict(record["measured"])
        if measured["f1_drop_interval"] is not None:
            measured["f1_drop_interval"] = tuple(measured["f1_drop_interval"])
        return cls(record["precision"], MeasuredAgreement(**measured), record["figures"])


class _Timed:
    """A scorer that adds up the time it takes, at a token budget of its own."""

    at_once = 1

    def __init__(self, scorer: SpanScorer, budget: int) -> None:
        self._scorer = scorer
        self.engine, self.device, self.length_bucket = scorer.engine, scorer.device, scorer.length_bucket
        self.budget = budget
        self.seconds = 0.0
        self.windows = 0

    def score(
        self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64
    ) -> tuple[Float32, Float32]:
        """See SpanScorer.score."""
        before, self._scorer.budget = self._scorer.budget, self.budget
        began = time.perf_counter()
        try:
            return self._scorer.score(input_ids, attention_mask, token_type_ids)
        finally:
            self.seconds += time.perf_counter() - began
            self.windows += len(input_ids)
            self._scorer.budget = before

    def close(self) -> None:
        """End what the scorer has running."""
        self._scorer.close()


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
        raise InputError(f"{path} has no row with a context and a question; choose another file")
    return table


def answer(
    bundle: Bundle,
    scorer: SpanScorer,
    table: pa.Table,
    *,
    abstains: bool | None = None,
    threshold: float | None = None,
    budget: int = BUDGET,
    max_length: int = DEFAULT_MAX_LENGTH,
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
    longest = min(max_length, manifest.max_length)
    windower = Windower(open_tokenizer(bundle.tokenizer), manifest.layout, WindowSettings(), longest)
    timed = _Timed(scorer, budget)
    pipeline = Pipeline(windower, timed, rules)
    plan = ColumnPlan.of(table.schema, ReadingSettings(keep=()), "the table")
    first, rows = 0, []
    for batch in table.to_batches():
        for piece in pieces(batch):
            rows.append(plan.rows(piece, str, first, Cursor(row=first)))
            first += len(piece)
    batches = [answered.answers for answered in pipeline.answer(chunks(rows, part_rows=2**62))]
    return Answers(pa.Table.from_batches(batches), timed.windows, timed.seconds)


def onnx_scorer(bundle: Bundle, precision: str, threads: int | None = None) -> SpanScorer:
    """A variant of the bundle in onnxruntime, on the CPU; one for CUDA alone there, if it can be had.

    A float16 graph runs on the CPU too: in float32, rounded to float16 between operators.
    """
    variant = next(
        v for v in bundle.manifest.variants if v.precision == precision and "onnxruntime" in v.engines
    )
    spec = ModelSpec.of(bundle, variant, "onnxruntime", "cpu", threads or cpu_quota())
    if "cpu" not in variant.devices and cuda_is_available():
        with suppress(DeviceError):
            return load_model(replace(spec, device="cuda:0"))
    return load_model(spec)


def compare(
    bundle: Bundle, precision: str, verification: Verification, logit_difference: float
) -> VariantComparison:
    """Run one variant on the verification's rows and compare its answers with the original's."""
    threads = cpu_quota()
    scorers = [onnx_scorer(bundle, precision, count) for count in (threads, max(1, threads - 1))]
    return _compared(bundle, scorers, precision, verification, logit_difference)


def compare_openvino(bundle: Bundle, variant: Variant, verification: Verification) -> VariantComparison:
    """The same with OpenVINO, in the compute dtype that it takes by itself on this processor.

    Raises ModelError where it cannot run the file.
    """
    threads = cpu_quota()
    spec = ModelSpec.of(bundle, variant, "openvino", "cpu", threads, best_compute_dtype())
    scorers = [load_model(replace(spec, threads=count)) for count in (threads, max(1, threads - 1))]
    found = _compared(bundle, scorers, variant.precision, verification, None)
    return replace(found, figures={**found.figures, "arithmetic": spec.compute_dtype})


def _compared(
    bundle: Bundle,
    scorers: Sequence[SpanScorer],
    precision: str,
    verification: Verification,
    logit_difference: float | None,
) -> VariantComparison:
    """The first scorer's answers compared with the original's; the second's, batched otherwise, with them."""
    scorer, other = scorers
    table, original = verification.rows, verification.original
    here = answer(bundle, scorer, table)
    again = answer(bundle, other, table, budget=OTHER_BUDGET)
    start, end = here.spans()
    judged = original.raw.judged
    equal = (start == original.start) & (end == original.end) & judged
    changed, answers_changed = _changed(here, again)
    measured = MeasuredAgreement(int(judged.sum()), int(equal.sum()))
    figures: dict[str, Any] = {
        "verified_on": verification.on.name,
        "verified_with": f"{scorer.engine} on {scorer.device}",
        "rows": measured.rows,
        "span_agreement": measured.agreement,
        "span_agreement_interval": measured.agreement_interval,
        "changed_by_batching": changed,
        "answers_changed_by_batching": answers_changed,
        **({} if logit_difference is None else {"largest_logit_difference": logit_difference}),
        "windows_per_second": here.windows / here.seconds if here.seconds else 0.0,
        "speed_up_over_torch": original.raw.seconds / here.seconds if here.seconds else 0.0,
    }
    if original.scores is not None:
        ours, theirs = row_scores(table, here.columns["answer"]), original.scores
        lost = 100 * (theirs.f1 - ours.f1)
        before = 100 * float(theirs.f1.mean())
        measured = replace(
            measured,
            f1_drop=float(lost.mean()),
            f1_drop_interval=mean_interval(lost),
            f1_decides=verification.on.is_users and before >= LEAST_F1,
        )
        figures |= {
            "exact": 100 * float(ours.exact.mean()),
            "f1": 100 * float(ours.f1.mean()),
            "exact_of_original": 100 * float(theirs.exact.mean()),
            "f1_of_original": before,
            "f1_drop_interval": measured.f1_drop_interval,
        }
    return VariantComparison(precision, measured, figures)


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


def agreement(one: Answers, other: Answers) -> float:
    """Share of rows with the same span, or with none in both."""
    (a, b), (c, d) = one.spans(), other.spans()
    return float(((a == c) & (b == d)).mean()) if len(a) else 1.0


def _changed(one: Answers, other: Answers) -> tuple[int, int]:
    """Rows that depend on how they were batched: in the answer or a float, and in the answer.

    Two spans that are equally good within the tolerance may change places: that is in the contract.
    """
    (a, b), (c, d) = one.spans(), other.spans()
    answers = (a != c) | (b != d)
    floats = np.zeros(len(answers), dtype=bool)
    for name in ("score", "null_odds"):
        left, right = (
            x.columns[name].to_numpy(zero_copy_only=False).astype(np.float64) for x in (one, other)
        )
        with np.errstate(invalid="ignore"):
            floats |= np.abs(left - right) > FLOAT_TOLERANCE
    return int((answers | floats).sum()), int((answers & floats).sum())


def row_scores(table: pa.Table, answers: pa.Array | pa.ChunkedArray) -> RowScores:
    """Each row's exact match and F1 against the column `answers`, by SQuAD 2.0's rules."""
    golds = read_gold(table["answers"], "the column `answers`").texts
    given = pc.fill_null(plain_array(answers).cast(pa.large_string()), "")
    return score_rows(given, golds)


Progress = Callable[[str], None]
"""Says in one line what an export is doing."""
