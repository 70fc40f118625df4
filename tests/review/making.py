"""Annotated files in the layouts that a run writes, with answers that are known beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchqa.answer_columns import ANSWER_FIELDS, CANDIDATE_TYPE

CONTEXT = "The Northgate kettle is made of steel. It was sold in Leeds and in York by Hale & Sons."


def said(context: str, answer: str | None, score: float = 0.9, **others: Any) -> dict[str, Any]:
    """What a run says of one question, without the prefix; `answer` None: no answer."""
    start = None if answer is None else context.index(answer)
    return {
        "answer": answer,
        "start": start,
        "end": None if answer is None or start is None else start + len(answer),
        "score": score,
        "no_answer": answer is None,
        "null_odds": 2.0 if answer is None else -3.0,
        "error": None,
        "error_detail": None,
        **others,
    }


def failed(code: str, detail: str = "in.jsonl:3") -> dict[str, Any]:
    """What a run says of a row that could not be judged."""
    return dict.fromkeys([field.name for field in ANSWER_FIELDS]) | {"error": code, "error_detail": detail}


def write_rows(path: Path, rows: list[dict[str, Any]], prefix: str = "qa_") -> Path:
    """A row for each question: each holds the input's columns and `said`."""
    columns: dict[str, pa.Array] = {}
    for name in rows[0]:
        if name != "said":
            columns[name] = pa.array([row[name] for row in rows])
    for field in ANSWER_FIELDS:
        columns[prefix + field.name] = pa.array([row["said"][field.name] for row in rows], field.type)
    for name in ("candidates", "answers"):
        if name in rows[0]["said"]:
            columns[prefix + name] = pa.array([row["said"].get(name) for row in rows], CANDIDATE_TYPE)
    pq.write_table(pa.table(columns), path)
    return path


def write_wide(path: Path, records: list[dict[str, Any]], names: list[str]) -> Path:
    """A row for each record, with a struct for each question's name."""
    columns: dict[str, pa.Array] = {}
    struct = pa.struct(list(ANSWER_FIELDS))
    for name in records[0]:
        values = [record[name] for record in records]
        columns["qa_" + name if name in names else name] = pa.array(values, struct if name in names else None)
    pq.write_table(pa.table(columns), path)
    return path
