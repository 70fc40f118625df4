"""What is said on standard error, and that saying it never ends a job."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

import pytest

from batchqa.cli.progress import (
    BarReporter,
    JsonReporter,
    LineReporter,
    describe_progress,
    one_line,
    open_reporter,
    seconds_left,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def state(**changes: Any) -> Any:
    """A job's progress: 12,000 of 50,000 rows."""
    values = {
        "rows": 12_000,
        "total_rows": 50_000,
        "answered": 9_000,
        "seconds": 30.0,
        "rows_per_second": 400.0,
        "part": 1,
        "judged_rows": None,
        "judged_questions": None,
    }
    return SimpleNamespace(**(values | changes))


def test_a_line_tells_rows_speed_time_left_and_the_share_answered() -> None:
    assert (
        describe_progress(state())
        == "12,000 of 50,000 rows (24%) · 400 rows/s · 1 min 35 s left · 75% answered"
    )


def test_without_a_total_no_time_left_is_made_up() -> None:
    assert describe_progress(state(total_rows=None)) == "12,000 rows · 400 rows/s · 75% answered"
    assert seconds_left(state(rows_per_second=0.0)) is None
    assert describe_progress(state(rows=0, total_rows=0, answered=0)) == "0 rows · 400 rows/s"


def test_the_share_answered_is_that_of_the_rows_that_are_decided() -> None:
    in_work = state(rows=12_000, judged_rows=10_000, answered=9_000)
    assert describe_progress(in_work).endswith("90% answered")
    assert describe_progress(state(rows=0, judged_rows=0, answered=0, rows_per_second=0.0)) == (
        "0 of 50,000 rows (0%)"
    )


def test_the_share_answered_is_that_of_the_questions_where_rows_are_asked_several() -> None:
    asked = state(rows=12_000, judged_rows=10_000, judged_questions=50_000, answered=20_000)
    assert describe_progress(asked).endswith("40% answered")


def test_a_slow_model_s_speed_has_a_decimal() -> None:
    assert "0.7 rows/s" in describe_progress(state(rows_per_second=0.74))


def test_hours_are_written_as_hours() -> None:
    assert "2 h 05 min left" in describe_progress(state(total_rows=12_000 + 400 * 7500))


def test_lines_come_once_every_few_seconds_only() -> None:
    stream, clock = io.StringIO(), Clock()
    reporter = LineReporter(stream, seconds=10, clock=clock)
    for clock.now in (1, 5, 9, 10, 11, 19, 21):
        reporter.progress(state())
    assert stream.getvalue().count("\n") == 2


def test_the_json_log_has_an_object_per_line() -> None:
    stream, clock = io.StringIO(), Clock()
    reporter = JsonReporter(stream, seconds=0, clock=clock)
    reporter.status("loading\nit")
    reporter.note("took the CPU")
    reporter.progress(state())
    reporter.error("no\nmore", 74)
    status, note, progress, error = map(json.loads, stream.getvalue().splitlines())
    assert status == {"event": "status", "message": "loading it"}
    assert note == {"event": "note", "message": "took the CPU"}
    assert progress["event"] == "progress"
    assert (progress["rows"], progress["total_rows"], progress["seconds_left"]) == (12_000, 50_000, 95.0)
    assert error == {"event": "error", "message": "no more", "exit_code": 74}


def test_quiet_leaves_nothing_but_errors() -> None:
    for log_format in ("text", "json"):
        stream = Terminal()
        with open_reporter(stream, log_format, quiet=True) as reporter:
            reporter.note("a note")
            reporter.status("loading")
            reporter.progress(state())
            assert stream.getvalue() == ""
            reporter.error("wrong", 2)
            assert "wrong" in stream.getvalue()


def test_a_terminal_gets_a_bar_and_everything_else_gets_lines() -> None:
    assert isinstance(open_reporter(Terminal(), "text", quiet=False), BarReporter)
    assert type(open_reporter(io.StringIO(), "text", quiet=False)) is LineReporter
    assert isinstance(open_reporter(Terminal(), "json", quiet=False), JsonReporter)
    assert type(open_reporter(Terminal(), "text", quiet=False, bar=False)) is LineReporter


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert type(open_reporter(Terminal(), "text", quiet=False)) is LineReporter


def test_a_terminal_that_goes_away_ends_no_job() -> None:
    class Gone(Terminal):
        def write(self, _: str) -> int:
            raise OSError(5, "Input/output error")

    with open_reporter(Gone(), "text", quiet=False) as reporter:
        reporter.status("loading")
        reporter.progress(state())
        reporter.note("nobody reads this")
        reporter.error("nor this", 2)


def test_the_bar_shows_rows_and_notes_stand_above_it_as_they_are() -> None:
    stream = Terminal()
    with open_reporter(stream, "text", quiet=False) as reporter:
        reporter.progress(state())
        reporter.note("[red]is not markup[/red]")
        reporter.error("too bad", 5)
    assert "[red]is not markup[/red]" in stream.getvalue()
    assert "batchqa: error: too bad" in stream.getvalue()


def test_a_closed_standard_error_silences_the_reporter_and_raises_nothing() -> None:
    stream = io.StringIO()
    reporter = LineReporter(stream, seconds=0)
    stream.close()
    reporter.note("nobody hears this")
    reporter.progress(state())
    reporter.error("nor this", 2)


def test_a_message_with_line_breaks_and_control_characters_stays_one_line() -> None:
    assert one_line("first\r\nsecond\x1b[31m\u2028third") == "first  second [31m third"
