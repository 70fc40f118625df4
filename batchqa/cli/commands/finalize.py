"""`batchqa finalize`: publish the output of a sharded job."""

from __future__ import annotations

import sys
from typing import Any

import click

from batchqa.cli.console import is_terminal, reporting, say, say_json, stoppable
from batchqa.cli.options import NOTHING_TO_DO, command, common_options, number
from batchqa.domains import CountOrZero


@command("finalize", "Publish the output of a sharded job.")
@click.argument("output", metavar="OUTPUT")
@number("--wait", CountOrZero, 0, "Seconds to wait for shards that are not done.", metavar="SECONDS")
@click.option(
    "--max-errors",
    metavar="N|P%",
    help="Row errors to tolerate: a count or a percentage.",
    show_default="what the first shard was given",
)
@click.option(
    "--if-no-input",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="Where no shard has begun: fail (exit code 75), or skip: that is no error (exit code 99).",
)
@click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
@common_options
def finalize_command(output: str, log_format: str, quiet: bool, **options: Any) -> None:
    """Check that the shards of `run --shard` have made every part and row of OUTPUT, and publish it.

    If parts are missing, the exit code is 75 and the shards to run again are named. An OUTPUT that has been
    published already is left as it is (exit code 0).
    """
    with reporting(log_format, quiet) as reporter, stoppable():
        from batchqa import job
        from batchqa.cli.rendering import render

        result = job.finalize(
            output, on_note=reporter.note, on_status=reporter.status, whole_process=True, **options
        )
        reporter.close()
        if sys.stdout is not None:
            lost = "; the summary is lost, the output itself is complete"
            if is_terminal(sys.stdout):
                say(render(result), sys.stdout, lost=lost)
            else:
                say_json(result.to_dict(), sys.stdout, lost=lost)
        if result.skipped:
            raise click.exceptions.Exit(NOTHING_TO_DO)
