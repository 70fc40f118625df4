"""What an option is, and the options that several commands share: declared once, as decorators.

Names, types and defaults come from the dataclasses of settings, or from the function that a command calls.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Hashable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

from batchqa.cli.configuration import CommandWithVariables, config_option
from batchqa.domains import Domain, domains_of, shown
from batchqa.settings import RunSettings

Command = TypeVar("Command", bound=Callable[..., Any])

NOTHING_TO_DO = 99
"""The exit code where there is no input; Airflow's BashOperator takes it for a skipped task."""

EPILOG = (
    "Every option can also be given in the environment (--top-k of run is BATCHQA_RUN_TOP_K) and in a TOML "
    "file (--config job.toml, table [run], key top-k). The command line wins over the environment, the "
    "environment over the file."
)

_STEPS: list[Any] = [each.default_factory for each in fields(RunSettings)]
_STEP_OF = {each.name: step for step in _STEPS for each in fields(step)}


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


def command(name: str, summary: str) -> Callable[[Callable[..., Any]], CommandWithVariables]:
    """A command; `summary` is its line in the list of commands."""
    return click.command(name, cls=CommandWithVariables, short_help=summary, epilog=EPILOG)


common_options = together(
    click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        help="Format of messages on standard error: text (a progress bar, or lines) or a JSON object "
        "per line.",
    ),
    click.option(
        "--quiet", is_flag=True, help="Write only errors to standard error; libraries are silenced too."
    ),
    config_option,
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


prefix_option = setting("--output-prefix", "Prefix of the names of the added columns.", metavar="TEXT")

columns_option = together(
    click.option(
        "--context", metavar="COLUMN", help="Column with the contexts.", show_default="as in the run"
    ),
    click.option(
        "--question-column",
        "question",
        metavar="COLUMN",
        help="Column with the questions.",
        show_default="as in the run",
    ),
    click.option(
        "--output-prefix",
        "prefix",
        metavar="TEXT",
        help="Prefix of the answers' columns.",
        show_default="found in OUTPUT",
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
        show_default="none",
    ),
    setting("--answers", "Also list all spans that pass the threshold and do not overlap, as `answers`."),
    setting("--max-answers", "Most spans in that list.", metavar="N"),
    setting(
        "--top-k",
        "Also write each row's N best distinct spans that do not overlap as `candidates`.",
        metavar="N",
    ),
    setting("--overlapping-candidates", "Let candidates overlap: simply the N best spans."),
    setting(
        "--raw-score",
        "Write the softmax score even if the bundle is calibrated.",
    ),
)

machine_options = together(
    setting("--device", "auto, cpu, cuda, cuda:0,1 or all.", metavar="DEVICE"),
    setting(
        "--engine",
        "Library that runs the model; auto: the fastest, measured once.",
    ),
    setting(
        "--variant",
        "Precision of the bundle's model: int8, fp16, fp32.",
        metavar="PRECISION",
        show_default="the best verified for the device",
    ),
    setting(
        "--arithmetic",
        "Precision in which OpenVINO computes, except for int8 products; auto: bf16 if the processor has it "
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


max_errors_option = click.option(
    "--max-errors", default="0", metavar="N|P%", help="Row errors to tolerate: a count or a percentage."
)
