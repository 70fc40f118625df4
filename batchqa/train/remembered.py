"""What the teachers said of each window: they are asked once, and later epochs find it on disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from batchqa.errors import StorageError
from batchqa.records import Bool, Float32, Int32, Int64

VALUES = "teachers.f32"
KNOWN = "teachers-asked.npy"
BYTES_PER_TOKEN = 8


class RememberedTargets:
    """Distributions over starts and ends, a float32 each for every token of every window.

    Those of a run that was killed count as far as its last state says that they are on disk.
    """

    def __init__(self, work: Path, lengths: Int32) -> None:
        """`lengths` are those of all windows, in tokens; the file is made in `work`, if it is not there.

        Raises StorageError where the disk has no room for it.
        """
        self._length = lengths
        self._first = np.cumsum(lengths, dtype=np.int64) - lengths
        self._known = np.zeros(len(lengths), dtype=bool)
        path, tokens = work / VALUES, int(lengths.sum())
        size = BYTES_PER_TOKEN * tokens
        self._was_there = path.exists() and path.stat().st_size == size
        if not self._was_there:
            try:
                # all of it now: a process that writes to a mapped file and finds no room is killed
                with path.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise StorageError(
                    f"{path} needs {size / 1e9:.1f} GB for what the teachers say: {error.strerror}; make "
                    "room and run the same command again"
                ) from error
        self._values = np.memmap(path, np.float32, "r+", shape=(2, tokens))

    def of(self, index: Int32) -> Float32 | None:
        """Start and end distributions, (2, windows, tokens), 0 in padding; None where one is not known."""
        if not self._known[index].all():
            return None
        place, shown = self._places(index)
        return np.where(shown, self._values[:, place], np.float32(0))

    def keep(self, index: Int32, targets: Float32) -> None:
        """Remember what the teachers said of these windows: float32, (2, windows, tokens)."""
        place, shown = self._places(index)
        self._values[:, place[shown]] = targets[:, shown]
        self._known[index] = True

    def save(self, state: Path) -> None:
        """Note in a state's folder what is known; all of it is on disk then."""
        self._values.flush()
        np.save(state / KNOWN, self._known)

    def load(self, state: Path) -> None:
        """Take up what `save` noted, if the values are still there."""
        if self._was_there and (state / KNOWN).exists():
            self._known = np.load(state / KNOWN)

    def _places(self, index: Int32) -> tuple[Int64, Bool]:
        """Where each token's value is, (windows, tokens), and whether there is a token."""
        length = self._length[index]
        ahead = np.arange(length.max())
        shown = ahead < length[:, None]
        return np.where(shown, self._first[index][:, None] + ahead, 0), shown
