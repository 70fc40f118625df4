"""Haystack's extractive reader; one query at a time, as it takes them, in batches of `--batch` windows."""

from __future__ import annotations

from typing import Any

import torch
from contender import arguments, measure, read_rows
from haystack import Document
from haystack.components.readers import ExtractiveReader
from haystack.utils import ComponentDevice

options = arguments()
torch.set_num_threads(options.threads)
rows = read_rows(options.rows)


def load() -> Any:
    """The reader, warmed up."""
    reader = ExtractiveReader(
        model=str(options.model),
        device=ComponentDevice.from_str("cpu"),
        top_k=1,
        max_seq_length=384,
        stride=128,
        max_batch_size=options.batch,
        answers_per_seq=1,
        no_answer=True,
    )
    reader.warm_up()
    return reader


def work(reader: Any) -> int:
    """One query and its document after the other: a reader has no batch of pairs."""
    for row in rows:
        reader.run(query=row["question"], documents=[Document(content=row["context"])])
    return len(rows)


measure(load, work)
