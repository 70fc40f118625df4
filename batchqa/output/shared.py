"""A job's output as another process of the same run has it: to write parts, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from batchqa.output.manifest import PartRecord
from batchqa.output.part_writer import PartWriter
from batchqa.output.staging import Staging, root_of
from batchqa.output.table import OutputTable
from batchqa.output.target import Target
from batchqa.store import files


class SharedOutput:
    """The output of a job that another process has opened and begun; a context.

    That one holds the lock, is told of each committed part, and publishes.
    """

    def __init__(
        self,
        target: Target,
        fingerprint: str,
        table: OutputTable,
        part_rows: int,
        compression: str,
        on_commit: Callable[[PartRecord], None],
    ) -> None:
        self._fingerprint = fingerprint
        self._table = table
        self._part_rows = part_rows
        self._compression = compression
        self._on_commit = on_commit
        with files.translated(f"opening {target}"):
            self._staging = Staging(target, root_of(target), alone=False)

    def part(self, k: int) -> PartWriter:
        """Write part k: input records [k * R, (k + 1) * R)."""
        return PartWriter(
            self._staging,
            k,
            self._part_rows,
            self._table,
            self._compression,
            self._fingerprint,
            self._on_commit,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._staging.close()
