"""`batchqa info`: what a bundle or an output is, read from its own metadata and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from batchqa.annotator import open_model
from batchqa.bundle import MANIFEST
from batchqa.errors import InputError

FOOTER_PREFIX = "batchqa."
"""Keys of a Parquet footer that `run` writes begin with this."""

LONGEST_VALUE = 200
"""Characters of a value that are shown to a person; programs get all of it."""


def describe(path: str) -> dict[str, Any]:
    """Everything known about the bundle or output at `path`; JSON-able, `kind` says which it is.

    "default" is the bundle in the package. Raises InputError where `path` is neither, ModelError where a
    bundle does not verify.
    """
    place = Path(path)
    if path == "default" or (place / MANIFEST).is_file():
        return _bundle(path)
    if place.is_dir():
        return _folder(place)
    if place.is_file():
        return _file(place)
    staging = place.with_name(place.name + ".batchqa")
    if staging.is_dir():
        return _folder(staging)
    raise InputError(f"{path} does not exist; name a bundle's folder or an output of `batchqa run`")


def render(facts: Mapping[str, Any]) -> str:
    """The same for a person: one line per fact, groups indented."""
    return "\n".join(_lines(facts, ""))


def _bundle(path: str) -> dict[str, Any]:
    bundle = open_model(path)
    sizes = {file.name: file.stat().st_size for file in sorted(bundle.path.iterdir())}
    manifest = asdict(bundle.manifest)
    return {"kind": "bundle", "path": str(bundle.path), "digest": bundle.digest, **manifest, "bytes": sizes}


def _folder(folder: Path) -> dict[str, Any]:
    """An output of part files, finished or not, or the staging of a one-file output."""
    success, job = folder / "_SUCCESS", folder / "_batchqa" / "job.json"
    if not success.is_file() and not job.is_file():
        raise InputError(
            f"{folder} is neither a bundle (no {MANIFEST}) nor an output of `batchqa run` (no _SUCCESS)"
        )
    facts: dict[str, Any] = {"kind": "output" if success.is_file() else "unfinished output"}
    facts |= {"path": str(folder), "parts": len(list(folder.glob("part-*")))}
    if success.is_file():
        facts["success"] = _json_file(success)
    if job.is_file():
        facts["job"] = _json_file(job)
    return facts


def _file(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        is_parquet = stream.read(4) == b"PAR1"
    if is_parquet:
        return _parquet(file)
    sidecar = file.with_name(file.name + ".batchqa.json")
    if sidecar.is_file():
        return {"kind": "output", "path": str(file), "format": "jsonl", "record": _json_file(sidecar)}
    raise InputError(f"{file} was not written by `batchqa run`: it is no Parquet and has no {sidecar.name}")


def _parquet(file: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
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
        "path": str(file),
        "format": "parquet",
        "rows": footer.num_rows,
        "row_groups": footer.num_row_groups,
        "columns": footer.schema.to_arrow_schema().names,
        "record": record,
    }


def _json_file(file: Path) -> Any:
    try:
        return orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InputError(f"{file} is no JSON: {error}; the output was damaged or is not ours") from error


def _value(text: bytes) -> Any:
    """A footer's value: JSON where it is, else the text itself."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text.decode("utf-8", "replace")


def _lines(facts: Mapping[str, Any], indent: str) -> Iterator[str]:
    width = max((len(str(name)) for name in facts), default=0)
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}:"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            for number, item in enumerate(value, 1):
                yield f"{indent}{name} {number}:"
                yield from _lines(item, indent + "  ")
        else:
            yield f"{indent}{name!s:<{width}}  {_shown(value)}"


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        text = ", ".join(map(str, value)) or "-"
    elif isinstance(value, Mapping):
        text = "-"
    else:
        text = str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
