"""What a job would cost: `batchqa run --dry-run`. Everything is read and counted, a sample is annotated.

Exact are the rows, the row errors, how many distinct pairs there are and how long their contexts are. The
sample, slices from all over the input, tells the rest: tokens per byte, and what each step takes on this
machine. The model is given batches of the sample; everything else works with ready logits meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from batchqa.annotator import Annotator
from batchqa.answer_columns import ROW_ERRORS
from batchqa.job.counting import BINS_PER_DOUBLING, NAMED_ROWS, Counted, Slices
from batchqa.machine import cpu_quota, peak_memory
from batchqa.output.part_writer import ROW_GROUP_BYTES
from batchqa.pipeline import side_by_side
from batchqa.records import (
    AnsweredChunk,
    BatchLogits,
    Chunk,
    Float64,
    Int64,
    PaddedBatch,
    RowFault,
    Rows,
    Windows,
)
from batchqa.steps.batching import padded_batches
from batchqa.steps.chunking import chunks
from batchqa.steps.decoding import Decoder, DecodingRules
from batchqa.steps.pairing import AnswerCache, EarlierAnswers, answered_rows, most_bytes, pairs_of
from batchqa.steps.scoring import micro_batches, score_batch
from batchqa.steps.windowing import CACHED_BYTES, Windower

T = TypeVar("T")

SAMPLE_SECONDS = 4.0
"""Time for scoring batches of the sample."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would meet, and about how long it would take on this machine.

    `rows` are input rows, `questions` what they are asked; `errors` and `statuses` count as in a summary.
    `tokens` are those of all windows, padding included. `seconds` is what the run's own summary would say,
    `startup_seconds` included; `host_seconds` is the part of it that reading, tokenizing, batching and
    decoding need by themselves, `model_seconds` the model, and the two overlap. `memory_bytes` is the sum of
    the peak resident memory of all the job's processes, its workers' included: what a scheduler should grant.
    `reused_rows` are copied from earlier outputs (--reuse); windows, tokens and times are the others'.
    `bad_rows` says where the first NAMED_ROWS errors are, then the first rows that cannot be asked.
    """

    rows: int
    questions: int
    errors: dict[str, int]
    statuses: dict[str, int]
    windows: int
    tokens: int
    startup_seconds: float
    host_seconds: float
    model_seconds: float
    seconds: float
    rows_per_second: float
    memory_bytes: int
    model: str
    variant: str
    engine: str
    device: str
    workers: int
    reused_rows: int = 0
    bad_rows: list[str] = field(default_factory=list)
    dry_run: bool = True

    def to_dict(self) -> dict[str, Any]:
        """As it is printed."""
        return asdict(self)


def estimate(
    annotator: Annotator, cut: Iterable[Chunk], startup_seconds: float, earlier: EarlierAnswers
) -> Estimate:
    """Count the rows of the chunks and estimate what annotating them takes.

    `startup_seconds` went before; rows that `earlier` answers are not scored.
    """
    counted, slices = Counted(earlier), Slices()
    reading = np.zeros(2)
    for chunk in _clocked(cut, reading):
        counted.add(chunk)
        slices.add(chunk.rows)
    sample = _annotate(annotator, slices.rows())
    windows, tokens = _windows_and_tokens(annotator.pipeline.windower, sample, counted)
    host = reading + _host_time(sample, counted, windows)
    model = tokens / _tokens_per_second(annotator, sample.batches) if tokens else 0.0
    seconds = _together(annotator.resolved.device, host, model, counted.chunks)
    faults = counted.faults.copy()
    # what only windowing finds (empty texts, too long questions) is known of the sample only
    share = counted.rows / max(sample.counted.rows, 1)
    faults.update({code: round(n * share) for code, n in sample.faults.items() if code not in faults})
    resolved = annotator.resolved
    return Estimate(
        rows=counted.records,
        questions=counted.rows,
        errors={code: n for code, n in faults.items() if code in ROW_ERRORS},
        statuses={code: n for code, n in faults.items() if code not in ROW_ERRORS},
        windows=windows,
        tokens=tokens,
        startup_seconds=round(startup_seconds, 3),
        host_seconds=round(float(host[0]), 3),
        model_seconds=round(model, 3),
        seconds=round(startup_seconds + seconds, 3),
        rows_per_second=round(counted.records / seconds, 1) if seconds else 0.0,
        memory_bytes=peak_memory() + _remembered_bytes(sample, counted, annotator.pipeline.rules),
        model=annotator.bundle.manifest.name,
        variant=resolved.variant,
        engine=resolved.engine,
        device=resolved.device,
        workers=resolved.workers,
        reused_rows=counted.reused_rows,
        bad_rows=_first(counted.named + sample.named),
    )


def _first(faults: Iterable[RowFault]) -> list[str]:
    """Which rows cannot be judged and where they are; errors before statuses."""
    distinct = dict.fromkeys(
        (fault.code not in ROW_ERRORS, f"{fault.code} at {fault.detail}") for fault in faults
    )
    return [text for _, text in sorted(distinct, key=lambda entry: entry[0])][:NAMED_ROWS]


def _together(device: str, host: Float64, model: float, count: int) -> float:
    """How long host (see `_now`) and model take together, in seconds, for `count` chunks.

    They overlap, except that the model waits for the first chunk and the last one's answers for the model. On
    a CPU they share the cores besides, and the tokenizer has not all of them, as it had for the sample. The
    host's threads take turns (Python's lock), so they count as one.
    """
    seconds, cpu_seconds = host.tolist()
    waiting = min(seconds, model) / max(count, 1)
    if device == "cpu":
        return float(max(seconds + waiting, model + max(cpu_seconds / cpu_quota(), waiting)))
    return float(max(seconds, model) + waiting)


def _now() -> Float64:
    """Seconds by the clock, and those that all of this process's threads have had of the CPU: (2,)."""
    return np.array([time.monotonic(), time.process_time()])


def _clocked(items: Iterable[T], spent: Float64) -> Iterator[T]:
    """The same items; what it takes to make them is added to `spent`."""
    source = iter(items)
    while True:
        began = _now()
        try:
            item = next(source)
        except StopIteration:
            return
        finally:
            spent += _now() - began
        yield item


@dataclass
class _Sample:
    """What the steps made of the sample, and how long they took (see `_now`).

    `prefix_tokens` are those of the distinct pairs' questions, with the special ones before the context;
    `tokens` are those of all windows, with padding; `encoded_bytes` is the memory that the contexts take.
    """

    counted: Counted = field(default_factory=Counted)
    pairs: int = 0
    prefix_tokens: int = 0
    context_tokens: int = 0
    encoded_bytes: int = 0
    windows: int = 0
    tokens: int = 0
    tokenizing_contexts: Float64 = field(default_factory=lambda: np.zeros(2))
    tokenizing_the_rest: Float64 = field(default_factory=lambda: np.zeros(2))
    batching_and_decoding: Float64 = field(default_factory=lambda: np.zeros(2))
    faults: Counter[str] = field(default_factory=Counter)
    named: list[RowFault] = field(default_factory=list)
    batches: list[PaddedBatch] = field(default_factory=list)

    def add_faults(self, answered: AnsweredChunk) -> None:
        """Count the rows that cannot be judged."""
        errors, details = (answered.answers.column(name) for name in ("error", "error_detail"))
        bad = errors.is_valid()
        found = zip(errors.filter(bad).to_pylist(), details.filter(bad).to_pylist(), strict=True)
        faults = [RowFault(code, detail) for code, detail in found]
        self.faults.update(fault.code for fault in faults)
        self.named += faults[:NAMED_ROWS]


def _annotate(annotator: Annotator, slices: Sequence[Rows]) -> _Sample:
    """Take the sample through the pipeline, with ready logits in the model's place."""
    sample, pipeline, rng = _Sample(), annotator.pipeline, np.random.default_rng(0)
    windower, decoder, cache = (
        pipeline.windower.fresh(),
        Decoder(pipeline.rules),
        AnswerCache(pipeline.rules.top_k, pipeline.rules.most_answers),
    )
    for chunk in chunks(slices, part_rows=max(sum(map(len, slices)), 1)):
        sample.counted.add(chunk)
        began = _now()
        windows = windower.windows(pairs_of(chunk, cache))
        tokenized = _now()
        batches = list(padded_batches(windows, pipeline.scorer.budget, pipeline.scorer.length_bucket))
        for batch in batches:
            start, end = rng.standard_normal((2, *batch.input_ids.shape), dtype=np.float32)
            answers = decoder.add(BatchLogits(batch, start, end, {}))
            if answers is not None:
                sample.add_faults(answered_rows(answers, cache))
        decoded = _now()
        windower.windows(pairs_of(chunk, AnswerCache()))  # its contexts are known by now
        again = np.minimum(_now() - decoded, tokenized - began)
        sample.tokenizing_contexts += tokenized - began - again
        sample.tokenizing_the_rest += again
        sample.batching_and_decoding += decoded - tokenized
        _count_tokens(sample, windows, batches, pipeline.scorer.budget)
    return sample


def _count_tokens(sample: _Sample, windows: Windows, batches: Sequence[PaddedBatch], budget: int) -> None:
    prefix = windows.prefixes.length.astype(np.int64)
    sample.pairs += len(windows.pair_question)
    sample.prefix_tokens += int(prefix[windows.pair_question].sum())
    sample.context_tokens += sum(len(context.ids) for context in windows.contexts)
    sample.encoded_bytes += sum(context.nbytes for context in windows.contexts)
    sample.windows += len(windows)
    cut = [each for batch in batches for each in _micro_batches(batch, budget)]
    sample.tokens += sum(each.input_ids.size for each in cut)
    sample.batches += cut


def _micro_batches(batch: PaddedBatch, budget: int) -> Iterator[PaddedBatch]:
    """What the engine takes at once: of whole batches, large models could be timed on too few."""
    for rows, tokens in micro_batches(batch.attention_mask, budget):
        yield replace(
            batch,
            index=batch.index[rows],
            input_ids=batch.input_ids[rows, tokens],
            attention_mask=batch.attention_mask[rows, tokens],
            token_type_ids=batch.token_type_ids[rows, tokens],
            context_at=batch.context_at[rows],
        )


def _windows_and_tokens(windower: Windower, sample: _Sample, counted: Counted) -> tuple[int, int]:
    """How many windows the rows that were counted have, and tokens with padding.

    Both are worked out from the contexts' lengths in bytes, for all rows and for the sample, and put right
    by what the sample really has. So a few long contexts count in full, wherever in the input they are.
    """
    if not sample.windows:
        return 0, 0
    worked_out = [
        _worked_out(windower, sample, lengths) for lengths in (counted.lengths, sample.counted.lengths)
    ]
    windows, tokens = (everything / own for everything, own in zip(*worked_out, strict=True))
    return round(sample.windows * windows), round(sample.tokens * tokens)


def _worked_out(windower: Windower, sample: _Sample, lengths: Int64) -> tuple[float, float]:
    """Windows, and their tokens without padding, of pairs whose contexts have these lengths."""
    bins = np.flatnonzero(lengths)
    size = 2.0 ** (bins / BINS_PER_DOUBLING) * sample.context_tokens / max(sample.counted.context_bytes, 1)
    prefix = np.full(len(bins), sample.prefix_tokens // sample.pairs)
    capacity, step, count = windower.places(np.ceil(size).astype(np.int64), prefix)
    tokens = size + (count - 1) * (capacity - step) + count * (windower.max_length - capacity)
    return float(lengths[bins] @ count), float(lengths[bins] @ tokens)


def _host_time(sample: _Sample, counted: Counted, windows: int) -> Float64:
    """What tokenizing, batching and decoding take of the host; each distinct context is tokenized once."""
    time_taken: Float64 = (
        sample.tokenizing_contexts * counted.context_bytes / max(sample.counted.context_bytes, 1)
        + sample.tokenizing_the_rest * counted.rows / max(sample.counted.rows, 1)
        + sample.batching_and_decoding * windows / max(sample.windows, 1)
    )
    return time_taken


def _remembered_bytes(sample: _Sample, counted: Counted, rules: DecodingRules) -> int:
    """What a run holds at the end of its largest part beyond what the sample took."""
    grown = counted.context_bytes / max(sample.counted.context_bytes, 1)
    contexts = max(min(sample.encoded_bytes * grown, CACHED_BYTES) - sample.encoded_bytes, 0)
    return (
        round(contexts)
        + most_bytes(counted.most_pairs, rules.top_k, rules.most_answers)
        + min(counted.most_column_bytes, ROW_GROUP_BYTES)
    )


def _tokens_per_second(annotator: Annotator, batches: Sequence[PaddedBatch]) -> float:
    """How fast the workers together take batches, drawn evenly from the longest to the shortest.

    Each batch is timed by itself: one that takes seconds would else count for nothing, or its end for all.
    """
    order = np.random.default_rng(0).permutation(len(batches)).tolist()
    workers, stop = annotator.resolved.workers, threading.Event()
    until = time.monotonic() + SAMPLE_SECONDS

    def timed(batch: PaddedBatch) -> tuple[int, float]:
        began = time.monotonic()
        score_batch(annotator.engine.scorer, batch)
        return batch.input_ids.size, time.monotonic() - began

    drawn = (batches[at] for number, at in enumerate(order) if number < workers or time.monotonic() < until)
    try:
        timings = list(
            side_by_side(timed, drawn, width=workers, ahead=workers, name="batchqa-device", stop=stop)
        )
    finally:
        stop.set()
    tokens, seconds = sum(tokens for tokens, _ in timings), sum(seconds for _, seconds in timings)
    return workers * tokens / max(seconds, 1e-9)
