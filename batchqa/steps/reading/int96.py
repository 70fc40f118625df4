"""INT96, the timestamps of Spark, Hive and Impala: a day and nanoseconds in 12 bytes, for any year.

64 bits hold microseconds for any year that is written, nanoseconds only from 1677 to 2262, where Arrow wraps
without a word (9999-12-31, a usual "for ever", becomes 1816). So the unit is chosen by looking: microseconds
where nothing is lost, which is all that Spark writes and reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

Unit = Literal["us", "ns"]

_ROWS = 65536
_LAST_MICROSECOND = (2**63 - 1) // 1000
"""Of those that nanoseconds reach, either way from 1970."""


def look(in_us: pq.ParquetFile, in_ns: pq.ParquetFile, names: Sequence[str]) -> tuple[set[str], set[str]]:
    """Read columns in both units: which have fractions of a microsecond, which years beyond nanoseconds."""
    fine: set[str] = set()
    far: set[str] = set()
    both = (file.iter_batches(batch_size=_ROWS, columns=names, use_threads=False) for file in (in_us, in_ns))
    for micro, nano in zip(*both, strict=True):
        for name in names:
            for us, ns in zip(_timestamps(micro.column(name)), _timestamps(nano.column(name)), strict=True):
                if us.type == ns.type:  # no INT96
                    continue
                values = us.cast(pa.int64())
                # multiplication wraps as Arrow's reading does: equal, unless a fraction was cut off
                if not _all(pc.equal(pc.multiply(values, 1000), ns.cast(pa.int64()))):
                    fine.add(name)
                if not _all(pc.less_equal(pc.abs(values), _LAST_MICROSECOND)):
                    far.add(name)
    return fine, far


def _all(flags: pa.Array) -> bool:
    return pc.all(flags).as_py() is not False


def _timestamps(column: pa.Array) -> Iterator[pa.Array]:
    """The timestamps in a column, whatever they are nested in."""
    if pt.is_timestamp(column.type):
        yield column
    elif pt.is_struct(column.type):
        for member in column.flatten():
            yield from _timestamps(member)
    elif pt.is_map(column.type):
        yield from _timestamps(column.keys)
        yield from _timestamps(column.items)
    elif pt.is_nested(column.type):
        yield from _timestamps(column.flatten())
