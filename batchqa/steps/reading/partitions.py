"""`key=value` folders as columns, behind those of the files (Hive's layout)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

from batchqa.errors import InputError
from batchqa.records import Rows
from batchqa.settings import ReadingSettings

from .columns import refuse_clash

if TYPE_CHECKING:  # input_files calls this module
    from .input_files import Place

_NULL = "__HIVE_DEFAULT_PARTITION__"
_KEYED = re.compile(r"([^=]+)=(.*)", re.DOTALL)


def with_keys(place: Place) -> Place:
    """The place with the keys of its folders, unless they are known already."""
    # absolute: it must not matter where a job runs; not resolved: links have such names too
    path = Path(place.shown).absolute() if place.local else PurePosixPath(place.shown)
    found = [match for part in path.parent.parts if (match := _KEYED.fullmatch(part))]
    if place.tape is not None or place.keys or not found:
        return place
    values = {unquote(match[1]): None if match[2] == _NULL else unquote(match[2]) for match in found}
    return replace(place, keys=values)


class Partitions:
    """The columns that come from the folders of a job's files: whole numbers where all are, else text."""

    def __init__(self, places: Sequence[Place], settings: ReadingSettings) -> None:
        names = list(dict.fromkeys(name for place in places for name in place.keys))
        kept, asks = settings.keep, settings.template_columns
        self._where = next((place.shown for place in places if place.keys), "")
        self._values = {name: _typed([place.keys.get(name) for place in places]) for name in names}
        self._columns = {
            name: values
            for name, values in self._values.items()
            if (name in kept if kept is not None else name not in settings.drop)
        }
        self._asked = [name for name in asks or () if name in names]
        keep = None if kept is None else tuple(name for name in kept if name not in names)
        drop = tuple(name for name in settings.drop if name not in names)
        asks = None if asks is None else tuple(name for name in asks if name not in names)
        self.settings_of_files = replace(settings, keep=keep, drop=drop, template_columns=asks)

    def __bool__(self) -> bool:
        return bool(self._columns or self._asked)

    def added_to(self, schema: pa.Schema, names: Collection[str]) -> pa.Schema:
        """The schema with these columns behind. Raises InputError where files or run have one of them.

        `names` are the files' columns, also where they pass through as lines.
        """
        refuse_clash(self._columns, self.settings_of_files, self._where)
        for name, values in self._columns.items():
            if name in names:
                raise InputError(
                    f"column {name!r} is in the files and in the names of their folders ({name}=...); "
                    f"rename one, or leave out --partition-columns"
                )
            schema = schema.append(pa.field(name, values.type))
        return schema

    def added_to_rows(self, rows: Iterator[Rows], file: int, schema: pa.Schema) -> Iterator[Rows]:
        """The rows of a file with its values, also for questions that hold them.

        `schema` is that of `added_to`.
        """
        for piece in rows:
            values = [pa.repeat(values[file], len(piece)) for values in self._columns.values()]
            batch = pa.RecordBatch.from_arrays([*piece.columns.columns, *values], schema=schema)
            held = piece.values
            for name in self._asked:
                texts = pa.repeat(self._values[name][file].cast(pa.string()), len(piece))
                held = pa.record_batch({name: texts}) if held is None else held.append_column(name, texts)
            yield replace(piece, columns=batch, values=held)


def _typed(values: Sequence[Any]) -> pa.Array:
    """Texts as whole numbers if every one is written as such a number is; "007" stays a text."""
    texts = [value for value in values if isinstance(value, str)]
    if texts and all(re.fullmatch(r"0|-?[1-9]\d{0,17}", text) for text in texts):
        return pa.array([int(value) if isinstance(value, str) else value for value in values])
    array = pa.array(values)
    return array.cast(pa.string()) if pa.types.is_null(array.type) else array
