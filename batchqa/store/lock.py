"""The advisory lock that keeps two runs from working on one output.

It lives as long as this process and this process only: the descriptor is closed on exec, and in forked
children too, because a child that outlived the run would otherwise hold the lock for it.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from batchqa.errors import TryAgainError

_open: set[int] = set()


def _close_in_child() -> None:
    for descriptor in _open:
        with suppress(OSError):
            os.close(descriptor)
    _open.clear()


os.register_at_fork(after_in_child=_close_in_child)


class Lock:
    """A held lock on the file `path`. `note` says that the file system knows no locks, if so."""

    def __init__(self, path: Path, what: str) -> None:
        """Take the lock; TryAgainError where another run holds it, FileNotFoundError where it just ended.

        `what` names the output in the message.
        """
        self.note: str | None = None
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        _open.add(self._descriptor)
        try:
            self._take(what)
            # The run that held it before may have removed the file meanwhile: then this lock guards nothing.
            if not os.path.samestat(os.fstat(self._descriptor), path.lstat()):
                raise FileNotFoundError(str(path))
        except BaseException:
            self.release()
            raise

    def _take(self, what: str) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TryAgainError(
                f"{what}: another run is writing to it; try again when it has ended"
            ) from error
        except OSError as error:
            # Some network file systems know no flock. Two runs then write the same parts with the same
            # content under the same names: work is done twice, but the output is right.
            self.note = (
                f"{what}: files cannot be locked on this file system ({error.strerror}); make sure that "
                "only one run writes to it"
            )

    @property
    def held(self) -> bool:
        """Whether it has not been given back yet."""
        return self._descriptor in _open

    def release(self) -> None:
        """Give the lock back; the file stays."""
        if self.held:
            _open.discard(self._descriptor)
            os.close(self._descriptor)
