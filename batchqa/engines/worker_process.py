"""A scorer in a process of its own, so that a row that kills the engine does not kill the job.

::

    the job's process                          the worker process
    WorkerProcess.score ──ids, mask, types──▶  serve: OnnxScorer.score
                        ◀─start, end logits──

A batch goes over as the raw bytes of its arrays, one message there and one back, which has the batch's
number: an answer to another one is an error and never taken for this one's. While the worker computes,
the next batch already waits in its socket: it never waits for the job's process to wake up, take the logits
and send another. The worker is started as a fresh Python, so it shares nothing: no open file (least of all
the output's lock), no thread, no lock of another library. It ends by itself when the job's process is gone,
however that died, because nobody holds the other end of its socket any more. A process that is forked off
the job's has no part in it: it closes its copy of the socket at once, and starts workers of its own.
"""

from __future__ import annotations

import itertools
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
import weakref
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection

import numpy as np
import orjson

from batchqa import errors
from batchqa.errors import BatchqaError, DeviceError, TryAgainError
from batchqa.records import Float32, Int64
from batchqa.steps.scoring import UNLIMITED, CrashedError, OutOfMemoryError

from .loading import ModelSpec, load

MOST_CRASHES = 300
"""A job that restarts its engine more often than this is not worth going on with: something else is wrong. A
row that crashes it costs some seven restarts, until its batch is halved down to it."""

PROGRAM = "from batchqa.engines.worker_process import main; main()"
"""What the worker runs once its `sys.path` is that of the job's process."""

_FINE, _REPORT = b"f", b"r"
"""How an answer of the worker begins: all went well, and here are the logits; or, what went wrong follows."""

_NUMBER = struct.Struct("<qq")
"""What comes before a batch, and before its answer: the process that sent it, and its number there."""

_workers: weakref.WeakSet[_Worker] = weakref.WeakSet()
"""The workers that this process has."""


class WorkerProcess:
    """The SpanScorer of `spec`, running in a process of its own.

    Two threads may call it at the same time: one waits for its logits, the other one's batch is next. They
    pass two locks hand over hand, so that logits are taken in the order in which batches were sent.
    """

    at_once = 2
    budget = UNLIMITED

    def __init__(self, spec: ModelSpec) -> None:
        """Start the worker and load the model there. Raises ModelError or DeviceError."""
        self.engine = spec.engine
        self.device = spec.device
        self.crashes = 0
        self._spec = spec
        self._worker: _Worker | None = _Worker(spec)
        self.length_bucket = self._worker.length_bucket
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        self._process = os.getpid()
        self._batches = itertools.count(1)

    def score(
        self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64
    ) -> tuple[Float32, Float32]:
        """See SpanScorer.score."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "an engine can only be used by the process that started it; load another one here"
            )
        with ExitStack() as turn:
            with self._sending:
                number = _NUMBER.pack(self._process, next(self._batches))
                batch = number + _packed(self.budget, input_ids, attention_mask, token_type_ids)
                worker = self._worker
                if worker is not None:
                    worker.send(batch)
                turn.enter_context(self._receiving)
                if worker is None or worker is not self._worker:
                    # it died with the batch before this one, which it had not looked at
                    worker = self._worker = self._restarted()
                    worker.send(batch)
            answer = self._answer(worker, number)
        _raise_reported(answer)
        start, end = np.frombuffer(answer, dtype=np.float32, offset=len(_FINE)).reshape(2, *input_ids.shape)
        return start, end

    def _answer(self, worker: _Worker, number: bytes) -> bytes:
        """What the worker says of the first batch that it has not answered yet. Raises CrashedError."""
        try:
            answer = worker.connection.recv_bytes()
            if not answer.startswith(number):
                self._worker = None
                worker.end()
                raise RuntimeError(
                    f"{self.engine} answered batch {_NUMBER.unpack_from(answer)} when asked "
                    f"{_NUMBER.unpack(number)} (process, number): another process uses its connection"
                )
            return answer[_NUMBER.size :]
        except (EOFError, OSError) as gone:
            self._worker = None
            self.crashes += 1
            how = worker.end()
            if self.crashes > MOST_CRASHES:
                raise TryAgainError(
                    f"{self.engine} crashed {self.crashes} times on {self.device}, the last time with "
                    f"{how}; run "
                    "the same command again, with a smaller --batch-tokens if memory is short"
                ) from gone
            raise CrashedError(how) from gone

    def close(self) -> None:
        """End the worker; a batch that is given to the scorer afterwards starts another."""
        if self._worker is not None:
            self._worker.connection.close()  # it is well: there is no exit status to wait for
            self._worker.end()
            self._worker = None

    def _restarted(self) -> _Worker:
        try:
            return _Worker(self._spec)
        except DeviceError as error:
            raise TryAgainError(f"the engine crashed and cannot be started again: {error}") from error


class _Worker:
    """A running worker process and the connection to it; it ends with this object."""

    def __init__(self, spec: ModelSpec) -> None:
        ours, theirs = socket.socketpair()
        given = {"path": sys.path, "socket": theirs.fileno(), "spec": spec.to_dict()}
        program = f"import json, sys; sys.path[:] = json.loads(sys.argv[1])['path']; {PROGRAM}"
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own program
                [sys.executable, "-P", "-c", program, orjson.dumps(given).decode()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C on a terminal is for the job to decide about
            )
        self.connection = Connection(ours.detach())
        self._writing = threading.Lock()
        self._ended = weakref.finalize(self, _end, self.process, self.connection, self._writing)
        _workers.add(self)
        try:
            report = self.connection.recv_bytes()
        except (EOFError, OSError) as gone:
            raise DeviceError(
                f"{spec.engine} crashed with {self.end()} while it loaded {spec.model} on "
                f"{spec.device}; run `batchqa doctor`"
            ) from gone
        try:
            _raise_reported(report)
        except BaseException:
            self.end()
            raise
        self.length_bucket = int(report[len(_FINE) :])

    def send(self, batch: bytes) -> None:
        """Hand over a batch; that a worker is gone will show when its answer is waited for."""
        with self._writing, suppress(OSError):
            self.connection.send_bytes(batch)

    def leave(self) -> None:
        """Have no part in it: this process was forked off the one that it belongs to."""
        self._ended.detach()
        self.process.returncode = 0  # nobody here is to wait for it
        with suppress(OSError):
            self.connection.close()

    def end(self) -> str:
        """End the process, if it has not ended by itself; how it ended, in words."""
        with suppress(subprocess.TimeoutExpired):
            # one that crashed has closed its socket a moment before its exit status is there
            self.process.wait(0 if self.connection.closed else 0.5)
        self._ended()
        code = self.process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _leave_all() -> None:
    for worker in list(_workers):
        worker.leave()


os.register_at_fork(after_in_child=_leave_all)


def _end(process: subprocess.Popen[bytes], connection: Connection, writing: threading.Lock) -> None:
    process.kill()  # it holds nothing that needs an orderly end
    process.wait()
    with writing:  # whoever writes to it now fails at once, and must not find another file under its number
        connection.close()


def _packed(budget: int, *arrays: Int64) -> bytes:
    """A batch as one message: the token budget and the shape, then ids, mask and types, all int32."""
    head = np.array([budget, *arrays[0].shape])
    return b"".join(array.astype(np.int32).tobytes() for array in (head, *arrays))


def _unpacked(message: bytes) -> tuple[int, tuple[Int64, Int64, Int64]]:
    """The token budget, and what SpanScorer.score was called with."""
    numbers = np.frombuffer(message, dtype=np.int32)
    budget, rows, tokens = numbers[:3].tolist()
    input_ids, attention_mask, token_type_ids = numbers[3:].astype(np.int64).reshape(3, rows, tokens)
    return budget, (input_ids, attention_mask, token_type_ids)


def _raise_reported(report: bytes) -> None:
    """Raise what the worker reported; nothing where all went well."""
    if report.startswith(_FINE):
        return
    kind, message = orjson.loads(report[len(_REPORT) :])
    if kind == OutOfMemoryError.__name__:
        raise OutOfMemoryError(message)
    known = getattr(errors, kind, RuntimeError)
    raise known(message)


# ------------------------------------------------------------------------------------------ in the worker


def main() -> None:
    """The worker's program: load the model, then score batch after batch until the socket is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a scheduler may send it to every process of the job
    given = orjson.loads(sys.argv[1])
    threading.Thread(target=_end_with_parent, args=(given["socket"],), daemon=True).start()
    serve(Connection(given["socket"]), ModelSpec.from_dict(given["spec"]))


def serve(connection: Connection, spec: ModelSpec) -> None:
    """Answer the batches that come over `connection` with the scorer of `spec`, until it is closed."""
    try:
        scorer = load(spec)
    except Exception as error:  # noqa: BLE001 - reported to the process that can act on it
        connection.send_bytes(_report(error))
        return
    connection.send_bytes(_FINE + b"%d" % scorer.length_bucket)
    with suppress(EOFError, OSError):
        while True:
            message = connection.recv_bytes()
            number = message[: _NUMBER.size]
            scorer.budget, batch = _unpacked(message[_NUMBER.size :])
            try:
                answer = b"".join([_FINE, *(logits.tobytes() for logits in scorer.score(*batch))])
            except Exception as error:  # noqa: BLE001 - as above
                answer = _report(error)
            connection.send_bytes(number + answer)


def _report(error: Exception) -> bytes:
    """An error as it crosses to the job's process: its class's name and its message."""
    known = isinstance(error, (BatchqaError, OutOfMemoryError))
    message = str(error) if known else "".join(traceback.format_exception(error))
    return _REPORT + orjson.dumps([type(error).__name__ if known else "", message])


def _end_with_parent(descriptor: int) -> None:
    """Exit at once when the other end of the socket is gone, also from the middle of a batch."""
    poll = select.poll()
    poll.register(descriptor, 0)  # a hang-up is always reported
    poll.poll()
    os._exit(0)
