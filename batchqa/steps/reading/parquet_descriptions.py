"""How the output is to describe the columns of Parquet inputs, so that they are what they were."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from batchqa import footer as footers
from batchqa.errors import InputError
from batchqa.footer import Column

Described = tuple[str, Mapping[str, Column]]
"""A file's name in messages, and how it describes its columns."""

_WITHOUT_JSON = ("INTERVAL", "VARIANT", "logical type", "converted type")
"""Types that JSON has no form for, and Arrow takes for bytes."""

_KNOWN_TO_ARROW = (
    *("INT", "UINT", "FLOAT", "DOUBLE", "BOOLEAN", "STRING", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY", "DATE"),
    *("DECIMAL", "TIMESTAMP", "UNKNOWN", "UUID", "JSON"),
)
"""INTERVAL begins like an integer, and is not among them."""


def descriptions(schema: pa.Schema, files: Sequence[Described]) -> dict[str, Column]:
    """Each column of `schema` as the output describes it: as the inputs do, word for word where it can be.

    Raises InputError for a column that would be something else in the output.
    """
    given = {
        field.name: [(shown, columns[field.name]) for shown, columns in files if field.name in columns]
        for field in schema
    }
    ours = _written(schema, {name: column for name, all_ in given.items() for _, column in all_})
    return {name: _description(name, ours[name], given[name]) for name in schema.names}


def refuse_without_json(files: Sequence[Described], names: Sequence[str]) -> None:
    """Raise InputError for a column that JSON lines would turn into something else."""
    for shown, columns in files:
        for name in names:
            odd = [kind for kind in footers.types_of(columns.get(name, ())) if kind.startswith(_WITHOUT_JSON)]
            if odd:
                raise InputError(
                    f"{shown}: column {name!r} is {odd[0]}, which cannot be written as JSON; write Parquet, "
                    f"or "
                    f"leave it out with --drop {name}"
                )


def _written(schema: pa.Schema, given: Mapping[str, Column]) -> dict[str, Column]:
    """The columns as Arrow describes them."""
    sink = io.BytesIO()
    pq.ParquetWriter(sink, schema, **footers.writer_options(given)).close()
    return dict(footers.columns_of(footers.decode_closing(sink.getvalue(), footers.SCHEMA)))


def _description(name: str, ours: Column, given: Sequence[tuple[str, Column]]) -> Column:
    fitting = (footers.described_as(column, ours) for _, column in given)
    chosen = next((column for column in fitting if column is not None and _faithful(column, ours)), ours)
    first = given[0] if given else ("", ours)
    for shown, column in given:
        if _same(column, chosen):
            continue
        if _same(column, first[1]):
            raise InputError(
                f"{shown}: column {name!r} ({footers.described(column)}) cannot be written as it is; "
                f"leave it out with --drop {name}"
            )
        raise InputError(
            f"{first[0]} and {shown} have different schemas: column {name!r} is "
            f"{footers.described(first[1])} in the first and {footers.described(column)} in the second; run "
            f"them separately, or leave it out with --drop {name}"
        )
    return chosen


def _known(kind: str) -> bool:
    return kind.startswith(_KNOWN_TO_ARROW) and kind != "INTERVAL"


def _faithful(column: Column, ours: Column) -> bool:
    """Whether a description that fits the pages says what Arrow would of the types that it knows.

    One byte and two are the same in the pages: the description of the narrower column fits, and is wrong.
    """
    pairs = zip(footers.types_of(column), footers.types_of(ours), strict=False)
    return all(given == written or not _known(given) for given, written in pairs)


def _same(column: Column, chosen: Column) -> bool:
    """Whether a column means the same if it is described as `chosen`; Arrow has compared what it knows."""
    mine, theirs = footers.types_of(column), footers.types_of(chosen)
    if len(mine) != len(theirs):  # members were added
        return all(map(_known, mine))
    return all(
        one == other or (_known(one) and _known(other)) for one, other in zip(mine, theirs, strict=True)
    )
