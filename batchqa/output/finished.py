"""What is at a target: a finished output of batchqa, something else, or nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from batchqa.errors import PreconditionError
from batchqa.output.manifest import RECORD_KEY, JobRecord, canonical
from batchqa.output.target import Target
from batchqa.store import layout
from batchqa.store.locations import trouble
from batchqa.store.store import Store

_COPY_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Found:
    """What is at a target. `trouble` says why it is not a whole output of `record`, if it is not."""

    record: JobRecord | None
    trouble: str | None = None


def find(target: Target) -> Found | None:
    """What is at the target, None where the place is free.

    An empty folder counts as free, and so does one in which a job is unfinished.
    """
    if target.kind == "folder":
        return _find_folder(target)
    status = target.store.stat(target.name)
    if status is None:
        return None
    if status.kind != "file":
        return Found(None, "it is not a regular file")
    try:
        return _find_parquet(target) if target.kind == "parquet" else _find_text(target, status.size)
    except FileNotFoundError:
        return None


def _find_parquet(target: Target) -> Found:
    with target.store.opened(target.name) as file:
        try:
            metadata = pq.read_metadata(file).metadata or {}
        except (pa.ArrowInvalid, OSError) as error:
            if trouble(str(target), error) or (isinstance(error, OSError) and error.errno):
                raise
            return Found(None)
    return Found(JobRecord.from_json(metadata.get(RECORD_KEY.encode(), b"")))


def _find_text(target: Target, bytes_there: int) -> Found:
    try:
        sidecar = json.loads(target.store.read(target.sidecar_name) or b"")
        record = JobRecord.from_json(canonical(sidecar["record"]))
        size, expected = sidecar["bytes"], sidecar["sha256"]
    except (ValueError, TypeError, KeyError):
        return Found(None)
    # The sidecar is in place a moment before its output: until then it describes a file yet to come.
    if bytes_there != size or sha256(target.store, target.name) != expected:
        where = target.store.show(target.sidecar_name)
        return Found(record, f"it is not the file that {where} describes")
    return Found(record)


def sha256(store: Store, name: str) -> str:
    """The hash of a file's content. FileNotFoundError where there is none."""
    digest = hashlib.sha256()
    with store.opened(name) as file:
        while piece := file.read(_COPY_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _find_folder(target: Target) -> Found | None:
    store = target.store
    sizes = store.list(target.name)
    there = layout.visible(sizes)
    if not sizes:
        status = store.stat(target.name)
        return None if status is None or status.kind == "folder" else Found(None, "it is not a folder")
    if layout.SUCCESS not in sizes:
        begun = layout.JOB in sizes or all(name.startswith(f"{layout.CONTROL}/") for name in there)
        return None if begun else Found(None)
    record = JobRecord.from_json(store.read(f"{target.name}/{layout.SUCCESS}") or b"")
    if record is None:
        return Found(None)
    for file in record.outcome.get("files", ()):
        if sizes.get(file["name"]) != file["bytes"]:
            where = store.show(f"{target.name}/{file['name']}")
            return Found(record, f"{where} is missing or has changed")
    return Found(record)


def check_replaceable(target: Target, found: Found) -> None:
    """Refuse to replace a folder that holds anything but a finished output of batchqa."""
    if target.kind != "folder":
        return
    strangers = layout.strangers(target.store.list(target.name), private=False)
    if found.record is None or strangers:
        where = "/".join([target.name, *strangers[:1]]) if found.record else target.name
        raise PreconditionError(
            f"{target.store.show(where)}: this was not written by batchqa and is never replaced; choose "
            "another output"
        )


def check_companions(target: Target) -> None:
    """Refuse to begin beside leftovers of an output that is not there any more."""
    for name in list(target.written_names())[1:]:
        if target.store.stat(name) is not None:
            raise PreconditionError(
                f"{target.store.show(name)}: already exists; move it away, or give --overwrite to replace it"
            )
