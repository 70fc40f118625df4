"""One table from files whose schemas differ harmlessly: the widest type, null where a column is missing.

Harmless are integers (of one sign) and floats of other sizes, texts held otherwise (string, large_string,
dictionary), null beside any type, a missing column or member, another order, and what may be null.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.types as pt

from batchqa.errors import InputError

Named = tuple[str, pa.Schema]
"""A file's name in messages, and its schema."""


def united(schemas: Sequence[Named], compared: Sequence[str]) -> pa.Schema:
    """All columns of all schemas, in the order in which they first appear, with the first one's metadata.

    Only the columns `compared` need types that go together; others have that of the first file that has them.
    Raises InputError for two that do not.
    """
    fields: dict[str, tuple[str, pa.Field]] = {}
    for where, schema in schemas:
        for field in schema:
            first, known = fields.get(field.name, (where, field))
            if field.name not in compared:
                fields[field.name] = first, known
                continue
            kind = _united_type(known.type, field.type)
            if kind is None:
                raise InputError(
                    f"{first} and {where} have different schemas: column {field.name!r} is {known.type} in "
                    f"the first and {field.type} in the second; run them separately, or leave it out with "
                    f"--drop {field.name}"
                )
            nullable = known.nullable or field.nullable
            fields[field.name] = first, known.with_type(kind).with_nullable(nullable)
    everywhere = set(fields).intersection(*(schema.names for _, schema in schemas))
    return pa.schema(
        [field if name in everywhere else field.with_nullable(True) for name, (_, field) in fields.items()],
        metadata=schemas[0][1].metadata,
    )


def conformed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with the columns of `schema`, in its types; null where it has none.

    Raises ArrowInvalid where a value does not fit.
    """
    names = batch.schema.names
    columns = [
        batch.column(names.index(field.name)) if field.name in names else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    cast = [_cast(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(cast, schema=schema) if cast else batch.select([])


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type == kind:
        return column
    if pt.is_null(column.type):
        return pa.nulls(len(column), kind)
    # not safe: a text that is no UTF-8 is judged later, row by row
    return column.cast(kind, safe=not _is_text(kind))


def _united_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both, None where there is none without loss."""
    if one == other or pt.is_null(other):
        return one
    if pt.is_null(one):
        return other
    if _is_text(one) and _is_text(other):
        return pa.large_string() if any(map(_is_large, (one, other))) else pa.string()
    if _is_bytes(one) and _is_bytes(other):
        return pa.large_binary() if any(map(_is_large, (one, other))) else pa.binary()
    for family in (pt.is_signed_integer, pt.is_unsigned_integer, pt.is_floating):
        if family(one) and family(other):
            return max(one, other, key=lambda kind: kind.bit_width)
    return _united_nested(one, other)


def _united_nested(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if pt.is_struct(one) and pt.is_struct(other):
        return _united_struct(one, other)
    if _is_list(one) and _is_list(other):
        item = _united_field(one.value_field, other.value_field)
        large = pt.is_large_list(one) or pt.is_large_list(other)
        return item and (pa.large_list(item) if large else pa.list_(item))
    if pt.is_map(one) and pt.is_map(other):
        key, item = (
            _united_field(*pair)
            for pair in ((one.key_field, other.key_field), (one.item_field, other.item_field))
        )
        return key and item and pa.map_(key, item)
    return None


def _united_struct(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    mine, theirs = ({field.name: field for field in kind} for kind in (one, other))
    if len(mine) != one.num_fields or len(theirs) != other.num_fields:
        return None  # two members of one name
    members = []
    for name in dict.fromkeys([*mine, *theirs]):
        if name in mine and name in theirs:
            member = _united_field(mine[name], theirs[name])
            if member is None:
                return None
        else:
            member = (mine.get(name) or theirs[name]).with_nullable(True)
        members.append(member)
    return pa.struct(members)


def _united_field(one: pa.Field, other: pa.Field) -> pa.Field | None:
    kind = _united_type(one.type, other.type)
    return kind and one.with_type(kind).with_nullable(one.nullable or other.nullable)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pt.is_dictionary(kind) else kind
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind))


def _is_large(kind: pa.DataType) -> bool:
    kind = kind.value_type if pt.is_dictionary(kind) else kind
    return bool(pt.is_large_string(kind) or pt.is_large_binary(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))
