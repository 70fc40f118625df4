"""A test's program in many processes that start in milliseconds: forks of one that has imported it.

`Forks(module)` is that one; each fork runs the module's `main()` with its own arguments. A fork begins when
it is told to, so that it can be traced before, or begin in the same moment as others.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

ROOT = Path(__file__).parent.parent
LONGEST_SECONDS = 300.0
_ANYONE_MAY_TRACE = (0x59616D61, ctypes.c_ulong(-1))  # PR_SET_PTRACER, PR_SET_PTRACER_ANY


class Forks:
    """The process that forks; it ends with the test's."""

    def __init__(self, module: str) -> None:
        self._asking = threading.Lock()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forking", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def ask(self, *words: Any) -> Any:
        """Send an order, return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._asking:
            self._process.stdin.write(json.dumps(words).encode() + b"\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def fork(self, *arguments: str) -> Fork:
        """A new process, which waits until it is told to begin."""
        descriptor, name = tempfile.mkstemp(prefix="batchqa-test-")
        os.close(descriptor)
        storage = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
        return Fork(self, self.ask("fork", name, storage, *arguments), Path(name))


@dataclass(frozen=True)
class Fork:
    """A process; `said` is the file of its standard error."""

    forks: Forks
    pid: int
    said: Path

    def begin(self) -> None:
        """Let it run."""
        self.forks.ask("begin", self.pid)

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> tuple[int, str]:
        """Wait for its end; its exit code, negative for a signal, and what it said."""
        until = time.monotonic() + LONGEST_SECONDS
        while (code := self.forks.ask("end", self.pid)) is None:
            if time.monotonic() > until:
                self.kill()
            time.sleep(0.01)
        text = self.said.read_text()
        self.said.unlink()
        return code, text


@functools.cache
def forks_of(module: str) -> Forks:
    """The one for this module, started once."""
    return Forks(module)


def _main() -> None:
    program = importlib.import_module(sys.argv[1]).main
    pa.array([0])  # the first array imports pandas, where it is: no fork whose files fail should do that
    gates: dict[int, int] = {}
    for line in sys.stdin:
        what, *words = json.loads(line)
        answer: Any = None
        if what == "fork":
            gate, opens = os.pipe()
            is_ready, ready = os.pipe()
            answer = os.fork()
            if not answer:
                for other in (
                    opens,
                    is_ready,
                    *gates.values(),
                ):  # a gate opens when nobody holds its other end
                    os.close(other)
                _be_the_fork(program, gate, ready, *words)
            os.close(gate)
            os.close(ready)
            os.read(is_ready, 1)  # who traces it from now on sees the program's own calls alone
            os.close(is_ready)
            gates[answer] = opens
        elif what == "begin":
            os.close(gates.pop(words[0]))
        else:
            ended, status = os.waitpid(words[0], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        print(json.dumps(answer), flush=True)  # noqa: T201


def _be_the_fork(
    program: Any, gate: int, ready: int, said: str, storage: dict[str, str], *arguments: str
) -> None:
    os.environ.update(storage)
    ctypes.CDLL(None).prctl(*_ANYONE_MAY_TRACE)
    os.dup2(os.open(said, os.O_WRONLY), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv[1:] = arguments
    os.close(ready)
    code = 1
    try:
        os.read(gate, 1)
        code = program()
    finally:
        if code == 1:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        os._exit(code)


if __name__ == "__main__":
    _main()
