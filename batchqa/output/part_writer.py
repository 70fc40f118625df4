"""Write one part: a Parquet file that is its own commit record, and its rejected lines."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import pyarrow as pa

from batchqa.output.manifest import FINGERPRINT_KEY, RECORD_KEY, PartRecord
from batchqa.output.staging import Staging, root_of
from batchqa.output.table import OutputTable
from batchqa.output.target import Target
from batchqa.records import Cursor
from batchqa.store import files
from batchqa.store.layout import part_name

ROW_GROUP_BYTES = 32 * 2**20
"""A row group is closed when its batches reach this size in memory: what writer and readers must hold.

It is encoded all at once, while nothing else is decoded: a larger one would make a job's pace less even, and
its last rows wait longer. It is some 30,000 rows with paragraphs beside them, which is enough for readers.
"""


@dataclass(frozen=True, slots=True)
class Parts:
    """What all parts of a job are written with. `on_commit` is told of each that is committed."""

    staging: Staging
    part_rows: int
    table: OutputTable
    compression: str
    fingerprint: str
    on_commit: Callable[[PartRecord], None]

    def part(self, k: int) -> PartWriter:
        """Write part k: input records [k * R, (k + 1) * R)."""
        return PartWriter(self, k)


@contextmanager
def shared_parts(
    target: Target,
    part_rows: int,
    table: OutputTable,
    compression: str,
    fingerprint: str,
    on_commit: Callable[[PartRecord], None],
) -> Iterator[Parts]:
    """The parts of a job that another process has opened and begun: it holds the lock, and publishes."""
    with files.translated(f"opening {target.shown}"):
        staging = Staging(target, root_of(target), alone=False)
    with closing(staging):
        yield Parts(staging, part_rows, table, compression, fingerprint, on_commit)


class PartWriter:
    """Writes part `part`; a context that discards the part unless `commit` was called in it."""

    def __init__(self, job: Parts, part: int) -> None:
        staging = job.staging
        self._job = job
        self._part = part
        self._rows = 0
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0
        self._rejects = _Rejects(staging.tmp(f"rejects-{part:05d}"))
        self._tmp = staging.tmp(part_name(part))
        self._open = True
        with files.translated(f"writing part {part} of {staging.what}"):
            files.remove(self._tmp)
            self._file = files.create(self._tmp)
        self._sink = _Sink(self._file)
        self._writer = job.table.writer(self._sink, job.compression)

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; the batch must have the output's schema."""
        if not batch.schema.equals(self._job.table.schema):
            raise ValueError(f"a batch of part {self._part} does not have the schema of the output")
        self._rows += batch.num_rows
        self._waiting.append(batch)
        self._waiting_bytes += batch.nbytes
        if self._waiting_bytes >= ROW_GROUP_BYTES:
            with files.translated(f"writing part {self._part} of {self._job.staging.what}"):
                self._flush()

    def reject(self, line: bytes) -> None:
        """Add a rejected line, without its line end, to the part's rejects."""
        with files.translated(f"writing the rejects of part {self._part} of {self._job.staging.what}"):
            self._rejects.add(line)

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
        """Make the part durable: after this returns it survives any kill.

        `records_in` input records went in; each is a row or a rejected line, or all that are not rejected are
        `rows_out` rows together. Anything else is a ValueError.
        `cursor` is the place in the inputs after the last of them.
        """
        if not self._open:
            raise ValueError(f"part {self._part} is closed already")
        expected = records_in - self._rejects.count if rows_out is None else rows_out
        if self._rows != expected or records_in > self._job.part_rows:
            raise ValueError(
                f"part {self._part}: {records_in} records in, but {self._rows} rows and {self._rejects.count}"
                f" rejects out ({expected} rows expected, of at most {self._job.part_rows} records)"
            )
        with files.translated(f"committing part {self._part} of {self._job.staging.what}"):
            self._flush()
            record = PartRecord(
                fingerprint=self._job.fingerprint,
                part=self._part,
                first_record=self._part * self._job.part_rows,
                records_in=records_in,
                rows_out=self._rows,
                rejects=self._rejects.count,
                rejects_sha256=self._rejects.seal(),
                cursor=cursor,
                errors=dict(errors),
                counts=dict(counts),
                versions=dict(versions),
                device=device,
                data_bytes=self._sink.size,
                data_crc32=self._sink.crc32,
            )
            self._finish(record)
        self._open = False
        self._job.on_commit(record)
        return record

    def _flush(self) -> None:
        """Write the waiting batches as one row group."""
        if self._rows and self._waiting:
            table = pa.Table.from_batches(self._waiting, self._job.table.schema).unify_dictionaries()
            self._writer.write_table(table, row_group_size=max(table.num_rows, 1))
        self._waiting = []
        self._waiting_bytes = 0

    def _finish(self, record: PartRecord) -> None:
        # Parquet writers close their file even after an exception and leave a valid, shorter one. So the
        # record that makes a file a part is added last; without it, a file is never taken for a part.
        self._writer.add_key_value_metadata(
            {FINGERPRINT_KEY: self._job.fingerprint, RECORD_KEY: record.to_json()}
        )
        with self._sink.held() as closing:
            self._writer.close()
        self._file.write(self._job.table.restored(bytes(closing)))
        files.seal(self._file)
        self._job.staging.take_part(self._part, self._tmp, self._rejects.tmp if record.rejects else None)

    def discard(self) -> None:
        """Drop the part; what is committed stays."""
        if self._open:
            self._open = False
            self._waiting = []
            self._sink.deaf = True
            with suppress(Exception):
                self._writer.close()
            files.discard(self._file, self._tmp)
            self._rejects.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


class _Sink:
    """The file below a Parquet writer: counts and checks what passes, and can stop listening."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.crc32 = 0
        self.deaf = False
        self._holding: bytearray | None = None
        self.closed = False

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self._holding is not None:
            self._holding += data
        elif not self.deaf:
            self._file.write(data)
            self.crc32 = zlib.crc32(data, self.crc32)
            self.size += size
        return size

    @contextmanager
    def held(self) -> Iterator[bytearray]:
        """What is written in the block is held back and given to the caller instead."""
        self._holding = bytearray()
        try:
            yield self._holding
        finally:
            self._holding = None

    def tell(self) -> int:
        return self.size + len(self._holding or b"")

    def flush(self) -> None:
        """Nothing to do: the file is flushed when it is sealed."""

    def close(self) -> None:
        self.closed = True

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


class _Rejects:
    """A part's rejected lines; there is no file until there is one."""

    def __init__(self, tmp: Path) -> None:
        self.count = 0
        self.tmp = tmp
        self._file: BinaryIO | None = None
        self._sha256 = hashlib.sha256()

    def add(self, line: bytes) -> None:
        if b"\n" in line:
            raise ValueError("a rejected line has a line end in it")
        if self._file is None:
            files.remove(self.tmp)
            self._file = files.create(self.tmp)
        self._file.write(line + b"\n")
        self._sha256.update(line + b"\n")
        self.count += 1

    def seal(self) -> str:
        """Make the lines durable; returns their sha256, or "" where there are none."""
        if self._file is None:
            return ""
        files.seal(self._file)
        return self._sha256.hexdigest()

    def discard(self) -> None:
        if self._file is not None:
            files.discard(self._file, self.tmp)
            self._file = None
