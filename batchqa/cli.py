"""The commands: options -> settings -> one call -> the summary and the exit code. Nothing else happens here.

This is the only module that prints or exits. What a command needs is imported inside it, so that
`batchqa --help` is quick and needs no model, no torch and no transformers.
"""

from __future__ import annotations

import csv
import os
import signal
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, TypeVar

import click
import orjson

from batchqa.errors import BatchqaError, StoppedError, StorageError
from batchqa.progress import Reporter, one_line, open_reporter
from batchqa.settings import (
    DecodingSettings,
    ErrorSettings,
    MachineSettings,
    OutputSettings,
    ReadingSettings,
    WindowSettings,
)
from batchqa.version import VERSION

Command = TypeVar("Command", bound=Callable[..., Any])

EPILOG = (
    "Every option can also be given in the environment (--top-k of run is BATCHQA_RUN_TOP_K) and in a TOML "
    "file (--config job.toml, table [run], key top-k). The command line wins over the environment, the "
    "environment over the file."
)

EXIT_CODES = (
    "Exit codes: 0 done, or already done; 2 usage or unusable input; 3 a limit that you set was not met; "
    "4 the output exists, or input or options changed; 5 model or device; 74 I/O; 75 try again; "
    "130 SIGINT; 143 SIGTERM."
)

_DEFAULTS: dict[str, Any] = {
    setting.name: None if setting.default is MISSING else setting.default
    for step in (
        ReadingSettings,
        WindowSettings,
        DecodingSettings,
        MachineSettings,
        ErrorSettings,
        OutputSettings,
    )
    for setting in fields(step)
}


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
        _say(f"batchqa: error: {one_line(mistake.format_message())}{hint}", sys.stderr)
        return mistake.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 128 + signal.SIGINT
    return code if isinstance(code, int) else 0


@click.group(
    context_settings={
        "auto_envvar_prefix": "BATCHQA",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
    epilog=EXIT_CODES,
)
@click.version_option(VERSION, message="batchqa %(version)s")
def commands() -> None:
    """Annotate files of (context, question) rows with the answer that stands in the context."""


# ---------------------------------------------------------------------------------------------- options


def _read_config(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Make the command's table of a TOML file the defaults of its options."""
    if path is None:
        return None
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} is no TOML: {error}", context) from error
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}", context) from error
    strangers = sorted(set(tables) - set(commands.commands))
    if strangers:
        raise click.UsageError(
            f"{path} has {', '.join(strangers)} at its top; tables are [{'], ['.join(commands.commands)}]",
            context,
        )
    for name, table in tables.items():
        _check_table(context, path, commands.commands[name], table)
    own = tables.get(context.info_name or "", {})
    context.default_map = {key.replace("-", "_"): value for key, value in own.items()}
    return path


def _check_table(context: click.Context, path: Path, command: click.Command, table: Any) -> None:
    known = {parameter.name for parameter in command.params} - {"config"}
    if not isinstance(table, Mapping):
        raise click.UsageError(f"{path}: {command.name} must be a table, [{command.name}]", context)
    unknown = sorted(key for key in table if key.replace("-", "_") not in known)
    if unknown:
        raise click.UsageError(
            f"{path}: [{command.name}] has no option {', '.join(unknown)}; "
            f"it has {', '.join(sorted(str(name).replace('_', '-') for name in known))}",
            context,
        )


class _ColumnList(click.types.StringParamType):
    """Column names as one text. In the environment it is not split at spaces, which names may have."""

    envvar_list_splitter = "\n"


def _columns(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...] | None:
    """Column names, repeated or separated by commas (quoted as in CSV), else the setting's default."""
    if not values:
        return _DEFAULTS[parameter.name or ""]  # type: ignore[no-any-return]
    return tuple(name for row in csv.reader(values, skipinitialspace=True) for name in row)


def _setting(flag: str, text: str, **attributes: Any) -> Callable[[Command], Command]:
    """An option whose name and default are those of a field in `batchqa.settings`."""
    default = _DEFAULTS[flag.lstrip("-").replace("-", "_")]
    if "callback" not in attributes and "default" not in attributes:
        attributes["default"] = default
    return click.option(flag, help=text, **attributes)


def _together(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Several options as one decorator; `--help` shows them in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="TOML file with options; this command's are in the table of its name.",
)

speaking_options = _together(
    click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        help="What standard error carries: a bar or lines, or a JSON object per line.",
    ),
    click.option("--quiet", is_flag=True, help="Say nothing on standard error but errors."),
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")

model_option = click.option(
    "--model", default="default", metavar="MODEL", help="A bundle; `default` is the one in the package."
)

reading_options = _together(
    _setting("--context", "Column with the contexts; a dotted path reaches into structs.", metavar="COLUMN"),
    _setting("--question", "Column with the questions.", metavar="COLUMN"),
    _setting(
        "--id", "Column that names a row in error messages.", metavar="COLUMN", show_default="id, if present"
    ),
    _setting(
        "--keep",
        "Input columns to write, all others are left out; repeated, or with commas.",
        metavar="COLUMNS",
        multiple=True,
        type=_ColumnList(),
        callback=_columns,
        show_default="all",
    ),
    _setting(
        "--drop",
        "Input columns to leave out; repeated, or with commas.",
        metavar="COLUMNS",
        multiple=True,
        type=_ColumnList(),
        callback=_columns,
        show_default="none",
    ),
    _setting(
        "--schema",
        "Column types of JSONL input (JSON file: name to type) instead of those of its first 10,000 records.",
        metavar="FILE",
    ),
    _setting("--output-prefix", "Put before the names of the added columns.", metavar="TEXT"),
    _setting("--max-line-bytes", "Longest line of JSONL, in bytes; longer ones are row errors.", type=int),
    _setting("--max-context-chars", "Longest context, in characters; longer ones are row errors.", type=int),
)

answer_options = _together(
    _setting(
        "--max-length",
        "Tokens of a window, question and special tokens included.",
        type=int,
        show_default="384, or the model's limit if that is less",
    ),
    _setting("--stride", "Tokens that neighbouring windows share.", type=int),
    _setting("--max-question-length", "Tokens of a question; the rest is cut and counted.", type=int),
    _setting("--max-answer-length", "Tokens of an answer at most.", type=int),
    _setting(
        "--no-answer-threshold",
        "No answer where null score - best span score is above this (raw logits).",
        type=float,
        show_default="the bundle's",
    ),
    _setting(
        "--no-answer",
        "Whether rows may stay without an answer; auto: if the model was trained to abstain.",
        type=click.Choice(["auto", "on", "off"]),
    ),
    _setting(
        "--top-k", "Also write each row's N best distinct spans as `candidates`.", type=int, metavar="N"
    ),
    _setting("--raw-score", "Write the soft-max score also where the bundle is calibrated.", is_flag=True),
)

machine_options = _together(
    _setting("--device", "auto, cpu, cuda, cuda:0,1 or all.", metavar="DEVICE"),
    _setting("--engine", "What runs the model.", type=click.Choice(["auto", "onnxruntime", "openvino"])),
    _setting(
        "--variant",
        "Precision of the bundle's model: int8, fp16, fp32.",
        metavar="PRECISION",
        show_default="the best verified for the device",
    ),
    _setting("--threads", "CPU threads of the engine.", type=int, show_default="the CPU quota"),
    _setting("--batch-tokens", "Tokens of a batch, padding included.", type=int, show_default="measured"),
    _setting("--allow-cpu-fallback", "Take the CPU where the device asked for cannot be had.", is_flag=True),
)

error_options = _together(
    click.option(
        "--max-errors", default="0", metavar="N|P%", help="Row errors to tolerate: a count, or a share."
    ),
    _setting(
        "--on-error",
        "Keep a bad row with its code, move it to OUTPUT.rejects.jsonl, or stop.",
        type=click.Choice(["annotate", "reject", "fail"]),
    ),
    _setting("--strict", "Null, empty and too long questions or contexts count as errors too.", is_flag=True),
)

output_options = _together(
    _setting(
        "--compression",
        "Compression of Parquet output.",
        type=click.Choice(["zstd", "snappy", "gzip", "lz4", "none"]),
    ),
    _setting("--overwrite", "Replace an output that exists.", is_flag=True),
    _setting("--restart", "Discard the parts of a stopped run instead of going on from them.", is_flag=True),
    _setting("--part-rows", "Rows of a part, the unit of commit and resume.", type=int),
    _setting("--limit", "Annotate only the first N rows.", type=int, metavar="N"),
)


# --------------------------------------------------------------------------------------------- commands


@commands.command("run", short_help="Annotate files; the main job.", epilog=EPILOG)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-o", "--output", required=True, metavar="OUTPUT", help=".parquet or .jsonl file, folder/, or - (JSONL)."
)
@model_option
@_together(reading_options, answer_options, machine_options, error_options, output_options)
@click.option("--dry-run", is_flag=True, help="Read, count and estimate; write nothing.")
@click.option(
    "--summary",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the summary there too.",
)
@speaking_options
@config_option
def run_command(
    inputs: tuple[str, ...],
    output: str,
    model: str,
    dry_run: bool,
    summary: Path | None,
    log_format: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Annotate INPUT (files, folders or globs: Parquet, JSONL, gzip or zstd JSONL, SQuAD; - is JSONL on
    standard input) and write OUTPUT. The last line on standard output is the summary as JSON.
    """  # noqa: D205  (click makes one paragraph of it)
    with _reporting(log_format, quiet) as reporter, _stoppable() as check_stop:
        from batchqa.job import Progress, run
        from batchqa.settings import RunSettings

        def progress(state: Progress) -> None:
            check_stop()
            reporter.progress(state)

        result = run(
            inputs,
            output,
            model=model,
            settings=RunSettings.from_options(options),
            progress=progress,
            on_note=reporter.note,
            summary=summary,
            dry_run=dry_run,
            whole_process=True,
        )
        reporter.close()
        _say_json(result.to_dict(), sys.stderr if output == "-" else sys.stdout)


@commands.command("info", short_help="What a bundle or an output is.", epilog=EPILOG)
@click.argument("path", metavar="BUNDLE|OUTPUT")
@json_option
@speaking_options
@config_option
def info_command(path: str, as_json: bool, log_format: str, quiet: bool) -> None:
    """Say what a bundle (`default`: the one in the package) or an output is, from its own metadata."""
    with _reporting(log_format, quiet):
        from batchqa.describe import describe, render

        facts = describe(path)
        if as_json:
            _say_json(facts, sys.stdout)
        else:
            _say(render(facts), sys.stdout)


@commands.command("doctor", short_help="What this machine can run.", epilog=EPILOG)
@model_option
@_setting("--device", "Device of the smoke test: auto, cpu, cuda, cuda:0.", metavar="DEVICE")
@json_option
@speaking_options
@config_option
def doctor_command(model: str, device: str, as_json: bool, log_format: str, quiet: bool) -> None:
    """Say what this machine can run, and ask the model a question whose answer is known.

    Exit code 5 if something would keep `run` from working.
    """
    with _reporting(log_format, quiet):
        from batchqa.doctor import examine, render

        findings = examine(model, device)
        if as_json:
            _say_json({"findings": [finding.to_dict() for finding in findings]}, sys.stdout)
        else:
            _say(render(findings), sys.stdout)
        if any(finding.level == "fail" for finding in findings):
            raise click.exceptions.Exit(5)


# --------------------------------------------------------------------------------------------- speaking


@contextmanager
def _reporting(log_format: str, quiet: bool) -> Iterator[Reporter]:
    """Standard error for one command: progress, notes, and the one line of an error before its exit code."""
    with open_reporter(sys.stderr, log_format, quiet) as reporter:
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
def _stoppable() -> Iterator[Callable[[], None]]:
    """SIGINT and SIGTERM become StoppedError in the main thread; a second one ends the process at once.

    The yielded function raises it again, for the case that it met code that swallows exceptions. What is
    committed stays, because every commit is a rename.
    """
    stopped: list[StoppedError] = []

    def stop(number: int, _: FrameType | None) -> None:
        if stopped:
            os._exit(128 + number)
        name = signal.Signals(number).name
        error = StoppedError(
            f"stopped by {name}; finished parts are kept, the same command goes on from there", 128 + number
        )
        stopped.append(error)
        raise error

    def check() -> None:
        if stopped:
            raise stopped[0]

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_json(value: Mapping[str, Any], stream: TextIO) -> None:
    _say(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode(), stream)


def _say(text: str, stream: TextIO) -> None:
    """Write a line in UTF-8, whatever the locale; a reader that has gone away is no error of ours."""
    try:
        click.echo(text.encode(), file=stream)
    except OSError:
        # the interpreter flushes at exit, and would complain of the closed pipe then
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _hold_standard_streams() -> None:
    """Let /dev/null stand for each standard stream that was closed before the process began.

    Else the next file that is opened, the output perhaps, would get the free descriptor, and whatever a
    library writes to "standard error" would land in that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the lowest free descriptor is taken: the closed stream's own
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
