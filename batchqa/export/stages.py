"""What an export has finished, kept in the cache: the same export, repeated, resumes from there.

A variant that misses a limit by a hair is found out after minutes; whoever then gives another limit, or asks
for another precision, need not wait for the same work again. Each stage is a file named by the sha256 of all
that it was made from. The last few checkpoints' are kept.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from batchqa.user_cache import cache_folders

from .extras import versions

KEPT = 2
"""Checkpoints whose stages are kept; each may take several times the model's size."""


class Stages:
    """The finished stages of one checkpoint's exports. Where the cache cannot be written, there are none."""

    def __init__(self, checkpoint: Path, about: Mapping[str, Any]) -> None:
        """`about`: what else every stage depends on, besides this code and the libraries' versions."""
        self._folder: Path | None = None
        files = {file.name: _sha256(file) for file in sorted(checkpoint.iterdir()) if file.is_file()}
        name = digest({"files": files, "versions": versions(), "code": _code(), "about": about})
        with suppress(OSError):
            root = cache_folders()[0] / "exports"
            folder = root / name[:32]
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)
            self._folder = folder
            others = sorted(root.iterdir(), key=lambda each: each.stat().st_mtime, reverse=True)
            for old in others[KEPT:]:
                shutil.rmtree(old, ignore_errors=True)

    def fetch(self, what: str, of: Mapping[str, Any], target: Path) -> bool:
        """Copy a file that was kept to `target`; whether there was one."""
        kept = self._place(what, of)
        if kept is None:
            return False
        try:
            shutil.copyfile(kept, target)
        except FileNotFoundError:  # never kept, or removed by an export of other checkpoints meanwhile
            return False
        return True

    def put(self, what: str, of: Mapping[str, Any], file: Path) -> None:
        """Keep a copy of a file; by a rename, so that a kept file is whole or absent."""
        kept = self._place(what, of)
        if kept is not None:
            made = kept.with_name(f"{kept.name}.{os.getpid()}.tmp")
            with suppress(OSError):
                shutil.copyfile(file, made)
                made.replace(kept)
            made.unlink(missing_ok=True)

    def record(self, what: str, of: Mapping[str, Any]) -> Any | None:
        """What was kept as JSON, None where nothing was."""
        kept = self._place(what, of)
        with suppress(OSError, orjson.JSONDecodeError):
            if kept is not None:
                return orjson.loads(kept.read_bytes())
        return None

    def keep_record(self, what: str, of: Mapping[str, Any], record: Any) -> None:
        """Keep something as JSON; to be called when all that belongs to it is kept."""
        kept = self._place(what, of)
        if kept is not None:
            with suppress(OSError):
                made = kept.with_name(f"{kept.name}.{os.getpid()}.tmp")
                made.write_bytes(orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY))
                made.replace(kept)

    def once(self, what: str, of: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """What an earlier export found out, or what `make` does now: something that JSON can hold."""
        found = self.record(what, of)
        if found is None:
            found = make()
            self.keep_record(what, of, found)
        return found

    def _place(self, what: str, of: Mapping[str, Any]) -> Path | None:
        return None if self._folder is None else self._folder / f"{what}-{digest(of)[:32]}"


@cache
def _code() -> str:
    """The sha256 of the package's sources: what older code made is not reused."""
    root = Path(__file__).parents[1]
    found = hashlib.sha256()
    for file in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".json")):
        if "bundled" not in file.relative_to(root).parts:
            found.update(file.read_bytes())
    return found.hexdigest()


def digest(value: Mapping[str, Any]) -> str:
    """The sha256 of values that JSON can hold."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS, default=list)).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
