"""What every contender shares: its arguments, its clock, and the line that it prints."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, str]


def arguments() -> argparse.Namespace:
    """`--rows FILE.jsonl --model PATH --batch N --threads N [--precision P] [--engine E] [--device D]`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def read_rows(file: Path) -> list[Row]:
    """The rows, in memory before the clock starts."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def measure(load: Callable[[], Any], work: Callable[[Any], int]) -> None:
    """Load, then work off all rows under the clock; `work` returns how many it did."""
    began = time.perf_counter()
    loaded = load()
    ready = time.perf_counter()
    rows = work(loaded)
    report(rows, time.perf_counter() - ready, ready - began)


def report(rows: int, seconds: float, load_seconds: float) -> None:
    """Print the line that `compare.py` reads."""
    print(json.dumps({"rows": rows, "seconds": seconds, "load_seconds": load_seconds}))


def answer_with_pipeline(pipeline: Any, rows: list[Row], batch: int) -> int:
    """Work off all rows with a question-answering pipeline of transformers."""
    questions = [{"question": row["question"], "context": row["context"]} for row in rows]
    answers = pipeline(
        questions,
        batch_size=batch,
        max_seq_len=384,
        doc_stride=128,
        max_question_len=64,
        max_answer_len=30,
        handle_impossible_answer=True,
    )
    return len(answers)
