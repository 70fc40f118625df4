"""The options that commands share, as decorators: names and defaults come from `batchqa.settings`.

Where an option is given nowhere else, its value is that of the command's table in the `--config` file.
"""

from __future__ import annotations

import csv
import difflib
import importlib
import inspect
import os
import tomllib
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

from batchqa.domains import Count, Domain, domains_of, shown
from batchqa.settings import (
    AskingSettings,
    Cores,
    DecodingSettings,
    ErrorSettings,
    MachineSettings,
    OutputSettings,
    ReadingSettings,
    WindowSettings,
)
from batchqa.train.train_settings import TrainSettings

Command = TypeVar("Command", bound=Callable[..., Any])

VARIABLES = "BATCHQA_"
"""How the names of all environment variables of this program begin."""

_STEPS = (
    ReadingSettings,
    AskingSettings,
    WindowSettings,
    DecodingSettings,
    MachineSettings,
    ErrorSettings,
    OutputSettings,
)
_STEP_OF = {each.name: step for step in _STEPS for each in fields(step)}


class CommandWithVariables(click.Command):
    """A command whose options can be given in the environment, and which refuses a misspelt variable."""

    def invoke(self, ctx: click.Context) -> Any:
        """Look at the environment, then run the command; `--help` does not come here."""
        group = ctx.find_root().command
        assert isinstance(group, click.Group)
        _check_environment(ctx, group)
        return super().invoke(ctx)


class Commands(click.Group):
    """The group of all commands."""

    command_class = CommandWithVariables

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command; its options get their variables: BATCHQA_RUN_TOP_K is --top-k of run."""
        super().add_command(cmd, name)
        for option, parameter in options_of(cmd).items():
            if isinstance(parameter, click.Option):
                parameter.envvar = _variable(str(name or cmd.name), option)


def options_of(command: click.Command) -> dict[str, click.Parameter]:
    """A command's options and arguments by the names that a TOML file gives them: `top-k`, `inputs`."""
    names = {}
    for parameter in command.params:
        flags = parameter.opts if isinstance(parameter, click.Option) else [str(parameter.name)]
        names[max(flags, key=len).lstrip("-")] = parameter
    return names


def where_given(mistake: click.BadParameter) -> str:
    """Where a wrong value comes from if that is not the command line: " in BATCHQA_RUN_TOP_K", else ""."""
    if mistake.ctx is None or mistake.param is None:
        return ""
    source = mistake.ctx.get_parameter_source(str(mistake.param.name))
    if source is ParameterSource.ENVIRONMENT:
        return f" (in the variable {mistake.param.envvar})"
    return " (in the --config file)" if source is ParameterSource.DEFAULT_MAP else ""


def _variable(command: str, option: str) -> str:
    return f"{VARIABLES}{command}_{option}".replace("-", "_").upper()


def _check_environment(context: click.Context, group: click.Group) -> None:
    """Refuse variables that look like options of a command and are none: they would be without effect."""
    known = {
        str(parameter.envvar)
        for command in group.commands.values()
        for parameter in options_of(command).values()
        if parameter.envvar
    }
    prefixes = tuple(_variable(name, "") for name in group.commands)
    for name in sorted(os.environ):
        if not name.startswith(VARIABLES) or name in known:
            continue
        nearest = _nearest(name, known, 0.6 if name.startswith(prefixes) else 0.9)
        if nearest or name.startswith(prefixes):
            raise click.UsageError(
                f"the environment variable {name} is not an option of any command{nearest}", context
            )


def _nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A suggestion for a misspelt name, as the end of a sentence; empty where nothing is like it."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {matches[0]}?" if matches else ""


def _read_config(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Make the command's table of a TOML file the defaults of its options."""
    if path is None:
        return None
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} is not valid TOML: {error}", context) from error
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}", context) from error
    group = context.find_root().command
    assert isinstance(group, click.Group)
    for name, table in tables.items():
        if name not in group.commands:
            tables_are = f"; the tables of this file are [{'], ['.join(group.commands)}]"
            nearest = _nearest(name, group.commands) or tables_are
            raise click.UsageError(f"{path}: {name!r} is not a command{nearest}", context)
        _check_table(context, path, group.commands[name], table)
    own = tables.get(context.info_name or "", {})
    parameters = options_of(context.command)
    context.default_map = {
        parameters[_dashed(key)].name: _value(context, path, key, parameters[_dashed(key)], value)
        for key, value in own.items()
    }
    return path


def _value(context: click.Context, path: Path, key: str, parameter: click.Parameter, value: Any) -> Any:
    """A value of the file as click takes it, which converts the texts of a command line only."""
    if getattr(parameter, "is_flag", False) and not isinstance(value, bool | str):
        raise click.UsageError(f"{path}: {key} must be true or false, not {value!r}", context)
    if not (parameter.multiple or parameter.nargs == -1):
        return value
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or any(isinstance(each, bool | list | dict) for each in values):
        raise click.UsageError(f'{path}: {key} must be a list of texts (["a", "b"]), not {value!r}', context)
    return values


def _check_table(context: click.Context, path: Path, command: click.Command, table: Any) -> None:
    known = set(options_of(command)) - {"config"}
    if not isinstance(table, Mapping):
        raise click.UsageError(f"{path}: {command.name} must be a table, [{command.name}]", context)
    for key in table:
        if _dashed(key) not in known:
            nearest = _nearest(_dashed(key), known) or f"; it has {', '.join(sorted(known))}"
            raise click.UsageError(f"{path}: [{command.name}] has no option {key}{nearest}", context)


def _dashed(key: str) -> str:
    return key.replace("_", "-")


class _Name(click.types.StringParamType):
    """A column or an output. In the environment names are not split at spaces, which they may have."""

    envvar_list_splitter = "\n"


def _columns(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...] | None:
    """Column names, repeated or separated by commas (quoted as in CSV), else the setting's default."""
    if not values:
        name = parameter.name or ""
        return default_of(_STEP_OF[name], name)  # type: ignore[no-any-return]
    return tuple(name for row in csv.reader(values, skipinitialspace=True) for name in row)


class Number(click.ParamType[Any]):
    """A number of a declared domain (`batchqa.domains`), on the command line, in the environment, in TOML."""

    def __init__(self, domain: Domain) -> None:
        """`domain` says which numbers."""
        self.domain = domain
        self.name = "integer" if self.domain.kind is int else "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or a usage error that says which ones are allowed."""
        try:
            return self.domain.parse(value) if isinstance(value, str) else self.domain.take(value)
        except ValueError:
            self.fail(f"must be {self.domain.wanted()}, not {shown(value)}", param, ctx)


def setting(flag: str, text: str, **attributes: Any) -> Callable[[Command], Command]:
    """An option whose name, type and default are those of a field in `batchqa.settings`."""
    return field(_STEP_OF[_name_of(flag)], flag, text, **attributes)


def field(settings: type[Any], flag: str, text: str, **attributes: Any) -> Callable[[Command], Command]:
    """An option whose name, type and default are those of a field of the dataclass `settings`."""
    name = _name_of(flag)
    domain = domains_of(cast("Hashable", settings))[name]
    if "callback" not in attributes:
        attributes.setdefault("default", default_of(settings, name))
    if domain.between:
        attributes["type"] = Number(domain)
    elif domain.choices:
        attributes["type"] = click.Choice(domain.choices)
    elif domain.kind is bool:
        attributes["is_flag"] = True
    return click.option(flag, help=text, **attributes)


def default_of(settings: type[Any], name: str) -> Any:
    """The default of a field, None where it is made anew for each object."""
    default = settings.__dataclass_fields__[name].default
    return None if default is MISSING else default


def _name_of(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def number(
    flag: str, declared: Any, default: float | None, text: str, **attributes: Any
) -> Callable[[Command], Command]:
    """An option of the command alone; `declared` is a type of `batchqa.domains`."""
    return click.option(flag, type=Number(Domain.of(declared)), default=default, help=text, **attributes)


class KeywordOption(click.Option):
    """An option that is a keyword of a function, whose default it takes.

    The function is imported where the default is needed, since its module may be slow to load.
    """

    def __init__(self, *declarations: Any, function: str, **attributes: Any) -> None:
        """`function` as "module:name"."""
        super().__init__(*declarations, **attributes)
        self._function = function

    def get_default(self, ctx: click.Context, call: bool = True) -> Any:
        """See click.Option; the keyword's default, of a list its items with commas between."""
        module, _, name = self._function.partition(":")
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        default = parameters[self.name or ""].default
        self.default = ",".join(default) if isinstance(default, tuple) else default
        return super().get_default(ctx, call)


def keyword(
    function: str, *declarations: str, declared: Any = None, **attributes: Any
) -> Callable[[Command], Command]:
    """An option of `function` ("module:name") by the keyword of that name; `declared`: its number type."""
    if declared is not None:
        attributes["type"] = Number(Domain.of(declared))
    return click.option(*declarations, cls=KeywordOption, function=function, **attributes)


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
    help="TOML file with options, in a table with the command's name.",
)

speaking_options = together(
    click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        help="Format of messages on standard error: a progress bar or lines, or one JSON object per line.",
    ),
    click.option(
        "--quiet", is_flag=True, help="Write only errors to standard error; libraries are silenced too."
    ),
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

asking_options = together(
    setting(
        "--ask",
        "Ask this of every row, which then needs no question; {column} is the row's value. Repeat it.",
        metavar="NAME=QUESTION",
        multiple=True,
        type=_Name(),
    ),
    setting(
        "--questions",
        "File of questions to ask of every row: TOML, JSONL, CSV or Parquet with name, question and perhaps "
        "a no-answer threshold for each.",
        metavar="FILE",
    ),
    setting("--layout", "A row for each question that a row is asked, or a column (a struct) for each."),
)

prefix_option = setting("--output-prefix", "Prefix of the names of the added columns.", metavar="TEXT")

columns_option = together(
    click.option("--context", metavar="COLUMN", help="Contexts.", show_default="as in the run"),
    click.option(
        "--question-column", "question", metavar="COLUMN", help="Questions.", show_default="as in the run"
    ),
    click.option(
        "--output-prefix",
        "prefix",
        metavar="TEXT",
        help="Prefix of the answers' columns.",
        show_default="found",
    ),
)

reading_options = together(
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
        "Read key=value folder names as columns, after those of the files; as integers if all values are.",
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
        "Column types of JSON (else those of its first 10,000 records) and of CSV (else text).",
        metavar="FILE",
    ),
    prefix_option,
    setting("--max-line-bytes", "Longest line of JSONL, in bytes; longer ones are row errors."),
    setting("--max-context-chars", "Longest context, in characters; longer ones are row errors."),
    setting(
        "--if-no-input",
        "No such file, a folder or glob without files, or no row in them: fail with exit code 2, or skip: "
        "write nothing and end with exit code 99.",
    ),
    setting(
        "--max-zstd-window",
        "Largest window of a zstd file, in bytes; one made with --long=31 needs 2147483648.",
    ),
)

answer_options = together(
    setting(
        "--max-length",
        "Size of a window, in tokens, including question and special tokens.",
        show_default="384, or the model's limit if that is less",
    ),
    setting("--stride", "Tokens that neighbouring windows share."),
    setting("--max-question-length", "Longest question, in tokens; longer ones are cut, and counted."),
    setting("--max-answer-length", "Longest answer, in tokens."),
    setting(
        "--no-answer-threshold",
        "No answer where null score - best span score is above this (raw logits).",
        show_default="the bundle's",
    ),
    setting(
        "--no-answer",
        "Whether the model may give no answer; auto: if it was trained to abstain.",
    ),
    setting(
        "--min-score",
        "An answer with a lower score becomes no answer, with the status low_score.",
        metavar="SHARE",
        show_default="any score will do",
    ),
    setting("--answers", "Also list all spans that pass the threshold and do not overlap, as `answers`."),
    setting("--max-answers", "Length of that list at most.", metavar="N"),
    setting(
        "--top-k",
        "Also write each row's N best distinct spans that do not overlap as `candidates`.",
        metavar="N",
    ),
    setting("--overlapping-candidates", "Candidates may overlap: the plain N best."),
    setting(
        "--raw-score",
        "Write the soft-max score even if the bundle is calibrated.",
    ),
)

machine_options = together(
    setting("--device", "auto, cpu, cuda, cuda:0,1 or all.", metavar="DEVICE"),
    setting(
        "--engine",
        "What runs the model; auto: the fastest, measured once.",
    ),
    setting(
        "--variant",
        "Precision of the bundle's model: int8, fp16, fp32.",
        metavar="PRECISION",
        show_default="the best verified for the device",
    ),
    setting(
        "--arithmetic",
        "Precision that OpenVINO computes in, apart from int8 products; auto: bf16 if the processor has it "
        "and the bundle was verified for it.",
    ),
    setting("--threads", "CPU threads of the engine.", show_default="the CPU quota"),
    setting(
        "--workers",
        "Copies of the model that run in parallel on the CPU; they share the threads.",
        show_default="one for each thread, as far as memory allows",
    ),
    setting("--batch-tokens", "Tokens of a batch, padding included.", show_default="measured"),
    setting("--allow-cpu-fallback", "Use the CPU if the requested device is not available."),
    setting("--in-process", "Run the engine in this process; if it crashes, so does the job."),
)

processes_option = number(
    "--processes",
    Cores,
    None,
    "Processes that share out the job's parts, each with reading and an engine of its own; threads and GPUs "
    "are divided among them.",
    metavar="N",
    show_default="1",
)

max_errors_option = click.option(
    "--max-errors", default="0", metavar="N|P%", help="Row errors to tolerate: a count, or a share."
)

error_options = together(
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

output_options = together(
    setting(
        "--compression",
        "Compression of Parquet output.",
    ),
    setting(
        "--reuse",
        "An earlier output of the same model and options: rows that it answers are copied, not scored. "
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

shard_options = together(
    click.option(
        "--shard",
        metavar="I/N|auto",
        help="Do share I of N (from 0) of the job; auto: as the scheduler's variables say. `batchqa "
        "finalize` publishes when all are done.",
    ),
    number(
        "--shards", Count, None, "Number of shards, where a scheduler does not say, or of --on.", metavar="N"
    ),
    click.option(
        "--on",
        metavar="ray[://ADDRESS]|spark[://MASTER]",
        help="Do all shards as tasks of this cluster, and publish; the address is else that of RAY_ADDRESS, "
        "SPARK_MASTER_URL or the engine's own default.",
    ),
)

_OF_TRAINING = partial(field, TrainSettings)


def _layers(_: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Layer numbers, separated by commas."""
    try:
        return None if value is None else tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is not a list of layers, such as 0,2,4", param=parameter
        ) from error


training_options = together(
    click.option(
        "--teacher",
        multiple=True,
        metavar="CHECKPOINT|BUNDLE",
        help="Model whose distributions are learned too (of several, their mean); labels rows without gold.",
    ),
    click.option(
        "--layers", metavar="0,2,4", callback=_layers, help="Layers of BASE to keep, counted from 0."
    ),
    _OF_TRAINING("--hidden", "Also learn the teacher's hidden states and attention."),
    _OF_TRAINING("--alpha", "Weight of the teachers in the loss; the gold answers have the rest."),
    _OF_TRAINING("--temperature", "Temperature that softens the teachers' distributions."),
    _OF_TRAINING("--epochs", "Passes over the data; may be a fraction."),
    _OF_TRAINING("--learning-rate", "Peak learning rate."),
    _OF_TRAINING("--warmup", "Share of the steps in which the learning rate rises."),
    _OF_TRAINING("--weight-decay", "AdamW's weight decay."),
    _OF_TRAINING("--dropout", "Dropout rate of all layers.", show_default="the base's"),
    _OF_TRAINING("--freeze-embeddings", "Do not train the word embeddings: faster, with less memory."),
    _OF_TRAINING("--batch-tokens", "Tokens of a step, padding included."),
    _OF_TRAINING(
        "--validation", "Share of the groups to hold out for validation, or a file.", metavar="SHARE|FILE"
    ),
    _OF_TRAINING("--validation-rows", "Rows of a validation during training; the last one takes all."),
    _OF_TRAINING(
        "--evaluate-every", "Steps between two validations.", show_default="ten validations in a run"
    ),
    _OF_TRAINING("--save-every", "Steps between two saved states: the most that a kill can cost."),
    _OF_TRAINING(
        "--max-missing-gold", "Largest share of rows whose gold answer may be missing from their context."
    ),
    click.option(
        "--gold-column",
        metavar="COLUMN",
        help="Column with the gold answers.",
        show_default="answers, or answer",
    ),
    click.option(
        "--group-column",
        metavar="COLUMN",
        help="Column of groups; the rows of a group are held out together.",
        show_default="title, group, or the context",
    ),
    _OF_TRAINING("--max-length", "Size of a window, in tokens."),
    _OF_TRAINING("--stride", "Tokens that neighbouring windows share."),
    _OF_TRAINING("--max-question-length", "Longest question, in tokens; longer ones are cut."),
    _OF_TRAINING("--seed", "Seed of the data order, new weights and dropout."),
    _OF_TRAINING("--device", "Device to train on; auto: CUDA if there is one."),
    _OF_TRAINING("--precision", "Precision to compute in; auto: bf16 if the device has it."),
    click.option("--revision", metavar="SHA", help="Commit, tag or branch of a hub id.", show_default="main"),
    click.option("--licence", metavar="ID", help="Licence of the weights, for the model card."),
    click.option("--allow-pickle", is_flag=True, help="Convert a pickled base, in a separate process."),
    click.option(
        "--restart", is_flag=True, help="Discard the saved states of an unfinished run and start again."
    ),
)
