"""`batchqa convert`: answers for other tools."""

from __future__ import annotations

import sys

import click

from batchqa.cli.console import reporting, say, stoppable
from batchqa.cli.options import columns_option, command, common_options

FORMS = ("label-studio", "argilla", "spacy", "squad", "wide", "long", "gold")
"""What `convert --to` takes."""


@command("convert", "Write answers in the formats of other tools.")
@click.argument("output", metavar="OUTPUT")
@click.option(
    "-o",
    "--output-file",
    "path",
    required=True,
    metavar="FILE",
    help="File to write; for spacy .spacy (DocBin) or .jsonl, for wide and long .parquet, .jsonl, .csv "
    "or .tsv.",
)
@click.option(
    "--to",
    "form",
    required=True,
    type=click.Choice(FORMS),
    help="Format of FILE; gold: OUTPUT is an export of Label Studio, whose answers become gold answers.",
)
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
@columns_option
@common_options
def convert_command(
    output: str, path: str, form: str, overwrite: bool, log_format: str, quiet: bool, **columns: str | None
) -> None:
    """Write the answers of OUTPUT as Label Studio predictions, Argilla records, spaCy documents, SQuAD
    predictions ({id: text}, with null odds in a second file), or in the other layout (wide, long).
    """  # noqa: D205  (click makes one paragraph of it)
    with reporting(log_format, quiet), stoppable():
        from batchqa.convert import convert

        say(convert(output, path, form, overwrite=overwrite, **columns), sys.stdout)
