"""The command `batchqa`: its commands, its exit codes, and the process that it is."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

import click

from batchqa.allocator import choose_allocator
from batchqa.cli.commands.convert import convert_command
from batchqa.cli.commands.doctor import doctor_command
from batchqa.cli.commands.evaluate import evaluate_command
from batchqa.cli.commands.export import export_command
from batchqa.cli.commands.finalize import finalize_command
from batchqa.cli.commands.info import info_command
from batchqa.cli.commands.run import run_command
from batchqa.cli.commands.show import show_command
from batchqa.cli.commands.train import train_command
from batchqa.cli.configuration import Commands, where_given
from batchqa.cli.console import say
from batchqa.cli.progress import one_line
from batchqa.errors import StorageError
from batchqa.version import VERSION

EXIT_CODES = (
    "Exit codes: 0 done, or already done; 2 usage or unusable input; 3 a limit that you set was not met; "
    "4 the output exists, or input or options changed; 5 model or device; 74 I/O; 75 try again; "
    "99 nothing to do (--if-no-input skip); "
    "130 SIGINT; 143 SIGTERM."
)


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
        say(no_command.format_message(), sys.stderr)
        return no_command.exit_code
    except click.ClickException as mistake:
        context = getattr(mistake, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context else ""
        where = where_given(mistake) if isinstance(mistake, click.BadParameter) else ""
        say(f"batchqa: error: {one_line(mistake.format_message())}{where}{hint}", sys.stderr)
        return mistake.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 128 + signal.SIGINT
    except SystemExit:  # click's way when the reader of the help has gone away: no error of ours
        return 0
    except OSError as error:  # help or version to a full disk
        say(f"batchqa: error: writing to standard output: {error.strerror}", sys.stderr)
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


for each in (
    run_command,
    finalize_command,
    export_command,
    evaluate_command,
    train_command,
    show_command,
    convert_command,
    info_command,
    doctor_command,
):
    commands.add_command(each)


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
