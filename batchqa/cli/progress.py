"""What a command says on standard error while it works: a bar, lines, or JSON; never row text.

A reporter takes the job's `Progress` and its notes. Standard error may be closed or full: then a reporter
falls silent, because a job must not die of its own chatter.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self, TextIO

import orjson

if TYPE_CHECKING:
    from batchqa.job.following import Progress
    from batchqa.train.loop import TrainProgress

LINE_SECONDS = 10.0
"""How often a line is written where there is no terminal."""


class Reporter:
    """Says nothing: what the others build upon. A context manager. `stream` is what it writes to."""

    stream: TextIO

    def progress(self, progress: Progress) -> None:
        """Tell how far the job is. Called often; decides itself what is worth saying."""

    def status(self, message: str) -> None:
        """Tell what the command is doing now: loading, resuming, writing."""

    def training(self, progress: TrainProgress) -> None:
        """Tell how far a training run is. Called every few seconds."""

    def note(self, message: str) -> None:
        """Tell the user something once: a fallback, a warning."""

    def error(self, message: str, exit_code: int) -> None:
        """Tell why the command ends with `exit_code`."""

    def close(self) -> None:
        """Leave the terminal as it was."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LineReporter(Reporter):
    """Plain lines, one every few seconds, for logs."""

    def __init__(
        self,
        stream: TextIO,
        quiet: bool = False,
        seconds: float = LINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`quiet` leaves only errors; `seconds` lie between two lines."""
        self.stream = stream
        self._stream: TextIO | None = stream
        self._quiet = quiet
        self._seconds = seconds
        self._clock = clock
        self._said = clock()

    def progress(self, progress: Progress) -> None:
        """Write a line if the last one was `seconds` ago."""
        now = self._clock()
        if not self._quiet and now - self._said >= self._seconds:
            self._said = now
            self._write_progress(progress)

    def status(self, message: str) -> None:
        """Write a line `batchqa: ...`."""
        if not self._quiet:
            self._write(f"batchqa: {one_line(message)}")

    def training(self, progress: TrainProgress) -> None:
        """Write a line if the last one was `seconds` ago, or this is the last step."""
        now = self._clock()
        if not self._quiet and (now - self._said >= self._seconds or progress.step == progress.steps):
            self._said = now
            self._write_training(progress)

    def note(self, message: str) -> None:
        """Write a line `batchqa: note: ...`."""
        if not self._quiet:
            self._write(f"batchqa: note: {one_line(message)}")

    def error(self, message: str, exit_code: int) -> None:  # noqa: ARG002  (the JSON form says the code)
        """Write a line `batchqa: error: ...`."""
        self._write(f"batchqa: error: {one_line(message)}")

    def _write_progress(self, progress: Progress) -> None:
        self._write(f"batchqa: {describe_progress(progress)}")

    def _write_training(self, progress: TrainProgress) -> None:
        self._write(f"batchqa: {describe_training(progress)}")

    def _write(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # closed by the reader, or by us at exit
            self._stream = None


class JsonReporter(LineReporter):
    """The same as JSON, an object per line, for programs that read the log."""

    def status(self, message: str) -> None:
        """Write `{"event": "status", "message": ...}`."""
        if not self._quiet:
            self._write_event("status", message=one_line(message))

    def note(self, message: str) -> None:
        """Write `{"event": "note", "message": ...}`."""
        if not self._quiet:
            self._write_event("note", message=one_line(message))

    def error(self, message: str, exit_code: int) -> None:
        """Write `{"event": "error", "message": ..., "exit_code": ...}`."""
        self._write_event("error", message=one_line(message), exit_code=exit_code)

    def _write_progress(self, progress: Progress) -> None:
        self._write_event(
            "progress",
            rows=progress.rows,
            total_rows=progress.total_rows,
            answered=progress.answered,
            seconds=round(progress.seconds, 3),
            rows_per_second=round(progress.rows_per_second, 1),
            seconds_left=seconds_left(progress),
            part=progress.part,
        )

    def _write_training(self, progress: TrainProgress) -> None:
        self._write_event("training", **asdict(progress))

    def _write_event(self, event: str, **values: Any) -> None:
        self._write(orjson.dumps({"event": event} | values).decode())


class BarReporter(Reporter):
    """A bar on a terminal: share done, rows/s, time left, share answered."""

    def __init__(self, stream: TextIO) -> None:
        """`stream` must be a terminal. The bar appears with the first progress, when no row is done yet."""
        # imported here: rich takes longer to import than `batchqa --help` should
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self.stream = stream
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._bar = Bar(
            BarColumn(bar_width=None),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            transient=True,
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("", total=None)
        self._started = False

    def progress(self, progress: Progress) -> None:
        """Move the bar by rows."""
        self._move(progress.rows, progress.total_rows, describe_progress(progress))

    def status(self, message: str) -> None:
        """Write a line above the bar."""
        self._print(f"batchqa: {one_line(message)}")

    def training(self, progress: TrainProgress) -> None:
        """Move the bar by steps."""
        self._move(progress.step, progress.steps, describe_training(progress))

    def _move(self, completed: int, total: int | None, description: str) -> None:
        """Show how far the work is; rich limits how often it is drawn."""
        if not self._started:
            self._started = True
            self._quietly(self._bar.start)
        self._bar.update(self._task, completed=completed, total=total, description=description)

    def note(self, message: str) -> None:
        """Write a line above the bar."""
        self._print(f"batchqa: note: {one_line(message)}")

    def error(self, message: str, exit_code: int) -> None:  # noqa: ARG002  (the JSON form says the code)
        """Take the bar away and write a line."""
        self.close()
        self._print(f"batchqa: error: {one_line(message)}")

    def close(self) -> None:
        """Take the bar away."""
        if self._started:
            self._started = False
            self._quietly(self._bar.stop)

    def _print(self, line: str) -> None:
        self._quietly(lambda: self._console.print(line, markup=False))

    def _quietly(self, draw: Callable[[], None]) -> None:
        """A terminal that has gone away ends no job."""
        with suppress(OSError, ValueError):
            draw()


def open_reporter(stream: TextIO, log_format: str, quiet: bool, bar: bool = True) -> Reporter:
    """The reporter for `stream`: JSON if asked for, a bar on a terminal, lines elsewhere.

    `quiet` leaves nothing but errors. Without `bar` a terminal gets lines, too: rows are written to it.
    """
    if log_format == "json":
        return JsonReporter(stream, quiet)
    can_redraw = os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}
    if bar and not quiet and stream.isatty() and can_redraw:
        return BarReporter(stream)
    return LineReporter(stream, quiet)


def describe_progress(progress: Progress) -> str:
    """One line: `12,000 of 50,000 rows (24 %) · 410 rows/s · 1 min 33 s left · 61 % answered`."""
    rows = f"{progress.rows:,} rows"
    if progress.total_rows:
        share = progress.rows / progress.total_rows
        rows = f"{progress.rows:,} of {progress.total_rows:,} rows ({share:.0%})"
    return " · ".join([rows, *_details(progress)])


def describe_training(progress: TrainProgress) -> str:
    """One line: `step 420 of 3,621 (12 %) · 5,200 tokens/s · loss 0.712 · 1 h 02 min left`."""
    share = progress.step / progress.steps
    step = f"step {progress.step:,} of {progress.steps:,} ({share:.0%})"
    return " · ".join([step, *_training_details(progress)])


def _training_details(progress: TrainProgress) -> list[str]:
    left = [] if progress.eta_seconds is None else [f"{duration(progress.eta_seconds)} left"]
    return [f"{progress.tokens_per_second:,.0f} tokens/s", f"loss {progress.loss:.3f}", *left]


def seconds_left(progress: Progress) -> float | None:
    """Seconds until all rows are done at the present speed; None where it cannot be known."""
    if not progress.total_rows or progress.rows_per_second <= 0:
        return None
    return round(max(progress.total_rows - progress.rows, 0) / progress.rows_per_second, 1)


def one_line(message: str) -> str:
    """`message` without line breaks and control characters: a log line stays one line."""
    return "".join(c if c.isprintable() else " " for c in message).strip()


def _details(progress: Progress) -> list[str]:
    details = []
    if progress.rows_per_second > 0:
        shown = f"{progress.rows_per_second:,.0f}" if progress.rows_per_second >= 10 else "{:.1f}"
        details.append(f"{shown.format(progress.rows_per_second)} rows/s")
    left = seconds_left(progress)
    if left is not None:
        details.append(f"{duration(left)} left")
    known = (progress.judged_questions, progress.judged_rows, progress.rows)
    judged = next(count for count in known if count is not None)
    if judged:
        details.append(f"{progress.answered / judged:.0%} answered")
    return details


def duration(seconds: float) -> str:
    """As a person reads it: `12 s`, `1 min 33 s`, `2 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
