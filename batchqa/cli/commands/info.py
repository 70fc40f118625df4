"""`batchqa info`: a bundle or an output, from its own metadata."""

from __future__ import annotations

import sys

import click

from batchqa.cli.console import reporting, say, say_json
from batchqa.cli.options import command, common_options, json_option


@command("info", "Describe a bundle or an output.")
@click.argument("path", metavar="BUNDLE|OUTPUT")
@json_option
@common_options
def info_command(path: str, as_json: bool, log_format: str, quiet: bool) -> None:
    """Describe a bundle (`default`: the one in the package) or an output, from its own metadata."""
    with reporting(log_format, quiet):
        from batchqa.cli.describe import describe
        from batchqa.cli.rendering import render_facts
        from batchqa.text import harmless

        facts = describe(path)
        if as_json:
            say_json(facts, sys.stdout)
        else:
            say(harmless(render_facts(facts)), sys.stdout)
