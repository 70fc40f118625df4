"""Why a row has no answer, beyond what reading found: decided and worded here, whichever step noticed."""

from __future__ import annotations

from batchqa.records import Chunk, RowFault, Windows
from batchqa.text import is_blank


def status_of_text(name: str, text: str) -> str | None:
    """The status of rows whose `name` ("context", "question") is this text, if there is nothing to read."""
    return f"empty_{name}" if is_blank(text) else None


def status_of_pair(windows: Windows, asked: int) -> str:
    """Why an asked pair has no span although nothing failed: what the tokenizer made of its texts."""
    layout, question = windows.layout, int(windows.pair_question[asked])
    if windows.pair_count[asked]:
        return "empty_context"  # its tokens show nothing that could be an answer
    if not len(windows.contexts[windows.pair_context[asked]].ids):
        return "empty_context"
    if windows.prefixes.length[question] == len(layout.before) + len(layout.between):
        return "empty_question"
    return "question_too_long"


def row_fault(code: str, chunk: Chunk, row: int) -> RowFault:
    """A code with the place of the row that has it."""
    return RowFault(code, chunk.rows.locate(row))
