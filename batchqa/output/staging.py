"""The folder of unfinished work: what is in it (`layout`), whose it is, which parts in it are good.

Nothing is ever removed that is not batchqa's: a stranger's file ends the run (exit 4). Committed parts are
removed only when their output is published, or where a job is discarded: another process may have made them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchqa.errors import BatchqaError, PreconditionError, TryAgainError
from batchqa.footer import MAGIC
from batchqa.output.finished import find, sha256
from batchqa.output.manifest import FINGERPRINT_KEY, RECORD_KEY, JobRecord, PartRecord
from batchqa.output.merging import MissingPartError
from batchqa.output.target import Target
from batchqa.store import layout
from batchqa.store.locations import read_at, trouble
from batchqa.store.store import Store


class Staging:
    """An opened staging. It must be closed."""

    def __init__(self, target: Target, root: str, *, alone: bool = True) -> None:
        """Open the folder `root`; `alone` takes its lock. FileNotFoundError: try again, it just vanished."""
        self.what = target.shown
        self.store = target.store
        self.root = root
        self.private = root != target.name
        # a folder that an object store fills from here, as it cannot exchange it; it says so meanwhile
        self._filled = target.name if target.kind == "folder" and self.private else None
        self._work = self.store.workplace(
            root, self._name(layout.CONTROL), self.what, private=self.private, alone=alone
        )
        self.note = self._work.note
        self.tmp = self._work.tmp
        """A local file of this run, by its name, until it is finished."""
        self._open = True

    def _name(self, name: str) -> str:
        return f"{self.root}/{name}"

    def way_out(self, shared: bool) -> str:
        """What to do about work that is not wanted: a shard, beside which others may be, has no --restart."""
        return f"remove {self.where} when no shard runs there" if shared else "--restart discards it"

    @property
    def where(self) -> str:
        """The folder, for messages."""
        return self.store.show(self.root)

    def close(self) -> None:
        """End this run's work here; committed parts stay. Closing twice is as good as once."""
        if self._open and self._work.alone:
            with suppress(OSError):
                names = self.store.list(self.root)
                if layout.JOB not in names and not layout.part_names(names):
                    self._remove(names)
                    if self._work.created:
                        self.store.delete_folder(self.root, [])
        self._open = False
        self._work.close()

    @property
    def new(self) -> str:
        """The folder that is to become the output, where it is published as a whole."""
        return self._name(f"new-{self._work.own}")

    @property
    def old(self) -> str:
        """The replaced output, where it could not be exchanged in one step."""
        return self._name(f"old-{self._work.own}")

    def job(self) -> JobRecord | None:
        """The job that works here, or None where none has begun."""
        return read_job(self.store, self.root)

    def write_job(self, job: JobRecord) -> JobRecord:
        """Begin a job, or join the same one that another run has just begun; returns what it resolved."""
        self.store.put_if_absent(job.to_json(), self._name(layout.JOB), self.tmp("job.json"))
        began = self.job()
        if began is None or began.fingerprint != job.fingerprint:
            raise TryAgainError(
                f"{self.what}: another job has just started here; try again when it has ended"
            )
        return began

    def show(self, name: str) -> str:
        """A file below the root, for messages."""
        return self.store.show(self._name(name))

    def read(self, name: str) -> bytes | None:
        """A small file below the root, None where there is none."""
        return self.store.read(self._name(name))

    def write_once(self, name: str, data: bytes) -> bytes:
        """Create a file if no other process has; returns what is in it then."""
        self.store.put_if_absent(data, self._name(name), self.tmp(name.rpartition("/")[2]))
        written = self.store.read(self._name(name))
        if written is None:
            raise TryAgainError(f"{self.store.show(self._name(name))} was removed meanwhile; try again")
        return written

    def check_not_late(self, name: str) -> None:
        """See the function of this name."""
        check_not_late(self.store, self.root, name)

    def check_strangers(self) -> None:
        """Refuse a place in which something is not batchqa's; hidden files are let be."""
        for name in layout.strangers(self.store.list(self.root), private=self.private):
            raise foreign(self.store.show(self._name(name)), "this was not written by batchqa")

    def remove_unfinished(self) -> None:
        """Remove what a stopped run left unfinished; what may be another process's stays.

        That is so without a lock, and in a job of several shards, which hold none.
        """
        names = self.store.list(self.root)
        if self._work.alone and layout.PLAN not in names:
            for name in names:
                if name.endswith(".tmp") and layout.is_control(name):
                    self.store.delete(self._name(name))
            for folder in sorted({name.partition("/")[0] for name in names if layout.is_replacing(name)}):
                inner = [name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")]
                self.store.delete_folder(self._name(folder), layout.in_order_of_removal(filter(None, inner)))

    def has_parts(self) -> bool:
        """Whether there are files named like parts, good or not."""
        return bool(layout.part_names(self.store.list(self.root)))

    def committed(
        self, fingerprint: str, part_rows: int, schema: pa.Schema, only: Container[int] | None = None
    ) -> list[PartRecord]:
        """The good parts, in order; what is not good is not among them, and made again in its place.

        `only` looks at these alone. Refused are parts of another job, and those that an earlier version named
        otherwise.
        """
        good: list[PartRecord] = []
        for name in layout.part_names(self.store.list(self.root)):
            part = layout.part_number(name)
            if part is None:
                raise PreconditionError(
                    f"{self.where}/{name}: an earlier version of batchqa started this job and numbered its "
                    f"parts with fewer digits; finish the job with that version, or discard its parts with "
                    "--restart"
                )
            if only is not None and part not in only:
                continue
            record = self._judge(part, fingerprint, part_rows, schema)
            if record:
                good.append(record)
        # Only the last part may be short: a short one before it does not fit its followers.
        return [record for record in good if record.records_in == part_rows or record is good[-1]]

    def _judge(self, part: int, fingerprint: str, part_rows: int, schema: pa.Schema) -> PartRecord | None:
        """The part's record if the part is good, None if it is ours and must be done again."""
        name = self._name(layout.part_name(part))
        # another run may have published and be just removing the parts: what is gone is to be done again
        with suppress(FileNotFoundError), self.store.opened(name) as file:
            footer = _footer_of(file, self.store.show(name))
            if footer is None:
                return None
            record = PartRecord.from_json(footer.metadata.metadata.get(RECORD_KEY.encode(), b""))
            if record is None or record.fingerprint != fingerprint:
                raise PreconditionError(
                    f"{self.store.show(name)}: this part belongs to another job; --restart discards it"
                )
            sound = (
                record.part == part
                and record.first_record == part * part_rows
                and record.rows_out == footer.metadata.num_rows
                and record.rows_out + record.rejects >= record.records_in  # more where they ask several
                and record.records_in <= part_rows
                and footer.schema_arrow.equals(schema)
            )
            return record if sound and self._has_rejects(record) else None
        return None

    def _has_rejects(self, record: PartRecord) -> bool:
        if not record.rejects:
            return True
        try:
            return sha256(self.store, self._name(layout.rejects_name(record.part))) == record.rejects_sha256
        except FileNotFoundError:
            return False

    def take_part(self, part: int, file: Path, rejects: Path | None) -> None:
        """Commit a part from two finished local files, its rejects first: after this it survives any kill."""
        if rejects:
            self.store.publish(rejects, self._name(layout.rejects_name(part)))
        self.store.publish(file, self._name(layout.part_name(part)))

    def part_file(self, part: int) -> AbstractContextManager[Path]:
        """A committed part as a local file, in a block; one at a time need be on the local disk."""
        return self._local(part, layout.part_name(part))

    def rejects_file(self, part: int) -> AbstractContextManager[Path]:
        """A part's rejected lines, likewise."""
        return self._local(part, layout.rejects_name(part))

    @contextmanager
    def _local(self, part: int, name: str) -> Iterator[Path]:
        found = self.store.local(self._name(name), self.tmp(f"{name.rpartition('/')[2]}.fetched"))
        try:
            path = found.__enter__()
        except FileNotFoundError as error:
            raise MissingPartError(part, f"{self.store.show(self._name(name))} is gone") from error
        yield path
        found.__exit__(None, None, None)

    def sizes(self) -> dict[str, int]:
        """The bytes of all files by their names from the root on."""
        return self.store.list(self.root)

    def remove_part(self, part: int) -> None:
        """Remove a part that was found damaged at publishing: it is to be made again."""
        self.store.delete(self._name(layout.part_name(part)))

    def discard_job(self) -> None:
        """Remove an unfinished job, this one or another; a part that batchqa did not write is refused."""
        names = self.store.list(self.root)
        for name in layout.part_names(names):
            with self.store.opened(self._name(name)) as file:
                _footer_of(file, self.store.show(self._name(name)))
        ours = {name for name in names if layout.is_staged(name, private=self.private)} - {layout.LOCK}
        self.store.delete_folder(self.root, layout.in_order_of_removal(ours))

    def remove(self) -> bool:
        """Remove everything, as the output is published; False if something of others is there and stays."""
        clean = True
        if self._filled:
            # what says that the folder is being filled; the staging goes last, so that this is taken up again
            names = set(self.store.list(self._filled))
            if self.store.stat(f"{self._filled}/{layout.JOB}") is not None:
                names.add(layout.JOB)  # also where a listing is late: behind the staging nothing leads to it
            clean = self._remove_control(self._filled, names)
        clean = self._remove(self.store.list(self.root)) and clean
        self.close()
        return clean

    def _remove(self, names: Iterable[str]) -> bool:
        if not self.private:
            return self._remove_control(self.root, names)
        ours = [name for name in names if layout.is_staged(name, private=True)]
        return self.store.delete_folder(self.root, layout.in_order_of_removal(ours))

    def _remove_control(self, root: str, names: Iterable[str]) -> bool:
        ours = layout.in_order_of_removal(name for name in names if layout.is_control(name))
        inner = [name.removeprefix(f"{layout.CONTROL}/") for name in ours]
        return self.store.delete_folder(f"{root}/{layout.CONTROL}", filter(None, inner))


def root_of(target: Target, *, done: bool = False) -> str:
    """Where the target's parts are committed.

    Parts of a Parquet folder are written to where they stay, unless a finished folder is being replaced.
    """
    in_place = target.kind == "folder" and target.format == "parquet"
    if in_place and target.store.stat(target.staging_name) is None and (done or find(target) is None):
        return target.name
    return target.staging_name


def leftover(target: Target, fingerprint: str) -> Staging | None:
    """The staging of this published job that a run left which was stopped before it removed it."""
    root = root_of(target, done=True)
    private = root != target.name
    try:
        if private:
            target.store.delete_folder(root, [])  # only if it is empty
        names = target.store.list(root)
        job = read_job(target.store, root)
        if job is None:
            # job.json is the last file to go: behind it are only the lock, empty folders, the parts of an
            # output that was published where they are, and parts that a late shard put into an object store
            parts = [f"{root}/{name}" for name in layout.part_names(names) if private]
            ours = all(_fingerprint_of(target.store, part) == fingerprint for part in parts)
            ours = ours and (bool(parts) or any(name.startswith(f"{layout.CONTROL}/") for name in names))
        else:
            ours = job.fingerprint == fingerprint
        return Staging(target, root) if ours else None
    except (BatchqaError, OSError):
        return None  # in use, or in some way not as expected: then it is not for this run to touch


def read_job(store: Store, root: str) -> JobRecord | None:
    """The job that a staging belongs to, read without the lock; one of another version is refused."""
    name = f"{root}/{layout.JOB}"
    text = store.read(name)
    if text is None:
        return None
    job = JobRecord.from_json(text)
    if job is None:
        raise PreconditionError(
            f"{store.show(name)}: this is not a job of this version of batchqa; --restart discards it"
        )
    return job


def check_not_late(store: Store, root: str, name: str) -> None:
    """Raise TryAgainError where a small file below a root was not there to be read, and yet is listed.

    A store that is late has it in a moment, and nothing is to be concluded from what it says before; it may
    also have been written, or be removed, just now.
    """
    if name in store.list(root):
        raise TryAgainError(
            f"{store.show(f'{root}/{name}')}: it is listed, but could not be read just now; run the same "
            "command again"
        )


def _footer_of(file: pa.NativeFile, where: str) -> pq.ParquetFile | None:
    """The footer of an opened part, None where it is damaged; what batchqa did not write is refused."""
    try:
        opened = pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and (error.errno or trouble(where, error)):
            raise
        # Cut off or overwritten: nothing that a stranger could want to keep, if it was Parquet at all.
        if read_at(file, 0, len(MAGIC)) in (b"", MAGIC):
            return None
        raise foreign(where, "this is not a Parquet file") from error
    if FINGERPRINT_KEY.encode() not in (opened.metadata.metadata or {}):
        raise foreign(where, "this was not written by batchqa")
    return opened


def _fingerprint_of(store: Store, part: str) -> str | None:
    """The job that a part belongs to; None where it is damaged or gone."""
    with suppress(FileNotFoundError), store.opened(part) as file:
        footer = _footer_of(file, store.show(part))
        return footer.metadata.metadata[FINGERPRINT_KEY.encode()].decode() if footer else None
    return None


def foreign(where: object, why: str) -> PreconditionError:
    """The refusal to touch something that is not batchqa's, or not this job's."""
    return PreconditionError(
        f"{where}: {why}; it was not changed: move it away and run the same command again"
    )
