"""The commands: options -> settings -> one call -> the summary and the exit code. Nothing else happens here.

This is the only module that prints or exits. What a command needs is imported inside it, so that
`batchqa --help` is quick and needs no model, no torch and no transformers.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import click
import orjson

from batchqa.allocator import choose_allocator
from batchqa.cli.options import (
    Commands,
    answer_options,
    asking_options,
    columns_option,
    config_option,
    error_options,
    given_by_user,
    json_option,
    keyword,
    machine_options,
    max_errors_option,
    model_option,
    number,
    output_options,
    prefix_option,
    processes_option,
    reading_options,
    setting,
    shard_options,
    speaking_options,
    text_options,
    together,
    training_options,
    where_given,
)
from batchqa.cli.progress import Reporter, one_line, open_reporter
from batchqa.domains import AnyNumber, Count, CountOrZero, Folds, InsideShare, Percent, Resamples, Seed, Share
from batchqa.errors import BatchqaError, LimitError, StoppedError, StorageError
from batchqa.settings import DecodingSettings, MachineSettings, RunSettings, WindowSettings
from batchqa.train.train_settings import TrainSettings
from batchqa.user_cache import cache_folders
from batchqa.version import VERSION

FORMS = ("label-studio", "argilla", "spacy", "squad", "wide", "long", "gold")
"""What `convert --to` takes."""

_OF_RUN = {"context", "question", "max_errors"} | {
    field.name for step in (WindowSettings, DecodingSettings, MachineSettings) for field in fields(step)
}
"""Options of `evaluate` that are handed to the run which annotates its file."""

_of_export = partial(keyword, "batchqa.export.exporting:export")
_of_evaluate = partial(keyword, "batchqa.evaluation.evaluating:evaluate")

EPILOG = (
    "Every option can also be given in the environment (--top-k of run is BATCHQA_RUN_TOP_K) and in a TOML "
    "file (--config job.toml, table [run], key top-k). The command line wins over the environment, the "
    "environment over the file."
)

EXIT_CODES = (
    "Exit codes: 0 done, or already done; 2 usage or unusable input; 3 a limit that you set was not met; "
    "4 the output exists, or input or options changed; 5 model or device; 74 I/O; 75 try again; "
    "99 nothing to do (--if-no-input skip); "
    "130 SIGINT; 143 SIGTERM."
)

NOTHING_TO_DO = 99
"""The exit code of a run without input; Airflow's BashOperator takes it for a skipped task."""


def program() -> int:
    """The command `batchqa`, as a process of its own."""
    choose_allocator()
    code = main()
    storage = sys.modules.get("batchqa.store.locations")  # not imported for it: `--help` is quick
    if storage and storage.is_waiting():
        # A silent store was given up by a signal. The library would wait for it at the process's end.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, AttributeError):  # a closed one is None
                stream.flush()
        os._exit(code)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is returned. `arguments` None means the process's own."""
    _hold_standard_streams()
    try:
        code = commands.main(args=arguments, prog_name="batchqa", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as no_command:
        _say(no_command.format_message(), sys.stderr)
        return no_command.exit_code
    except click.ClickException as mistake:
        context = getattr(mistake, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context else ""
        where = where_given(mistake) if isinstance(mistake, click.BadParameter) else ""
        _say(f"batchqa: error: {one_line(mistake.format_message())}{where}{hint}", sys.stderr)
        return mistake.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 128 + signal.SIGINT
    except SystemExit:  # click's way when the reader of the help has gone away: no error of ours
        return 0
    except OSError as error:  # help or version to a full disk
        _say(f"batchqa: error: writing to standard output: {error.strerror}", sys.stderr)
        return StorageError.exit_code
    return code if isinstance(code, int) else 0


@click.group(
    cls=Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
    epilog=EXIT_CODES,
)
@click.version_option(VERSION, message="batchqa %(version)s")
def commands() -> None:
    """Answer questions about texts in files: (context, question) rows in, the same rows with answers out."""


# --------------------------------------------------------------------------------------------- commands


@commands.command("run", short_help="Annotate files: the main command.", epilog=EPILOG)
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
    asking_options,
    reading_options,
    answer_options,
    machine_options,
    error_options,
    output_options,
    shard_options,
)
@processes_option
@click.option("--dry-run", is_flag=True, help="Read, count and estimate; write nothing.")
@click.option(
    "--summary",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="Also write the summary to this file, as JSON; -: JSON on standard output, even on a terminal.",
)
@speaking_options
@config_option
def run_command(
    inputs: tuple[str, ...],
    output: str,
    model: str,
    shard: str | None,
    shards: int | None,
    on: str | None,
    processes: int | None,
    dry_run: bool,
    summary: Path | None,
    log_format: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Annotate INPUT (files, folders or globs: Parquet, JSONL, gzip or zstd JSONL, SQuAD; - is JSONL on
    standard input) and write OUTPUT. The last line on standard output is the summary as JSON; a terminal
    shows a readable one.
    """  # noqa: D205  (click makes one paragraph of it)
    rows_on_terminal = output == "-" and _is_terminal(sys.stdout)
    with _reporting(log_format, quiet, bar=not rows_on_terminal) as reporter, _stoppable() as check_stop:
        from batchqa import job, runners
        from batchqa.cli.rendering import render
        from batchqa.runners.shards import share_of_job

        common: dict[str, Any] = {
            "model": _resolved(model, reporter),
            "settings": RunSettings.from_options(options),
            "on_note": reporter.note,
            "whole_process": True,
        }
        as_json = summary is not None and str(summary) == "-"
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
                progress=_progress(reporter, check_stop),
                on_status=reporter.status,
                summary=None if as_json else summary,
                shard=share,
                **common,
            )
        reporter.close()
        stream = reporter.stream if output == "-" else sys.stdout
        if stream is not None or dry_run:  # whoever closed it wants no summary; the output is complete
            lost = "" if dry_run else "; the summary is lost, the output itself is complete"
            if _is_terminal(stream) and not as_json:
                _say(render(result), stream, lost=lost)
            else:
                _say_json(result.to_dict(), stream, lost=lost)
        if isinstance(result, job.Summary) and result.skipped:
            raise click.exceptions.Exit(NOTHING_TO_DO)


@commands.command("finalize", short_help="Publish the output of a sharded job.", epilog=EPILOG)
@click.argument("output", metavar="OUTPUT")
@number("--wait", CountOrZero, 0, "Seconds to wait for shards that are not done.", metavar="SECONDS")
@click.option(
    "--max-errors",
    metavar="N|P%",
    help="Row errors to tolerate: a count, or a share.",
    show_default="what the first shard was given",
)
@click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
@speaking_options
@config_option
def finalize_command(output: str, log_format: str, quiet: bool, **options: Any) -> None:
    """Prove that all parts and rows of OUTPUT are there, which `run --shard` was given, and publish it.

    Parts missing: exit code 75, and the shards to run again. Published already: exit code 0, untouched.
    """
    with _reporting(log_format, quiet) as reporter, _stoppable():
        from batchqa import job
        from batchqa.cli.rendering import render

        result = job.finalize(
            output, on_note=reporter.note, on_status=reporter.status, whole_process=True, **options
        )
        reporter.close()
        if sys.stdout is not None:
            lost = "; the summary is lost, the output itself is complete"
            if _is_terminal(sys.stdout):
                _say(render(result), sys.stdout, lost=lost)
            else:
                _say_json(result.to_dict(), sys.stdout, lost=lost)


@commands.command("export", short_help="Make a bundle from a checkpoint.", epilog=EPILOG)
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
@speaking_options
@config_option
def export_command(
    model: str, output: str, precisions: str, log_format: str, quiet: bool, **options: Any
) -> None:
    """Export MODEL (a checkpoint's folder, or a hub id) to a verified ONNX bundle. Needs `batchqa[export]`.

    A variant that misses a limit is left out (exit code 3). If all do, or if batchqa's answers differ from
    those of transformers, no bundle is made (exit code 5). Repeat an export that was stopped to resume it.
    """
    with _reporting(log_format, quiet) as reporter, _stoppable(kept="finished work is kept"):
        from batchqa.export.exporting import export

        wanted = tuple(part.strip() for part in precisions.split(",") if part.strip())
        made = export(model, output, precisions=wanted, on_progress=reporter.note, **options)
        from batchqa.cli.describe import describe
        from batchqa.cli.rendering import render_facts

        _say(render_facts(describe(output)), sys.stdout)
        if made.left_out:
            why = "; ".join(f"{precision} {text}" for precision, text in made.left_out.items())
            raise LimitError(f"{output} was made without {why}")


@commands.command("evaluate", short_help="Score answers against gold answers.", epilog=EPILOG)
@click.argument("predictions", metavar="FILE")
@click.option("--gold", metavar="FILE", help="Gold answers, joined by id.", show_default="in FILE itself")
@click.option(
    "--model",
    metavar="MODEL",
    help="Annotate FILE with this bundle (or `default`) first, unless that has been done.",
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
    help="Language of the rows, or the column that names it: answers are normalised as in MLQA.",
)
@_of_evaluate(
    "--rules",
    type=click.Choice(["auto", "squad1", "squad2"]),
    help="Scoring rules; auto: SQuAD 1.1's if every question has an answer, else SQuAD 2.0's.",
)
@click.option("--compare", metavar="FILE", help="Other predictions for the same questions, to compare with.")
@click.option(
    "--null-odds", metavar="FILE", help="The official script's {id: number} file, for {id: text} predictions."
)
@click.option(
    "--tune", is_flag=True, help="Write a copy of the model with the best threshold and calibrated scores."
)
@click.option("-o", "--output", metavar="NEW_BUNDLE", help="Where --tune writes it.")
@_of_evaluate(
    "--objective", type=click.Choice(["f1", "exact"]), help="What --tune chooses the threshold for."
)
@_of_evaluate(
    "--target-precision",
    declared=InsideShare,
    help="Instead of --objective: as many answers as possible of which this share is right (exact match).",
    metavar="SHARE",
)
@_of_evaluate(
    "--prior",
    declared=InsideShare,
    help="Share of unanswerable questions that you expect; --tune reweights FILE to it.",
    metavar="SHARE",
    show_default="FILE's",
)
@_of_evaluate("--folds", declared=Folds, help="Folds of the cross-validation of --tune.")
@click.option("--report", metavar="FILE", help="Write an HTML report.")
@number("--min-f1", Percent, None, "Exit code 3 if F1 is below this.", metavar="PERCENT")
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
@together(prefix_option, json_option, text_options, answer_options, machine_options, max_errors_option)
@speaking_options
@config_option
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
        raise click.UsageError("--tune and -o NEW_BUNDLE belong together", click.get_current_context())
    with _reporting(log_format, quiet) as reporter, _stoppable() as check_stop:
        from batchqa.evaluation import evaluate

        if options["report"]:
            # matplotlib, which draws it, would keep its list of fonts in the home folder
            os.environ.setdefault("MPLCONFIGDIR", str(cache_folders()[0] / "matplotlib"))
        # options of a run mean something only where a run is made: those left alone are not handed on
        of_run = given_by_user({name: options.pop(name) for name in _OF_RUN})
        options["progress"] = _progress(reporter, check_stop)
        options |= {"on_note": reporter.note, "on_status": reporter.status}
        result = evaluate(predictions, by=by, tune=output, **options, **of_run)
        reporter.close()
        if as_json:
            _say_json(result.to_dict(), sys.stdout)
        else:
            _say(result.table(), sys.stdout)
        if min_f1 is not None:
            result.require_f1(min_f1)


@commands.command("train", short_help="Fine-tune or distil a checkpoint.", epilog=EPILOG)
@click.argument("base", metavar="BASE")
@click.option("-o", "--output", required=True, metavar="CHECKPOINT", help="Folder to create.")
@click.option(
    "--data",
    required=True,
    multiple=True,
    metavar="FILE",
    help="Rows to train on; repeat it for several files.",
)
@training_options
@speaking_options
@config_option
def train_command(
    base: str,
    output: str,
    data: tuple[str, ...],
    teacher: tuple[str, ...],
    layers: tuple[int, ...] | None,
    log_format: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Fine-tune BASE (a folder, or a hub id) on rows with gold answers, or distil it from teachers.

    Needs `batchqa[train]`. A run that was stopped or killed is resumed by the same command.
    """
    with (
        _reporting(log_format, quiet) as reporter,
        _stoppable(at_once=False, kept="the steps so far are kept") as check_stop,
    ):
        from batchqa.train.training import train

        names = TrainSettings.__dataclass_fields__
        trained = train(
            base,
            output,
            data,
            teachers=teacher,
            layers=layers,
            settings=TrainSettings(**{name: value for name, value in options.items() if name in names}),
            on_progress=reporter.training,
            on_note=reporter.note,
            check_stop=check_stop,
            **{name: value for name, value in options.items() if name not in names},
        )
        _say_json(trained.to_dict(), sys.stdout)


@commands.command("show", short_help="Look at answers in their contexts.", epilog=EPILOG)
@click.argument("output", metavar="OUTPUT")
@click.option(
    "--where",
    multiple=True,
    type=click.Choice(["answered", "no-answer", "error", "low-score"]),
    help="Only rows of this kind; repeat it for several kinds.",
)
@click.option(
    "--question", "questions", multiple=True, metavar="NAME", help="Only this question, by name or text."
)
@click.option(
    "--search", metavar="TEXT", help="Only rows with TEXT in their id, question, context or answer."
)
@number("--below", Share, 0.5, "Score below which `--where low-score` takes a row.")
@number("--limit", Count, None, "Rows to show.", metavar="N", show_default="20; 10,000 with --html")
@number("--page", Count, 1, "Page of N rows to show.", metavar="P")
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write one HTML page to browse, search and sort, that loads nothing from elsewhere.",
)
@columns_option
@speaking_options
@config_option
def show_command(
    output: str,
    where: tuple[str, ...],
    questions: tuple[str, ...],
    search: str | None,
    below: float,
    limit: int | None,
    page: int,
    html: Path | None,
    log_format: str,
    quiet: bool,
    **columns: str | None,
) -> None:
    """Show the rows of OUTPUT (Parquet or JSONL, a file or folder), each answer marked in its context.

    Also an output that is not finished yet.
    """
    with _reporting(log_format, quiet) as reporter, _stoppable():
        from batchqa.cli.show import show_as_page, show_in_terminal
        from batchqa.review import Choice, open_output

        opened = open_output(output, **columns)
        choice = Choice(where, questions, search, below)
        if html is None:
            in_colour = _is_terminal(sys.stdout)
            text = show_in_terminal(
                opened, choice, limit=limit, page=page, in_colour=in_colour, on_note=reporter.note
            )
        else:
            text = show_as_page(opened, output, choice, html, limit=limit, on_note=reporter.note)
        reporter.close()
        _say(text, sys.stdout)


@commands.command("convert", short_help="Give answers to other tools.", epilog=EPILOG)
@click.argument("output", metavar="OUTPUT")
@click.option(
    "-o",
    "--output-file",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File to write; spacy: .spacy (DocBin) or .jsonl; wide and long: .parquet or .jsonl.",
)
@click.option(
    "--to",
    "form",
    required=True,
    type=click.Choice(FORMS),
    help="Form of FILE; gold: OUTPUT is what Label Studio exported, FILE has gold answers.",
)
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
@columns_option
@speaking_options
@config_option
def convert_command(
    output: str, path: Path, form: str, overwrite: bool, log_format: str, quiet: bool, **columns: str | None
) -> None:
    """Write the answers of OUTPUT as Label Studio predictions, Argilla records, spaCy documents, SQuAD
    predictions ({id: text}, null odds beside them), or in the other layout (wide, long).
    """  # noqa: D205  (click makes one paragraph of it)
    with _reporting(log_format, quiet), _stoppable():
        from batchqa.convert import convert

        _say(convert(output, path, form, overwrite=overwrite, **columns), sys.stdout)


@commands.command("info", short_help="Describe a bundle or an output.", epilog=EPILOG)
@click.argument("path", metavar="BUNDLE|OUTPUT")
@json_option
@speaking_options
@config_option
def info_command(path: str, as_json: bool, log_format: str, quiet: bool) -> None:
    """Describe a bundle (`default`: the one in the package) or an output, from its own metadata."""
    with _reporting(log_format, quiet):
        from batchqa.cli.describe import describe
        from batchqa.cli.rendering import render_facts

        facts = describe(path)
        if as_json:
            _say_json(facts, sys.stdout)
        else:
            _say(render_facts(facts), sys.stdout)


@commands.command("doctor", short_help="Check what this machine can run.", epilog=EPILOG)
@model_option
@setting("--device", "Device of the smoke test: auto, cpu, cuda, cuda:0.", metavar="DEVICE")
@json_option
@speaking_options
@config_option
def doctor_command(model: str, device: str, as_json: bool, log_format: str, quiet: bool) -> None:
    """Report what this machine can run, and ask the model a question whose answer is known.

    Exit code 5 if something would stop `run` from working.
    """
    with _reporting(log_format, quiet):
        from batchqa.cli.doctor import examine, render

        findings = examine(model, device)
        if as_json:
            _say_json({"findings": [finding.to_dict() for finding in findings]}, sys.stdout)
        else:
            _say(render(findings), sys.stdout)
        if any(finding.level == "fail" for finding in findings):
            raise click.exceptions.Exit(5)


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


# --------------------------------------------------------------------------------------------- speaking


@contextmanager
def _reporting(log_format: str, quiet: bool, bar: bool = True) -> Iterator[Reporter]:
    """Standard error for one command: progress, notes, and the one line of an error before its exit code."""
    with (
        _quiet_libraries() if quiet else nullcontext(sys.stderr) as stream,
        open_reporter(stream, log_format, quiet, bar) as reporter,
    ):
        try:
            yield reporter
        except BatchqaError as error:
            reporter.error(str(error), error.exit_code)
            raise click.exceptions.Exit(error.exit_code) from error
        except OSError as error:
            # whatever the storage refuses and nobody translated: still no traceback, and the I/O code
            reporter.error(f"{error.filename or 'I/O'}: {error.strerror or error}", StorageError.exit_code)
            raise click.exceptions.Exit(StorageError.exit_code) from error


@contextmanager
def _quiet_libraries() -> Iterator[TextIO]:
    """Standard error for us alone, as the yielded stream: what libraries write to it goes nowhere.

    So does what is written by C++, past Python's own streams and settings, and by child processes.
    """
    before = sys.stderr
    before.flush()
    kept = os.dup(2)
    speaks_on_2 = False
    with suppress(OSError, AttributeError):  # what tests and notebooks put there has no number
        speaks_on_2 = before.fileno() == 2
    stream = os.fdopen(os.dup(kept), "w", encoding="utf-8", errors="replace") if speaks_on_2 else before
    os.dup2(_nowhere().fileno(), 2)
    sys.stderr = _nowhere()
    try:
        yield stream
    finally:
        sys.stderr = before
        os.dup2(kept, 2)
        os.close(kept)
        if stream is not before:
            with suppress(OSError):
                stream.close()


@cache
def _nowhere() -> TextIO:
    """One for the whole process: loggers may have kept it."""
    return Path(os.devnull).open("w", encoding="utf-8")


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def _progress(reporter: Reporter, check_stop: Callable[[], None]) -> Callable[[Any], None]:
    """What a job calls as it goes: it shows how far it is, and ends it after a signal."""

    def progress(state: Any) -> None:
        check_stop()
        reporter.progress(state)

    return progress


@contextmanager
def _stoppable(
    *, at_once: bool = True, kept: str = "finished parts are kept"
) -> Iterator[Callable[[], None]]:
    """SIGINT and SIGTERM become StoppedError in the main thread; a second one ends the process at once.

    Not `at_once`: only where the yielded function is called, for work that must not be cut in two. The
    yielded function raises it again, for the case that it met code that swallows exceptions. `kept` says what
    a stopped command has not lost.
    """
    stopped: list[StoppedError] = []

    def stop(number: int, _: FrameType | None) -> None:
        if stopped:
            os._exit(128 + number)
        name = signal.Signals(number).name
        error = StoppedError(f"stopped by {name}; {kept}: run the same command again to resume", 128 + number)
        stopped.append(error)
        if at_once:
            raise error

    def check() -> None:
        if stopped:
            raise stopped[0]

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    except Exception as error:
        if stopped and error is not stopped[0]:
            # the signal came in the middle of an import, say, which made an ImportError of it
            raise stopped[0] from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_json(value: Mapping[str, Any], stream: TextIO | None, *, lost: str = "") -> None:
    _say(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode(), stream, lost=lost)


def _say(text: str, stream: TextIO | None, *, lost: str = "") -> None:
    """Write a line in UTF-8, whatever the locale; a reader that has gone away is no error of ours.

    Raises StorageError where it cannot be written; `lost` says what that means. None is a closed stream.
    """
    where = "standard output" if stream is sys.stdout else "standard error"
    if stream is None:
        raise StorageError(f"{where} is closed, so the result cannot be written; redirect it to a file")
    try:
        click.echo(text.encode(), file=stream)
    except BrokenPipeError:
        pass
    except OSError as error:
        raise StorageError(f"writing to {where}: {error.strerror}{lost}") from error


def _hold_standard_streams() -> None:
    """Let /dev/null stand for each standard stream that was closed before the process began.

    Else the next file that is opened, the output perhaps, would get the free descriptor, and whatever a
    library writes to "standard error" would land in that file. `sys.stdin` and `sys.stdout` stay None, as
    Python has them then: who needs one must not take the end of a file that nobody gave for no rows, and
    must not write rows to nowhere.
    """
    for name, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            held = os.open(os.devnull, flags)  # the lowest free descriptor is taken: the closed stream's own
            if name == "stderr":
                sys.stderr = open(held, "w", encoding="utf-8")  # noqa: PTH123, SIM115 -- until the process ends
