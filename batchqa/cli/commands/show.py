"""`batchqa show`: answers in their contexts."""

from __future__ import annotations

import sys

import click

from batchqa.cli.console import is_terminal, reporting, say, stoppable
from batchqa.cli.options import columns_option, command, common_options, number
from batchqa.domains import Count, Share


@command("show", "Look at answers in their contexts.")
@click.argument("output", metavar="OUTPUT")
@click.option(
    "--where",
    multiple=True,
    type=click.Choice(["answered", "no-answer", "error", "low-score"]),
    help="Only rows of this kind; repeat it for several kinds.",
)
@click.option(
    "--question",
    "questions",
    multiple=True,
    metavar="NAME",
    help="Only this question, by name or text; repeat it for several.",
)
@click.option(
    "--search", metavar="TEXT", help="Only rows with TEXT in their id, question, context or answer."
)
@number("--below", Share, 0.5, "Score below which `--where low-score` selects a row.")
@number("--limit", Count, None, "Rows to show.", metavar="N", show_default="20; 10,000 with --html")
@number("--page", Count, 1, "Page of N rows to show.", metavar="P")
@click.option(
    "--html",
    metavar="FILE",
    help="Write one self-contained HTML page to browse, search and sort.",
)
@columns_option
@common_options
def show_command(
    output: str,
    where: tuple[str, ...],
    questions: tuple[str, ...],
    search: str | None,
    below: float,
    limit: int | None,
    page: int,
    html: str | None,
    log_format: str,
    quiet: bool,
    **columns: str | None,
) -> None:
    """Show the rows of OUTPUT, a file or folder that `run` wrote, with each answer marked in its context.

    An unfinished output can be shown too.
    """
    with reporting(log_format, quiet) as reporter, stoppable():
        from batchqa.cli.show import show_as_page, show_in_terminal
        from batchqa.review import Choice, open_output

        opened = open_output(output, **columns)
        choice = Choice(where, questions, search, below)
        if html is None:
            in_colour = is_terminal(sys.stdout)
            text = show_in_terminal(
                opened, choice, limit=limit, page=page, in_colour=in_colour, on_note=reporter.note
            )
        else:
            text = show_as_page(opened, output, choice, html, limit=limit, on_note=reporter.note)
        reporter.close()
        say(text, sys.stdout)
