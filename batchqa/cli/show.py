"""`batchqa show`: answers in their contexts, some rows in a terminal or many in one HTML page."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable

from rich.console import Console

from batchqa.evaluation.comparing import Maker
from batchqa.review import Choice, Output, choose, render_rows, write_page
from batchqa.side_files import PAGE, check_side_file
from batchqa.store.locations import local_output

TERMINAL_ROWS = 20
"""Rows that a terminal shows, if --limit does not say."""

PAGE_ROWS = 10_000
"""Rows that an HTML page has, if --limit does not say."""


def show_in_terminal(
    output: Output,
    choice: Choice,
    *,
    limit: int | None,
    page: int,
    in_colour: bool,
    on_note: Callable[[str], None],
) -> str:
    """Page `page` (from 1) of the rows that are chosen, as text for a terminal."""
    limit = TERMINAL_ROWS if limit is None else limit
    numbers, total = choose(output, choice)
    first = (page - 1) * limit
    rows = output.take(numbers[first : first + limit])
    _notes(output, on_note)
    text = io.StringIO()
    width = shutil.get_terminal_size().columns if in_colour else 100
    console = Console(
        file=text,
        width=width,
        force_terminal=in_colour,
        color_system="standard" if in_colour and not os.environ.get("NO_COLOR") else None,
        legacy_windows=False,
    )
    for block in render_rows(rows, marks=console.color_system is None):
        console.print(block, soft_wrap=not in_colour)
    chosen = f"{_rows(len(numbers))} of {total:,}" if len(numbers) < total else _rows(total)
    if not rows:
        past = f": there is no page {page} with {limit} rows a page" if len(numbers) else ""
        return f"{output.source.path}: {chosen}{past}"
    more = f"; more with --page {page + 1}" if first + limit < len(numbers) else ""
    places = f"{first + 1:,} to {first + len(rows):,} of " if len(rows) < len(numbers) else ""
    return f"{text.getvalue()}{output.source.path}: {places}{chosen}{more}"


def show_as_page(
    output: Output,
    given: str,
    choice: Choice,
    html: str,
    *,
    limit: int | None,
    on_note: Callable[[str], None],
) -> str:
    """Write the rows that are chosen as one HTML page; what was written is returned as a line."""
    path = local_output("--html", html)
    check_side_file("--html", path, [given], PAGE)
    limit = PAGE_ROWS if limit is None else limit
    numbers, total = choose(output, choice)
    _notes(output, on_note)
    rows = output.take(numbers[:limit])
    facts = {"": _rows(total)} | _maker(output.maker)
    size = write_page(path, rows, title=output.source.path, facts=facts, total=total)
    left = f"; {len(numbers) - limit:,} more are left out: --limit" if len(numbers) > limit else ""
    return f"{path}: {_rows(len(rows))} of {total:,}, {_size(size)}{left}"


def _notes(output: Output, on_note: Callable[[str], None]) -> None:
    if output.unfinished:
        on_note(f"{output.source.path} is not finished: these are the rows so far")
    if output.unfinished and "_record" in output.source.names:
        on_note("its contexts are JSON text until the job is finished, so answers are shown without them")
    elif "context" not in output.columns and output.source.names:
        on_note(
            "the output has no context column, so answers are shown alone; --context names another column"
        )


def _maker(maker: Maker | None) -> dict[str, str]:
    if maker is None:
        return {}
    facts = {"model": f"{maker.model} ({maker.variant})"}
    if maker.threshold is not None:
        facts["threshold"] = f"{maker.threshold:.4g}"
    return facts


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.0f} kB"


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
