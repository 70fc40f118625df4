"""An object store as a `Store`: objects appear whole, nothing is renamed, there is no lock (`objects`).

Files are built in a local folder and uploaded to their final keys. A run that is killed leaves complete
objects, and perhaps parts of an upload that nobody sees (docs/object-stores.md).
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from batchqa.errors import TryAgainError
from batchqa.store import objects
from batchqa.store.locations import Location
from batchqa.store.lock import Lock
from batchqa.store.store import Status

_SCRATCH = "batchqa-parts-"


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """What is below the prefix `root`."""

    root: Location

    def show(self, name: str) -> str:
        """The URI without credentials."""
        return self.root.child(name).uri

    def stat(self, name: str) -> Status | None:
        """An object, or a prefix of some; the empty object that marks a folder counts for nothing."""
        size = objects.size(self.root.child(name))
        if size is not None:
            return Status("file", size)
        return Status("folder") if self.list(name) else None

    def list(self, folder: str) -> dict[str, int]:
        """All objects below a prefix."""
        return objects.below(self.root.child(folder))

    def read(self, name: str) -> bytes | None:
        """A small object's content."""
        return objects.get(self.root.child(name))

    def opened(self, name: str) -> AbstractContextManager[pa.NativeFile]:
        """An object opened for reading."""
        return objects.opened(self.root.child(name))

    @contextmanager
    def local(self, name: str, tmp: Path) -> Iterator[Path]:
        """An object, fetched; it is removed from the disk after the block."""
        objects.fetch(self.root.child(name), tmp)
        yield tmp
        tmp.unlink()

    def put_if_absent(self, data: bytes, name: str, tmp: Path) -> bool:  # noqa: ARG002
        """Create a small object by a conditional write."""
        return objects.put_if_absent(data, self.root.child(name))

    def publish(self, file: Path, name: str) -> None:
        """Upload; the completion of the upload publishes."""
        objects.put(file, self.root.child(name))
        file.unlink()

    def copy(self, file: Path, name: str) -> None:
        """Upload, and keep the file."""
        objects.put(file, self.root.child(name))

    def delete(self, name: str) -> None:
        """Remove an object."""
        objects.remove(self.root.child(name))

    def delete_folder(self, folder: str, names: Iterable[str]) -> bool:
        """Remove objects, all at once where nothing else is below the prefix."""
        root, names = self.root.child(folder), list(names)
        others = objects.below(root).keys() - set(names)
        if names and not others:
            objects.remove_below(root)
            # by its name, too: a late listing removes nothing, and the last one is what leads to the rest
            objects.remove(root.child(names[-1]))
        elif names:
            for name in names:
                objects.remove(root.child(name))
        return not others

    @contextmanager
    def replacing(self, folder: str, new: str, old: str) -> Iterator[str]:  # noqa: ARG002
        """No prefix can be replaced in one step: the folder is filled where it is."""
        yield folder

    def workplace(
        self,
        root: str,  # noqa: ARG002  (nothing has to be created)
        control: str,  # noqa: ARG002
        what: str,
        *,
        private: bool,  # noqa: ARG002
        alone: bool,
    ) -> ObjectWorkplace:
        """A local folder for the files to be uploaded."""
        return ObjectWorkplace(what, alone=alone)


class ObjectWorkplace:
    """A new local folder and its lock, which ends with its process, however that ends."""

    created = alone = False

    def __init__(self, what: str, *, alone: bool) -> None:
        self.note = (
            f"{what}: object stores have no locks; make sure that only one run writes to it"
            if alone
            else None
        )
        self.own = secrets.token_hex(4)
        _remove_left_folders()
        self._folder, self._lock = _new_folder()

    def tmp(self, name: str) -> Path:
        """A file of this run."""
        return self._folder / f"{name}.tmp"

    def close(self) -> None:
        """Remove the local folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.release()


def _new_folder() -> tuple[Path, Lock]:
    """A folder of this process's own, and the lock that says so."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH))
        # Another run that clears up may take a folder for a killed run's until its lock is held.
        with suppress(FileNotFoundError, TryAgainError):
            return folder, Lock(folder / "lock", str(folder))


def _remove_left_folders() -> None:
    """Remove folders that killed runs left: a folder whose lock can be had is nobody's any more."""
    for left in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        with suppress(OSError, TryAgainError):
            if left.lstat().st_uid == os.geteuid() and (left / "lock").is_file():
                lock = Lock(left / "lock", str(left))
                if lock.note is None:
                    shutil.rmtree(left, ignore_errors=True)
                lock.release()
