"""What the HTML pages have in common: their style, and how they are written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from batchqa.errors import StorageError


def style() -> str:
    """The style that all pages begin with."""
    return resources.files("batchqa").joinpath("page.css").read_text(encoding="utf-8")


def write_whole(path: Path, text: str) -> None:
    """Write a file; an old one is replaced once the new one is complete. Raises StorageError."""
    with replacing(path) as tmp:
        tmp.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to be written that becomes `path` once all is well. Raises StorageError."""
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield tmp
        tmp.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        tmp.unlink(missing_ok=True)
