"""The protocol on a file system: finished outputs, the staging beside them, and renames that publish."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchqa.errors import BatchqaError, PreconditionError
from batchqa.output.facts import RECORD_KEY, JobRecord, PartRecord, canonical
from batchqa.output.form import Found
from batchqa.output.outputs import Hashing, Publisher, new_file, reading
from batchqa.output.staging import (
    CONTROL,
    JOB,
    SUCCESS,
    Staging,
    is_leftover,
    part_name,
    read_job,
    remove_output_folder,
    stranger_in,
)
from batchqa.output.table import OutputTable
from batchqa.output.target import LocalTarget
from batchqa.store import files


class LocalForm:
    """The form of the protocol for a target on a file system."""

    def __init__(self, target: LocalTarget) -> None:
        self.target = target

    def found(self) -> Found | None:
        """What stands at the target, None where the place is free."""
        target = self.target
        if not files.exists(target.path):
            return None
        if target.kind == "folder":
            return _find_folder(target)
        if not files.is_regular(target.path):
            return Found(None, "it is not a regular file")
        return _find_parquet(target) if target.kind == "parquet" else _find_jsonl(target)

    def check_replaceable(self, found: Found) -> None:
        """Refuse to replace a folder that holds anything but a finished output of batchqa."""
        if self.target.kind != "folder":
            return
        stranger = self.target.path if found.record is None else stranger_in(self.target.path)
        if stranger:
            raise PreconditionError(
                f"{stranger}: this was not written by batchqa and is never replaced; choose another output"
            )

    def check_companions(self) -> None:
        """Refuse to begin beside leftovers of an output that is not there any more."""
        for path in list(self.target.written())[1:]:
            if files.exists(path):
                raise PreconditionError(
                    f"{path}: exists already; move it away, or replace it with --overwrite"
                )

    def unfinished(self) -> JobRecord | None:
        """The job that is unfinished at the target, read without the lock."""
        return read_job(self._root()[0])

    def open_staging(self) -> Staging:
        """Create or open the staging and take its lock."""
        root, private = self._root()
        return Staging(root, str(self.target), private=private)

    def leftover(self, fingerprint: str) -> Staging | None:
        """The staging of this published job that a run left which was stopped before it removed it."""
        root, private = self._root(done=True)
        try:
            if private:
                files.remove_folder(root)  # only if it is empty
            if not is_leftover(root, fingerprint, private=private):
                return None
            return Staging(root, str(self.target), private=private)
        except (BatchqaError, OSError):
            return None  # in use, or in some way not as expected: then it is not for this run to touch

    def publish(
        self, staging: Staging, table: OutputTable, parts: Sequence[PartRecord], record: JobRecord
    ) -> None:
        """Make the output from all parts."""
        LocalPublisher(self, staging, table, parts, record).publish()

    def _root(self, done: bool = False) -> tuple[Path, bool]:
        """Where the target's parts are staged, and whether that is a folder of its own.

        Parts of a Parquet folder are written in place, unless a finished folder is being replaced.
        """
        target = self.target
        in_place = target.kind == "folder" and target.format == "parquet"
        if in_place and not files.exists(target.staging) and (done or self.found() is None):
            return target.path, False
        return target.staging, True


def _find_parquet(target: LocalTarget) -> Found:
    try:
        metadata = pq.read_metadata(pa.OSFile(os.fsencode(target.path))).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        return Found(None)
    return Found(JobRecord.from_json(metadata.get(RECORD_KEY.encode(), b"")))


def _find_jsonl(target: LocalTarget) -> Found:
    try:
        with target.sidecar.open("rb") as file:
            sidecar = json.load(file)
        record = JobRecord.from_json(canonical(sidecar["record"]))
        size, sha256 = sidecar["bytes"], sidecar["sha256"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return Found(None)
    # The sidecar is in place a moment before its output: until then it describes a file yet to come.
    if target.path.stat().st_size != size or _sha256(target.path) != sha256:
        return Found(record, f"it is not the file that {target.sidecar} describes")
    return Found(record)


def _find_folder(target: LocalTarget) -> Found | None:
    if not files.is_folder(target.path):
        return Found(None, "it is not a folder")
    try:
        with (target.path / SUCCESS).open("rb") as file:
            record = JobRecord.from_json(file.read())
    except FileNotFoundError:
        with os.scandir(target.path) as entries:
            names = {entry.name for entry in entries if not entry.name.startswith(".")}
        begun = files.exists(target.path / CONTROL / JOB) or names == {CONTROL}
        unfinished = target.format == "parquet" and begun
        return None if unfinished or not names else Found(None)
    if record is None:
        return Found(None)
    for file in record.outcome.get("files", ()):
        path = target.path / file["name"]
        if not files.is_regular(path) or path.stat().st_size != file["bytes"]:
            return Found(record, f"{path} is missing or has changed")
    return Found(record)


class LocalPublisher(Publisher):
    """Publishes by renaming."""

    staging: Staging

    def __init__(
        self,
        form: LocalForm,
        staging: Staging,
        table: OutputTable,
        parts: Sequence[PartRecord],
        record: JobRecord,
    ) -> None:
        target = form.target
        assert target.kind != "stdout"
        super().__init__(target.kind, staging, table, parts, record)
        self.form = form
        self.target = target

    def place_output(self, file: Path) -> None:
        """Publish a finished file as the output."""
        files.publish(file, self.target.path)

    def place_sidecar(self, file: Path) -> None:
        """Put the record of a JSONL file beside it."""
        files.publish(file, self.target.sidecar)

    def place_rejects(self, file: Path) -> None:
        """Put the rejects beside the output."""
        files.publish(file, self.target.rejects)

    def remove_rejects(self) -> None:
        """Remove the rejects of an output that is being replaced."""
        if files.exists(self.target.rejects):
            files.remove(self.target.rejects)
            files.sync_folder(self.target.rejects.parent)

    def publish_folder(self) -> None:
        """Mark the folder that the parts are in as complete, or move a complete one to its place."""
        if self.staging.root == self.target.path:
            listed = [self._entry(part, self.staging.part_path(part.part)) for part in self.parts]
            self.publish_rejects()
            self._mark_success(self.target.path, listed)
        else:
            self._folder_as_a_whole()

    def _folder_as_a_whole(self) -> None:
        """Build the folder beside its place, complete, and move it there in one step."""
        new = self.staging.new
        remove_output_folder(new)
        files.make_folder(new)
        self._mark_success(new, [self._add_file(new, part) for part in self.parts])
        files.sync_folder(new)
        self.publish_rejects()
        if files.exists(self.target.path):
            found = self.form.found()
            if found:
                self.form.check_replaceable(found)
            # What was there is now in the staging, and is removed with it.
            files.exchange(new, self.target.path, self.staging.old)
        else:
            files.publish(new, self.target.path)

    def _add_file(self, folder: Path, part: PartRecord) -> dict[str, Any]:
        """Put a part into a folder; returns its entry for `_SUCCESS`."""
        name = part_name(part.part, self.target.format)
        path = folder / name
        if self.target.format == "parquet":
            _link_or_copy(self.staging.part_path(part.part), path)
            return self._entry(part, path)
        with new_file(path) as file:
            written = Hashing(file)
            rows = self.write_lines(part, written)
        return {"name": name, "rows": rows, "bytes": written.size, "sha256": written.sha256.hexdigest()}

    def _entry(self, part: PartRecord, path: Path) -> dict[str, Any]:
        """What `_SUCCESS` says of a Parquet part, from the file itself."""
        with reading(part.part):
            rows = pq.read_metadata(pa.OSFile(os.fsencode(path))).num_rows
        return {"name": part_name(part.part), "rows": rows, "bytes": path.stat().st_size}

    def _mark_success(self, folder: Path, listed: list[dict[str, Any]]) -> None:
        files.write_whole(self.success(listed), self.staging.tmp(SUCCESS), folder / SUCCESS)


def _link_or_copy(path: Path, new: Path) -> None:
    with suppress(OSError):
        new.hardlink_to(path)
        return
    with path.open("rb") as file, new_file(new) as out:
        shutil.copyfileobj(file, out, 2**20)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
