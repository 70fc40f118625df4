"""What other writers say of a file's columns in its metadata: brought up to date, or left out.

A reader that finds such a description believes it rather than the file: Spark shows only the columns that it
lists, pandas fails, `datasets` forgets them. Descriptions that can be extended are (Spark, pandas, datasets,
GeoParquet); those of which only the writer knows the rules are left out (Avro, Iceberg, Protocol Buffers,
Thrift), and readers then go by the columns themselves. Everything else is the user's and stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

SPARK = b"org.apache.spark.sql.parquet.row.metadata"

_LEFT_OUT = (
    *(b"ARROW:schema", b"avro.schema", b"parquet.avro.schema", b"iceberg.schema", b"writer.model.name"),
    *(b"parquet.proto.class", b"parquet.proto.descriptor", b"parquet.proto.enum"),
    *(b"parquet.thrift.descriptor", b"thrift.class", b"thrift.descriptor", b"parquet.hive.schema"),
    b"org.apache.spark.sql.parquet.row.attributes",
)
_OURS = b"batchqa."

_SPARK_NUMBERS = {
    "int8": "byte",
    "int16": "short",
    "int32": "integer",
    "int64": "long",
    "float": "float",
    "double": "double",
}


def updated(metadata: Mapping[bytes, bytes] | None, schema: pa.Schema) -> dict[bytes, bytes]:
    """The metadata of an input as it holds for an output with the columns of `schema`.

    A description that is not as expected is left out, and so is what an earlier run of ours said of its file.
    """
    kept = {}
    for key, value in (metadata or {}).items():
        if key in _LEFT_OUT or key.startswith(_OURS):
            continue
        update = _UPDATES.get(key)
        if update is None:
            kept[key] = value
            continue
        try:
            text = update(json.loads(value), schema)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        if text is not None:
            kept[key] = json.dumps(text, ensure_ascii=False).encode()
    return kept


def _spark(described: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    known = {field["name"]: field for field in described["fields"]}
    return {**described, "fields": [_spark_field(field, known.get(field.name)) for field in schema]}


def _spark_field(field: pa.Field, known: dict[str, Any] | None) -> dict[str, Any]:
    """As it was described, unless several files with numbers of other sizes made it wider."""
    if known is None:
        return {"name": field.name, "type": _spark_type(field.type), "nullable": True, "metadata": {}}
    if known["type"] in _SPARK_NUMBERS.values() and pt.is_primitive(field.type):
        known = {**known, "type": _SPARK_NUMBERS.get(str(field.type), known["type"])}
    return known


def _spark_type(kind: pa.DataType) -> Any:
    """A type's name in Spark's JSON. Raises KeyError for one that a run does not add."""
    if pt.is_list(kind):
        return {"type": "array", "elementType": _spark_type(kind.value_type), "containsNull": True}
    if pt.is_struct(kind):
        return {"type": "struct", "fields": [_spark_field(field, None) for field in kind]}
    others = {"bool": "boolean", "string": "string", "large_string": "string"}
    return {**_SPARK_NUMBERS, **others}[str(kind)]


def _pandas(described: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """Column names of another kind than text (integers, levels) become text, since ours are text.

    Our columns are not listed: pandas finds them, and fastparquet would believe a listed type not to be null.
    """
    columns = [
        column
        for column in described["columns"]
        if (column["field_name"] if column.get("field_name") is not None else column["name"]) in schema.names
    ]
    index = [
        name for name in described.get("index_columns", []) if isinstance(name, dict) or name in schema.names
    ]
    names = described.get("column_indexes") or []
    if len(names) > 1 or any(name.get("pandas_type") not in ("unicode", "string", "empty") for name in names):
        text = {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object"}
        names = [{**text, "metadata": {"encoding": "UTF-8"}}]
    return {**described, "columns": columns, "index_columns": index, "column_indexes": names}


def _datasets(described: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    features = described["info"]["features"]
    features = {field.name: _feature_of(field, features.get(field.name)) for field in schema}
    return {**described, "info": {**described["info"], "features": features}}


def _feature_of(field: pa.Field, known: Any) -> Any:
    """As it was described, unless several files with numbers of other sizes made it wider."""
    number = pt.is_integer(field.type) or pt.is_floating(field.type)
    is_value = isinstance(known, dict) and known.get("_type") == "Value"
    return _feature(field.type) if known is None or (number and is_value) else known


def _feature(kind: pa.DataType) -> Any:
    """A type as a feature of `datasets`, in the form that all its versions read."""
    if pt.is_list(kind):
        return [_feature(kind.value_type)]
    if pt.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    names = {"float": "float32", "double": "float64"}
    return {"dtype": names.get(str(kind), str(kind)), "_type": "Value"}


def _geo(described: dict[str, Any], schema: pa.Schema) -> dict[str, Any] | None:
    """Without the columns that are gone, and without what is known of the first file's rows alone.

    None, so that there is no description, where the main column is gone.
    """
    if described["primary_column"] not in schema.names:
        return None
    columns = {
        name: {key: value for key, value in column.items() if key != "bbox"} | {"geometry_types": []}
        for name, column in described["columns"].items()
        if name in schema.names
    }
    return {**described, "columns": columns}


_UPDATES: dict[bytes, Callable[[Any, pa.Schema], dict[str, Any] | None]] = {
    SPARK: _spark,
    b"pandas": _pandas,
    b"huggingface": _datasets,
    b"geo": _geo,
}
