"""optimum's onnxruntime model in transformers' question-answering pipeline; `--model` is an ONNX file."""

from __future__ import annotations

from typing import Any

from contender import answer_with_pipeline, arguments, measure, read_rows
from onnxruntime import SessionOptions
from optimum.onnxruntime import ORTModelForQuestionAnswering
from transformers import AutoTokenizer, pipeline

options = arguments()
rows = read_rows(options.rows)


def load() -> Any:
    """The pipeline."""
    session = SessionOptions()
    session.intra_op_num_threads = options.threads
    model = ORTModelForQuestionAnswering.from_pretrained(
        options.model.parent, file_name=options.model.name, session_options=session
    )
    return pipeline(
        "question-answering", model=model, tokenizer=AutoTokenizer.from_pretrained(options.model.parent)
    )


measure(load, lambda pipe: answer_with_pipeline(pipe, rows, options.batch))
