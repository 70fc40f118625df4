"""Wide (a column for each question) -> long (a row for each question), and back; nothing is computed anew."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.errors import InputError
from batchqa.gold import decoded_json, plain_array
from batchqa.records import ANSWER_FIELDS, ASKED_FIELDS, CANDIDATE_TYPE
from batchqa.review import LISTS, OF_A_ROW, Output


def to_long(output: Output) -> Iterator[pa.Table]:
    """A row for each record and question: the record's columns, `qa_name`, `qa_question`, the answer's."""
    prefix, names = output.prefix, output.asked
    if output.is_blank:
        return
    if not names:
        raise InputError(f"{output.source.path} is long already: it has a row for each question")
    others = [name for name in output.source.names if name not in {prefix + each for each in names}]
    for table in output.source.batches(output.source.names):
        pieces = []
        for name in names:
            struct = decoded_json(plain_array(table.column(prefix + name)))
            if not len(struct):  # a file of text has no types then
                struct = pa.array([], pa.struct(ANSWER_FIELDS))
            columns = {each: table.column(each) for each in others}
            columns[prefix + "name"] = pa.array([name] * len(table), pa.string())
            fields = [name for name in OF_A_ROW if struct.type.get_field_index(name) >= 0]
            if "question" not in fields:
                columns[prefix + "question"] = output.question_texts(name, table)
            columns |= {
                prefix + field: _as_written(pc.struct_field(struct, field), field) for field in fields
            }
            pieces.append(pa.table(columns))
        order = np.arange(len(table) * len(names)).reshape(len(names), -1).T.reshape(-1)
        yield pa.concat_tables(pieces, promote_options="permissive").take(order)


def to_wide(output: Output) -> Iterator[pa.Table]:
    """A row for each record, with a struct `qa_NAME` for each question.

    Raises InputError where the rows are not the same questions of each record, in one order.
    """
    prefix = output.prefix
    if output.is_blank:
        return
    if output.layout != "long":
        raise InputError(
            f"{output.source.path} is not long: it has no column {prefix + 'name'!r} of the questions' names"
        )
    answers = [name for name in output.source.names if name in {prefix + each for each in OF_A_ROW}]
    asked = {prefix + field.name for field in ASKED_FIELDS}
    others = [name for name in output.source.names if name not in {*answers, *asked}]
    names: list[str] = []
    left: pa.Table | None = None
    done = 0
    for batch in output.source.batches(output.source.names):
        table = batch if left is None else pa.concat_tables([left, batch], promote_options="permissive")
        listed = plain_array(table.column(prefix + "name")).to_pylist()
        if not names and listed:
            names = listed[
                : next((at for at, name in enumerate(listed) if at and name == listed[0]), len(listed))
            ]
        whole = len(table) // len(names) * len(names) if names else 0
        _check(listed[:whole], names, done, output)
        left, table = table.slice(whole), table.slice(0, whole)
        done += whole
        yield _wide(table, names, others, answers, prefix)
    if left is not None and len(left):
        raise InputError(f"{output.source.path}: the last record has {len(left)} of {len(names)} questions")


def _wide(table: pa.Table, names: list[str], others: list[str], answers: list[str], prefix: str) -> pa.Table:
    count = max(len(names), 1)
    first = table.take(np.arange(0, len(table), count))
    columns = {name: first.column(name) for name in others}
    for at, name in enumerate(names):
        own = table.take(np.arange(at, len(table), count))
        arrays = [_as_written(own.column(each), each.removeprefix(prefix)) for each in answers]
        columns[prefix + name] = pa.StructArray.from_arrays(
            arrays, names=[each.removeprefix(prefix) for each in answers]
        )
    return pa.table(columns)


def _check(listed: list[str], names: list[str], done: int, output: Output) -> None:
    for at, name in enumerate(listed):
        if name != names[at % len(names)]:
            raise InputError(
                f"{output.source.path}, row {done + at + 1}: the question {name!r} is not the next one; "
                f"wide needs {', '.join(names)} for each record, in this order"
            )


def _as_written(column: pa.Array | pa.ChunkedArray, name: str) -> pa.Array:
    """An answer's column in the type that a run gives it: files of text do not keep types."""
    array = decoded_json(plain_array(column))
    kind = _TYPES[name]
    return pa.nulls(len(array), kind) if array.null_count == len(array) else array.cast(kind)


_TYPES = {field.name: field.type for field in ANSWER_FIELDS} | dict.fromkeys(LISTS, CANDIDATE_TYPE)
