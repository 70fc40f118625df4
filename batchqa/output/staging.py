"""The folder of unfinished work: who owns it, what is in it, which parts in it are good.

Layout (docs/contract.md, Commit protocol)::

    ROOT/part-0000000.parquet          a committed part; its footer is its commit record
    ROOT/_batchqa/job.json             what this job is; written once, before the first part
    ROOT/_batchqa/lock                 held while a run works here
    ROOT/_batchqa/*.tmp                unfinished files; removed at the next start
    ROOT/_batchqa/rejects-00000.jsonl  a part's rejected lines; committed before the part
    ROOT/new-*, ROOT/old-*             outputs that are published as a folder: the one to be, the one that was

Nothing is ever removed that is not batchqa's: a stranger's file ends the run (exit 4).
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchqa.errors import PreconditionError
from batchqa.footer import MAGIC
from batchqa.output.facts import FINGERPRINT_KEY, RECORD_KEY, JobRecord, PartRecord
from batchqa.store import files
from batchqa.store.locations import read_at, trouble
from batchqa.store.lock import Lock

CONTROL = "_batchqa"
SUCCESS = "_SUCCESS"
JOB = "job.json"
_PART = re.compile(r"part-(\d{5,})\.(parquet|jsonl)")
_REJECTS = re.compile(r"rejects-\d{5,}\.jsonl")
_CONTROL_FILES = {JOB, "lock"}
_FOLDER = re.compile(r"(new|old)-[0-9a-f]{8}")


def part_name(part: int, suffix: str = "parquet") -> str:
    """The name of a part: seven digits, so that ten million parts sorted by name are in order."""
    return f"part-{part:07d}.{suffix}"


class Staging:
    """An opened and locked staging folder. It must be closed."""

    def __init__(self, root: Path, what: str, *, private: bool) -> None:
        """Create or open the folder and take its lock; `what` names the output in messages.

        `private` makes the folder itself readable by its owner only; else only what is below `_batchqa` is
        (the root is then the output folder). FileNotFoundError: another run just removed it; try again.
        """
        self.root = root
        self.what = what
        self.private = private
        self.control = root / CONTROL
        # Where locks do not work, two runs must not write into the same unfinished file.
        self._own = secrets.token_hex(4)
        files.make_parents(root)
        self._created = _make_own_folder(root, 0o700 if private else 0o777, owned=private)
        _make_own_folder(self.control, 0o700, owned=True)
        self.lock = Lock(self.control / "lock", what)

    @property
    def where(self) -> str:
        """The folder, for messages."""
        return str(self.root)

    @property
    def note(self) -> str | None:
        """That the file system knows no locks, if so."""
        return self.lock.note

    def close(self) -> None:
        """Give the lock back; the folder stays if a job has begun in it. Closing twice is as good as once."""
        if not self.lock.held:
            return
        with suppress(OSError):
            if not files.exists(self.control / JOB) and not self.has_parts():
                self.remove()
                if self._created:
                    files.remove_folder(self.root)
        self.lock.release()

    def part_path(self, part: int) -> Path:
        """Where a committed part stands."""
        return self.root / part_name(part)

    def rejects_path(self, part: int) -> Path:
        """Where a part's rejected lines stand."""
        return self.control / f"rejects-{part:05d}.jsonl"

    def tmp(self, name: str) -> Path:
        """Where a file stands until it is finished; never named like a Parquet file."""
        return self.control / f"{name}.{self._own}.tmp"

    @property
    def new(self) -> Path:
        """The folder that is to become the output, where it is published as a whole."""
        return self.root / f"new-{self._own}"

    @property
    def old(self) -> Path:
        """The replaced output, where it could not be exchanged in one step."""
        return self.root / f"old-{self._own}"

    def job(self) -> JobRecord | None:
        """The job that works here, or None where none has begun."""
        return read_job(self.root)

    def write_job(self, job: JobRecord) -> JobRecord:
        """Write job.json; from here on the folder belongs to this job."""
        path = self.control / JOB
        files.write_whole(job.to_json(), self.tmp(JOB), path, mode=0o600)
        return job

    def take_part(self, part: int, file: Path, rejects: Path | None) -> None:
        """Commit a part from two finished files, its rejects first: after this it survives any kill."""
        if rejects:
            files.publish(rejects, self.rejects_path(part))
        files.publish(file, self.part_path(part))

    @contextmanager
    def part_file(self, part: int) -> Iterator[Path]:
        """A committed part, which stands here as a file."""
        yield self.part_path(part)

    @contextmanager
    def rejects_file(self, part: int) -> Iterator[Path]:
        """A part's rejected lines."""
        yield self.rejects_path(part)

    def check_strangers(self) -> None:
        """Refuse a folder in which something is not batchqa's; hidden files are let be."""
        stranger = stranger_in(self.root, private=self.private)
        if stranger:
            raise foreign(stranger, "this was not written by batchqa")

    def remove_tmps(self) -> None:
        """Remove what a stopped run left unfinished; without a lock it may be another run's, and stays."""
        if self.lock.note is None:
            for path in sorted(self.control.glob("*.tmp")):
                files.remove(path)
            self._remove_folders()

    def committed(self, fingerprint: str, part_rows: int, schema: pa.Schema) -> list[PartRecord]:
        """The good parts, in order. Parts of ours that are not good are removed, to be done again."""
        good: list[PartRecord] = []
        for part in numbers_of(self._parts(), self.where):
            record = self._judge(part, fingerprint, part_rows, schema)
            if record:
                good.append(record)
            else:
                self.remove_part(part)
        for short in too_short(good, part_rows):
            self.remove_part(short.part)
            good.remove(short)
        return good

    def has_parts(self) -> bool:
        """Whether there are files named like parts, good or not."""
        return bool(self._parts())

    def _parts(self) -> list[str]:
        return part_names(path.name for path in self.root.iterdir())

    def remove_part(self, part: int) -> None:
        """Remove a part of ours: it is to be made again."""
        files.remove(self.part_path(part))
        files.sync_folder(self.root)

    def _judge(self, part: int, fingerprint: str, part_rows: int, schema: pa.Schema) -> PartRecord | None:
        """The part's record if the part is good, None if it is ours and must be done again."""
        path = self.part_path(part)
        footer = _footer(path)
        if footer is None:
            return None
        record = record_of(footer, fingerprint, str(path))
        good = is_sound(record, footer, part, part_rows, schema) and self._has_rejects(record)
        return record if good else None

    def _has_rejects(self, record: PartRecord) -> bool:
        if not record.rejects:
            return True
        try:
            with self.rejects_path(record.part).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == record.rejects_sha256
        except FileNotFoundError:
            return False

    def discard_job(self) -> None:
        """Remove an unfinished job, this one or another; a part that batchqa did not write is refused."""
        for name in self._parts():
            _footer(self.root / name)
        self.clear()

    def clear(self) -> None:
        """Remove everything of ours but the lock; job.json last, so that an interrupted clearing goes on."""
        self._remove_folders()
        for name in self._parts():
            files.remove(self.root / name)
        self._clear_control()

    def _remove_folders(self) -> None:
        """Remove a folder that was to become the output, or was replaced by it."""
        if self.private:
            for path in sorted(self.root.iterdir()):
                if _FOLDER.fullmatch(path.name):
                    remove_output_folder(path)

    def _clear_control(self) -> None:
        for path in sorted(self.control.iterdir()):
            if _REJECTS.fullmatch(path.name) or path.name.endswith(".tmp"):
                files.remove(path)
        files.remove(self.control / JOB)
        files.sync_folder(self.control)

    def remove(self) -> bool:
        """Remove the folder after its output is published, lock included; False if something stays.

        Where the root is the output itself, only `_batchqa` is removed.
        """
        if self.private:
            self.clear()
        else:
            self._clear_control()
        files.remove(self.lock.path)
        gone = files.remove_folder(self.control)
        if self.private:
            gone = files.remove_folder(self.root) and gone
        files.sync_folder(self.root.parent if self.private else self.root)
        self.lock.release()
        return gone


def part_names(names: Iterable[str]) -> list[str]:
    """Those names that are parts', also as earlier versions wrote them; sorted."""
    return sorted(name for name in names if _PART.fullmatch(name))


def numbers_of(parts: Sequence[str], where: str) -> list[int]:
    """The numbers of parts by their names. Parts that an earlier version named otherwise are refused."""
    numbers = [int(name.removeprefix("part-").partition(".")[0]) for name in parts]
    for name, number in zip(parts, numbers, strict=True):
        if name != part_name(number, name.rpartition(".")[2]):
            raise PreconditionError(
                f"{where}/{name}: an earlier version of batchqa began this job and numbered its parts with "
                "fewer digits; finish the job with that version, or discard its parts with --restart"
            )
    return sorted(numbers)


def record_of(footer: pq.ParquetFile, fingerprint: str, where: str) -> PartRecord:
    """The record in a part's footer; a part of another job is refused."""
    record = PartRecord.from_json(footer.metadata.metadata.get(RECORD_KEY.encode(), b""))
    if record is None or record.fingerprint != fingerprint:
        raise PreconditionError(f"{where}: this part belongs to another job; --restart discards it")
    return record


def is_sound(
    record: PartRecord, footer: pq.ParquetFile, part: int, part_rows: int, schema: pa.Schema
) -> bool:
    """Whether a part is what its record, its place and the job say."""
    return bool(
        record.part == part
        and record.first_record == part * part_rows
        and record.rows_out == footer.metadata.num_rows
        and record.rows_out + record.rejects == record.records_in <= part_rows
        and footer.schema_arrow.equals(schema)
    )


def too_short(good: list[PartRecord], part_rows: int) -> list[PartRecord]:
    """Only the last part may be short: a short one before it does not fit its followers."""
    return [record for record in good[:-1] if record.records_in < part_rows]


def read_job(root: Path) -> JobRecord | None:
    """The job that a folder belongs to, read without the lock; None without a folder or a job."""
    path = root / CONTROL / JOB
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(descriptor, "rb") as file:
        return parsed_job(file.read(), str(path))


def parsed_job(text: bytes, where: str) -> JobRecord:
    """What job.json says; that of another version is refused."""
    job = JobRecord.from_json(text)
    if job is None:
        raise PreconditionError(
            f"{where}: this is not a job of this version of batchqa; --restart discards it"
        )
    return job


def is_leftover(root: Path, fingerprint: str, *, private: bool) -> bool:
    """Whether a staging folder is there that only waits to be removed, as its job is published."""
    if not files.exists(root / CONTROL):
        return False
    job = read_job(root)
    if job:
        return job.fingerprint == fingerprint
    # job.json is the last file to go: behind it are only the lock, the empty folders, and the parts of an
    # output that was published where they stood.
    return not private or not any(_PART.fullmatch(path.name) for path in root.iterdir())


def stranger_in(root: Path, *, private: bool = False) -> Path | None:
    """Something in a staging or output folder that is not batchqa's, or None.

    Hidden files are passed over. In a `private` staging folder, folders of its own may be there.
    """
    for path in _visible(root):
        if path.name == CONTROL and files.is_folder(path):
            for inner in _visible(path):
                if not (is_control(inner.name) and files.is_regular(inner)):
                    return inner
        elif not (private and _FOLDER.fullmatch(path.name) and files.is_folder(path)) and not (
            is_output(path.name) and files.is_regular(path)
        ):
            return path
    return None


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def is_output(name: str) -> bool:
    """Whether a file of this name in an output folder or at the top of a staging may be batchqa's."""
    return name == SUCCESS or _PART.fullmatch(name) is not None


def is_control(name: str) -> bool:
    """Whether a file of this name below `_batchqa` may be batchqa's."""
    return name in _CONTROL_FILES or name.endswith(".tmp") or _REJECTS.fullmatch(name) is not None


def remove_output_folder(folder: Path) -> bool:
    """Remove a folder of parts, but only what is batchqa's in it; False if something stays."""
    if not files.is_folder(folder):
        return not files.exists(folder)
    # _SUCCESS sorts, and goes, first: a half-removed folder does not pass for a complete one.
    for path in _visible(folder):
        if is_output(path.name):
            files.remove(path)
    files.remove_folder(folder / CONTROL)
    return files.remove_folder(folder)


def _footer(path: Path) -> pq.ParquetFile | None:
    """A part's footer, None where it is damaged; a file that batchqa did not write is refused."""
    return footer_of(pa.OSFile(os.fsencode(path)), str(path))


def footer_of(file: pa.NativeFile, where: str) -> pq.ParquetFile | None:
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


def foreign(where: object, why: str) -> PreconditionError:
    """The refusal to touch something that is not batchqa's, or not this job's."""
    return PreconditionError(f"{where}: {why}; it is left alone: move it away and run the same command again")


def _make_own_folder(path: Path, mode: int, *, owned: bool) -> bool:
    """Create a folder, or accept the one that is there if it is a folder and, where asked, ours.

    Returns whether it was created.
    """
    created = files.make_folder(path, mode)
    if not files.is_folder(path):
        if not files.exists(path):
            raise FileNotFoundError(str(path))
        raise PreconditionError(f"{path}: this is a link or a file, which is not followed; move it away")
    owner = path.lstat().st_uid
    if owned and owner != os.geteuid() and owner != _owner_of_new_files(path):
        raise PreconditionError(f"{path}: it belongs to another user; remove it or choose another output")
    return created


def _owner_of_new_files(folder: Path) -> int:
    """Who owns what this process creates here: some network file systems map the user to another."""
    probe = folder / f".owner-{os.getpid()}"
    with suppress(OSError):
        files.create(probe, mode=0o600).close()
        owner = probe.lstat().st_uid
        files.remove(probe)
        return owner
    return os.geteuid()
