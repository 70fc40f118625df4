"""Rows for a terminal: the question, the answer and its score, and the answer in its context."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rich.text import Text

from batchqa.review.outputs import Row, ShownSpan
from batchqa.text import harmless, word_after, word_before

AROUND = 200
"""Characters of the context that are shown on either side of an answer."""

BAR = 10
"""Width of a score's bar."""

_BLOCKS = " ▏▎▍▌▋▊▉█"
_NOTE = "dim"


def render_rows(rows: Iterable[Row], *, marks: bool) -> Iterator[Text]:
    """Each row as some lines. With `marks` answers stand in brackets, where there are no colours for them."""
    for row in rows:
        yield _rendered(row, marks)


def _rendered(row: Row, marks: bool) -> Text:
    text = Text()
    head = [f"row {row.record + 1:,}", *(shown(each) for each in (row.id, row.name) if each)]
    text.append(" · ".join(head), _NOTE)
    text.append("\n")
    text.append(shown(row.question) or "(no question)", "bold")
    text.append("\n")
    if row.state == "error":
        detail = f" ({shown(row.error_detail)})" if row.error_detail else ""
        text.append(f"{row.error}{detail}", "red")
    elif row.state == "no-answer":
        why = "no answer: the score is below --min-score" if row.error else "no answer"
        text.append(why, "yellow")
        text.append(_score(row.score), _NOTE)
    for number, span in enumerate(row.answers):
        text.append("\n" if number else "")
        text.append(shown(span.text), "bold green")
        text.append(_score(span.score if number or len(row.answers) > 1 else row.score), _NOTE)
    text.append("\n")
    if row.context:
        for piece, is_answer in _pieces(row.context, row.answers):
            if is_answer:
                text.append(f"[{shown(piece)}]" if marks else shown(piece), "black on green")
            else:
                text.append(shown(piece))
        text.append("\n")
    return text


def _score(score: float | None) -> str:
    if score is None:
        return ""
    eighths = round(max(0.0, min(1.0, score)) * BAR * 8)
    full, rest = divmod(eighths, 8)
    bar = "█" * full + (_BLOCKS[rest] if rest else "")
    return f"  {score:.3f} {bar}"


def _pieces(context: str, answers: Iterable[ShownSpan]) -> Iterator[tuple[str, bool]]:
    """The context around its answers, and whether a piece is an answer; what is left out is an ellipsis.

    Without an answer it is the context's beginning. It is cut between words.
    """
    spans = sorted((span.start, span.end) for span in answers)
    around: list[list[int]] = []
    for start, end in spans or [(0, AROUND)]:
        low, high = word_before(context, start - AROUND), word_after(context, end + AROUND)
        if around and low <= around[-1][1]:
            around[-1][1] = max(high, around[-1][1])
        else:
            around.append([low, high])
    for number, (low, high) in enumerate(around):
        if low and not number:
            yield "… ", False
        at = low
        for start, end in spans:
            if at <= start < high:
                yield context[at:start], False
                yield context[start:end], True
                at = end
        yield context[at:high], False
        if high < len(context):
            yield " … ", False


def shown(text: str | None) -> str:
    """A row's text on one line, without what a terminal would obey: control and direction characters."""
    return harmless(re.sub(r"\s+", " ", text or ""))
