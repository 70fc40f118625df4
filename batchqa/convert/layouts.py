"""Wide (a column for each question) -> long (a row for each question), and back; nothing is computed anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.answer_columns import ANSWER_FIELDS, ASKED_FIELDS, CANDIDATE_TYPE
from batchqa.errors import InputError
from batchqa.gold import decoded_json, plain_array
from batchqa.review import LISTS, OF_A_ROW, Output
from batchqa.taking import rows_of, taken


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
            columns = {prefix + "name": pa.array([name] * len(table), pa.string())}
            fields = [name for name in OF_A_ROW if struct.type.get_field_index(name) >= 0]
            if "question" not in fields:
                columns[prefix + "question"] = output.question_texts(name, table)
            columns |= {
                prefix + field: _as_written(pc.struct_field(struct, field), field) for field in fields
            }
            _refuse_clash(others, columns, output)
            pieces.append(pa.table({each: table.column(each) for each in others} | columns))
        order = np.arange(len(table) * len(names)).reshape(len(names), -1).T.reshape(-1)
        yield rows_of(pa.concat_tables(pieces, promote_options="permissive"), pa.array(order))


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
    names = _first_record(output)
    _refuse_clash(others, [prefix + name for name in names], output)
    left: pa.Table | None = None
    done = 0
    for batch in output.source.batches(output.source.names):
        table = batch if left is None else pa.concat_tables([left, batch], promote_options="permissive")
        whole = len(table) // len(names) * len(names) if names else 0
        listed = plain_array(table.column(prefix + "name")).to_pylist()
        _check(listed[:whole], names, done, output)
        left, table = table.slice(whole), table.slice(0, whole)
        _check_records(table, others, len(names), done, output)
        done += whole
        yield _wide(table, names, others, answers, prefix)
    if left is not None and len(left):
        raise InputError(f"{output.source.path}: the last record has {len(left)} of {len(names)} questions")


def _first_record(output: Output) -> list[str]:
    """The names of the questions of the first record: those before its first one comes again."""
    column = output.prefix + "name"
    names: list[str] = []
    for batch in output.source.batches([column]):
        for name in plain_array(batch.column(column)).to_pylist():
            if names and name == names[0]:
                return names
            names.append(name)
            if name is None:
                raise InputError(
                    f"{output.source.path}, row {len(names)}: the question has no name, and wide has a "
                    "column for each; lists of questions can be of structs with name and question"
                )
    return names


def _refuse_clash(others: Sequence[str], made: Iterable[str], output: Output) -> None:
    """Raise InputError where a column of the user's is called like one that the conversion makes."""
    for name in made:
        if name in others:
            raise InputError(
                f"{output.source.path} has a column {name!r} of its own, which the other layout would "
                "replace; rename it, or annotate with another --output-prefix"
            )


def _check_records(table: pa.Table, others: Sequence[str], count: int, done: int, output: Output) -> None:
    """Raise InputError where the rows of a record differ in more than question and answer.

    Lists of questions of several lengths may repeat like those of one length. Columns of lists and structs
    are not compared.
    """
    each = np.arange(0, len(table), max(count, 1))
    for name in others:
        column = plain_array(table.column(name))
        if pa.types.is_nested(column.type):
            continue
        if pa.types.is_floating(column.type):  # NaN is not equal to itself
            column = column.cast(pa.string())
        first = taken(column, pa.array(each))
        for at in range(1, count):
            other = taken(column, pa.array(each + at))
            if not other.equals(first):
                unlike = next(row for row in range(len(each)) if not other[row].equals(first[row]))
                row = done + unlike * count + 1
                raise InputError(
                    f"{output.source.path}, rows {row} and {row + at}: column {name!r} differs, so they are "
                    "not of one record; wide needs the same questions of each"
                )


def _wide(table: pa.Table, names: list[str], others: list[str], answers: list[str], prefix: str) -> pa.Table:
    count = max(len(names), 1)
    first = rows_of(table, pa.array(np.arange(0, len(table), count)))
    columns = {name: first.column(name) for name in others}
    for at, name in enumerate(names):
        own = table.select(answers).take(np.arange(at, len(table), count))
        arrays = [_as_written(own.column(each), each.removeprefix(prefix)) for each in answers]
        columns[prefix + name] = pa.StructArray.from_arrays(
            arrays, names=[each.removeprefix(prefix) for each in answers]
        )
    return pa.table(columns)


def _check(listed: list[str], names: list[str], done: int, output: Output) -> None:
    for at, name in enumerate(listed):
        if name != names[at % len(names)]:
            raise InputError(
                f"{output.source.path}, row {done + at + 1}: question {name!r} is out of order; "
                f"the wide layout needs {', '.join(names)} for each record, in this order"
            )


def _as_written(column: pa.Array | pa.ChunkedArray, name: str) -> pa.Array:
    """An answer's column in the type that a run gives it: files of text do not keep types."""
    array = decoded_json(plain_array(column))
    kind = _TYPES[name]
    return pa.nulls(len(array), kind) if array.null_count == len(array) else array.cast(kind)


_TYPES = {field.name: field.type for field in ANSWER_FIELDS} | dict.fromkeys(LISTS, CANDIDATE_TYPE)
