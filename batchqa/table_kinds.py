"""Tables as Python users hold them -> Arrow, and the annotated table as the same kind again.

polars, pandas and pyarrow tables, lists of dicts, record batches and readers, and whatever else exports an
Arrow stream (`__arrow_c_stream__`), which comes back as a pyarrow table. No library is imported that the
caller has not imported already.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from batchqa.errors import InputError, first_line

Annotate = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]
"""Record batches in, annotated ones out, as they come."""


def annotated_as_given(table: Any, annotate: Annotate, schema_of: Callable[[pa.Schema], pa.Schema]) -> Any:
    """`table` annotated, as the kind that it is. `schema_of` is the output's schema for the input's.

    Raises InputError for values that a table cannot hold, TypeError for what is no table.
    """
    if isinstance(table, list) and not table:
        return []  # no rows, and so no columns either
    if isinstance(table, pa.RecordBatchReader):  # a stream stays one: nothing is read before it is asked for
        return pa.RecordBatchReader.from_batches(schema_of(table.schema), annotate(table))
    arrow, back = _as_arrow(table)
    return back(pa.Table.from_batches(annotate(arrow.to_batches()), schema=schema_of(arrow.schema)))


def _as_arrow(table: Any) -> tuple[pa.Table, Callable[[pa.Table], Any]]:
    """The Arrow table, and what makes the caller's kind of an annotated one."""
    library = type(table).__module__.partition(".")[0]
    if isinstance(table, pa.Table):
        return table, lambda out: out
    if isinstance(table, pa.RecordBatch):
        return pa.Table.from_batches([table]), _one_batch
    if library == "polars" and type(table).__name__ == "DataFrame":
        import polars as pl

        try:
            return table.to_arrow(), pl.from_arrow
        except pa.ArrowException as error:
            raise InputError(f"the data frame cannot become an Arrow table: {first_line(error)}") from error
    if library == "pandas" and type(table).__name__ == "DataFrame":
        return _from_pandas(table)
    if isinstance(table, list) and all(isinstance(row, dict) for row in table):
        return _from_dicts(table), pa.Table.to_pylist
    if hasattr(table, "__arrow_c_stream__"):
        try:
            return pa.table(table), lambda out: out
        except pa.ArrowException as error:  # a single column, say
            raise InputError(f"this cannot become an Arrow table: {first_line(error)}") from error
    hint = "; collect it first" if hasattr(table, "collect") else ""
    raise TypeError(
        "a pyarrow, polars or pandas table, a list of dicts, or an object with __arrow_c_stream__ is wanted, "
        f"not {type(table).__module__}.{type(table).__qualname__}{hint}"
    )


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _from_dicts(rows: list[dict[str, Any]]) -> pa.Table:
    """Columns of all keys in the order in which they first appear; a key that a row lacks is null."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {}
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"column names must be text, not {name!r}")
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            way_out = "" if isinstance(error, UnicodeEncodeError) else "; convert its values to one type"
            raise InputError(
                f"column {name!r} cannot become an Arrow column: {first_line(error)}{way_out}"
            ) from error
    return pa.table(columns)


def _from_pandas(frame: Any) -> tuple[pa.Table, Callable[[pa.Table], Any]]:
    """A data frame with its index; added whole numbers and flags are of pandas' nullable types."""
    import pandas as pd

    try:
        with warnings.catch_warnings():
            # names that are no texts are put back below
            warnings.filterwarnings("ignore", "The DataFrame has column names of mixed type")
            arrow = pa.Table.from_pandas(frame)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise InputError(f"the data frame cannot become an Arrow table: {first_line(error)}") from error
    nullable = {pa.int32(): pd.Int32Dtype(), pa.bool_(): pd.BooleanDtype()}

    def back(out: pa.Table) -> Any:
        given = [name for name in out.column_names if name in arrow.column_names]
        result = out.select(given).to_pandas()
        result.columns = frame.columns
        added = out.drop_columns(given).to_pandas(types_mapper=nullable.get)
        for name in added.columns:
            result[name] = added[name].array
        return result

    return arrow, back


def check_batch(batch: Any) -> None:
    """Raise TypeError for what is no record batch."""
    if not isinstance(batch, pa.RecordBatch):
        what = f"{type(batch).__module__}.{type(batch).__qualname__}"
        raise TypeError(f"a stream is of pyarrow.RecordBatch, not {what}; `annotate` takes whole tables")


def of_one_schema(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches with the columns and types of the first. Raises InputError where that cannot be."""
    wanted: pa.Schema | None = None
    for number, batch in enumerate(batches, 1):
        check_batch(batch)
        wanted = wanted or batch.schema
        if batch.schema.equals(wanted):
            yield batch
            continue
        if sorted(batch.schema.names) != sorted(wanted.names):
            raise InputError(
                f"batch {number} has the columns {', '.join(batch.schema.names)}, and the first one has "
                f"{', '.join(wanted.names)}; batches of a stream must share one schema"
            )
        try:
            yield batch.select(wanted.names).cast(wanted)
        except (pa.ArrowException, ValueError) as error:
            raise InputError(
                f"batch {number} has other types than the first one: {first_line(error)}; batches of a "
                "stream must share one schema"
            ) from error
