"""The protocol in an object store: parts are built locally and uploaded whole to their final keys.

Layout, where OUT is the output's URI::

    OUT/part-0000000.parquet                   folder of Parquet parts: committed where they stay
    OUT/_batchqa/job.json, rejects-00000.jsonl ... and what belongs to the unfinished job
    OUT/_SUCCESS                               last: the folder is complete
    OUT.batchqa/part-0000000.parquet           one file, a folder of JSONL, or a folder that replaces another:
    OUT.batchqa/_batchqa/job.json, ...         the parts wait here until all are done

Nothing is renamed. A file is published by its upload: the store shows an object when it is complete. A run
that is killed leaves complete parts, and perhaps parts of an upload that nobody sees (docs/object-stores.md).

There is no lock. Two runs of one job write equal data to equal keys; of two different jobs that begin at the
same time, the one whose job.json was overwritten stops (`ObjectStaging.write_job`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchqa.errors import BatchqaError, PreconditionError, TryAgainError
from batchqa.output.facts import RECORD_KEY, JobRecord, PartRecord, canonical
from batchqa.output.form import Found
from batchqa.output.merging import DamagedPartError
from batchqa.output.outputs import Hashing, Publisher, new_file
from batchqa.output.staging import (
    CONTROL,
    JOB,
    SUCCESS,
    footer_of,
    foreign,
    is_control,
    is_output,
    is_sound,
    numbers_of,
    parsed_job,
    part_name,
    part_names,
    record_of,
    too_short,
)
from batchqa.output.table import OutputTable
from batchqa.output.target import ObjectTarget
from batchqa.store import objects
from batchqa.store.locations import Location, trouble
from batchqa.store.lock import Lock

_COPY_BYTES = 8 * 2**20
_SCRATCH = "batchqa-parts-"


class ObjectForm:
    """The form of the protocol for a target in an object store."""

    def __init__(self, target: ObjectTarget) -> None:
        self.target = target

    def found(self) -> Found | None:
        """What stands at the target, None where the place is free."""
        if self.target.kind == "folder":
            return self._find_folder()
        try:
            return self._find_parquet() if self.target.kind == "parquet" else self._find_jsonl()
        except FileNotFoundError:
            return None

    def _find_parquet(self) -> Found:
        with objects.opened(self.target.location) as file:
            try:
                metadata = pq.read_metadata(file).metadata or {}
            except (pa.ArrowInvalid, OSError) as error:
                if trouble(str(self.target), error):
                    raise
                return Found(None)
        return Found(JobRecord.from_json(metadata.get(RECORD_KEY.encode(), b"")))

    def _find_jsonl(self) -> Found:
        with objects.opened(self.target.location) as file:
            try:
                sidecar = json.loads(objects.get(self.target.sidecar) or b"")
                record = JobRecord.from_json(canonical(sidecar["record"]))
                size, sha256 = sidecar["bytes"], sidecar["sha256"]
            except (ValueError, TypeError, KeyError):
                return Found(None)
            # The sidecar is in place a moment before its output: until then it describes one yet to come.
            if file.size() != size or _sha256(file) != sha256:
                return Found(record, f"it is not the object that {self.target.sidecar} describes")
        return Found(record)

    def _find_folder(self) -> Found | None:
        folder = self.target.location
        there = {name: size for name, size in objects.below(folder).items() if not _is_hidden(name)}
        if SUCCESS not in there:
            return None if not there or f"{CONTROL}/{JOB}" in there else Found(None)
        record = JobRecord.from_json(objects.get(folder.child(SUCCESS)) or b"")
        if record is None:
            return Found(None)
        for file in record.outcome.get("files", ()):
            if there.get(file["name"]) != file["bytes"]:
                return Found(record, f"{folder.child(file['name'])} is missing or has changed")
        return Found(record)

    def check_replaceable(self, found: Found) -> None:
        """Refuse to replace a folder that holds anything but a finished output of batchqa."""
        folder = self.target.location
        if self.target.kind != "folder":
            return
        stranger = "" if found.record is None else _stranger(objects.below(folder))
        if stranger is not None:
            where = folder.child(stranger) if stranger else folder
            raise PreconditionError(
                f"{where}: this was not written by batchqa and is never replaced; choose another output"
            )

    def check_companions(self) -> None:
        """Refuse to begin beside leftovers of an output that is not there any more."""
        for place in list(self.target.written())[1:]:
            if objects.size(place) is not None:
                raise PreconditionError(
                    f"{place}: exists already; move it away, or replace it with --overwrite"
                )

    def unfinished(self) -> JobRecord | None:
        """The job that is unfinished at the target."""
        return _read_job(self._root()[0])

    def open_staging(self) -> ObjectStaging:
        """Open the staging; nothing is written before a job begins."""
        return self._staging(*self._root())

    def leftover(self, fingerprint: str) -> ObjectStaging | None:
        """The staging of this published job that a run left which was stopped before it removed it."""
        root, private = self._root(done=True)
        try:
            job = _read_job(root)
            ours = job is not None and job.fingerprint == fingerprint
            return self._staging(root, private) if ours else None
        except (BatchqaError, OSError):
            return None  # in some way not as expected: then it is not for this run to touch

    def _staging(self, root: Location, private: bool) -> ObjectStaging:
        filled = self.target.location if private and self.target.kind == "folder" else None
        return ObjectStaging(root, str(self.target), private=private, filled=filled)

    def publish(
        self, staging: ObjectStaging, table: OutputTable, parts: Sequence[PartRecord], record: JobRecord
    ) -> None:
        """Make the output from all parts."""
        ObjectPublisher(self.target, staging, table, parts, record).publish()

    def _root(self, done: bool = False) -> tuple[Location, bool]:
        """Where the target's parts are committed, and whether that is a prefix of its own.

        Parts of a Parquet folder are uploaded to where they stay, unless a finished folder is being replaced.
        """
        target = self.target
        in_place = target.kind == "folder" and target.format == "parquet"
        if in_place and not objects.below(target.staging) and (done or self.found() is None):
            return target.location, False
        return target.staging, True


class ObjectStaging:
    """The committed parts of an unfinished job, and a local folder where the next one is built."""

    def __init__(self, root: Location, what: str, *, private: bool, filled: Location | None) -> None:
        """`what` names the output in messages; `private`: the root is not the output folder itself.

        `filled` is the output folder where it is filled from a private root: job.json stands there meanwhile.
        """
        self.root = root
        self.what = what
        self.private = private
        self.filled = filled
        self.control = root.child(CONTROL)
        self._scratch, self._lock = _open_scratch()

    @property
    def where(self) -> str:
        """The prefix, for messages."""
        return str(self.root)

    @property
    def note(self) -> str:
        """That there is no lock."""
        return f"{self.what}: object stores have no locks; see that only one run writes it"

    def close(self) -> None:
        """Remove the local folder; committed parts stay."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._lock.release()

    def tmp(self, name: str) -> Path:
        """A local file of this run."""
        return self._scratch / f"{name}.tmp"

    def job(self) -> JobRecord | None:
        """The job that works here, or None where none has begun."""
        return _read_job(self.root)

    def write_job(self, job: JobRecord) -> JobRecord:
        """Write job.json and look what stands there then, because another run may begin at the same time.

        Raises TryAgainError where that was another job; of the same job, what was resolved there holds.
        """
        began = self.job()
        if began is None:
            objects.put_bytes(job.to_json(), self.control.child(JOB))
            began = self.job()
        if began is None or began.fingerprint != job.fingerprint:
            raise TryAgainError(
                f"{self.what}: another job has just begun here; try again when that has ended"
            )
        return began

    def check_strangers(self) -> None:
        """Refuse a place in which something is not batchqa's; hidden objects are let be."""
        stranger = _stranger(objects.below(self.root))
        if stranger is not None:
            raise foreign(self.root.child(stranger), "this was not written by batchqa")

    def remove_tmps(self) -> None:
        """Unfinished files are local, and gone with their run."""

    def has_parts(self) -> bool:
        """Whether there are parts, good or not."""
        return bool(self._parts())

    def _parts(self) -> list[str]:
        return part_names(objects.below(self.root))

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

    def _judge(self, part: int, fingerprint: str, part_rows: int, schema: pa.Schema) -> PartRecord | None:
        """The part's record if the part is good, None if it is ours and must be done again."""
        place = self._part(part)
        # another run may have published and be just removing the parts: what is gone is to be done again
        with suppress(FileNotFoundError), objects.opened(place) as file:
            footer = footer_of(file, str(place))
            if footer is None:
                return None
            record = record_of(footer, fingerprint, str(place))
            good = is_sound(record, footer, part, part_rows, schema) and self._has_rejects(record)
            return record if good else None
        return None

    def _has_rejects(self, record: PartRecord) -> bool:
        lines = objects.get(self._rejects(record.part)) if record.rejects else b""
        return lines is not None and (
            not record.rejects or hashlib.sha256(lines).hexdigest() == record.rejects_sha256
        )

    def _part(self, part: int) -> Location:
        return self.root.child(part_name(part))

    def _rejects(self, part: int) -> Location:
        return self.control.child(f"rejects-{part:05d}.jsonl")

    def take_part(self, part: int, file: Path, rejects: Path | None) -> None:
        """Upload a part, its rejects first: after this it survives any kill."""
        if rejects:
            objects.put(rejects, self._rejects(part))
            rejects.unlink()
        objects.put(file, self._part(part))
        file.unlink()

    @contextmanager
    def part_file(self, part: int) -> Iterator[Path]:
        """A committed part, fetched; one at a time is on the local disk."""
        with self._fetched(part, self._part(part)) as file:
            yield file

    @contextmanager
    def rejects_file(self, part: int) -> Iterator[Path]:
        """A part's rejected lines, fetched."""
        with self._fetched(part, self._rejects(part)) as file:
            yield file

    @contextmanager
    def _fetched(self, part: int, place: Location) -> Iterator[Path]:
        file = self.tmp(f"{place.name}.fetched")
        try:
            objects.fetch(place, file)
        except FileNotFoundError as error:
            raise DamagedPartError(part, f"{place} is gone") from error
        yield file
        file.unlink()

    def remove_part(self, part: int) -> None:
        """Remove a part of ours: it is to be made again."""
        objects.remove(self._part(part))

    def discard_job(self) -> None:
        """Remove an unfinished job, this one or another; a part that batchqa did not write is refused."""
        parts = [self.root.child(name) for name in self._parts()]
        for part in parts:
            with objects.opened(part) as file:
                footer_of(file, str(part))
        for part in parts:
            objects.remove(part)
        objects.remove_below(self.control)

    def remove(self) -> bool:
        """Remove what the published output does not need; False if something of others is there and stays."""
        # The private root goes last: an interrupted removal is taken up again because of it.
        clean = self.filled is None or _remove(self.filled.child(CONTROL), is_control)
        clean = _remove(*((self.root, _is_ours) if self.private else (self.control, is_control))) and clean
        self.close()
        return clean


class ObjectPublisher(Publisher):
    """Publishes by uploading."""

    staging: ObjectStaging

    def __init__(
        self,
        target: ObjectTarget,
        staging: ObjectStaging,
        table: OutputTable,
        parts: Sequence[PartRecord],
        record: JobRecord,
    ) -> None:
        assert target.kind != "stdout"
        super().__init__(target.kind, staging, table, parts, record)
        self.target = target

    def place_output(self, file: Path) -> None:
        """Publish a finished file as the output: the completion of its upload."""
        _move(file, self.target.location)

    def place_sidecar(self, file: Path) -> None:
        """Put the record of a JSONL object beside it."""
        _move(file, self.target.sidecar)

    def place_rejects(self, file: Path) -> None:
        """Put the rejects beside the output."""
        _move(file, self.target.rejects)

    def remove_rejects(self) -> None:
        """Remove the rejects of an output that is being replaced."""
        if objects.size(self.target.rejects) is not None:
            objects.remove(self.target.rejects)

    def publish_folder(self) -> None:
        """Mark the folder that the parts are in as complete, or fill it from the parts."""
        if self.staging.private:
            self._fill()
        else:
            self._complete(self._in_place())

    def _in_place(self) -> list[dict[str, Any]]:
        """What `_SUCCESS` says of the Parquet parts, which are where they stay."""
        sizes = objects.below(self.target.location)
        for part in self.parts:
            if sizes.get(part_name(part.part), 0) <= part.data_bytes:
                raise DamagedPartError(part.part, "it is gone, or shorter than when it was written")
        return [
            {"name": name, "rows": part.rows_out, "bytes": sizes[name]}
            for part in self.parts
            for name in [part_name(part.part)]
        ]

    def _fill(self) -> None:
        """Upload all parts to the folder, replacing what was there, which no store can do in one step.

        `_SUCCESS` goes first: without it the folder is unfinished, and job.json says whose work it is.
        """
        folder = self.target.location
        old = objects.below(folder)
        objects.put_bytes(self.record.to_json(), folder.child(CONTROL).child(JOB))
        if SUCCESS in old:
            objects.remove(folder.child(SUCCESS))
        listed = [self._add(part) for part in self.parts]
        new = {entry["name"] for entry in listed}
        for name in sorted(old):
            if is_output(name) and name != SUCCESS and name not in new:
                objects.remove(folder.child(name))
        self._complete(listed)  # job.json goes with the staging

    def _add(self, part: PartRecord) -> dict[str, Any]:
        """Upload one part in the output's format; returns its entry for `_SUCCESS`."""
        name = part_name(part.part, self.target.format)
        tmp = self.staging.tmp(name)
        with new_file(tmp) as file:
            written = Hashing(file)
            if self.target.format == "jsonl":
                rows = self.write_lines(part, written)
            else:
                rows = self._copy(part, written)
        _move(tmp, self.target.location.child(name))
        return {"name": name, "rows": rows, "bytes": written.size, "sha256": written.sha256.hexdigest()}

    def _copy(self, part: PartRecord, out: Hashing) -> int:
        with self.staging.part_file(part.part) as path, path.open("rb") as file:
            while piece := file.read(_COPY_BYTES):
                out.write(piece)
        return part.rows_out

    def _complete(self, listed: list[dict[str, Any]]) -> None:
        success = self.success(listed)
        self.publish_rejects()
        objects.put_bytes(success, self.target.location.child(SUCCESS))


def _open_scratch() -> tuple[Path, Lock]:
    """A new local folder for this run's files, and its lock; folders that killed runs left are removed.

    The lock ends with its process, however that ends: a folder whose lock can be had is nobody's any more.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        with suppress(OSError, TryAgainError):
            if left.lstat().st_uid == os.geteuid() and (left / "lock").is_file():
                lock = Lock(left / "lock", str(left))
                if lock.note is None:
                    shutil.rmtree(left, ignore_errors=True)
                lock.release()
    folder = Path(tempfile.mkdtemp(prefix=_SCRATCH))
    return folder, Lock(folder / "lock", str(folder))


def _remove(root: Location, ours: Callable[[str], bool]) -> bool:
    """Remove what is ours below a prefix; False if something of others is there and stays."""
    names = objects.below(root)
    strangers = [name for name in names if not ours(name)]
    if names and not strangers:
        objects.remove_below(root)
    elif strangers:
        for name in sorted(set(names) - set(strangers)):
            objects.remove(root.child(name))
    return not strangers


def _move(file: Path, to: Location) -> None:
    objects.put(file, to)
    file.unlink()


def _read_job(root: Location) -> JobRecord | None:
    place = root.child(CONTROL).child(JOB)
    text = objects.get(place)
    return None if text is None else parsed_job(text, str(place))


def _sha256(file: pa.NativeFile) -> str:
    digest = hashlib.sha256()
    while piece := file.read(_COPY_BYTES):
        digest.update(piece)
    return digest.hexdigest()


def _stranger(names: Iterable[str]) -> str | None:
    """The first name below a staging or output prefix that is not batchqa's; hidden ones are passed over."""
    return next((name for name in sorted(names) if not (_is_ours(name) or _is_hidden(name))), None)


def _is_ours(name: str) -> bool:
    folder, slash, inner = name.rpartition("/")
    return is_control(inner) if slash and folder == CONTROL else not slash and is_output(name)


def _is_hidden(name: str) -> bool:
    return name.startswith(".")
