"""Output to standard output: JSON lines straight away, nothing staged, nothing to resume."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Literal, Self

import pyarrow as pa

from batchqa.errors import SettingsError, StorageError
from batchqa.output import jsonlines
from batchqa.output.commit import PartRange
from batchqa.output.manifest import PartRecord, fingerprint, summed
from batchqa.records import Cursor


class StreamCommit:
    """The output of a job that goes to a stream; used like `Commit`, without its promise."""

    def __init__(
        self, stream: BinaryIO, *, fields: Mapping[str, Any], part_rows: int, lines: bool = False
    ) -> None:
        self.fingerprint = fingerprint(fields)
        self.state: Literal["fresh", "resumed", "done"] = "fresh"
        self.resolved: Mapping[str, Any] = {}
        self.notes: list[str] = []
        self._stream = stream
        self.part_rows = part_rows
        self._lines = lines
        self._parts: list[PartRecord] = []
        self._outcome: Mapping[str, Any] = {}

    @property
    def committed(self) -> tuple[PartRecord, ...]:
        """The parts that are written, in order."""
        return tuple(self._parts)

    def begin(self, resolved: Mapping[str, Any]) -> Mapping[str, Any]:
        """Nothing is kept of earlier runs: these settings hold."""
        self.resolved = dict(resolved)
        return self.resolved

    def todo(self) -> Iterator[PartRange]:
        """All of the input."""
        yield PartRange(0, 0, Cursor(), None)

    def part(self, k: int) -> StreamPart:
        """Write part k; its rows are on their way as soon as they are written."""
        return StreamPart(self, k)

    def publish(self, totals: Mapping[str, Any]) -> None:
        """Flush the stream."""
        with _guarded(self._stream):
            self._stream.flush()
        self._outcome = {**summed(self._parts), "totals": dict(totals)}

    @property
    def published(self) -> bool:
        """All is sent once `publish` was called."""
        return bool(self._outcome)

    def progress(self) -> Mapping[str, Any]:
        """The sums of the parts that are sent."""
        return summed(self._parts)

    def done_record(self) -> Mapping[str, Any]:
        """The counts of what was written."""
        return self._outcome

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, batch: pa.RecordBatch) -> None:
        """Write rows to the stream."""
        with _guarded(self._stream):
            for block in jsonlines.lines(batch, originals=self._lines):
                self._stream.write(block)

    def accept(self, record: PartRecord) -> None:
        """Count a part that is written."""
        self._parts.append(record)


class StreamPart:
    """A part on its way to the stream; used like `PartWriter`."""

    def __init__(self, commit: StreamCommit, part: int) -> None:
        self._commit = commit
        self._part = part
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Send rows."""
        self._commit.send(batch)
        self._rows += batch.num_rows

    def reject(self, line: bytes) -> None:  # noqa: ARG002  (the interface of PartWriter)
        """There is no place for rejects beside a stream."""
        raise SettingsError(
            "--on-error reject needs an output file, beside which the rejects are written, not -o -"
        )

    def commit(
        self,
        records_in: int,
        cursor: Cursor,
        *,
        errors: Mapping[str, int],
        counts: Mapping[str, int],
        versions: Mapping[str, str],
        device: str,
        rows_out: int | None = None,
    ) -> PartRecord:
        """Count the part."""
        if self._rows != (records_in if rows_out is None else rows_out):
            raise ValueError(f"part {self._part}: {records_in} records in, but {self._rows} rows out")
        record = PartRecord(
            fingerprint=self._commit.fingerprint,
            part=self._part,
            first_record=self._part * self._commit.part_rows,
            records_in=records_in,
            rows_out=self._rows,
            rejects=0,
            rejects_sha256="",
            cursor=cursor,
            errors=dict(errors),
            counts=dict(counts),
            versions=dict(versions),
            device=device,
            data_bytes=0,
            data_crc32=0,
        )
        self._commit.accept(record)
        return record

    def discard(self) -> None:
        """What is sent is sent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


@contextmanager
def _guarded(stream: BinaryIO) -> Iterator[None]:
    """Writing to a stream that may be full, or whose reader may go away (`| head`): an error of ours."""
    try:
        yield
    except BrokenPipeError as error:
        # Python flushes the stream once more at its end; that must not fail again, and loudly.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        raise StorageError("the reader of standard output closed it before all rows were written") from error
    except OSError as error:
        raise StorageError(
            f"writing to standard output: {error.strerror or error}; not all rows were written, and a run to "
            "standard output cannot be resumed: give an output file"
        ) from error
