"""transformers' question-answering pipeline on PyTorch; `--precision` fp32, bf16 or fp16."""

from __future__ import annotations

import torch
from contender import answer_with_pipeline, arguments, measure, read_rows
from transformers import pipeline

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

options = arguments()
torch.set_num_threads(options.threads)
rows = read_rows(options.rows)
measure(
    lambda: pipeline(
        "question-answering",
        model=str(options.model),
        dtype=PRECISIONS[options.precision],
        device=options.device,
    ),
    lambda pipe: answer_with_pipeline(pipe, rows, options.batch),
)
