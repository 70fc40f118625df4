"""The options that commands share, as decorators: names and defaults come from `batchqa.settings`.

Where an option is given nowhere else, its value is that of the command's table in the `--config` file.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from batchqa.settings import (
    DecodingSettings,
    ErrorSettings,
    MachineSettings,
    OutputSettings,
    ReadingSettings,
    WindowSettings,
)

Command = TypeVar("Command", bound=Callable[..., Any])

_DEFAULTS: dict[str, Any] = {
    field.name: None if field.default is MISSING else field.default
    for step in (
        ReadingSettings,
        WindowSettings,
        DecodingSettings,
        MachineSettings,
        ErrorSettings,
        OutputSettings,
    )
    for field in fields(step)
}


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
    group = context.find_root().command
    assert isinstance(group, click.Group)
    strangers = sorted(set(tables) - set(group.commands))
    if strangers:
        raise click.UsageError(
            f"{path} has {', '.join(strangers)} at its top; tables are [{'], ['.join(group.commands)}]",
            context,
        )
    for name, table in tables.items():
        _check_table(context, path, group.commands[name], table)
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


def setting(flag: str, text: str, **attributes: Any) -> Callable[[Command], Command]:
    """An option whose name and default are those of a field in `batchqa.settings`."""
    default = _DEFAULTS[flag.lstrip("-").replace("-", "_")]
    if "callback" not in attributes and "default" not in attributes:
        attributes["default"] = default
    return click.option(flag, help=text, **attributes)


def together(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Several options as one decorator; `--help` shows them in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def given_by_user(names: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the current command's options that were given: on the command line, environment or file."""
    context = click.get_current_context()
    sources = {name: context.get_parameter_source(name) for name in names}
    return {name: names[name] for name, source in sources.items() if source is not ParameterSource.DEFAULT}


config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="TOML file with options; this command's are in the table of its name.",
)

speaking_options = together(
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
    "--model",
    default="default",
    metavar="MODEL",
    help="A bundle, or a hub id (org/name[@revision]); `default` is the one in the package.",
)

text_options = together(
    setting("--context", "Column with the contexts; a dotted path reaches into structs.", metavar="COLUMN"),
    setting("--question", "Column with the questions.", metavar="COLUMN"),
)

prefix_option = setting("--output-prefix", "Put before the names of the added columns.", metavar="TEXT")

reading_options = together(
    setting(
        "--id", "Column that names a row in error messages.", metavar="COLUMN", show_default="id, if present"
    ),
    setting(
        "--keep",
        "Input columns to write, all others are left out; repeated, or with commas.",
        metavar="COLUMNS",
        multiple=True,
        type=_ColumnList(),
        callback=_columns,
        show_default="all",
    ),
    setting(
        "--drop",
        "Input columns to leave out; repeated, or with commas.",
        metavar="COLUMNS",
        multiple=True,
        type=_ColumnList(),
        callback=_columns,
        show_default="none",
    ),
    setting(
        "--schema",
        "Column types of JSONL input (JSON file: name to type) instead of those of its first 10,000 records.",
        metavar="FILE",
    ),
    prefix_option,
    setting("--max-line-bytes", "Longest line of JSONL, in bytes; longer ones are row errors.", type=int),
    setting("--max-context-chars", "Longest context, in characters; longer ones are row errors.", type=int),
)

answer_options = together(
    setting(
        "--max-length",
        "Tokens of a window, question and special tokens included.",
        type=int,
        show_default="384, or the model's limit if that is less",
    ),
    setting("--stride", "Tokens that neighbouring windows share.", type=int),
    setting("--max-question-length", "Tokens of a question; the rest is cut and counted.", type=int),
    setting("--max-answer-length", "Tokens of an answer at most.", type=int),
    setting(
        "--no-answer-threshold",
        "No answer where null score - best span score is above this (raw logits).",
        type=float,
        show_default="the bundle's",
    ),
    setting(
        "--no-answer",
        "Whether rows may stay without an answer; auto: if the model was trained to abstain.",
        type=click.Choice(["auto", "on", "off"]),
    ),
    setting("--top-k", "Also write each row's N best distinct spans as `candidates`.", type=int, metavar="N"),
    setting("--raw-score", "Write the soft-max score also where the bundle is calibrated.", is_flag=True),
)

machine_options = together(
    setting("--device", "auto, cpu, cuda, cuda:0,1 or all.", metavar="DEVICE"),
    setting(
        "--engine",
        "What runs the model; auto: the fastest, measured once.",
        type=click.Choice(["auto", "onnxruntime", "openvino"]),
    ),
    setting(
        "--variant",
        "Precision of the bundle's model: int8, fp16, fp32.",
        metavar="PRECISION",
        show_default="the best verified for the device",
    ),
    setting(
        "--arithmetic",
        "What openvino computes in, int8 products aside; auto: bf16 where the processor has it and the "
        "bundle is good for it.",
        type=click.Choice(["auto", "f32", "bf16"]),
    ),
    setting("--threads", "CPU threads of the engine.", type=int, show_default="the CPU quota"),
    setting(
        "--workers",
        "Copies of the model that work side by side on the CPU, the threads shared out among them.",
        type=int,
        show_default="one for each thread, as far as memory allows",
    ),
    setting("--batch-tokens", "Tokens of a batch, padding included.", type=int, show_default="measured"),
    setting("--allow-cpu-fallback", "Take the CPU where the device asked for cannot be had.", is_flag=True),
    setting(
        "--in-process", "Run the engine in this process: where it crashes, so does the job.", is_flag=True
    ),
)

max_errors_option = click.option(
    "--max-errors", default="0", metavar="N|P%", help="Row errors to tolerate: a count, or a share."
)

error_options = together(
    max_errors_option,
    setting(
        "--on-error",
        "Keep a bad row with its code, move it to OUTPUT.rejects.jsonl, or stop.",
        type=click.Choice(["annotate", "reject", "fail"]),
    ),
    setting("--strict", "Null, empty and too long questions or contexts count as errors too.", is_flag=True),
)

output_options = together(
    setting(
        "--compression",
        "Compression of Parquet output.",
        type=click.Choice(["zstd", "snappy", "gzip", "lz4", "none"]),
    ),
    setting("--overwrite", "Replace an output that exists.", is_flag=True),
    setting("--restart", "Discard the parts of a stopped run instead of going on from them.", is_flag=True),
    setting("--part-rows", "Rows of a part, the unit of commit and resume.", type=int),
    setting("--limit", "Annotate only the first N rows.", type=int, metavar="N"),
)
