"""The columns that a run adds, and those that ask: names, types, and the codes of `qa_error`.

Names are without the output prefix.
"""

from __future__ import annotations

import pyarrow as pa

ROW_ERRORS = (
    "bad_json",
    "bad_utf8",
    "not_an_object",
    "type_context",
    "type_question",
    "type_field",
    "missing_context",
    "missing_question",
    "line_too_long",
    "too_large",
    "non_finite",
    "oom",
    "crashed",
)
"""Codes of `qa_error` that count against `--max-errors`."""

ROW_STATUSES = (
    "null_context",
    "null_question",
    "empty_context",
    "empty_question",
    "question_too_long",
    "low_score",
)
"""Codes of `qa_error` that say why a good row was not judged; they count only with `--strict`."""


QUESTION_CODES = (
    "null_question",
    "empty_question",
    "question_too_long",
    "low_score",
    "oom",
    "crashed",
)
"""Codes that are of one question; the others are of the record, however many questions it is asked."""

QUESTIONS_TYPE = pa.list_(
    pa.struct([pa.field("name", pa.string()), pa.field("question", pa.string())]),
)
"""The questions of a row that brings several; their names may be null."""

ASKED_FIELDS = (pa.field("name", pa.string()), pa.field("question", pa.string()))
"""The columns that say what was asked, where a record has a row for each question."""

CANDIDATE_TYPE = pa.list_(
    pa.struct(
        [
            pa.field("answer", pa.string()),
            pa.field("start", pa.int32()),
            pa.field("end", pa.int32()),
            pa.field("score", pa.float32()),
        ]
    )
)

ANSWER_FIELDS = (
    pa.field("answer", pa.string()),
    pa.field("start", pa.int32()),
    pa.field("end", pa.int32()),
    pa.field("score", pa.float32()),
    pa.field("no_answer", pa.bool_()),
    pa.field("null_odds", pa.float32()),
    pa.field("error", pa.string()),
    pa.field("error_detail", pa.string()),
)
"""The columns that a run adds, before the output prefix (`qa_`) is put in front of their names."""


PAIR_CANDIDATE_TYPE = pa.list_(
    pa.struct([field for field in CANDIDATE_TYPE.value_type if field.name != "answer"])
)
"""Candidates as the decoder knows them: their texts are cut from the context last of all."""


PAIR_ANSWERS_TYPE = pa.list_(
    pa.struct([*PAIR_CANDIDATE_TYPE.value_type, pa.field("null_odds", pa.float64())])
)
"""All answers as the decoder knows them, each with its odds: null score minus the span's."""


def answer_schema(top_k: int, most_answers: int = 0) -> pa.Schema:
    """The columns that a run adds, without their prefix.

    `candidates` are among them where top_k is above 0, `answers` where most_answers is.
    """
    fields = list(ANSWER_FIELDS)
    if top_k:
        fields.append(pa.field("candidates", CANDIDATE_TYPE))
    if most_answers:
        fields.append(pa.field("answers", CANDIDATE_TYPE))
    return pa.schema(fields)


def pair_schema(top_k: int, most_answers: int = 0) -> pa.Schema:
    """The columns of `PairAnswers`: those of `answer_schema` that depend on the pair, without texts."""
    fields = [field for field in ANSWER_FIELDS if field.name not in ("answer", "error_detail")]
    if top_k:
        fields.append(pa.field("candidates", PAIR_CANDIDATE_TYPE))
    if most_answers:
        fields.append(pa.field("answers", PAIR_ANSWERS_TYPE))
    return pa.schema(fields)
