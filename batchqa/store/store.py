"""`Store`: the few operations that the commit protocol needs of a file system or an object store.

A store is a folder, or a prefix of keys, and what is below it; names in it are relative, with slashes. What
the protocol rests on:

- A file appears at its name whole or not at all (`publish`, `put_if_absent`), whoever else writes it.
- `put_if_absent` creates a file once: of several processes exactly one is told that it was the one. S3 and
  local file systems can do this; where a store cannot, what is there is looked at before and after.
- Nothing is removed but by `delete` and `delete_folder`, and by a `Workplace` its own unfinished files.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Status:
    """What has a name: a file of `size` bytes, a folder, or something else (a link, a device)."""

    kind: Literal["file", "folder", "other"]
    size: int = 0


class Workplace(Protocol):
    """Where one process builds files before they are published."""

    @property
    def note(self) -> str | None:
        """What the user should know of the lock, or None."""
        ...

    @property
    def alone(self) -> bool:
        """Whether a lock keeps all others away, so that what is unfinished here is nobody's any more."""
        ...

    @property
    def created(self) -> bool:
        """Whether the root was not there before."""
        ...

    @property
    def own(self) -> str:
        """A text that no other process has, for the names of its folders."""
        ...

    def tmp(self, name: str) -> Path:
        """A local file of this process; never named like a Parquet file."""
        ...

    def close(self) -> None:
        """Give the lock back; closing twice is as good as once."""
        ...


class Store(Protocol):
    """The operations; all raise errors of `batchqa.errors`, or OSError where a local disk fails."""

    def show(self, name: str) -> str:
        """The place for messages: an absolute path, or a URI without credentials."""
        ...

    def stat(self, name: str) -> Status | None:
        """What is at a place; None where nothing is. Links are not followed."""
        ...

    def list(self, folder: str) -> dict[str, int]:
        """All files below a folder by their names from there on, with their bytes (-1: no regular file)."""
        ...

    def read(self, name: str) -> bytes | None:
        """A small file's content, None where there is none."""
        ...

    def opened(self, name: str) -> AbstractContextManager[pa.NativeFile]:
        """A file opened for reading. FileNotFoundError where there is none."""
        ...

    def local(self, name: str, tmp: Path) -> AbstractContextManager[Path]:
        """A file as a local one, in the block: itself, or fetched to `tmp`. FileNotFoundError as above."""
        ...

    def put_if_absent(self, data: bytes, name: str, tmp: Path) -> bool:
        """Create a small file unless one has the name; whether this call did. `tmp` is free to be used."""
        ...

    def publish(self, file: Path, name: str) -> None:
        """Bring a sealed file of the workplace to its place, replacing what was there; it is gone then."""
        ...

    def copy(self, file: Path, name: str) -> None:
        """Have a sealed local file's content at a place that is free, or to be replaced; the file stays."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is as good."""
        ...

    def delete_folder(self, folder: str, names: Iterable[str]) -> bool:
        """Remove these files below a folder, in this order, and the folder; False if something is left."""
        ...

    def replacing(self, folder: str, new: str, old: str) -> AbstractContextManager[str]:
        """The folder to fill in the block, so that `folder` has what is in it afterwards.

        Locally that is `new`, which changes places with `folder` in one step (`old` is where the replaced one
        goes if it cannot). An object store has no such step: there it is `folder` itself.
        """
        ...

    def workplace(self, root: str, control: str, what: str, *, private: bool, alone: bool) -> Workplace:
        """Open `root` for work on `what` (a name for messages); unfinished files are in `control`, locally.

        `private`: the root is the owner's only. `alone` takes the lock, where there are locks: TryAgainError
        if another has it, FileNotFoundError if another just removed the folder.
        """
        ...
