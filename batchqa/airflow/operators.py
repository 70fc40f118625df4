"""The operators: a task is one batchqa command.

What the exit code says, Airflow does: 74 (I/O), 75 (try again) and a kill are retried, and the retry resumes
from what is committed; 2, 3, 4 and 5 fail at once, because the same command would fail again; 99 skips.
"""

from __future__ import annotations

import os
import shlex
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, AssetAlias, BaseOperator, Connection, Context

from batchqa.airflow.command import Command, CommandOutcome, flags, holds_credentials
from batchqa.airflow.connections import environment_of

try:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
except ImportError:  # where they are in Airflow 3.0 and 3.1
    from airflow.exceptions import AirflowException, AirflowFailException, AirflowSkipException

FAILED_FOR_GOOD = frozenset({2, 3, 4, 5})
SKIPPED = 99


class _CommandOperator(BaseOperator):
    """One batchqa command as a task; the operators say which.

    `options` are the command's, with underscores: `{"top_k": 3, "strict": True, "keep": ["id"]}`. `conn_id`
    names one or several Airflow connections to object stores (aws, google_cloud_platform, wasb, adls), whose
    credentials go into the command's environment; `env` adds variables. `python` is the interpreter of the
    environment that has batchqa, if it is not Airflow's own.
    """

    ui_color = "#dfe9f5"

    def __init__(
        self,
        *,
        options: Mapping[str, Any] | None = None,
        conn_id: str | Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        python: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.options = {} if options is None else options
        self.conn_id = conn_id
        self.env = {} if env is None else env
        self.python = python
        self._command: Command | None = None

    @abstractmethod
    def arguments(self) -> list[str]:
        """The command line behind `batchqa`."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the command; its summary is the task's XCom."""
        arguments = self.arguments()
        if any(map(holds_credentials, arguments)):
            raise AirflowFailException(
                "a URI with a password would be readable on the command line; use conn_id"
            )
        self.log.info("batchqa %s", shlex.join(arguments))
        summary = self._run(arguments)
        self._announce(context, summary)
        return summary

    def on_kill(self) -> None:
        """End the command within seconds; a retry resumes from what it has committed."""
        if self._command is not None:
            self.log.info("stopping the command")
            self._command.stop()

    def _run(self, arguments: list[str]) -> dict[str, Any]:
        with ExitStack() as stack:
            ids = [self.conn_id] if isinstance(self.conn_id, str) else self.conn_id or []
            env = dict(os.environ)
            try:
                for conn_id in ids:
                    env |= stack.enter_context(environment_of(Connection.get(conn_id)))
            except ValueError as error:
                raise AirflowFailException(str(error)) from error
            command = Command(arguments, self.python or sys.executable, {**env, **self.env})
            self._command = command
            try:
                outcome = command.run(self._log)
            except OSError as error:
                raise AirflowFailException(f"python={command.python}: {error.strerror}") from error
        return _judged(outcome)

    def _log(self, line: str) -> None:
        said = line.removeprefix("batchqa: ")
        if said.startswith("error: "):
            self.log.error(said.removeprefix("error: "))
        elif said.startswith("note: "):
            self.log.warning(said.removeprefix("note: "))
        else:
            self.log.info(said)

    def _announce(self, context: Context, summary: Mapping[str, Any]) -> None:
        """Tell Airflow of the output, if the command has published one."""


class _OutputOperator(_CommandOperator):
    """A command that publishes `output`, which is the task's asset, with its rows and fingerprint as extra.

    An output whose name is a template has another name in each run: its asset is added to the asset alias
    that has the template's text as its name. `outlets` names other assets instead.
    """

    def __init__(self, *, output: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.output_path = output  # `output` is what Airflow calls a task's result
        if not kwargs.get("outlets") and self._publishes():
            self.outlets = [AssetAlias(output) if "{" in output else Asset(_uri(output))]

    def _publishes(self) -> bool:
        return True

    def _announce(self, context: Context, summary: Mapping[str, Any]) -> None:
        extra = {name: summary[name] for name in ("rows", "fingerprint") if name in summary}
        if not self._publishes():
            return
        for outlet in self.outlets:
            if isinstance(outlet, Asset):
                context["outlet_events"][outlet].extra.update(extra)
            elif isinstance(outlet, AssetAlias):
                context["outlet_events"][outlet].add(Asset(_uri(self.output_path)), extra=extra)


class BatchqaOperator(_OutputOperator):
    """`batchqa run`: annotate `inputs` (one, or a list) and write `output`.

    With `options={"shard": "0/4"}` it does one shard of a job; BatchqaFinalizeOperator publishes the output.
    """

    template_fields = ("inputs", "output_path", "model", "options", "conn_id", "env", "python")
    template_fields_renderers = {"options": "json", "env": "json"}  # noqa: RUF012 -- as Airflow declares it

    def __init__(
        self, *, inputs: str | Sequence[str], output: str, model: str = "default", **kwargs: Any
    ) -> None:
        super().__init__(output=output, **kwargs)
        self.inputs = inputs
        self.model = model

    def arguments(self) -> list[str]:
        """The command line behind `batchqa`."""
        inputs = [self.inputs] if isinstance(self.inputs, str) else self.inputs
        named = [f"--output={self.output_path}", f"--model={self.model}"]
        return ["run", *named, *flags(self.options), "--", *map(str, inputs)]

    def _publishes(self) -> bool:
        return "shard" not in self.options


class BatchqaFinalizeOperator(_OutputOperator):
    """`batchqa finalize`: prove that all shards of a job are there, and publish its output."""

    template_fields = ("output_path", "options", "conn_id", "env", "python")
    template_fields_renderers = BatchqaOperator.template_fields_renderers

    def arguments(self) -> list[str]:
        """The command line behind `batchqa`."""
        return ["finalize", *flags(self.options), "--", self.output_path]


class BatchqaEvaluateOperator(_CommandOperator):
    """`batchqa evaluate`: score `predictions`; with `options={"min_f1": 80}` a gate before what follows."""

    template_fields = ("predictions", "options", "conn_id", "env", "python")
    template_fields_renderers = BatchqaOperator.template_fields_renderers

    def __init__(self, *, predictions: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.predictions = predictions

    def arguments(self) -> list[str]:
        """The command line behind `batchqa`."""
        return ["evaluate", "--json", *flags(self.options), "--", self.predictions]


def _judged(outcome: CommandOutcome) -> dict[str, Any]:
    """The summary; raises what Airflow takes for a skip, a failure, or a failure that is tried again."""
    if outcome.exit_code == 0:
        return outcome.summary or {}
    if outcome.exit_code == SKIPPED:
        raise AirflowSkipException("nothing to do: there is no input")
    kind = AirflowFailException if outcome.exit_code in FAILED_FOR_GOOD else AirflowException
    raise kind(f"exit code {outcome.exit_code}: {outcome.error}")


def _uri(output: str) -> str:
    return output if "://" in output else Path(output).absolute().as_uri()
