"""Answers in the forms of other tools, and labels from one of them as gold answers.

::

    tools.py    rows -> Label Studio tasks, Argilla records, spaCy documents, SQuAD predictions
    labels.py   what people labelled in Label Studio -> rows with gold answers
    layouts.py  wide <-> long
    writing.py  JSON arrays, JSONL and Parquet, complete or not at all
"""

from batchqa.convert.converting import convert

__all__ = ["convert"]
