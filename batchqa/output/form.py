"""What differs between a file system and an object store, as two protocols: `Form` and `StagingLike`.

`local` has the one form (files are renamed, folders exchanged, a lock is held), `remote` the other (objects
appear whole at their final keys, nothing is renamed, there is no lock). `job` knows only these protocols.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from batchqa.output.facts import JobRecord, PartRecord
from batchqa.output.table import OutputTable


@dataclass(frozen=True, slots=True)
class Found:
    """What stands at a target. `trouble` says why it is not a whole output of `record`, if it is not."""

    record: JobRecord | None
    trouble: str | None = None


class StagingLike(Protocol):
    """Where a job's unfinished work is, opened by one run."""

    @property
    def what(self) -> str:
        """The output's name, for messages."""
        ...

    @property
    def where(self) -> str:
        """The place's name, for messages."""
        ...

    @property
    def note(self) -> str | None:
        """What the user should know of the lock, or None."""
        ...

    def job(self) -> JobRecord | None:
        """The job that works here, or None where none has begun."""
        ...

    def write_job(self, job: JobRecord) -> JobRecord:
        """Begin a job; from here on the place belongs to it. Returns the job that has begun."""
        ...

    def check_strangers(self) -> None:
        """Refuse a place in which something is not batchqa's."""
        ...

    def remove_tmps(self) -> None:
        """Remove what a stopped run left unfinished."""
        ...

    def has_parts(self) -> bool:
        """Whether there are parts, good or not."""
        ...

    def committed(self, fingerprint: str, part_rows: int, schema: pa.Schema) -> list[PartRecord]:
        """The good parts, in order. Parts of ours that are not good are removed, to be done again."""
        ...

    def tmp(self, name: str) -> Path:
        """A local file that stands here until it is finished."""
        ...

    def take_part(self, part: int, file: Path, rejects: Path | None) -> None:
        """Commit a part from two finished local files, its rejects first; they are gone afterwards."""
        ...

    def part_file(self, part: int) -> AbstractContextManager[Path]:
        """A committed part as a local file, in the block."""
        ...

    def rejects_file(self, part: int) -> AbstractContextManager[Path]:
        """A committed part's rejected lines as a local file, in the block."""
        ...

    def remove_part(self, part: int) -> None:
        """Remove a part of ours: it is to be made again."""
        ...

    def discard_job(self) -> None:
        """Remove an unfinished job, this one or another; a part that batchqa did not write is refused."""
        ...

    def remove(self) -> bool:
        """Remove everything after the output is published; False if something stays."""
        ...

    def close(self) -> None:
        """End this run's work here; committed parts stay."""
        ...


class Form(Protocol):
    """The protocol's form for one target."""

    def found(self) -> Found | None:
        """The finished output at the target, or something else in its place; None where the place is free.

        An empty folder counts as free, and so does one in which a job is unfinished.
        """
        ...

    def check_replaceable(self, found: Found) -> None:
        """Refuse to replace a folder that holds anything but a finished output of batchqa."""
        ...

    def check_companions(self) -> None:
        """Refuse to begin beside leftovers of an output that is not there any more."""
        ...

    def unfinished(self) -> JobRecord | None:
        """The job that is unfinished at the target, read without a lock."""
        ...

    def open_staging(self) -> StagingLike:
        """Create or open the staging. FileNotFoundError: another run just removed it; try again."""
        ...

    def leftover(self, fingerprint: str) -> StagingLike | None:
        """The staging of this published job that a run left which was stopped before it removed it."""
        ...

    def publish(
        self, staging: Any, table: OutputTable, parts: Sequence[PartRecord], record: JobRecord
    ) -> None:
        """Make the output from all parts; afterwards it is complete, and the staging is not needed any more.

        `staging` is what `open_staging` gave.
        """
        ...
