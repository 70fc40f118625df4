"""Records -> one row for each record and question: `--ask`, `--questions`, columns of lists of questions.

::

    questions.py      the questions of a job, with {column} templates
    question_file.py  --questions: TOML, JSONL, CSV or Parquet
    expanding.py      a chunk of records -> chunks of questions; their answers -> the chunk's
"""

from .expanding import asked, whole
from .questions import Question, Questions

__all__ = ["Question", "Questions", "asked", "whole"]
