"""`batchqa evaluate`: answers scored against gold answers."""

from __future__ import annotations

import os
import sys
from dataclasses import fields
from functools import partial
from typing import Any

import click

from batchqa.cli.console import progress_of, reporting, say, say_json, stoppable
from batchqa.cli.options import (
    answer_options,
    command,
    common_options,
    given_by_user,
    json_option,
    keyword,
    machine_options,
    max_errors_option,
    number,
    setting,
    text_options,
    together,
)
from batchqa.domains import Folds, InsideShare, Percent, Resamples, Seed
from batchqa.settings import DecodingSettings, MachineSettings, WindowSettings
from batchqa.user_cache import cache_folders

_OF_RUN = {"context", "question", "max_errors"} | {
    field.name for step in (WindowSettings, DecodingSettings, MachineSettings) for field in fields(step)
}
"""Options of `evaluate` that are handed to the run which annotates its file."""

_of_evaluate = partial(keyword, "batchqa.evaluation.evaluating:evaluate")


@command("evaluate", "Score answers against gold answers.")
@click.argument("predictions", metavar="FILE")
@click.option("--gold", metavar="FILE", help="Gold answers, joined by id.", show_default="in FILE itself")
@click.option(
    "--model",
    metavar="MODEL",
    help="Annotate FILE with this bundle (or `default`) first, unless it has been annotated already.",
)
@click.option(
    "--by",
    multiple=True,
    metavar="COLUMN",
    help="Column to group by, or context_length, windows or question_word; repeat it for several.",
)
@click.option(
    "--language",
    metavar="CODE|COLUMN",
    help="Language of the rows, or the column that names it: answers are normalized as in MLQA.",
)
@_of_evaluate(
    "--rules",
    type=click.Choice(["auto", "squad1", "squad2"]),
    help="Scoring rules; auto: SQuAD 1.1's if every question has an answer, else SQuAD 2.0's.",
)
@click.option("--compare", metavar="FILE", help="Other predictions for the same questions, to compare with.")
@click.option(
    "--null-odds",
    metavar="FILE",
    help="Null odds of {id: text} predictions: the official script's {id: number} file.",
)
@click.option(
    "--tune", is_flag=True, help="Write a copy of the model with the best threshold and calibrated scores."
)
@click.option("-o", "--output", metavar="NEW_BUNDLE", help="Where --tune writes it.")
@_of_evaluate(
    "--objective", type=click.Choice(["f1", "exact"]), help="Figure for which --tune chooses the threshold."
)
@_of_evaluate(
    "--target-precision",
    declared=InsideShare,
    help="Instead of --objective: as many answers as possible with at least this share right (exact match).",
    metavar="SHARE",
)
@_of_evaluate(
    "--prior",
    declared=InsideShare,
    help="Expected share of unanswerable questions, to which --tune reweights FILE.",
    metavar="SHARE",
    show_default="FILE's",
)
@_of_evaluate("--folds", declared=Folds, help="Folds of the cross-validation of --tune.")
@click.option("--report", metavar="FILE", help="Write an HTML report.")
@number("--min-f1", Percent, None, "Exit with code 3 if F1 is below this.", metavar="PERCENT")
@_of_evaluate("--seed", declared=Seed, help="Seed of the bootstrap and the folds.")
@_of_evaluate("--resamples", declared=Resamples, help="Resamples of the bootstrap.")
@_of_evaluate("--confidence", declared=InsideShare, help="Confidence level of the intervals.")
@click.option(
    "--gold-column", metavar="COLUMN", help="Column with the gold answers.", show_default="answers, or answer"
)
@click.option(
    "--annotated",
    metavar="FILE",
    help="Where --model writes the annotated rows.",
    show_default="made from FILE",
)
@setting("--id", "Column that joins FILE and --gold.", metavar="COLUMN", show_default="id, if present")
@click.option(
    "--output-prefix",
    metavar="TEXT",
    help="Prefix of the names of the answers' columns.",
    show_default="as in the run, else qa_",
)
@together(json_option, text_options, answer_options, machine_options, max_errors_option)
@common_options
def evaluate_command(
    predictions: str,
    by: tuple[str, ...],
    tune: bool,
    output: str | None,
    min_f1: float | None,
    as_json: bool,
    log_format: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Score FILE by SQuAD's rules: exact match, F1, best thresholds, confidence intervals, calibration.

    FILE is an output of `run`, or predictions as {id: text}, or rows that --model annotates first.
    """
    if tune != (output is not None):
        raise click.UsageError(
            "--tune needs -o NEW_BUNDLE, and -o is only for --tune", click.get_current_context()
        )
    with reporting(log_format, quiet) as reporter, stoppable() as check_stop:
        from batchqa.evaluation import evaluate
        from batchqa.text import harmless

        if options["report"]:
            # matplotlib, which draws it, would keep its list of fonts in the home folder
            os.environ.setdefault("MPLCONFIGDIR", str(cache_folders()[0] / "matplotlib"))
        # options of a run mean something only where a run is made: those left alone are not handed on
        of_run = given_by_user({name: options.pop(name) for name in _OF_RUN})
        options["progress"] = progress_of(reporter, check_stop)
        options |= {"on_note": reporter.note, "on_status": reporter.status}
        result = evaluate(predictions, by=by, tune=output, **options, **of_run)
        reporter.close()
        if as_json:
            say_json(result.to_dict(), sys.stdout)
        else:
            say(harmless(result.table()), sys.stdout)
        if min_f1 is not None:
            result.require_f1(min_f1)
