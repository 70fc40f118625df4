"""The cells of Arrow columns: which types have texts, which cells are not UTF-8, texts and questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.answer_columns import QUESTIONS_TYPE
from batchqa.errors import StorageError
from batchqa.records import RowFault

Path = tuple[str, ...]
Locate = Callable[[int], str]
"""Names the place of a row (by its position in the batch) for messages: file, line or row."""


def struct_fields(kind: pa.DataType) -> Mapping[str, pa.DataType]:
    """The types of a struct's fields by name; nothing for another type."""
    return {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}


def type_at(fields: Mapping[str, pa.DataType], path: Path) -> pa.DataType:
    """The type at a path."""
    kind = fields[path[0]]
    for step in path[1:]:
        kind = struct_fields(kind)[step]
    return kind


def is_list(kind: pa.DataType) -> bool:
    """Whether it is a list of any kind."""
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def may_be_questions(kind: pa.DataType) -> bool:
    """Whether it is a list of texts, or of structs with a `question` and perhaps a `name`."""
    if not is_list(kind):
        return False
    fields = struct_fields(kind.value_type)
    texts = [fields[name] for name in ("question", "name") if name in fields] or [kind.value_type]
    return all(map(may_be_text, texts)) and (not fields or "question" in fields)


def has_a_text(kind: pa.DataType) -> bool:
    """Whether each value has one text that a question can hold: numbers, dates, times, true and false."""
    if pa.types.is_dictionary(kind):
        return has_a_text(kind.value_type)
    tests = (pa.types.is_primitive, pa.types.is_decimal)
    return any(test(kind) for test in tests) and not (
        pa.types.is_duration(kind) or pa.types.is_interval(kind)
    )


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def plain_text(kind: pa.DataType) -> bool:
    """Whether it is text, or binary that may be."""
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
        )
    )


def may_be_text(kind: pa.DataType) -> bool:
    """Whether it is text in any form, or null."""
    kind = _storage(kind)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    views = (pa.types.is_string_view(kind), pa.types.is_binary_view(kind))
    return plain_text(kind) or any(views) or pa.types.is_null(kind)


def _is_valid(column: pa.Array) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _invalid_cells(column: pa.Array, begin: int = 0) -> list[int]:
    """Positions of the cells that do not validate, found by halving."""
    # `take` copies only the cells asked for: a slice of a list or struct validates all that is behind it
    if _is_valid(column.take(pa.array(np.arange(len(column))))):
        return []
    if len(column) == 1:
        return [begin]
    half = len(column) // 2
    return _invalid_cells(column.slice(0, half), begin) + _invalid_cells(column.slice(half), begin + half)


def _without(column: pa.Array, rows: list[int]) -> pa.Array:
    """The column with the cells of `rows` null."""
    keep = np.arange(len(column))
    mask = np.isin(keep, rows)
    return column.take(pa.array(keep, mask=mask))


def clean_cells(column: pa.Array, field: pa.Field, locate: Locate, faults: dict[int, RowFault]) -> pa.Array:
    """The column with cells that are not valid UTF-8 replaced by null ("" where the column is required).

    Such cells cannot be written: other readers would refuse the file, or read something else.
    """
    if _is_valid(column):
        return column
    kind = column.type
    plain = column
    if pa.types.is_dictionary(kind):
        plain = column.dictionary_decode()
    elif pa.types.is_string_view(kind):  # pyarrow 26 cannot take from views
        plain = column.cast(pa.large_string(), safe=False)
    try:
        bad = _invalid_cells(plain)
        cleaned = _without(plain, bad)
        instead = "null"
        if not field.nullable:
            cleaned, instead = pc.fill_null(cleaned, ""), "an empty string"
        cleaned = cleaned.cast(kind) if cleaned.type != kind else cleaned
    except (pa.ArrowException, NotImplementedError) as error:
        raise StorageError(
            f"{locate(0)} and following rows: column {field.name!r} ({kind}) holds invalid UTF-8 and cannot "
            f"be repaired; leave it out with --drop {field.name}"
        ) from error
    for row in bad:
        detail = f"{locate(row)}: column {field.name!r} is not valid UTF-8 and is written as {instead}"
        faults.setdefault(row, RowFault("bad_utf8", detail))
    return cleaned


def at_path(column: pa.Array, path: Path) -> pa.Array:
    """What is at a path, inside the column that it begins with."""
    return pc.struct_field(column, list(path[1:])) if len(path) > 1 else column


def question_lists(column: pa.Array, path: Path, locate: Locate, faults: dict[int, RowFault]) -> pa.Array:
    """Lists of questions, however they are given, as QUESTIONS_TYPE."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate(([0], np.cumsum(lengths))), pa.int32())
    items = pc.list_flatten(column)
    given = struct_fields(items.type)
    question = pc.struct_field(items, "question") if given else items
    name = pc.struct_field(items, "name") if "name" in given else pa.nulls(len(items))
    fields = [QUESTIONS_TYPE.value_type.field(at) for at in range(QUESTIONS_TYPE.value_type.num_fields)]
    row = np.repeat(np.arange(len(column)), lengths)

    def locate_item(item: int) -> str:
        return locate(int(row[item]))

    of_items: dict[int, RowFault] = {}
    whole = (".".join(path),)
    texts = [texts_of(each, whole, locate_item, of_items).cast(pa.string()) for each in (name, question)]
    for item, fault in of_items.items():
        faults.setdefault(int(row[item]), fault)
    questions = pa.StructArray.from_arrays(texts, fields=fields)
    return pa.ListArray.from_arrays(offsets, questions, QUESTIONS_TYPE, mask=column.is_null())


def as_texts(column: pa.Array, path: Path, locate: Locate, faults: dict[int, RowFault]) -> pa.Array:
    """The values of a column that a question holds, as texts; what is blank, or not a number, is null."""
    values = at_path(column, path)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    if may_be_text(values.type):
        values = texts_of(column, path, locate, faults)
    elif pa.types.is_timestamp(values.type) and values.type.tz is not None:
        try:
            values = values.cast(pa.string())
        except pa.ArrowInvalid:  # this machine does not know the zone: the same instant in UTC
            values = values.cast(pa.timestamp(values.type.unit, "UTC"))
    texts = values.cast(pa.string())
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(texts), ""), None, texts)


def texts_of(column: pa.Array, path: Path, locate: Locate, faults: dict[int, RowFault]) -> pa.Array:
    """The texts at `path` as string or large_string, null where a binary cell is not UTF-8."""
    texts = at_path(column, path)
    if isinstance(texts, pa.ExtensionArray):
        texts = texts.storage
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    if pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type):
        return texts
    target = pa.large_string() if pa.types.is_large_binary(texts.type) else pa.string()
    try:
        return texts.cast(target)
    except pa.ArrowInvalid:
        return _decoded(texts.cast(pa.large_binary()), path, locate, faults).cast(target)


def _decoded(cells: pa.Array, path: Path, locate: Locate, faults: dict[int, RowFault]) -> pa.Array:
    """Binary cells as text, cell by cell, because the cast refuses the whole column for one bad cell."""
    bad = [row for row, cell in enumerate(cells) if cell.is_valid and not _is_utf8(cell.as_buffer())]
    for row in bad:
        detail = f"{locate(row)}: column {'.'.join(path)!r} is not valid UTF-8"
        faults.setdefault(row, RowFault("bad_utf8", detail))
    return _without(cells, bad).cast(pa.large_string())


def _is_utf8(cell: pa.Buffer) -> bool:
    try:
        str(cell, "utf-8")
    except UnicodeDecodeError:
        return False
    return True
