"""Kills and failures at every system call of a program, by strace, and what the output is afterwards."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchqa.errors import BatchqaError
from batchqa.output import Target, find
from tests import commit_job
from tests.forking import forks_of

CALLS = ["openat", "getdents64", "write", "fsync", "rename", "link", "unlink", "mkdir", "rmdir"]


def nothing(output: str) -> None:
    """What need not be done."""


@dataclass(frozen=True)
class Program:
    """What is disturbed: a test's program with OUTPUT and `arguments`, after `before`.

    `again` finishes the job afterwards; `whole` is the same job without a disturbance, in one process.
    `publishes` says that there is an output when the program ends well.
    """

    module: str = commit_job.__name__
    arguments: Sequence[str] = ()
    before: Callable[[str], object] = nothing
    again: Callable[[str], object] = commit_job.run
    whole: Callable[[str], object] = commit_job.run
    publishes: bool = True

    def run(
        self, output: str, *options: str, inject: str | None = None, log: Path
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it under strace, with a fault injected."""
        fork = forks_of(self.module).fork(output, *self.arguments, *options)
        strace = ["strace", "-f", "-qq", "-o", str(log), "-e", "trace=" + ",".join(CALLS)]
        strace += ["-e", "inject=" + inject] if inject else []
        with subprocess.Popen([*strace, "-p", str(fork.pid)], stderr=subprocess.PIPE) as tracer:
            until = time.monotonic() + 60
            while "TracerPid:\t0\n" in Path(f"/proc/{fork.pid}/status").read_text():
                assert tracer.poll() is None, tracer.stderr and tracer.stderr.read()
                assert time.monotonic() < until
                time.sleep(0.002)
            fork.begin()
            code, said = fork.end()
        return subprocess.CompletedProcess(strace, code, b"", said.encode())

    def places(self, output: str, log: Path, *options: str) -> dict[str, range]:
        """For each call the numbers N at which it works on the output, found by an undisturbed run."""
        self.before(output)
        done = self.run(output, *options, log=log)
        assert done.returncode == 0, done.stderr
        base = output.rstrip("/")
        main = None
        before = dict.fromkeys(CALLS, 0)
        count = dict.fromkeys(CALLS, 0)
        begun = False
        for line in log.read_text(errors="replace").splitlines():
            match = re.match(r"(\d+) +(\w+)\(", line)
            if not match:
                continue
            main = main or match[1]
            if match[1] != main:
                continue
            if not begun and base in line:
                begun = True
                before = dict(count)
            count[match[2]] += 1
        return {call: range(before[call] + 1, count[call] + 1) for call in CALLS}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_whole_or_absent(output: str) -> bool:
    """What a reader may see after a kill: nothing, an unfinished folder without _SUCCESS, or everything."""
    target = Target.parse(output)
    found = find(target)
    return found is None or (found.record is not None and found.trouble is None)


def spread(numbers: list[tuple[str, int]], most: int) -> list[tuple[str, int]]:
    """At most so many of them, evenly spread."""
    step = max(1, len(numbers) // most)
    return numbers[step // 2 :: step][:most]


class Sweep:
    """Runs the job with a fault at some place and then again, and compares."""

    def __init__(self, folder: Path, output: str, program: Program = Program()) -> None:
        self.folder = folder
        self.name = output
        self.program = program
        (folder / "undisturbed").mkdir()
        program.whole(self.path("undisturbed"))
        self.expected = contents(folder / "undisturbed")
        (folder / "counted").mkdir()
        self.places = program.places(self.path("counted"), folder / "log")
        self.fired = 0

    def path(self, where: str) -> str:
        """The output's path in a folder of its own; a trailing slash is kept."""
        return f"{self.folder / where}/{self.name}"

    def all_places(self, calls: list[str]) -> list[tuple[str, int]]:
        """Every (call, N)."""
        return [(call, number) for call in calls for number in self.places[call]]

    def kill(self, call: str, number: int, *options: str) -> str | None:
        """Kill at the Nth call, run again; returns what is wrong then, or None."""
        where = f"kill-{call}-{number}{'-'.join(options)}"
        (self.folder / where).mkdir()
        output = self.path(where)
        self.program.before(output)
        inject = f"{call}:signal=KILL:when={number}"
        killed = self.program.run(output, *options, inject=inject, log=self.folder / "log")
        if killed.returncode == 0:
            return "the kill did not happen"
        self.fired += 1
        if not is_whole_or_absent(output):
            return "a partial output is to be seen"
        return self._again(where)

    def fail(self, call: str, number: int, error: str) -> str | None:
        """Let the Nth call fail with an error, run again; returns what is wrong then, or None."""
        where = f"fail-{call}-{number}-{error}"
        (self.folder / where).mkdir()
        output = self.path(where)
        self.program.before(output)
        inject = f"{call}:error={error}:when={number}"
        failed = self.program.run(output, inject=inject, log=self.folder / "log")
        self.fired += "INJECTED" in (self.folder / "log").read_text(errors="replace")
        if failed.returncode not in (0, 74) or b"Traceback" in failed.stderr:
            return f"exit {failed.returncode}: {failed.stderr.decode()}"
        if error == "ENOSPC" and failed.returncode == 74 and b"free some space" not in failed.stderr:
            return f"no word of the space: {failed.stderr.decode()}"
        if failed.returncode == 0 and self.program.publishes and not find(Target.parse(output)):
            return "exit 0 without an output"
        if not is_whole_or_absent(output):
            return "a partial output is to be seen"
        return self._again(where)

    def _again(self, where: str) -> str | None:
        try:
            self.program.again(self.path(where))
        except BatchqaError as error:
            return f"the same command ends with {error.exit_code}: {error}"
        found = contents(self.folder / where)
        if found != self.expected:
            return f"the files differ: {sorted(found)} instead of {sorted(self.expected)}"
        shutil.rmtree(self.folder / where)
        return None
