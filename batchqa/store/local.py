"""A local file system as a `Store`: files are renamed into place, a lock is held (`files`, `lock`)."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from batchqa.errors import PreconditionError
from batchqa.store import files
from batchqa.store.lock import Lock
from batchqa.store.store import Status

_COPY_BYTES = 2**20
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@dataclass(frozen=True, slots=True)
class LocalStore:
    """What is below the folder `root`, an absolute path."""

    root: Path

    def show(self, name: str) -> str:
        """The absolute path."""
        return str(self.root / name)

    def stat(self, name: str) -> Status | None:
        """What has this name, no link followed."""
        try:
            found = (self.root / name).lstat()
        except (OSError, ValueError):
            return None
        if stat.S_ISDIR(found.st_mode):
            return Status("folder")
        return Status("file", found.st_size) if stat.S_ISREG(found.st_mode) else Status("other")

    def list(self, folder: str) -> dict[str, int]:
        """All files below a folder; an empty folder in it is named with a slash behind it."""
        return dict(self._walk(self.root / folder, ""))

    def _walk(self, folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        if prefix and not found:
            yield prefix, -1
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(folder / entry.name, f"{prefix}{entry.name}/")
            else:
                with suppress(FileNotFoundError):  # another run's, and finished meanwhile
                    regular = entry.is_file(follow_symlinks=False)
                    yield prefix + entry.name, entry.stat().st_size if regular else -1

    def read(self, name: str) -> bytes | None:
        """A small file's content; a link is not followed."""
        try:
            descriptor = os.open(self.root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    @contextmanager
    def opened(self, name: str) -> Iterator[pa.NativeFile]:
        """A file opened for reading."""
        with pa.OSFile(os.fsencode(self.root / name)) as file:
            yield file

    @contextmanager
    def local(self, name: str, tmp: Path) -> Iterator[Path]:  # noqa: ARG002  (needed where files are fetched)
        """The file itself."""
        if not files.exists(self.root / name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.root / name))
        yield self.root / name

    def put_if_absent(self, data: bytes, name: str, tmp: Path) -> bool:
        """Create a small file by a link, which fails where the name is taken."""
        path = self.root / name
        file = files.create(tmp, mode=0o600)
        try:
            file.write(data)
            files.seal(file)
            try:
                path.hardlink_to(tmp)
            except FileExistsError:
                return False
            except OSError as error:
                # Some network and FUSE file systems know no links; a lock, or a look before, has to do.
                if error.errno not in _NO_LINKS or files.exists(path):
                    raise
                tmp.rename(path)
            files.sync_folder(path.parent)
        finally:
            files.discard(file, tmp)
        return True

    def publish(self, file: Path, name: str) -> None:
        """Rename."""
        files.publish(file, self.root / name)

    def copy(self, file: Path, name: str) -> None:
        """A second link to the file, or a copy."""
        path = self.root / name
        files.remove(path)
        with suppress(OSError):
            path.hardlink_to(file)
            return
        with file.open("rb") as source, files.new_file(path) as out:
            shutil.copyfileobj(source, out, _COPY_BYTES)

    def delete(self, name: str) -> None:
        """Remove a file, durably."""
        path = self.root / name
        if files.exists(path):
            files.remove(path)
            files.sync_folder(path.parent)

    def delete_folder(self, folder: str, names: Iterable[str]) -> bool:
        """Remove files, then the folders that they leave empty; an empty one has a slash behind its name."""
        root = self.root / folder
        folders = set()
        for name in names:
            path = root / name
            if name.endswith("/"):
                folders.add(path)
            else:
                files.remove(path)
            while (path := path.parent) != root:
                folders.add(path)
        for path in sorted(folders, reverse=True):
            files.remove_folder(path)
        if not files.is_folder(root):
            return not files.exists(root)
        gone = files.remove_folder(root)
        files.sync_folder(root.parent if gone else root)
        return gone

    @contextmanager
    def replacing(self, folder: str, new: str, old: str) -> Iterator[str]:
        """Fill a new folder, and exchange it for the one that is there."""
        files.make_folder(self.root / new)
        yield new
        if files.exists(self.root / folder):
            files.exchange(self.root / new, self.root / folder, self.root / old)
        else:
            files.publish(self.root / new, self.root / folder)

    def workplace(self, root: str, control: str, what: str, *, private: bool, alone: bool) -> LocalWorkplace:
        """Create or open the folder, and take its lock if asked."""
        return LocalWorkplace(self.root / root, self.root / control, what, private=private, alone=alone)


class LocalWorkplace:
    """An opened folder: unfinished files are in the folder `control`, from where they can be renamed."""

    def __init__(self, root: Path, control: Path, what: str, *, private: bool, alone: bool) -> None:
        self._control = control
        # Without a lock, two runs must not write into the same unfinished file.
        self.own = secrets.token_hex(4)
        files.make_parents(root)
        self.created = _make_own_folder(root, 0o700 if private else 0o777, owned=private)
        _make_own_folder(control, 0o700, owned=True)
        self._lock = Lock(control / "lock", what) if alone else None

    @property
    def note(self) -> str | None:
        """That the file system knows no locks, if so."""
        return self._lock.note if self._lock else None

    @property
    def alone(self) -> bool:
        """Whether the lock is held."""
        return self._lock is not None and self._lock.held and self._lock.note is None

    def tmp(self, name: str) -> Path:
        """A file beside those that it may become."""
        return self._control / f"{name}.{self.own}.tmp"

    def close(self) -> None:
        """Give the lock back."""
        if self._lock:
            self._lock.release()


def _make_own_folder(path: Path, mode: int, *, owned: bool) -> bool:
    """Create a folder, or accept the one that is there if it is a folder and, where asked, ours.

    Returns whether it was created.
    """
    created = files.make_folder(path, mode)
    if not files.is_folder(path):
        if not files.exists(path):
            raise FileNotFoundError(str(path))
        raise PreconditionError(f"{path}: this is a link or a file, not a folder; move it away")
    owner = path.lstat().st_uid
    if owned and owner != os.geteuid() and owner != _owner_of_new_files(path):
        raise PreconditionError(f"{path}: it belongs to another user; remove it or choose another output")
    return created


def _owner_of_new_files(folder: Path) -> int:
    """Who owns what this process creates here: some network file systems map the user to another."""
    probe = folder / f".owner-{os.getpid()}"
    with suppress(OSError):
        files.create(probe, mode=0o600).close()
        owner = probe.lstat().st_uid
        files.remove(probe)
        return owner
    return os.geteuid()
