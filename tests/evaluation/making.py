"""Small annotated files, as `run` writes them, with answers that are known beforehand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchqa.answer_columns import CANDIDATE_TYPE

ANSWERS = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])


@dataclass(frozen=True)
class Row:
    """One annotated question. `span` is the best span, `gold` the gold answers; both stand in the context."""

    span: str = "Paris"
    gold: Sequence[str] = ("Paris",)
    odds: float | None = -4.0
    score: float | None = 0.9
    silent: bool | None = False
    context: str = "Paris is the capital of France, and Rome is that of Italy."
    question: str = "What is the capital of France?"
    title: str = "Paris"
    error: str | None = None
    id: str | None = None
    candidate_score: float = 0.9


def as_struct(texts: Sequence[str], context: str) -> dict[str, list[Any]]:
    """SQuAD's `answers` of a row."""
    return {"text": list(texts), "answer_start": [context.find(text) for text in texts]}


def table_of(rows: Sequence[Row], *, top_k: int = 1, gold: bool = True, prefix: str = "qa_") -> pa.Table:
    """The rows as `run` writes them."""
    answers = [None if row.silent or row.error else row.span for row in rows]
    starts = [
        None if answer is None else row.context.find(answer)
        for answer, row in zip(answers, rows, strict=True)
    ]
    ends = [None if a is None else s + len(a) for a, s in zip(answers, starts, strict=True)]
    columns = {
        "id": pa.array([row.id or f"q{at}" for at, row in enumerate(rows)]),
        "title": pa.array([row.title for row in rows]),
        "context": pa.array([row.context for row in rows]),
        "question": pa.array([row.question for row in rows]),
    }
    if gold:
        columns["answers"] = pa.array([as_struct(row.gold, row.context) for row in rows], ANSWERS)
    columns |= {
        prefix + "answer": pa.array(answers, pa.string()),
        prefix + "start": pa.array(starts, pa.int32()),
        prefix + "end": pa.array(ends, pa.int32()),
        prefix + "score": pa.array([None if row.error else row.score for row in rows], pa.float32()),
        prefix + "no_answer": pa.array([None if row.error else row.silent for row in rows], pa.bool_()),
        prefix + "null_odds": pa.array([None if row.error else row.odds for row in rows], pa.float32()),
        prefix + "error": pa.array([row.error for row in rows], pa.string()),
        prefix + "error_detail": pa.array([row.error and "row" for row in rows], pa.string()),
    }
    if top_k:
        candidates = [
            None
            if row.error
            else [{"answer": row.span, "start": 0, "end": len(row.span), "score": row.candidate_score}]
            for row in rows
        ]
        columns[prefix + "candidates"] = pa.array(candidates, CANDIDATE_TYPE)
    return pa.table(columns).replace_schema_metadata({"batchqa.fingerprint": "0" * 64})


def write(path: Path, rows: Sequence[Row] | pa.Table, **options: Any) -> Path:
    """A Parquet file of the rows."""
    pq.write_table(rows if isinstance(rows, pa.Table) else table_of(rows, **options), path)
    return path


def write_jsonl(path: Path, rows: Sequence[Row], **options: Any) -> Path:
    """The same as JSONL."""
    lines = [json.dumps(record, ensure_ascii=False) for record in table_of(rows, **options).to_pylist()]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def write_squad(path: Path, rows: Sequence[Row]) -> Path:
    """The questions and gold answers as SQuAD's JSON, one paragraph per row."""
    articles = [
        {
            "title": row.title,
            "paragraphs": [
                {
                    "context": row.context,
                    "qas": [
                        {
                            "id": row.id or f"q{at}",
                            "question": row.question,
                            "answers": [
                                {"text": text, "answer_start": row.context.find(text)} for text in row.gold
                            ],
                            "is_impossible": not row.gold,
                        }
                    ],
                }
            ],
        }
        for at, row in enumerate(rows)
    ]
    path.write_text(json.dumps({"version": "v2.0", "data": articles}), encoding="utf-8")
    return path


def simulated(rows: int = 1000, articles: int = 40, seed: int = 0, overconfident: float = 2.0) -> list[Row]:
    """Rows of a model whose scores are too sure and whose threshold (0) is wrong: there is something to tune.

    Half of the rows are answerable. The null odds tell the two halves apart, but best at about -2. The raw
    score is the true probability, sharpened by `overconfident`.
    """
    random = np.random.default_rng(seed)
    made = []
    for at in range(rows):
        answerable = bool(random.random() < 0.5)
        odds = float(random.normal(-5.0 if answerable else 0.0, 2.0))
        truth = float(random.uniform(0.3, 1.0))
        right = answerable and bool(random.random() < truth)
        sure = truth**overconfident / (truth**overconfident + (1 - truth) ** overconfident)
        span = sure / (1 + np.exp(odds))
        silent = odds > 0
        made.append(
            Row(
                span="Paris" if right or not answerable else "Rome",
                gold=("Paris",) if answerable else (),
                odds=odds,
                score=float(sure - span if silent else span),
                candidate_score=float(span),
                silent=silent,
                title=f"article {at % articles}",
            )
        )
    return made
