"""What a job would cost: `batchqa run --dry-run`. Everything is read and counted, a sample is annotated.

Rows and row errors are exact. Windows and tokens come from a sample of the chunks, the speed from batches
of that sample on this machine, the memory from this process after it has done the sample.
"""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from batchqa.annotator import Annotator
from batchqa.pipeline import side_by_side
from batchqa.records import ROW_ERRORS, Chunk, PaddedBatch, Windows
from batchqa.steps.batching import padded_batches
from batchqa.steps.inference import score_batch

SAMPLE_SECONDS = 4.0
"""Time for scoring sample batches; as many chunks are tokenized as fit into a quarter of it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would meet, and about how long it would take on this machine.

    `tokens` are those of all windows, padding included. `memory_bytes` is the peak resident memory.
    """

    rows: int
    errors: dict[str, int]
    statuses: dict[str, int]
    windows: int
    tokens: int
    startup_seconds: float
    seconds: float
    rows_per_second: float
    memory_bytes: int
    model: str
    variant: str
    engine: str
    device: str
    dry_run: bool = True

    def to_dict(self) -> dict[str, Any]:
        """As it is printed."""
        return asdict(self)


@dataclass
class _Sample:
    rows: int = 0
    windows: int = 0
    tokens: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    batches: list[PaddedBatch] = field(default_factory=list)


def estimate(annotator: Annotator, chunks: Iterable[Chunk], startup_seconds: float) -> Estimate:
    """Count the rows of `chunks` and estimate what annotating them takes. `startup_seconds` went before."""
    rows, faults = 0, Counter[str]()
    sample = _Sample()
    wait = 0
    for number, chunk in enumerate(chunks):
        rows += len(chunk.rows)
        faults.update(fault.code for fault in chunk.rows.faults.values())
        # chunks 0, 1, 2, 4, 8, ...: the start of a file is not always like its end
        if number >= wait and sample.seconds < SAMPLE_SECONDS / 4:
            wait = 2 * number
            _look_at(annotator, chunk, sample)
    speed = _tokens_per_second(annotator, sample)
    per_row = rows / max(sample.rows, 1)
    tokens = round(sample.tokens * per_row)
    seconds = tokens / speed if tokens else 0.0
    # what only windowing finds (empty texts, too long questions) is known of the sample only
    found = {code: round(n * per_row) for code, n in sample.faults.items() if code not in faults}
    faults.update(found)
    resolved = annotator.resolved
    return Estimate(
        rows=rows,
        errors={code: n for code, n in faults.items() if code in ROW_ERRORS},
        statuses={code: n for code, n in faults.items() if code not in ROW_ERRORS},
        windows=round(sample.windows * per_row),
        tokens=tokens,
        startup_seconds=round(startup_seconds, 3),
        seconds=round(startup_seconds + seconds, 3),
        rows_per_second=round(rows / seconds, 1) if seconds else 0.0,
        memory_bytes=_peak_memory_bytes(),
        model=annotator.bundle.manifest.name,
        variant=resolved.variant,
        engine=resolved.engine,
        device=resolved.device,
    )


def _look_at(annotator: Annotator, chunk: Chunk, sample: _Sample) -> None:
    """Window and batch a chunk, and remember what it holds."""
    began = time.monotonic()
    windows: Windows = annotator.windows_of(chunk)
    batches = list(
        padded_batches(windows, annotator.resolved.batch_tokens, unpadded=annotator.scorer.unpadded)
    )
    sample.rows += len(chunk.rows)
    sample.windows += len(windows)
    sample.tokens += sum(batch.input_ids.size for batch in batches)
    sample.faults.update(fault.code for fault in windows.faults.values())
    sample.batches += [batch for batch in batches if len(batch.index)]
    sample.seconds += time.monotonic() - began


def _tokens_per_second(annotator: Annotator, sample: _Sample) -> float:
    """How fast the model takes the sample's batches, drawn evenly from the longest to the shortest."""
    order = np.random.default_rng(0).permutation(len(sample.batches))
    workers, stop = annotator.resolved.workers, threading.Event()
    tokens, began = 0, time.monotonic()
    scored = side_by_side(
        lambda batch: score_batch(annotator.scorer, batch),
        (sample.batches[at] for at in order.tolist()),
        width=workers,
        ahead=workers,
        name="batchqa-device",
        stop=stop,
    )
    try:
        for logits in scored:
            tokens += logits.batch.input_ids.size
            if time.monotonic() - began > SAMPLE_SECONDS:
                break
    finally:
        stop.set()
        scored.close()
    return max(tokens, 1) / max(time.monotonic() - began, 1e-9)


def _peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
