"""Tables as Python users hold them -> Arrow, and the annotated table as the same kind again.

polars, pandas and pyarrow tables, lists of dicts, record batches and readers, and whatever else exports an
Arrow stream (`__arrow_c_stream__`), which comes back as a pyarrow table. No library is imported that the
caller has not imported already.

Arrow cannot hold all that pandas and Python can: a day beside a time of day becomes a day, a whole number
beside a null a float. So the rows of frames and lists come back as they were given, and Arrow is only what
the pipeline reads.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from batchqa.errors import InputError, first_line

Annotate = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]
"""Record batches in, annotated ones out, as they come."""


ROW = "batchqa: row"
"""The column that says which of the given rows a row of the output is of; `Annotator` keeps it always."""


def annotated_as_given(table: Any, annotate: Annotate, schema_of: Callable[[pa.Schema], pa.Schema]) -> Any:
    """`table` annotated, as the kind that it is. `schema_of` is the output's schema for the input's.

    Raises InputError for values that a table cannot hold, TypeError for what is no table.
    """
    if isinstance(table, list) and not table:
        return []  # no rows, and so no columns either
    if isinstance(table, pa.RecordBatchReader):  # a stream stays one: nothing is read before it is asked for
        return pa.RecordBatchReader.from_batches(schema_of(table.schema), annotate(table))
    arrow, back, by_row = _as_arrow(table)
    schema = schema_of(arrow.schema)  # a message about columns does not name ROW
    if by_row:
        arrow = arrow.append_column(ROW, pa.array(np.arange(len(arrow))))
        schema = schema_of(arrow.schema)
    return back(pa.Table.from_batches(annotate(arrow.to_batches()), schema=schema))


def _as_arrow(table: Any) -> tuple[pa.Table, Callable[[pa.Table], Any], bool]:
    """The Arrow table, what makes the caller's kind of an annotated one, and whether that needs ROW."""
    if isinstance(table, pa.Table):
        return table, lambda out: out, False
    if isinstance(table, pa.RecordBatch):
        return pa.Table.from_batches([table]), _one_batch, False
    if _is_frame(table, "polars"):
        return *_from_polars(table), False
    if _is_frame(table, "pandas"):
        return *_from_pandas(table), True
    if isinstance(table, list) and all(isinstance(row, dict) for row in table):
        return *_from_dicts(table), True
    if hasattr(table, "__arrow_c_stream__"):
        try:
            return pa.table(table), lambda out: out, False
        except pa.ArrowException as error:  # a single column, say
            raise InputError(f"this cannot become an Arrow table: {first_line(error)}") from error
    what = f"{type(table).__module__}.{type(table).__qualname__}"
    hint = ""
    if isinstance(table, list):
        at, row = next((at, row) for at, row in enumerate(table) if not isinstance(row, dict))
        what = f"a list whose item {at} is of type {type(row).__qualname__}"
    elif hasattr(table, "collect"):
        hint = "; collect it first"
    elif isinstance(table, (tuple, Iterator)):
        hint = "; make a list of it first"
    raise TypeError(
        "expected a pyarrow, polars or pandas table, a list of dicts, or an object with __arrow_c_stream__, "
        f"not {what}{hint}"
    )


def _is_frame(table: Any, library: str) -> bool:
    """Whether it is a data frame of the library, or of a class that inherits from it."""
    return any(
        kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] == library
        for kind in type(table).__mro__
    )


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _from_polars(frame: Any) -> tuple[pa.Table, Callable[[pa.Table], Any]]:
    import polars as pl

    for name, kind in frame.schema.items():
        if kind == pl.Object:  # polars would hand over its pointers as binary
            raise InputError(
                f"column {name!r} holds Python objects; convert it to a type of polars, or drop it"
            )
    try:
        return frame.to_arrow(), pl.from_arrow
    except pa.ArrowException as error:
        raise InputError(f"the data frame cannot become an Arrow table: {first_line(error)}") from error


def _from_dicts(rows: list[dict[str, Any]]) -> tuple[pa.Table, Callable[[pa.Table], Any]]:
    """Columns of all keys in the order in which they first appear; a key that a row lacks is null."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {}
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"column names must be text, not {name!r}")
        values = [row.get(name) for row in rows]
        try:
            name.encode()
            columns[name] = pa.array(values, from_pandas=True)  # NaN among texts is what pandas calls null
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise InputError(
                f"column {name!r} cannot become an Arrow column: {_why(error, values)}"
            ) from error
    arrow = pa.table(columns)

    def back(out: pa.Table) -> list[dict[str, Any]]:
        kept = [name for name in names if name in out.column_names]
        return [
            {name: rows[at].get(name) for name in kept} | said
            for at, said in zip(out.column(ROW).to_pylist(), _added(out, arrow).to_pylist(), strict=True)
        ]

    return arrow, back


def _from_pandas(frame: Any) -> tuple[pa.Table, Callable[[pa.Table], Any]]:
    """A data frame with its index; added whole numbers and flags are of pandas' nullable types."""
    import pandas as pd

    try:
        with warnings.catch_warnings():
            # names that are no texts are put back below
            warnings.filterwarnings("ignore", "The DataFrame has column names of mixed type")
            arrow = pa.Table.from_pandas(frame)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        failed = re.fullmatch(
            r"Conversion failed for column (.*) with type \w+", str(error.args[-1]), re.DOTALL
        )
        column = next((each for each in frame.columns if failed and str(each) == failed[1]), None)
        values = [] if column is None else frame[column].tolist()
        what = "the data frame" if column is None else f"column {column!r}"
        raise InputError(f"{what} cannot become Arrow: {_why(error, values)}") from error
    nullable = {pa.int32(): pd.Int32Dtype(), pa.bool_(): pd.BooleanDtype()}
    own = arrow.column_names[: len(frame.columns)]  # those of the index are behind them

    def back(out: pa.Table) -> Any:
        kept = [at for at, name in enumerate(own) if name in out.column_names]
        result = frame.iloc[out.column(ROW).to_numpy(), kept].copy()
        added = _added(out, arrow).replace_schema_metadata().to_pandas(types_mapper=nullable.get)
        for name in added.columns:
            result[name] = added[name].array
        return result

    return arrow, back


def _added(out: pa.Table, given: pa.Table) -> pa.Table:
    """The columns of an annotated table that were not given."""
    return out.select([name for name in out.column_names if name not in (*given.column_names, ROW)])


def _why(error: Exception, values: list[Any]) -> str:
    """Why values are no Arrow column, without the values: pyarrow's own words repeat one of them."""
    if isinstance(error, UnicodeEncodeError):
        return first_line(error)
    if isinstance(error, OverflowError) or not values:
        return f"{error.args[0] if error.args else error}; convert its values to one type"
    kinds = dict.fromkeys(type(each).__name__ for each in values if each is not None and each == each)
    return f"its values are of type {', '.join(kinds)}; convert its values to one type"


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
