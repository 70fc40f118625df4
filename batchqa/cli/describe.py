"""`batchqa info`: what a bundle or an output is, read from its own metadata and nothing else."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileType, LocalFileSystem

from batchqa.bundle import MANIFEST, open_model
from batchqa.errors import InputError, first_line
from batchqa.store import layout
from batchqa.store.locations import Location, is_uri, local_path, locate, read_at, translated, trouble

FOOTER_PREFIX = "batchqa."
"""Keys of a Parquet footer that `run` writes begin with this."""


def describe(path: str) -> dict[str, Any]:
    """Everything known about the bundle or output at `path`; JSON-able, `kind` says which it is.

    "default" is the bundle in the package; an output may be in an object store. Raises InputError where
    `path` is neither, ModelError where a bundle does not verify, and a store's errors.
    """
    path = local_path(path)
    if path == "default" or (not is_uri(path) and (Path(path) / MANIFEST).is_file()):
        return _bundle(path)
    place = locate(path) if is_uri(path) else _local(path)
    place = replace(place, key=place.key.rstrip("/"))
    with translated(place.uri):
        if _type(place) is FileType.Directory:
            return _folder(place)
        if _type(place) is FileType.File:
            return _file(place)
        if _type(staging := place.beside(layout.STAGING_SUFFIX)) is FileType.Directory:
            return _folder(staging)
    raise InputError(f"{place} does not exist; give a bundle's folder or an output of `batchqa run`")


def _bundle(path: str) -> dict[str, Any]:
    bundle = open_model(path)
    sizes = {file.name: file.stat().st_size for file in sorted(bundle.path.iterdir())}
    manifest = asdict(bundle.manifest)
    unpadded = bundle.manifest.runs_unpadded
    return {
        "kind": "bundle",
        "path": str(bundle.path),
        "digest": bundle.digest,
        **manifest,
        "unpadded": unpadded,
        "bytes": sizes,
    }


def _local(path: str) -> Location:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(f"{path!r}: the file's name is not UTF-8; rename it") from None
    return Location("/", "/", str(Path(path).absolute()).lstrip("/"), LocalFileSystem())


def _type(place: Location) -> FileType:
    return place.filesystem.get_file_info(place.path).type


def _folder(folder: Location) -> dict[str, Any]:
    """An output of part files, finished or not, or the staging of a one-file output."""
    success, job = folder.child(layout.SUCCESS), folder.child(layout.JOB)
    is_done, is_begun = (_type(file) is FileType.File for file in (success, job))
    if not is_done and not is_begun:
        raise InputError(
            f"{folder} is neither a bundle (no {MANIFEST}) nor an output of `batchqa run` (no _SUCCESS)"
        )
    files = folder.filesystem.get_file_info(FileSelector(folder.path))
    parts = len(layout.part_names(file.base_name for file in files))
    facts: dict[str, Any] = {"kind": "output" if is_done else "unfinished output"}
    facts |= {"path": folder.uri, "parts": parts}
    if is_done:
        facts["success"] = _json_file(success)
    if is_begun:
        facts["job"] = _json_file(job)
    return facts


def _file(file: Location) -> dict[str, Any]:
    with file.filesystem.open_input_file(file.path) as stream:
        is_parquet = read_at(stream, 0, 4) == b"PAR1"
    if is_parquet:
        return _parquet(file)
    sidecar = file.beside(layout.SIDECAR_SUFFIX)
    if _type(sidecar) is FileType.File:
        kind = file.name.rpartition(".")[2].lower()
        return {"kind": "output", "path": file.uri, "format": kind, "record": _json_file(sidecar)}
    raise InputError(f"{file} was not written by `batchqa run`: it is not Parquet and has no {sidecar.name}")


def _parquet(file: Location) -> dict[str, Any]:
    try:
        footer = pq.read_metadata(file.path, filesystem=file.filesystem)
    except (pa.ArrowInvalid, OSError) as error:
        damaged = InputError(f"{file} cannot be read as Parquet: {first_line(error)}")
        raise trouble(file.uri, error) or damaged from error
    metadata = footer.metadata or {}
    record = {
        key.decode().removeprefix(FOOTER_PREFIX): _value(text)
        for key, text in sorted(metadata.items())
        if key.startswith(FOOTER_PREFIX.encode())
    }
    if not record:
        raise InputError(f"{file} was not written by `batchqa run`: its footer has no {FOOTER_PREFIX}* keys")
    return {
        "kind": "output",
        "path": file.uri,
        "format": "parquet",
        "rows": footer.num_rows,
        "row_groups": footer.num_row_groups,
        "columns": footer.schema.to_arrow_schema().names,
        "record": record,
    }


def _json_file(file: Location) -> Any:
    with file.filesystem.open_input_file(file.path) as stream:
        text = read_at(stream, 0, stream.size())
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InputError(
            f"{file} is not valid JSON: {error}; the output is damaged, or was not written by batchqa"
        ) from error


def _value(text: bytes) -> Any:
    """A footer's value: JSON where it is, else the text itself."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text.decode("utf-8", "replace")
