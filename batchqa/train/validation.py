"""How good a student is: EM and F1 on held-out rows, by the decoding and the rules of `run`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.pipeline import Pipeline
from batchqa.records import Chunk, Float32, Int64
from batchqa.settings import DecodingSettings
from batchqa.squad import best_threshold, score_rows
from batchqa.steps.chunking import CHUNK_ROWS
from batchqa.steps.decoding import DecodingRules
from batchqa.steps.scoring import MicroBatchScorer
from batchqa.steps.windowing import Windower

from .features import as_chunk
from .gold_rows import GoldRows
from .loop import Trainer

BUDGET = 4096
ALWAYS = 1e9
"""A threshold that no null odds exceed: the best span of every row is told."""


@dataclass(frozen=True, slots=True)
class Validation:
    """Figures in percent on `rows` held-out rows; `best_f1` at the threshold that is best on them."""

    step: int
    rows: int
    exact: float
    f1: float
    has_answer_f1: float | None
    no_answer_f1: float | None
    best_f1: float
    best_threshold: float

    def to_dict(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)


class _StudentScorer(MicroBatchScorer):
    """The student as the pipeline's scorer, in the precision of training."""

    engine = "torch"
    budget = BUDGET

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.device = str(trainer.device)

    def _run(self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64) -> tuple[Float32, Float32]:
        return self._trainer.logits(input_ids, attention_mask, token_type_ids)


def validate(trainer: Trainer, windower: Windower, rows: GoldRows, step: int | None = None) -> Validation:
    """Judge the student on labelled rows, answering at null odds of 0 and below; `step` is named in it."""
    rules = DecodingRules.join(
        DecodingSettings(raw_score=True, no_answer="on", no_answer_threshold=ALWAYS), True, 0.0, None
    )
    trainer.student.eval()
    pipeline = Pipeline(windower, _StudentScorer(trainer), rules)
    answers = pa.Table.from_batches([done.answers for done in pipeline.answer(_chunks(rows))])
    trainer.student.train()
    text = pa.concat_arrays(pc.fill_null(answers["answer"], "").chunks)
    odds = answers["null_odds"].to_numpy(zero_copy_only=False).astype(np.float64)
    odds = np.where(np.isfinite(odds), odds, np.inf)
    golds = pc.if_else(rows.gold.is_valid(), rows.gold, pa.scalar([], rows.gold.type))
    spans = score_rows(text, golds)
    decided = score_rows(pc.if_else(pa.array(odds > 0), "", text), golds)
    has_answer = np.asarray(pc.list_value_length(golds).to_numpy(zero_copy_only=False) > 0)
    best = best_threshold(spans.f1, has_answer, np.asarray(pc.not_equal(text, "")), odds)
    return Validation(
        step=trainer.done if step is None else step,
        rows=len(rows),
        exact=100 * float(decided.exact.mean()),
        f1=100 * float(decided.f1.mean()),
        has_answer_f1=100 * float(decided.f1[has_answer].mean()) if has_answer.any() else None,
        no_answer_f1=100 * float(decided.f1[~has_answer].mean()) if not has_answer.all() else None,
        best_f1=100 * best.total / max(len(rows), 1),
        best_threshold=best.threshold,
    )


def _chunks(rows: GoldRows) -> Iterator[Chunk]:
    whole = as_chunk(rows)
    for first in range(0, len(rows), CHUNK_ROWS):
        end = min(first + CHUNK_ROWS, len(rows))
        yield Chunk(whole.rows.slice(first, end), part=0, last_of_part=end == len(rows))
