"""A scorer in a process of its own, so that a row that kills the engine does not kill the job.

::

    the job's process                         the child
    ChildScorer.score ──ids, mask, types──▶  serve: OnnxScorer.score
                      ◀──start, end logits──

A batch goes over as the raw bytes of its arrays: on a socket of this machine that costs some ten
microseconds, a batch takes milliseconds. The child is started as a fresh Python, so it shares nothing: no
open file (least of all the output's lock), no thread, no lock of another library. It ends by itself when the
job's process is gone, however that died, because nobody holds the other end of its socket any more.
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
import weakref
from contextlib import suppress
from multiprocessing.connection import Connection

import numpy as np
import orjson

from batchqa import errors
from batchqa.errors import BatchqaError, DeviceError, TryAgainError
from batchqa.records import Float32, Int64

from .engines import Recipe, load
from .scoring import CrashedError, OutOfMemoryError

MOST_CRASHES = 100
"""A job that restarts its engine more often than this is not worth going on with: something else is wrong."""

PROGRAM = "from batchqa.steps.inference.child import main; main()"
"""What the child runs once its `sys.path` is that of the job's process."""

_FINE = b""
_UNPADDED = b"unpadded"


class ChildScorer:
    """The SpanScorer of `recipe`, running in a child process."""

    def __init__(self, recipe: Recipe) -> None:
        """Start the child and load the model there. Raises ModelError or DeviceError."""
        self.engine = recipe.engine
        self.device = recipe.device
        self.crashes = 0
        self._recipe = recipe
        self._child: _Child | None = _Child(recipe)
        self.unpadded = self._child.unpadded

    def score(
        self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64
    ) -> tuple[Float32, Float32]:
        """See SpanScorer.score."""
        child = self._child = self._child or self._restarted()
        given = np.stack([input_ids, attention_mask, token_type_ids], dtype=np.int32, casting="same_kind")
        try:
            child.connection.send_bytes(np.array(input_ids.shape, dtype=np.int64).tobytes())
            child.connection.send_bytes(given.data.cast("B"))
            _raise_reported(child.connection.recv_bytes())
            logits = np.frombuffer(child.connection.recv_bytes(), dtype=np.float32)
        except (EOFError, OSError) as gone:
            self._child = None
            self.crashes += 1
            how = child.end()
            if self.crashes > MOST_CRASHES:
                raise TryAgainError(
                    f"{self.engine} crashed {self.crashes} times on {self.device}, at last with {how}; run "
                    "the same command again, with a smaller --batch-tokens if memory is short"
                ) from gone
            raise CrashedError(how) from gone
        start, end = logits.reshape(2, *input_ids.shape)
        return start, end

    def close(self) -> None:
        """End the child; a batch that is given to the scorer afterwards starts another."""
        if self._child is not None:
            self._child.connection.close()  # it is well: there is no exit status to wait for
            self._child.end()
            self._child = None

    def _restarted(self) -> _Child:
        try:
            return _Child(self._recipe)
        except DeviceError as error:
            raise TryAgainError(f"the engine crashed and cannot be started again: {error}") from error


class _Child:
    """A running child process and the connection to it; it ends with this object."""

    def __init__(self, recipe: Recipe) -> None:
        ours, theirs = socket.socketpair()
        given = {"path": sys.path, "socket": theirs.fileno(), "recipe": recipe.to_dict()}
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
        self._ended = weakref.finalize(self, _end, self.process, self.connection)
        try:
            report = self.connection.recv_bytes()
            self.unpadded = report == _FINE and self.connection.recv_bytes() == _UNPADDED
        except (EOFError, OSError) as gone:
            raise DeviceError(
                f"{recipe.engine} crashed with {self.end()} while it loaded {recipe.model} on "
                f"{recipe.device}; run `batchqa doctor`"
            ) from gone
        try:
            _raise_reported(report)
        except BaseException:
            self.end()
            raise

    def end(self) -> str:
        """End the process, if it has not ended by itself; how it ended, in words."""
        with suppress(subprocess.TimeoutExpired):
            # one that crashed has closed its socket a moment before its exit status is there
            self.process.wait(0 if self.connection.closed else 0.5)
        self._ended()
        code = self.process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _end(process: subprocess.Popen[bytes], connection: Connection) -> None:
    process.kill()  # it holds nothing that needs an orderly end
    process.wait()
    connection.close()


def _raise_reported(report: bytes) -> None:
    """Raise what the child reported; nothing where all went well."""
    if report == _FINE:
        return
    kind, message = orjson.loads(report)
    if kind == OutOfMemoryError.__name__:
        raise OutOfMemoryError(message)
    known = getattr(errors, kind, RuntimeError)
    raise known(message)


# ------------------------------------------------------------------------------------------ in the child


def main() -> None:
    """The child's program: load the model, then score batch after batch until the socket is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a scheduler may send it to every process of the job
    given = orjson.loads(sys.argv[1])
    threading.Thread(target=_end_with_parent, args=(given["socket"],), daemon=True).start()
    recipe = given["recipe"]
    serve(
        Connection(given["socket"]),
        Recipe(**{**recipe, "inputs": tuple(recipe["inputs"]), "outputs": tuple(recipe["outputs"])}),
    )


def serve(connection: Connection, recipe: Recipe) -> None:
    """Answer the batches that come over `connection` with the scorer of `recipe`, until it is closed."""
    try:
        scorer = load(recipe)
    except Exception as error:  # noqa: BLE001 - reported to the process that can act on it
        connection.send_bytes(_report(error))
        return
    connection.send_bytes(_FINE)
    connection.send_bytes(_UNPADDED if scorer.unpadded else b"")
    with suppress(EOFError, OSError):
        while True:
            shape = np.frombuffer(connection.recv_bytes(), dtype=np.int64)
            given = np.frombuffer(connection.recv_bytes(), dtype=np.int32).reshape(3, *shape)
            try:
                logits = np.stack(scorer.score(*given.astype(np.int64)))
            except Exception as error:  # noqa: BLE001 - as above
                connection.send_bytes(_report(error))
                continue
            connection.send_bytes(_FINE)
            connection.send_bytes(np.ascontiguousarray(logits, dtype=np.float32).data.cast("B"))


def _report(error: Exception) -> bytes:
    """An error as it crosses to the job's process: its class's name and its message."""
    known = isinstance(error, (BatchqaError, OutOfMemoryError))
    message = str(error) if known else "".join(traceback.format_exception(error))
    return orjson.dumps([type(error).__name__ if known else "", message])


def _end_with_parent(descriptor: int) -> None:
    """Exit at once when the other end of the socket is gone, also from the middle of a batch."""
    poll = select.poll()
    poll.register(descriptor, 0)  # a hang-up is always reported
    poll.poll()
    os._exit(0)
