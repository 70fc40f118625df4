"""The file operations that the promise rests on, on local file systems: create, sync, rename, remove.

Nothing else in the package creates, renames or removes files of an output, so that a fault injected into
these few calls (strace: openat, write, fsync, rename, unlink) meets the whole protocol. They raise plain
`OSError`; `translated` turns it into the error that a user meets, at the border of the package.

An object store has other operations (whole objects appear at once, nothing is renamed): `objects`. Its form
of the protocol calls this module only for the local files that are uploaded.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from batchqa.errors import BatchqaError, StorageError

_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2): both names change places in one step
_AT_CWD = -100
_BUFFER_BYTES = 2**20

_WRITABLE = "make the folder writable, or choose another output"

_HINTS = {
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.EROFS: "choose an output on a file system that can be written",
    errno.ENOSPC: "free some space and run the same command again: it resumes after the last committed part",
    errno.EDQUOT: "the quota is used up; raise it and run the same command again",
    errno.EFBIG: "a limit on file sizes was reached (ulimit -f); raise it and run the same command again",
}


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn an `OSError` of the block into a StorageError that says what was being done (`doing`)."""
    try:
        yield
    except BatchqaError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        where = f" ({os.fsdecode(error.filename)!r})" if error.filename else ""
        hint = _HINTS.get(
            error.errno or 0, "run the same command again to resume after the last committed part"
        )
        raise StorageError(f"{doing}: {reason}{where}; {hint}") from error


def create(path: Path, *, mode: int = 0o666) -> BinaryIO:
    """Create a new file for writing; an existing name, a symbolic link included, is an error."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return io.BufferedWriter(io.FileIO(os.open(path, flags, mode), "wb"), _BUFFER_BYTES)


def seal(file: BinaryIO) -> None:
    """Bring everything written to the disk and close. After a failure the file must be discarded.

    A failed fsync is never tried again: the kernel may have dropped the pages and would report success.
    """
    file.flush()
    os.fsync(file.fileno())
    file.close()


def discard(file: BinaryIO, path: Path) -> None:
    """Close an unfinished file and remove it as far as that works; the next start removes it otherwise."""
    with suppress(OSError, ValueError):
        # Closing the descriptor below the buffer: what is still buffered is not wanted any more.
        getattr(file, "raw", file).close()
    with suppress(OSError):
        path.unlink()


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that is durable at the end of the block, or gone after an exception in it."""
    remove(path)
    file = create(path)
    try:
        yield file
        seal(file)
    except BaseException:
        discard(file, path)
        raise


def publish(tmp: Path, final: Path) -> None:
    """Give a sealed file its final name, replacing what was there, and make the name durable."""
    tmp.rename(final)
    sync_folder(final.parent)


def exchange(new: Path, old: Path, aside: Path) -> None:
    """Put folder `new` in the place of folder `old`, which is then at the place of `new`, or `aside`.

    In one step where the kernel can (Linux, most file systems). Elsewhere `old` first moves to `aside`,
    and for a moment nothing is at its place; a run that is killed there resumes from its staging.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    exchanged = renameat2 and not renameat2(_AT_CWD, os.fsencode(new), _AT_CWD, os.fsencode(old), _EXCHANGE)
    if not exchanged:
        old.rename(aside)
        new.rename(old)
    sync_folder(old.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder and say so with these.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(folder)


def make_folder(path: Path, mode: int = 0o777) -> bool:
    """Create one folder durably; False where something has this name already."""
    try:
        path.mkdir(mode)
    except FileExistsError:
        return False
    sync_folder(path.parent)
    return True


def make_parents(path: Path) -> None:
    """Create the missing folders above `path`, durably."""
    if not path.parent.is_dir():
        make_parents(path.parent)
        make_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file; one that is not there is as good."""
    with suppress(FileNotFoundError):
        path.unlink()


def remove_folder(path: Path) -> bool:
    """Remove an empty folder; False where it is not empty, so that nothing of others is lost."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    return True


def is_folder(path: Path) -> bool:
    """Whether `path` itself (no link followed) is a folder."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def exists(path: Path) -> bool:
    """Whether anything has this name, a dangling link included."""
    return os.path.lexists(path)
