"""A batchqa command as a child process: its arguments, its log line by line, its result, its end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

GRACE_SECONDS = 4.0
"""From SIGTERM to SIGKILL. Airflow kills the task's own process 5 s after it called `on_kill`."""

_PROGRAM = (
    "import ctypes, os, signal, sys\n"
    "if sys.platform == 'linux':\n"
    "    ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"  # PR_SET_PDEATHSIG: survives exec, not the parent
    "if os.getppid() != int(sys.argv[1]):\n"
    "    os._exit(143)\n"  # the parent was gone before it could be asked for
    "os.execv(sys.executable, [sys.executable, '-P', '-m', 'batchqa', *sys.argv[2:]])\n"
)
"""Starts the command so that it ends with its parent, however that dies: a command that nobody waits for any
more would hold the output's lock against the retry. What it has committed is kept."""

_CREDENTIALS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/@]*:[^/]*@")


def flags(options: Mapping[str, Any]) -> list[str]:
    """Options as the command line has them: `{"top_k": 3, "strict": True}` -> `--top-k=3 --strict`.

    None and False leave an option out, a list repeats it, and of a mapping each entry is NAME=VALUE
    (`{"ask": {"date": "When?"}}`).
    """
    made: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, Mapping):
            made += [f"{flag}={key}={each}" for key, each in value.items()]
        elif isinstance(value, list | tuple):
            made += [f"{flag}={each}" for each in value]
        elif value is True:
            made.append(flag)
        elif value is not None and value is not False:
            made.append(f"{flag}={value}")
    return made


def holds_credentials(argument: str) -> bool:
    """Whether an argument is a URI with a password in it, which everyone on the machine could read."""
    return _CREDENTIALS.search(argument) is not None


@dataclass
class CommandOutcome:
    """How a command ended: its exit code (negative: killed by that signal), its last words, its summary.

    `summary` is the last line of standard output where that is a JSON object, else None.
    """

    exit_code: int
    error: str
    summary: dict[str, Any] | None


@dataclass
class Command:
    """One `batchqa` command, run by the interpreter `python` with the environment `env`."""

    arguments: Sequence[str]
    python: str = sys.executable
    env: Mapping[str, str] | None = None
    _process: subprocess.Popen[str] | None = field(default=None, init=False)

    def run(self, on_line: Callable[[str], None]) -> CommandOutcome:
        """Run it to its end; `on_line` is called with the lines of its standard error as they come.

        Where `on_line` or a signal raises, it is stopped. Raises OSError where `python` cannot be run.
        """
        with tempfile.TemporaryFile("w+", encoding="utf-8") as stdout:
            with subprocess.Popen(  # noqa: S603 -- no shell
                [self.python, "-P", "-c", _PROGRAM, str(os.getpid()), *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                env=None if self.env is None else dict(self.env),
                start_new_session=True,  # signals to the task's group do not reach it: `stop` sends them
            ) as self._process:
                last: deque[str] = deque(maxlen=5)
                try:
                    for line in self._process.stderr or ():
                        last.append(line.rstrip())
                        on_line(last[-1])
                except BaseException:
                    self.stop()
                    raise
            stdout.seek(0)
            return CommandOutcome(self._process.returncode, _error(last), _summary(stdout.read()))

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """End it if it runs: SIGTERM, and after `grace` seconds SIGKILL to all its processes.

        May be called in a signal handler while `run` waits: so it reaps nothing itself.
        """
        process = self._process
        if process is None or process.returncode is not None or _has_ended(process.pid):
            return
        process.terminate()
        end = time.monotonic() + grace
        while time.monotonic() < end:
            if _has_ended(process.pid):
                return
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)


def _error(last: Iterable[str]) -> str:
    """The command's own error among its last lines; where it has none, those lines."""
    errors = [line for line in last if line.startswith("batchqa: error: ")]
    return errors[-1].removeprefix("batchqa: error: ") if errors else " / ".join(last)


def _has_ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # it has been reaped
        return True


def _summary(stdout: str) -> dict[str, Any] | None:
    lines = stdout.rstrip("\n").split("\n")  # a name in it may hold what else ends a line
    try:
        found = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
