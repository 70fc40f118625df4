"""A PyTorch loop as sentence-transformers has it: windows sorted by length, padded per `--batch` windows.

It tokenizes, runs the model and takes each window's best start and end; nothing is merged or written.
"""

from __future__ import annotations

from typing import Any

import torch
from contender import arguments, measure, read_rows
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}

options = arguments()
torch.set_num_threads(options.threads)
rows = read_rows(options.rows)


def load() -> tuple[Any, Any]:
    """Tokenizer and model."""
    dtype = PRECISIONS[options.precision]
    model = AutoModelForQuestionAnswering.from_pretrained(options.model, dtype=dtype).eval()
    return AutoTokenizer.from_pretrained(options.model), model


def work(loaded: tuple[Any, Any]) -> int:
    """Windows, batches, the model."""
    tokenizer, model = loaded
    windows = tokenizer(
        [row["question"] for row in rows],
        [row["context"] for row in rows],
        truncation="only_second",
        max_length=384,
        stride=128,
        return_overflowing_tokens=True,
    )
    del windows["overflow_to_sample_mapping"]
    order = sorted(range(len(windows["input_ids"])), key=lambda at: -len(windows["input_ids"][at]))
    best = 0
    with torch.inference_mode():
        for at in range(0, len(order), options.batch):
            chosen = order[at : at + options.batch]
            batch = tokenizer.pad(
                {name: [values[i] for i in chosen] for name, values in windows.items()}, return_tensors="pt"
            )
            logits = model(**batch)
            best += len(logits.start_logits.argmax(1)) + len(logits.end_logits.argmax(1))
    return len(rows)


measure(load, work)
