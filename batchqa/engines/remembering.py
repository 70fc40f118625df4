"""What was measured on this machine, remembered in the user's cache folder: one small file per question."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import orjson

from batchqa.machine import cpu_flags, cpu_model
from batchqa.user_cache import cache_folders
from batchqa.version import VERSION

from .loading import engine_versions


@dataclass(frozen=True, slots=True)
class Measured:
    """What is remembered: the way's name, tokens per second of all that were compared, and the token budget.

    `batch_tokens` None: it was given when they were compared.
    """

    name: str
    batch_tokens: int | None
    speeds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Memory:
    """The answer to one question: which of `names`, the ways to run a bundle's model, is fastest here."""

    names: Sequence[str]
    question: dict[str, Any]

    @classmethod
    def of(cls, bundle_digest: str, names: Sequence[str], threads: int, *, in_process: bool) -> Memory:
        """The memory for a bundle on this machine, with so many threads for each worker."""
        engines = [name.partition(" ")[0] for name in names]
        return cls(
            names,
            {
                "machine": [cpu_model(), sorted(cpu_flags())],
                "threads": threads,
                "in_process": in_process,
                "bundle": bundle_digest,
                "candidates": list(names),
                "versions": {"batchqa": VERSION, **engine_versions(*engines)},
            },
        )

    def recall(self) -> Measured | None:
        """What was measured before; None where nothing was, or the file says nothing that can be used."""
        with suppress(OSError):
            for cache in cache_folders():
                if known := self._read(self._file(cache)):
                    return known
        return None

    def keep(self, measured: Measured) -> None:
        """Remember it; a cache that cannot be written costs two seconds at the next start, no more."""
        with suppress(OSError):
            path = self._file(cache_folders()[0])
            path.parent.mkdir(parents=True, exist_ok=True)
            record = {"question": self.question, "answer": asdict(measured)}
            with NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
                file.write(orjson.dumps(record, option=orjson.OPT_INDENT_2))
            Path(file.name).replace(path)  # whole or not at all, whoever else writes it

    def _file(self, cache: Path) -> Path:
        digest = hashlib.sha256(orjson.dumps(self.question, option=orjson.OPT_SORT_KEYS)).hexdigest()
        return cache / "measured" / f"{digest[:32]}.json"

    def _read(self, file: Path) -> Measured | None:
        try:
            answer = orjson.loads(file.read_bytes())["answer"]
            tokens = answer["batch_tokens"]
            known = Measured(str(answer["name"]), tokens and int(tokens), dict(answer["speeds"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return known if known.name in self.names else None
