"""One job in several processes of this machine: `batchqa run --processes N`.

::

    the job's process                                 N processes
    lock, missing parts, limits, publishing ──part──▶ reading, windowing, engine, decoding, writing
                                            ◀─record─

Each process is a fresh Python with a windowing thread and an engine of its own; threads, workers and GPUs are
divided among them. It asks for a part when its windowing has finished the one before, and tells of each part
that it has committed. The bytes of a part do not depend on who made it.

A process that ends before its time (killed by the kernel, say) takes nothing with it but unfinished parts,
which are given to the others; when none is left, the job ends with exit code 75 and what is committed is
kept. All of them end when the job's process does, however that died: then nobody holds the other end of their
sockets. They ignore SIGINT and SIGTERM, which a terminal or scheduler may send to all processes of a job.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

import orjson

from batchqa import errors
from batchqa.domains import checked
from batchqa.engines import Resolved
from batchqa.errors import BatchqaError, TryAgainError
from batchqa.job import Progress, Summary
from batchqa.job import run as run_job
from batchqa.job.annotating import Job
from batchqa.job.following import Tally
from batchqa.job.sharing import Work, annotate_parts, missing_parts, work_of
from batchqa.output import PartRange, PartRecord
from batchqa.pipeline import in_background
from batchqa.settings import Cores, MachineSettings

PROGRAM = "from batchqa.runners.local_processes import main; main()"
"""What a process runs once its `sys.path` is that of the job's process."""

POLL_SECONDS = 0.2
"""How often the job's process looks for signals while it waits."""

END_SECONDS = 5.0
"""How long processes may take to end before they are killed."""


@checked
def run(inputs: Any, output: Any, *, processes: Cores | None = None, **options: Any) -> Summary:
    """`batchqa.job.run`, in so many processes (1 if not given); see there for the options.

    Where the input or output can be read or written only once (standard input, `-o -`), it is one process.
    """
    count = processes or 1

    def share(job: Job, names: Sequence[str], name: str) -> None:
        _Sharing(job, work_of(job, names, name), count).annotate()

    return run_job(inputs, output, share=share if count > 1 else None, **options)


class _Sharing:
    """The job's side: hands out parts, hears of what is committed."""

    def __init__(self, job: Job, work: Work, count: int) -> None:
        self._job = job
        self._work = work
        self._count = count
        self._processes: list[_Process] = []
        self._returned: deque[PartRange] = deque()
        self._started = False

    def annotate(self) -> None:
        """Have all missing parts annotated. Raises the error of a process, LimitError, TryAgainError."""
        job, stop = self._job, threading.Event()
        resolved = job.annotator.resolved
        job.annotator.close()  # each process has an engine of its own; this one needs none any more
        job.follower.tell(part=0)
        parts = in_background(missing_parts(job), 2 * self._count, "batchqa-planning", stop)
        with ExitStack() as stack:
            stack.callback(self._end)
            stack.callback(stop.set)
            for number in range(self._count):
                machine = share_of(self._work.settings.machine, resolved, number, self._count)
                self._processes.append(_Process(self._work.on(machine)))
            stack.enter_context(closing(parts))
            while self._processes:
                self._hand_out(parts)
                for connection in wait([each.connection for each in self._processes], POLL_SECONDS):
                    (process,) = (each for each in self._processes if each.connection is connection)
                    self._hear(process)

    def _hand_out(self, parts: Iterator[PartRange]) -> None:
        """Give a part to each process that waits for one; or the end, when no part can come back."""
        for process in self._processes:
            if not process.waits:
                continue
            part = self._returned.popleft() if self._returned else next(parts, None)
            if part is not None:
                process.give(part)
            elif not any(each.parts for each in self._processes):
                process.give(None)

    def _hear(self, process: _Process) -> None:
        """Act on a message of a process, or on its end."""
        try:
            kind, *content = process.connection.recv()
        except (EOFError, OSError):
            self._lost(process)
            return
        if kind == "next":
            process.waits = True
            if not self._started:
                self._started = True
                self._job.follower.started()
        elif kind == "progress":
            process.progress = content[0]
            self._tell(content[0].part)
        elif kind == "committed":
            record, named = content
            process.committed(record)
            self._job.committed_elsewhere(record, named)
            self._tell(record.part)
        elif kind == "done":
            self._processes.remove(process)
            process.end()
        else:
            name, message = content
            raise getattr(errors, name, RuntimeError)(message)

    def _lost(self, process: _Process) -> None:
        """A process ended before its time: its parts are for the others."""
        self._processes.remove(process)
        self._returned.extend(sorted(process.parts.values(), key=lambda part: part.first_part))
        how = process.end()
        if not self._processes:
            raise TryAgainError(
                f"the last of {self._count} processes ended with {how}; finished parts are kept: run the "
                "same command again, with fewer --processes if memory is short"
            )
        self._job.note(f"one of {self._count} processes ended with {how}; the others do its parts")

    def _tell(self, part: int) -> None:
        """Tell how far all processes are together."""
        now = [each.progress for each in self._processes if each.progress is not None]
        tally = Tally(rows=sum(each.judged_rows or 0 for each in now))
        tally.counts = Counter(
            answered=sum(each.answered for each in now),
            questions=sum(each.judged_questions or 0 for each in now),
        )
        for each in self._processes:
            if each.progress:
                tally.rows -= each.done.rows
                tally.counts.subtract({name: each.done.counts[name] for name in tally.counts})
        self._job.follower.part = tally
        self._job.follower.tell(part, sum(each.rows - (each.judged_rows or 0) for each in now))

    def _end(self) -> None:
        for process in self._processes:
            process.connection.close()
        for process in self._processes:
            process.end()


def share_of(machine: MachineSettings, resolved: Resolved, number: int, count: int) -> MachineSettings:
    """The machine settings of process `number` of `count`: its threads, its workers, its GPUs."""
    if resolved.device == "cpu":
        workers = max(machine.workers // count, 1) if machine.workers else None
        return replace(machine, threads=max(resolved.threads // count, 1), workers=workers)
    numbers = resolved.device.partition(":")[2].split(",")
    own = numbers[number::count] or [numbers[number % len(numbers)]]
    return replace(machine, device=f"cuda:{','.join(own)}", threads=max(resolved.threads // count, 1))


class _Process:
    """A process, the parts that it has taken and not yet committed, and what it said last."""

    def __init__(self, work: Work) -> None:
        ours, theirs = socket.socketpair()
        given = orjson.dumps({"path": sys.path, "socket": theirs.fileno()}).decode()
        program = f"import json, sys; sys.path[:] = json.loads(sys.argv[1])['path']; {PROGRAM}"
        threads = (
            {}
            if "RAYON_NUM_THREADS" in os.environ
            else {"RAYON_NUM_THREADS": str(work.settings.machine.threads)}
        )
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own program
                [sys.executable, "-P", "-c", program, given],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C on a terminal is for the job's process to decide about
                env=os.environ | threads,
            )
        self.connection = Connection(ours.detach())
        self.parts: dict[int, PartRange] = {}
        self.waits = False
        self.progress: Progress | None = None
        self.done = Tally()
        with suppress(OSError):
            self.connection.send(work)

    def give(self, part: PartRange | None) -> None:
        """Hand over a part, None at the end; that a process is gone will show when it is heard."""
        self.waits = False
        if part is not None:
            self.parts[part.first_part] = part
        with suppress(OSError):
            self.connection.send(part)

    def committed(self, record: PartRecord) -> None:
        """It has committed a part."""
        del self.parts[record.part]
        self.done.add(record)
        self.progress = None  # what it said of its part in work is counted now

    def end(self) -> str:
        """Wait for its end, kill it if that takes long; how it ended, in words."""
        with suppress(OSError):
            self.connection.close()
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


# ------------------------------------------------------------------------------------------ in a process


def main() -> None:
    """A process's program: annotate the parts that are given, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    descriptor = int(orjson.loads(sys.argv[1])["socket"])
    threading.Thread(target=_end_with_parent, args=(descriptor,), daemon=True).start()
    connection, sending = Connection(descriptor), threading.Lock()

    def say(*message: Any) -> None:
        with sending:
            connection.send(message)

    def parts() -> Iterator[PartRange]:
        say("next")
        while (part := connection.recv()) is not None:
            yield part
            say("next")

    work: Work = connection.recv()
    try:
        annotate_parts(
            work,
            parts(),
            lambda record, named: say("committed", record, named),
            lambda progress: say("progress", progress),
        )
    except Exception as error:  # noqa: BLE001 - reported to the process that can act on it
        known = isinstance(error, BatchqaError) and hasattr(errors, type(error).__name__)
        message = str(error) if known else "".join(traceback.format_exception(error))
        say("failed", type(error).__name__ if known else "", message)
    else:
        say("done")
    connection.close()


def _end_with_parent(descriptor: int) -> None:
    """Exit at once when the other end of the socket is gone, also from the middle of a part."""
    poll = select.poll()
    poll.register(descriptor, 0)  # a hang-up is always reported
    poll.poll()
    os._exit(0)
