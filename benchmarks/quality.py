"""How good a contender's answers are: exact match and F1 on all of SQuAD 2.0 dev, at threshold 0."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchqa.evaluation import evaluate
from batchqa.job import run
from benchmarks.lineup import Contender


@dataclass(frozen=True, slots=True)
class Quality:
    """In percent, by SQuAD 2.0's rules."""

    exact: float
    f1: float


def quality(contender: Contender, squad: Path, threads: int) -> Quality:
    """Answer the file as the contender does, and evaluate the output."""
    options: dict[str, Any] = {
        "batch_tokens": contender.batch,
        "device": contender.device,
        "engine": contender.engine,
        "threads": threads,
    }
    if contender.precision in ("int8", "fp16"):  # else the fp32 variant in the engine's own arithmetic
        options["variant"] = contender.precision
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "out.parquet")
        run(str(squad), str(output), model=str(contender.model), no_answer_threshold=0.0, **options)
        figures = evaluate(output, gold=squad, resamples=1).figures.all
    return Quality(figures.exact, figures.f1)
