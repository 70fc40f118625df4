"""`batchqa export`: a checkpoint becomes a bundle."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import click

from batchqa.cli.console import reporting, say, stoppable
from batchqa.cli.options import command, common_options, keyword
from batchqa.domains import AnyNumber, Percent, Share
from batchqa.errors import LimitError

_of_export = partial(keyword, "batchqa.export.exporting:export")


@command("export", "Make a bundle from a checkpoint.")
@click.argument("model", metavar="MODEL")
@click.option("-o", "--output", required=True, metavar="BUNDLE", help="Folder to create.")
@_of_export(
    "--precision",
    "precisions",
    metavar="LIST",
    help="Variants to make, separated by commas: int8 (for CPUs), fp16 (for CUDA), fp32 (for both).",
)
@click.option("--revision", metavar="SHA", help="Commit, tag or branch of a hub id.", show_default="main")
@click.option(
    "--verify-on",
    metavar="FILE",
    help="Rows on which variants are compared with the original; any input file of `run`.",
    show_default="the built-in passages",
)
@_of_export(
    "--min-agreement",
    declared=Share,
    help="Smallest share of answers that must equal the original's, judged by a 95 % interval.",
    show_default="0.97, without gold answers of your own",
)
@_of_export(
    "--max-f1-drop",
    declared=Percent,
    help="Most F1 points that may be lost against gold answers, judged by a 95 % interval.",
)
@_of_export(
    "--abstains",
    type=click.Choice(["auto", "yes", "no"]),
    help="Whether the model was trained to give no answer; auto asks it unanswerable questions.",
)
@_of_export(
    "--target",
    type=click.Choice(["auto", "vnni", "avx2"]),
    help="CPUs to make int8 for: those with VNNI or AMX, or also those without (avx2); auto: this machine's.",
)
@_of_export(
    "--threshold",
    declared=AnyNumber,
    help="No-answer threshold to record in the bundle.",
    show_default="0, not fitted",
)
@click.option("--name", metavar="NAME", help="Name of the bundle.", show_default="the checkpoint's")
@click.option("--licence", metavar="ID", help="Licence of the weights.", show_default="the checkpoint's")
@click.option(
    "--language",
    "languages",
    multiple=True,
    metavar="CODE",
    help="Language that the model is for; repeat it for several.",
    show_default="the checkpoint's, or found by the verification",
)
@click.option("--allow-pickle", is_flag=True, help="Convert a pickled checkpoint, in a separate process.")
@click.option(
    "--allow-unnamed-head",
    is_flag=True,
    help="Accept a question-answering head in the weights that config.json does not name.",
)
@click.option(
    "--allow-question-first",
    is_flag=True,
    help="Accept a tokenizer that pads on the left, for a model that was trained with the question first.",
)
@_of_export(
    "--special-tokens",
    type=click.Choice(["text", "tokens"]),
    help="How the tokenizer's own special tokens are read in a row's texts: as text, or as tokens, as "
    "transformers does.",
)
@common_options
def export_command(
    model: str, output: str, precisions: str, log_format: str, quiet: bool, **options: Any
) -> None:
    """Export MODEL (a checkpoint's folder, or a hub id) to a verified ONNX bundle. Needs `batchqa[export]`.

    A variant that misses a limit is left out (exit code 3). If all do, or if batchqa's answers differ from
    those of transformers, no bundle is made (exit code 5). Repeat an export that was stopped to resume it.
    """
    with reporting(log_format, quiet) as reporter, stoppable(kept="finished work is kept"):
        from batchqa.export.exporting import export

        wanted = tuple(part.strip() for part in precisions.split(",") if part.strip())
        made = export(model, output, precisions=wanted, on_progress=reporter.note, **options)
        from batchqa.cli.describe import describe
        from batchqa.cli.rendering import render_facts

        say(render_facts(describe(output)), sys.stdout)
        if made.left_out:
            why = "; ".join(f"{precision} {text}" for precision, text in made.left_out.items())
            raise LimitError(f"{output} was made without {why}")
