"""Options that are not on the command line: those of the environment, and of the `--config` file's tables."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

VARIABLES = "BATCHQA_"
"""How the names of all environment variables of this program begin."""


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
        is_text = isinstance(parameter.type, click.Path | click.types.StringParamType)
        if is_text and isinstance(value, bool | list | dict):
            raise click.UsageError(f"{path}: {key} must be text, not {value!r}", context)
        return str(value) if is_text else value
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


config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="TOML file with options, in a table with the command's name.",
)
