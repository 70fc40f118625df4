"""One HTML page with rows of an output: data, style and script in one file that loads nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import orjson

from batchqa.html_pages import style, write_whole
from batchqa.review.outputs import Row, ShownSpan
from batchqa.version import VERSION

_STATES = ("answered", "no-answer", "error")


def write_page(path: Path, rows: Iterable[Row], *, title: str, facts: Mapping[str, str], total: int) -> int:
    """Write the page; how many bytes it has is returned.

    `title` names the output, `facts` are shown below it, `total` is how many rows the output has. Raises
    StorageError.
    """
    page = render(rows, title=title, facts=facts, total=total)
    write_whole(path, page)
    return len(page.encode())


def render(rows: Iterable[Row], *, title: str, facts: Mapping[str, str], total: int) -> str:
    """The page as text. Contexts and questions that repeat are held once."""
    data = {"title": title, "facts": dict(facts), "total": total, **_tables(rows)}
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # no browser looks for the end of a script, or for a comment, behind an escaped "<"
    text = orjson.dumps(data).decode().replace("<", "\\u003c")
    parts = {
        "title": escape(title),
        "version": VERSION,
        "style": style() + _file("page.css"),
        "digest": digest,
        "script": script,
        "data": text,
    }
    pieces = _file("page.html").split("@@")  # text, name, text, name, ..., text
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def _file(name: str) -> str:
    return resources.files("batchqa.review").joinpath(name).read_text(encoding="utf-8")


def _tables(rows: Iterable[Row]) -> dict[str, Any]:
    """What the script reads: `documents`, `questions` and `rows`, which hold the numbers of the other two.

    A row: record, id, document, question, state, score, null odds, answers, candidates, error, detail.
    """
    documents: dict[str | None, int] = {}
    questions: dict[tuple[str | None, str], int] = {}
    listed = []
    for row in rows:
        places = _utf16(row.context)
        listed.append(
            [
                row.record,
                row.id,
                documents.setdefault(row.context, len(documents)),
                questions.setdefault((row.name, row.question), len(questions)),
                _STATES.index(row.state),
                _rounded(row.score),
                _rounded(row.null_odds),
                [_span(span, places) for span in row.answers],
                [_span(span, places) for span in row.candidates],
                row.error,
                row.error_detail,
            ]
        )
    return {"documents": list(documents), "questions": list(questions), "rows": listed}


def _span(span: ShownSpan, places: Callable[[int], int]) -> list[Any]:
    return [span.text, places(span.start), places(span.end), _rounded(span.score)]


def _utf16(context: str | None) -> Callable[[int], int]:
    """Code points -> the units that JavaScript counts: characters beyond U+FFFF are two."""
    if context is None or context.isascii() or max(context) <= "\uffff":
        return int
    return lambda place: len(context[:place].encode("utf-16-le", "surrogatepass")) // 2


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
