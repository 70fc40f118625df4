"""What a person at a terminal sees: a real pseudo-terminal around the real command."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Session:
    """A command on a terminal: `lines` are what stays on it or stood there, `at` says when, in seconds."""

    def __init__(
        self, *arguments: str, columns: int = 100, to_file: Path | None = None, term: str = "xterm"
    ) -> None:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "NO_COLOR"}} | {
            "TERM": term
        }
        stdout: Any = to_file.open("wb") if to_file else slave
        process = subprocess.Popen(
            [sys.executable, "-m", "batchqa", *arguments],
            stdin=slave, stdout=stdout, stderr=slave, env=environment,
        )  # fmt: skip
        os.close(slave)
        if to_file:
            stdout.close()
        self.pieces: list[tuple[float, str]] = []
        reader = threading.Thread(target=self._read, args=(master,))
        reader.start()
        self.code = process.wait(120)
        reader.join(10)
        self.raw = "".join(piece for _, piece in self.pieces)
        self.lines = [
            line.strip() for line in re.split(r"[\r\n]+", ESCAPES.sub("", self.raw)) if line.strip()
        ]

    def _read(self, master: int) -> None:
        began = time.monotonic()
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # Linux's way to say that the last writer is gone
                break
            self.pieces.append((time.monotonic() - began, piece.decode("utf-8", "replace")))
        os.close(master)


@pytest.fixture
def rows_file(tmp_path: Path) -> Callable[[int], Path]:
    """`rows_file(n)`: a Parquet file of n rows, whose number a job knows before it reads them."""

    def write(count: int) -> Path:
        texts = [f"Ada wrote program number {n}. " * (1 + n % 5) for n in range(count)]
        table = pa.table({"context": texts, "question": ["Who wrote it?"] * count})
        pq.write_table(table, tmp_path / "in.parquet")
        return tmp_path / "in.parquet"

    return write


def test_a_run_on_a_terminal_shows_a_bar_and_ends_with_a_readable_summary(
    rows_file: Callable[[int], Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    command = ["run", str(rows_file(600)), "-o", str(out), "--model", str(tiny_bundle), "--threads", "1"]
    seen = Session(*command)
    assert seen.code == 0, seen.raw
    assert any(line.startswith("batchqa: loading ") for line in seen.lines)
    assert "0 of 600" in seen.raw or "\x1b[?25l" in seen.raw, seen.raw  # a narrow bar cuts its text
    assert f"{out}: 600 rows" in seen.lines
    assert not any(line.startswith("{") for line in seen.lines)
    summary = "\n".join(seen.lines)
    for word in ("answered", "no answer", "time", "rows/s", "model"):
        assert word in summary
    assert "\x1b[?25h" in seen.raw.rsplit("\x1b[?25l", 1)[-1]  # the cursor is there again

    again = Session(*command)
    assert any(line.startswith("batchqa: already done: ") for line in again.lines)
    assert f"{out}: 600 rows, already done" in again.lines
    assert not any("loading" in line for line in again.lines)

    asked = Session(*command, "--summary", "-")
    assert json.loads(asked.lines[-1])["already_done"] is True

    to_a_file = Session(*command, to_file=tmp_path / "stdout")
    assert json.loads((tmp_path / "stdout").read_bytes())["rows"] == 600
    assert not any(line.startswith("{") for line in to_a_file.lines)


def test_a_resumed_run_says_from_where_it_resumes(tiny_bundle: Path, tmp_path: Path) -> None:
    inputs, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    questions = [None if n == 500 else "Who wrote it?" for n in range(600)]
    pq.write_table(pa.table({"context": ["Ada wrote it."] * 600, "question": questions}), inputs)
    command = ["run", str(inputs), "-o", str(out), "--model", str(tiny_bundle), "--threads", "1"]
    command += ["--part-rows", "60", "--strict"]
    stopped = Session(*command)
    assert stopped.code == 3
    seen = Session(*command, "--max-errors", "1")
    assert seen.code == 0, seen.raw
    assert "batchqa: resuming: 540 of 600 rows are done" in seen.lines
    assert any("540 rows were done before" in line for line in seen.lines)


def test_a_narrow_terminal_gets_no_line_twice(
    rows_file: Callable[[int], Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    command = ["run", str(rows_file(50)), "-o", str(tmp_path / "o.parquet"), "--model", str(tiny_bundle)]
    seen = Session(*command, "--threads", "1", columns=40)
    assert seen.code == 0, seen.raw
    assert sum("of 50 rows" in line for line in seen.lines) >= 1


def test_a_dumb_terminal_gets_lines_without_escapes(
    rows_file: Callable[[int], Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    command = ["run", str(rows_file(50)), "-o", str(tmp_path / "o.parquet"), "--model", str(tiny_bundle)]
    seen = Session(*command, "--threads", "1", term="dumb")
    assert seen.code == 0, seen.raw
    assert "\x1b" not in seen.raw


def test_rows_on_a_terminal_are_not_mixed_with_a_bar(
    rows_file: Callable[[int], Path], tiny_bundle: Path
) -> None:
    seen = Session("run", str(rows_file(20)), "-o", "-", "--model", str(tiny_bundle), "--threads", "1")
    assert seen.code == 0, seen.raw
    assert "\x1b" not in seen.raw
    assert sum(line.startswith('{"context"') for line in seen.lines) == 20
    assert "standard output: 20 rows" in seen.lines


def test_a_dry_run_on_a_terminal_is_readable_and_says_where_bad_rows_are(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{bad\n[1]\n{"context": 3, "question": "?"}\n')
    seen = Session(
        "run", str(bad), "-o", str(tmp_path / "o.parquet"), "--model", str(tiny_bundle), "--dry-run"
    )
    assert seen.code == 0, seen.raw
    assert "dry run: 3 rows; nothing was written" in seen.lines
    text = "\n".join(seen.lines)
    assert f"bad_json at {bad}:1" in text
    assert f"not_an_object at {bad}:2" in text
    assert f"type_context at {bad}:3" in text
    assert "3 of 3 rows are errors, more than --max-errors 0 allows" in text


def test_quiet_leaves_only_the_summary(
    rows_file: Callable[[int], Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    seen = Session(
        "run", str(rows_file(20)), "-o", str(out), "--model", str(tiny_bundle), "--threads", "1", "--quiet"
    )
    assert seen.code == 0, seen.raw
    assert seen.lines[0] == f"{out}: 20 rows"
