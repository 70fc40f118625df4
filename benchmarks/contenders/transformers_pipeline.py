"""transformers' question-answering pipeline, PyTorch fp32."""

from __future__ import annotations

import torch
from contender import answer_with_pipeline, arguments, measure, read_rows
from transformers import pipeline

options = arguments()
torch.set_num_threads(options.threads)
rows = read_rows(options.rows)
measure(
    lambda: pipeline("question-answering", model=str(options.model), dtype=torch.float32),
    lambda pipe: answer_with_pipeline(pipe, rows, options.batch),
)
