"""`batchqa doctor`: what this machine can run."""

from __future__ import annotations

import sys

import click

from batchqa.cli.console import reporting, say, say_json
from batchqa.cli.options import command, common_options, json_option, model_option, setting


@command("doctor", "Check what this machine can run.")
@model_option
@setting("--device", "Device of the smoke test: auto, cpu, cuda, cuda:0.", metavar="DEVICE")
@json_option
@common_options
def doctor_command(model: str, device: str, as_json: bool, log_format: str, quiet: bool) -> None:
    """Report what this machine can run, and ask the model a question whose answer is known.

    Exit code 5 if something would stop `run` from working.
    """
    with reporting(log_format, quiet):
        from batchqa.cli.doctor import examine, render

        findings = examine(model, device)
        if as_json:
            say_json({"findings": [finding.to_dict() for finding in findings]}, sys.stdout)
        else:
            say(render(findings), sys.stdout)
        if any(finding.level == "fail" for finding in findings):
            raise click.exceptions.Exit(5)
