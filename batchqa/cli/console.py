"""What a command says and when it stops: results on standard output, messages and signals.

Nothing else prints or exits.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import click
import orjson

from batchqa.cli.progress import Reporter, open_reporter
from batchqa.errors import BatchqaError, StoppedError, StorageError


@contextmanager
def reporting(log_format: str, quiet: bool, bar: bool = True) -> Iterator[Reporter]:
    """Standard error for one command: progress, notes, and the one line of an error before its exit code."""
    with (
        _quiet_libraries() if quiet else nullcontext(sys.stderr) as stream,
        open_reporter(stream, log_format, quiet, bar) as reporter,
    ):
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
def _quiet_libraries() -> Iterator[TextIO]:
    """Standard error for us alone, as the yielded stream: what libraries write to it goes nowhere.

    So does what is written by C++, past Python's own streams and settings, and by child processes.
    """
    before = sys.stderr
    before.flush()
    kept = os.dup(2)
    speaks_on_2 = False
    with suppress(OSError, AttributeError):  # what tests and notebooks put there has no number
        speaks_on_2 = before.fileno() == 2
    stream = os.fdopen(os.dup(kept), "w", encoding="utf-8", errors="replace") if speaks_on_2 else before
    os.dup2(_nowhere().fileno(), 2)
    sys.stderr = _nowhere()
    try:
        yield stream
    finally:
        sys.stderr = before
        os.dup2(kept, 2)
        os.close(kept)
        if stream is not before:
            with suppress(OSError):
                stream.close()


@cache
def _nowhere() -> TextIO:
    """One for the whole process: loggers may have kept it."""
    return Path(os.devnull).open("w", encoding="utf-8")


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads it."""
    return stream is not None and not stream.closed and stream.isatty()


def progress_of(reporter: Reporter, check_stop: Callable[[], None]) -> Callable[[Any], None]:
    """What a job calls as it goes: it shows how far it is, and ends it after a signal."""

    def progress(state: Any) -> None:
        check_stop()
        reporter.progress(state)

    return progress


@contextmanager
def stoppable(*, at_once: bool = True, kept: str = "finished parts are kept") -> Iterator[Callable[[], None]]:
    """SIGINT and SIGTERM become StoppedError in the main thread; a second one ends the process at once.

    Not `at_once`: only where the yielded function is called, for work that must not be cut in two. The
    yielded function raises it again, for the case that it met code that swallows exceptions. `kept` says what
    a stopped command has not lost.
    """
    stopped: list[StoppedError] = []

    def stop(number: int, _: FrameType | None) -> None:
        if stopped:
            os._exit(128 + number)
        name = signal.Signals(number).name
        error = StoppedError(f"stopped by {name}; {kept}: run the same command again to resume", 128 + number)
        stopped.append(error)
        if at_once:
            raise error

    def check() -> None:
        if stopped:
            raise stopped[0]

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    except Exception as error:
        if stopped and error is not stopped[0]:
            # the signal came in the middle of an import, say, which made an ImportError of it
            raise stopped[0] from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say_json(value: Mapping[str, Any], stream: TextIO | None, *, lost: str = "") -> None:
    """Write a line of JSON; see `say`."""
    say(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode(), stream, lost=lost)


def say(text: str, stream: TextIO | None, *, lost: str = "") -> None:
    """Write a line in UTF-8, whatever the locale; a reader that has gone away is no error of ours.

    Raises StorageError where it cannot be written; `lost` says what that means. None is a closed stream.
    """
    where = "standard output" if stream is sys.stdout else "standard error"
    if stream is None:
        raise StorageError(f"{where} is closed, so the result cannot be written; redirect it to a file")
    try:
        click.echo(text.encode(), file=stream)
    except BrokenPipeError:
        pass
    except OSError as error:
        raise StorageError(f"writing to {where}: {error.strerror}{lost}") from error
