"""Table formats: folders in which a file may be there and its rows not be part of the table any more.

Delta, Iceberg and Hudi keep a log of which files, and which of their rows, are alive. Read as a plain folder
such a table gives deleted and replaced rows as well, so it is refused, with the way to list what is alive,
unless the library that reads the log is installed (Delta: `deltalake`). Files that are named one by one are
taken for such a list; those that a Delta table's log calls removed are refused all the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from batchqa.errors import InputError, first_line
from batchqa.store.locations import is_uri, local_path, public

if TYPE_CHECKING:  # input_files calls this module
    from .input_files import Place

_HOW = {
    "Delta": (
        "install deltalake (pip install deltalake) and its live rows are read, or name its live files, which "
        "deltalake.DeltaTable({shown!r}).file_uris() lists"
    ),
    "Iceberg": (
        "name its live files, which pyiceberg's table.scan().plan_files() lists, or SELECT file_path FROM "
        "<table>.files in Spark, or export the table to a plain folder first"
    ),
    "Hudi": (
        "name its live files, which SELECT DISTINCT _hoodie_file_name FROM <table> lists in Spark, "
        "or export the table to a plain folder first"
    ),
}
_UNREAD = ("deletionVectors", "columnMapping")
"""Features of a Delta table because of which its files alone do not say what its rows are."""


def live(argument: str, found: list[Place]) -> list[Place]:
    """The files of `found`, which `argument` names, that are alive in the tables that they belong to.

    Raises InputError for a table whose live rows cannot be told.
    """
    named = len(found) == 1 and found[0].shown in _names(argument)
    kinds: dict[str, str | None] = {}
    tables = {place: table for place in found if place.tape is None and (table := _table_of(place, kinds))}
    for root, kind in dict.fromkeys(tables.values()):
        inside = [place for place, table in tables.items() if table == (root, kind)]
        if named:
            if kind == "Delta":
                _refuse_removed(inside[0], root)
        elif kind != "Delta" or not _is_plain(inside[0], argument):
            raise _refusal(inside[0], root, kind)
        else:
            alive = _live_in_delta(inside, root, whole=_is_below(root, argument))
            found = [alive.get(place, place) for place in found if place in alive or place not in inside]
    return found


def _names(argument: str) -> tuple[str, ...]:
    """How a file is shown that this argument is the name of."""
    return (public(argument),) if is_uri(argument) else (argument, local_path(argument))


def _table_of(place: Place, kinds: dict[str, str | None]) -> tuple[str, str] | None:
    """The root folder of the table that a file belongs to, and the table's kind; `kinds` is by folder."""
    for folder in PurePosixPath(place.path).parents:
        if "=" in folder.name or str(folder) in (".", "/"):
            continue  # a folder of one partition is inside a table
        here = str(folder)
        if here not in kinds:
            kinds[here] = _kind(place.filesystem, here)
        if kind := kinds[here]:
            return here, kind
    return None


def _kind(filesystem: pafs.FileSystem, folder: str) -> str | None:
    names = {"_delta_log": "Delta", ".hoodie": "Hudi", "metadata": "Iceberg"}
    infos: Iterable[pafs.FileInfo] = ()
    with suppress(OSError):  # what is above an input may be closed to the user
        infos = filesystem.get_file_info([f"{folder}/{name}" for name in names])
    for name, info in zip(names, infos, strict=False):
        if info.type is not pafs.FileType.Directory:
            continue
        if name != "metadata":
            return names[name]
        listed = filesystem.get_file_info(pafs.FileSelector(info.path, allow_not_found=True))
        if any(entry.base_name.endswith(".metadata.json") for entry in listed):
            return names[name]
    return None


def _is_plain(place: Place, argument: str) -> bool:
    """Whether deltalake finds a table by its address alone: our URIs can hold an endpoint and credentials."""
    return place.local or not any(mark in argument for mark in "?@")


def _is_below(root: str, argument: str) -> bool:
    """Whether the argument may name the whole table: it is no folder or pattern inside it."""
    place = argument.split("://", 1)[-1].rstrip("/")
    return not any(character in place for character in "*?[") and (
        root.endswith(place) or PurePosixPath(root).is_relative_to(place)
    )


def _refusal(place: Place, root: str, kind: str, why: str = "") -> InputError:
    shown = _shown(place, root)
    why = why or "read as a plain folder it also gives rows that were deleted or replaced"
    return InputError(
        f"{shown} is {'an' if kind == 'Iceberg' else 'a'} {kind} table; {why}: "
        + _HOW[kind].format(shown=shown)
    )


def _shown(place: Place, root: str) -> str:
    """The root as messages name the file in it."""
    inside = place.path[len(root) :]
    return place.shown.removesuffix(inside) if place.shown.endswith(inside) else root


def _live_in_delta(inside: Sequence[Place], root: str, *, whole: bool) -> dict[Place, Place]:
    """Files of a Delta table that are alive, with the values of its partitions."""
    try:
        import deltalake
    except ImportError:
        raise _refusal(inside[0], root, "Delta") from None
    shown = _shown(inside[0], root)
    try:
        table = deltalake.DeltaTable(shown)
        features = table.protocol().reader_features or []
        mapping = table.metadata().configuration.get("delta.columnMapping.mode", "none")
        actions = pa.table(table.get_add_actions(flatten=True))
        partitions = table.metadata().partition_columns
    except Exception as error:
        raise InputError(
            f"{shown} is a Delta table that deltalake cannot read ({first_line(error)}); name its live files"
        ) from error
    odd = [name for name in features if name.startswith(_UNREAD)] + ["columnMapping"] * (mapping != "none")
    if odd:
        raise InputError(
            f"{shown} is a Delta table with {odd[0]}, so its files alone do not determine its rows; write "
            f"its rows to a plain folder first"
        )
    values = [actions[f"partition.{name}"] for name in partitions]
    alive = {
        f"{root}/{unquote(path.as_py())}": dict(zip(partitions, of_file, strict=True))
        for path, *of_file in zip(actions["path"], *values, strict=True)
    }
    missing = alive.keys() - {place.path for place in inside}
    if missing and whole:
        raise InputError(
            f"{shown} is a Delta table whose log names files that are not in its folder, such as "
            f"{min(missing)}"
        )
    return {place: replace(place, keys=alive[place.path]) for place in inside if place.path in alive}


def _refuse_removed(place: Place, root: str) -> None:
    """Raise InputError where the last that a Delta table's log says of a file is that it is not whole."""
    last = _last_actions(place.filesystem, root).get(place.path)
    if last is None:
        return
    kind, action = last
    if kind == "remove":
        raise _refusal(place, root, "Delta", f"{place.shown} is no longer part of it")
    if action.get("deletionVector"):
        raise InputError(
            f"{place.shown} belongs to a Delta table that has deleted some of its rows (a deletion vector); "
            "write the table's rows to a plain folder first"
        )


def _last_actions(filesystem: pafs.FileSystem, root: str) -> Mapping[str, tuple[str, dict[str, Any]]]:
    """What the commits that are still there as JSON last say of each file."""
    last: dict[str, tuple[str, dict[str, Any]]] = {}
    listed = filesystem.get_file_info(pafs.FileSelector(f"{root}/_delta_log", allow_not_found=True))
    for entry in sorted(listed, key=lambda entry: str(entry.base_name)):
        if not entry.base_name.endswith(".json"):
            continue
        with filesystem.open_input_stream(entry.path) as file:
            text = file.read()
        for line in text.splitlines():
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                for kind, action in json.loads(line).items():
                    if kind in ("add", "remove"):
                        last[f"{root}/{unquote(action['path'])}"] = kind, action
    return last
