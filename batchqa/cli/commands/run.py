"""`batchqa run`: annotate files."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import click

from batchqa.cli.console import is_terminal, progress_of, reporting, say, say_json, stoppable
from batchqa.cli.options import (
    NOTHING_TO_DO,
    answer_options,
    command,
    common_options,
    default_of,
    machine_options,
    max_errors_option,
    model_option,
    number,
    prefix_option,
    setting,
    text_options,
    together,
)
from batchqa.cli.progress import Reporter
from batchqa.domains import Count
from batchqa.settings import Cores, ReadingSettings, RunSettings


class _Name(click.types.StringParamType):
    """A column or an output. In the environment names are not split at spaces, which they may have."""

    envvar_list_splitter = "\n"


def _columns(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...] | None:
    """Column names, repeated or separated by commas (quoted as in CSV), else the setting's default."""
    if not values:
        return default_of(ReadingSettings, parameter.name or "")  # type: ignore[no-any-return]
    return tuple(name for row in csv.reader(values, skipinitialspace=True) for name in row)


_asking_options = together(
    setting(
        "--ask",
        "Question to ask of every row, which then needs no question column; {column} is the row's "
        "value. Repeat it for several.",
        metavar="NAME=QUESTION",
        multiple=True,
        type=_Name(),
    ),
    setting(
        "--questions",
        "File of questions to ask of every row (TOML, JSONL, CSV or Parquet): name, question and "
        "optionally threshold (for no answer) and answers (how many to list).",
        metavar="FILE",
    ),
    setting(
        "--layout",
        "With several questions a row: a row for each (long), or one row with a struct column for each "
        "(wide).",
    ),
)


_reading_options = together(
    setting(
        "--id", "Column that names a row in error messages.", metavar="COLUMN", show_default="id, if present"
    ),
    setting(
        "--keep",
        "Input columns to write; all others are left out. Repeat it, or separate names by commas.",
        metavar="COLUMNS",
        multiple=True,
        type=_Name(),
        callback=_columns,
        show_default="all",
    ),
    setting(
        "--partition-columns",
        "Read key=value folder names as columns after the files' own; as integers if all values are.",
    ),
    setting(
        "--drop",
        "Input columns to leave out. Repeat it, or separate names by commas.",
        metavar="COLUMNS",
        multiple=True,
        type=_Name(),
        callback=_columns,
        show_default="none",
    ),
    setting(
        "--schema",
        "File with column types: of JSON (default: those of the first 10,000 records) and CSV (default: "
        "text).",
        metavar="FILE",
    ),
    prefix_option,
    setting("--max-line-bytes", "Longest line of JSONL, in bytes; longer ones are row errors."),
    setting("--max-context-chars", "Longest context, in characters; longer ones are row errors."),
    setting(
        "--if-no-input",
        "If there is no input file, or no row in it: fail (exit code 2), or skip: write nothing (exit "
        "code 99).",
    ),
    setting(
        "--max-zstd-window",
        "Largest window of a zstd file, in bytes; one made with --long=31 needs 2147483648.",
    ),
)


_processes_option = number(
    "--processes",
    Cores,
    None,
    "Processes that share the job's parts, each with its own reader and engine; they divide threads and "
    "GPUs among them.",
    metavar="N",
    show_default="1",
)


_error_options = together(
    max_errors_option,
    setting(
        "--on-error",
        "Keep a bad row with its code, move it to OUTPUT.rejects.jsonl, or stop.",
    ),
    setting(
        "--strict",
        "Count null, empty and overlong questions or contexts as errors.",
    ),
)


_output_options = together(
    setting(
        "--compression",
        "Compression of Parquet output.",
    ),
    setting(
        "--reuse",
        "Earlier output of the same model and options, whose answers are copied, not scored again. "
        "Repeat it for several.",
        metavar="OUTPUT",
        multiple=True,
        type=_Name(),
        show_default="none",
    ),
    setting("--overwrite", "Replace an output that exists."),
    setting("--restart", "Discard the parts of a stopped run instead of resuming from them."),
    setting("--part-rows", "Rows of a part, the unit of commit and resume."),
    setting("--limit", "Annotate only the first N rows.", metavar="N"),
)


_shard_options = together(
    click.option(
        "--shard",
        metavar="I/N|auto",
        help="Annotate shard I of N, counted from 0; auto: the one that the scheduler's environment "
        "variables name. Afterwards `batchqa finalize` publishes the output.",
    ),
    number(
        "--shards",
        Count,
        None,
        "Number of shards, for --on or if the scheduler does not say it.",
        metavar="N",
    ),
    click.option(
        "--on",
        metavar="ray[://ADDRESS]|spark[://MASTER]",
        help="Annotate all shards as tasks of this cluster and publish the output. Default ADDRESS or "
        "MASTER: RAY_ADDRESS or SPARK_MASTER_URL, or else that of Ray or Spark.",
    ),
)


@command("run", "Annotate files: the main command.")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUTPUT",
    help="A .parquet, .jsonl, .csv or .tsv file, folder/, or - (JSONL).",
)
@model_option
@together(
    text_options,
    _asking_options,
    _reading_options,
    answer_options,
    machine_options,
    _error_options,
    _output_options,
    _shard_options,
)
@_processes_option
@click.option(
    "--dry-run", is_flag=True, help="Read and count the input, estimate time and memory, and write nothing."
)
@click.option(
    "--summary",
    metavar="FILE",
    help="Also write the summary to this file as JSON; -: print it as JSON even on a terminal.",
)
@common_options
def run_command(
    inputs: tuple[str, ...],
    output: str,
    model: str,
    shard: str | None,
    shards: int | None,
    on: str | None,
    processes: int | None,
    dry_run: bool,
    summary: str | None,
    log_format: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Annotate INPUT and write OUTPUT. INPUT is files, folders or globs: Parquet, JSONL, JSON, CSV, TSV
    (text also as gzip or zstd), SQuAD, or .txt, one document each; - is JSONL on standard input. The last
    line on standard output is the summary as JSON; a terminal shows a readable one.
    """  # noqa: D205  (click makes one paragraph of it)
    rows_on_terminal = output == "-" and is_terminal(sys.stdout)
    with reporting(log_format, quiet, bar=not rows_on_terminal) as reporter, stoppable() as check_stop:
        from batchqa import job, runners
        from batchqa.cli.rendering import render
        from batchqa.runners.shards import share_of_job

        common: dict[str, Any] = {
            "model": _resolved(model, reporter),
            "settings": RunSettings.from_options(options),
            "on_note": reporter.note,
            "whole_process": True,
        }
        as_json = summary == "-"
        result: job.Summary | job.Estimate
        share = share_of_job(shard, None if on else shards)
        if dry_run:
            result = job.dry_run(inputs, output, **common)
        else:
            result = runners.run(
                inputs,
                output,
                on=on,
                shards=shards if on else None,  # else it is known from `share`
                processes=processes,
                progress=progress_of(reporter, check_stop),
                on_status=reporter.status,
                summary=None if as_json else summary,
                shard=share,
                **common,
            )
        reporter.close()
        stream = reporter.stream if output == "-" else sys.stdout
        if stream is not None or dry_run:  # whoever closed it wants no summary; the output is complete
            lost = "" if dry_run else "; the summary is lost, the output itself is complete"
            if is_terminal(stream) and not as_json:
                say(render(result), stream, lost=lost)
            else:
                say_json(result.to_dict(), stream, lost=lost)
        if isinstance(result, job.Summary) and result.skipped:
            raise click.exceptions.Exit(NOTHING_TO_DO)


def _resolved(model: str, reporter: Reporter) -> str | Path:
    """A hub id (org/name, no such folder) stands for its bundle in the cache, made on first use."""
    if (
        model == "default"
        or Path(model).exists()
        or model.count("/") != 1
        or model.startswith((".", "/", "~"))
    ):
        return model
    from batchqa.export.cached_bundles import ensure_cached

    return ensure_cached(model, on_progress=reporter.note)
