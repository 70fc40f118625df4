"""JSONL: one schema for all inputs, fixed by a sample or by `--schema`; every line has a row of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from batchqa.errors import SettingsError
from batchqa.records import Cursor, RowFault, Rows
from batchqa.settings import ReadingSettings

from .cells import Path
from .columns import (
    added_names,
    find_path,
    judged,
    missing_column,
    passed_through,
    refuse_clash,
)
from .cursors import RecordEnds
from .formats import FileFormat
from .input_files import Place
from .json_records import read_records, record_ends
from .json_sample import Sample, taken
from .json_types import (
    JSON,
    STRING,
    Fitted,
    Guess,
    JsonType,
    MisfitError,
    arrow_field,
    build,
    json_text,
    parse_schema,
)
from .json_values import INSIDE, MISSING, held_values, question_lists, value_at
from .lines import Parsed, is_utf8, kind_of
from .streams import BOM

RAW_SCHEMA = pa.schema([pa.field("_record", pa.large_string())])
KEPT_LINE = "_record"
"""The key under which JSONL output has the text of a line that is not a JSON object."""

EXTRA = "extra"


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns of the job: a type per known key, the paths of the texts, and what passes through."""

    types: dict[str, JsonType]
    context: Path
    question: Path | None
    values: dict[str, Path]
    lists: bool
    kept: list[str]
    known: frozenset[str]
    extra: str | None  # the column for unknown keys

    def json_names(self) -> list[str]:
        """The columns that pass through as JSON text."""
        return [name for name in self.kept if self.types[name] is JSON]

    def schema(self) -> pa.Schema:
        """The columns that pass through, as they will be written."""
        fields = [arrow_field(name, self.types[name]) for name in self.kept]
        if self.extra is not None:
            fields.append(arrow_field(self.extra, JSON))
        return pa.schema(fields)


class JsonlReader:
    """All inputs of a job that are JSONL or JSON arrays; they share one schema.

    With `keep_raw` the only column is `_record`, a JSON object: the original line, or one that holds its text
    where it cannot be one of the output (null where it is not UTF-8 or too long). With --keep
    or --drop it is the record written anew without the other keys.
    """

    def __init__(
        self,
        places: Sequence[Place],
        kinds: Sequence[FileFormat],
        settings: ReadingSettings,
        *,
        keep_raw: bool,
    ) -> None:
        self._places = places
        self._kinds = kinds
        self._settings = settings
        where = places[0].shown if len(places) == 1 else f"{places[0].shown} and the following files"
        files = (self._records(Cursor(file)) for file in range(len(places)))
        sample = taken(files) if settings.schema is None else Sample()
        self.rows: list[int | None] = [*sample.records] if sample.complete else [None] * len(places)
        self._columns = self._plan(sample, where)
        self._raw = keep_raw
        self.schema = RAW_SCHEMA if keep_raw else self._columns.schema()
        self.names = self._columns.schema().names
        self.lists = self._columns.lists
        as_text = () if keep_raw or settings.schema else self._columns.json_names()
        self.notes = tuple(
            f"{where}: column {name!r} has values of several types; it is passed through as JSON text"
            for name in as_text
            if name in sample.guesses and sample.guesses[name].saw_values
        )

    def read(self, start: Cursor, first_record: int) -> Iterator[Rows]:
        """The rows of one file from `start` to its end."""
        row = start.row
        for parsed in self._records(start):
            yield self._rows(parsed, first_record, Cursor(start.file, row))
            row += len(parsed.records)
            first_record += len(parsed.records)

    def record_ends(self, file: int) -> Iterator[RecordEnds]:
        """Where the records of a file end, found without making them."""
        return record_ends(self._places[file], self._kinds[file], self._settings)

    def _records(self, start: Cursor) -> Iterator[Parsed]:
        place, kind = self._places[start.file], self._kinds[start.file]
        return read_records(place, kind, self._settings, start)

    # planning

    def _plan(self, sample: Sample, where: str) -> _Columns:
        settings = self._settings
        if settings.schema is not None:
            types, paths = self._given(parse_schema(settings.schema))
            lists = self._question_type(types, paths) == "list"
        else:
            types, paths, lists = self._guessed(sample, where)
        names = list(types)
        nothing_known = settings.schema is None and not sample.objects
        kept = names if nothing_known else passed_through(names, settings, where)
        all_known = sample.complete and not sample.overflowed
        extra = None if all_known or settings.keep is not None else settings.output_prefix + EXTRA
        refuse_clash(kept, settings, where, extra=extra is not None, lists=lists)
        asks = settings.template_columns
        return _Columns(
            types,
            paths[settings.context],
            paths[settings.question] if asks is None else None,
            {name: paths[name] for name in asks or ()},
            lists,
            kept,
            frozenset(names) | {*settings.drop},
            extra,
        )

    def _guessed(self, sample: Sample, where: str) -> tuple[dict[str, JsonType], dict[str, Path], bool]:
        """The types that the sample shows, where the texts are, and whether the questions are lists.

        Raises InputError where no record of it has a text's key.
        """
        guesses = sample.guesses

        def path_of(option: str, name: str) -> Path:
            path = find_path(name, guesses, lambda guess: guess.fields)
            if path is None and sample.objects:
                raise missing_column(option, name, guesses, where)
            return path or (name,)

        if self._settings.id is not None:
            path_of("id", self._settings.id)
        paths = {name: path_of(option, name) for option, name in self._settings.text_columns}
        if not sample.objects:
            return {path[0]: STRING for path in paths.values()}, paths, False
        own = self._settings.template_columns is None
        lists = own and _guess_at(guesses, paths[self._settings.question]).saw_only_lists
        texts = [paths[self._settings.context]]
        texts += [paths[self._settings.question]] if own and not lists else []
        types = {
            name: guess.json_type([path[1:] for path in texts if path[0] == name])
            for name, guess in guesses.items()
        }
        return types, paths, lists

    def _given(self, types: dict[str, JsonType]) -> tuple[dict[str, JsonType], dict[str, Path]]:
        """The types of --schema, and where the texts are; one that it does not name is added in front."""
        paths: dict[str, Path] = {}
        for option, name in self._settings.text_columns:
            path = find_path(name, types, lambda json_type: json_type.fields)
            if path is None and "." in name:
                raise SettingsError(f"--schema does not name {name!r} (--{option}); add it as a string")
            allowed = {"context": ("string",), "question": ("string", "list")}.get(option)
            if path is not None and allowed and _type_at(types, path).kind not in allowed:
                raise SettingsError(f"--schema: {name!r} (--{option}) must be a string")
            paths[name] = path or (name,)
        added = {path[0]: STRING for path in paths.values() if path[0] not in types}
        return {**added, **types}, paths

    def _question_type(self, types: dict[str, JsonType], paths: dict[str, Path]) -> str:
        own = self._settings.template_columns is None
        return _type_at(types, paths[self._settings.question]).kind if own else ""

    # rows

    def _rows(self, parsed: Parsed, first_record: int, begin: Cursor) -> Rows:
        plan, faults = self._columns, parsed.faults
        roots = [plan.context[0], *([plan.question[0]] if plan.question and not plan.lists else [])]
        wanted = dict.fromkeys(roots if self._raw else [*plan.kept, *roots])
        fitted = {
            name: build(
                [record.get(name) for record in parsed.records],
                plan.types[name],
                keep_unknown=plan.extra is not None,
            )
            for name in wanted
        }
        context = self._texts("context", plan.context, parsed, fitted)
        question = None
        if plan.question is not None and plan.lists:
            question = question_lists(plan.question, parsed)
        elif plan.question is not None:
            question = self._texts("question", plan.question, parsed, fitted)
        values = pa.record_batch({name: held_values(path, parsed) for name, path in plan.values.items()})
        if self._raw:
            clashing = self._clashing(parsed)
            columns = pa.RecordBatch.from_arrays([self._raw_lines(parsed, clashing)], schema=self.schema)
        else:
            columns = self._typed(parsed, fitted)

        def cursor_after(count: int) -> Cursor:
            return Cursor(begin.file, begin.row + count, *parsed.after(count))

        return judged(
            columns,
            context,
            question,
            faults,
            parsed.locate,
            self._settings,
            first_record,
            cursor_after,
            values if plan.values else None,
        )

    def _texts(self, option: str, path: Path, parsed: Parsed, fitted: dict[str, Fitted]) -> pa.Array:
        """The texts at a path, null with a fault where there is no string; null itself is judged later."""
        column = fitted[path[0]].array
        if len(path) == 1 and column.null_count == 0:
            return column
        values = [value_at(record, path) for record in parsed.records]
        for row, value in enumerate(values):
            if type(value) is str or value is None:
                continue
            values[row] = None
            if row in parsed.faults:
                continue
            if value is MISSING:
                reason = f"the record has no key {'.'.join(path)!r}"
                fault = RowFault(f"missing_{option}", f"{parsed.locate(row)}: {reason}")
            else:
                what = (
                    "inside what is not an object" if value is INSIDE else f"{kind_of(value)}, not a string"
                )
                reason = f"{'.'.join(path)!r} is {what}"
                fault = RowFault(f"type_{option}", f"{parsed.locate(row)}: {reason}")
            parsed.faults[row] = fault
        return pa.array(values, pa.large_string() if pa.types.is_large_string(column.type) else pa.string())

    def _typed(self, parsed: Parsed, fitted: dict[str, Fitted]) -> pa.RecordBatch:
        """The columns that pass through; a value that does not fit is null, and its row faulty."""
        unknown = self._unknown_keys(parsed)
        advice = "" if self._settings.schema is not None else " (give its type with --schema)"
        for name in self._columns.kept:
            for row, reason in fitted[name].misfits.items():
                detail = f"{parsed.locate(row)}: {name!r} {reason}{advice}"
                parsed.faults.setdefault(row, RowFault("type_field", detail))
            for row, keys in fitted[name].unknown.items():
                unknown.setdefault(row, {})[name] = keys
        arrays = [fitted[name].array for name in self._columns.kept]
        if self._columns.extra is not None:
            arrays.append(self._extra_column(parsed, unknown))
        if not arrays:
            return pa.RecordBatch.from_arrays([pa.nulls(len(parsed.records))], names=["none"]).select([])
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _unknown_keys(self, parsed: Parsed) -> dict[int, dict[str, Any]]:
        known = self._columns.known
        return {
            row: {name: value for name, value in record.items() if name not in known}
            for row, record in enumerate(parsed.records)
            if not known.issuperset(record)
        }

    def _extra_column(self, parsed: Parsed, unknown: dict[int, dict[str, Any]]) -> pa.Array:
        texts: list[str | None] = [None] * len(parsed.records)
        for row, keys in unknown.items():
            try:
                texts[row] = json_text(keys)
            except MisfitError as error:
                detail = f"{parsed.locate(row)}: a value of an unknown key {error}"
                parsed.faults.setdefault(row, RowFault("type_field", detail))
        return pa.array(texts, pa.string())

    def _clashing(self, parsed: Parsed) -> list[int]:
        """Rows behind the sample with a key that the run adds, at fault because one would hide the other."""
        added = added_names(self._settings, lists=self._columns.lists) - {*self._settings.drop}
        if self._settings.keep is not None or all(map(added.isdisjoint, parsed.records)):
            return []
        rows = [row for row, record in enumerate(parsed.records) if not added.isdisjoint(record)]
        for row in rows:
            name = min(added.intersection(parsed.records[row]))
            detail = f"{parsed.locate(row)}: the run would add {name!r}; choose another --output-prefix"
            parsed.faults.setdefault(row, RowFault("type_field", detail))
        return rows

    def _raw_lines(self, parsed: Parsed, clashing: Collection[int]) -> pa.Array:
        rewritten = self._settings.keep is not None or self._settings.drop
        kept = (
            [self._rewritten(record, row in parsed.faults) for row, record in enumerate(parsed.records)]
            if rewritten
            else [_original(parsed, row, row in clashing) for row in range(len(parsed.records))]
        )
        return pa.array(kept, pa.large_binary()).cast(pa.large_string())

    def _rewritten(self, record: dict[str, Any], faulty: bool) -> bytes | None:
        if faulty and not record:
            return None  # a line that could not be parsed may hold what --keep and --drop leave out
        keep, drop = self._settings.keep, self._settings.drop
        names = [name for name in record if (name not in drop if keep is None else name in keep)]
        return json_text({name: record[name] for name in names}).encode()


_NO_OBJECT = ("bad_json", "not_an_object", "bad_utf8")
"""The faults of lines that are not a JSON object; in the last one half of a surrogate pair stands alone."""


def _guess_at(guesses: dict[str, Guess], path: Path) -> Guess:
    guess = guesses[path[0]]
    for name in path[1:]:
        guess = guess.fields[name]
    return guess


def _type_at(types: dict[str, JsonType], path: Path) -> JsonType:
    json_type = types[path[0]]
    for name in path[1:]:
        json_type = json_type.fields[name]
    return json_type


def _original(parsed: Parsed, row: int, clashing: bool) -> bytes | None:
    """A record's line without its line end, None where it is not UTF-8 or was not held."""
    line = parsed.block.lines[parsed.at[row]]
    fault = parsed.faults.get(row)
    if line is None or (fault and (fault.code == "line_too_long" or not is_utf8(line))):
        return None
    line = line.removeprefix(BOM).removesuffix(b"\r")
    if clashing or (fault and fault.code in _NO_OBJECT):
        return orjson.dumps({KEPT_LINE: line.decode().strip()})  # as it is, it would break its line of output
    return line
