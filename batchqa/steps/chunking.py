"""Rows -> chunks: the look-ahead buffer within which windows are sorted by length.

A chunk never crosses a part, and where it ends depends on the part's rows alone. So a part that is made
again after a crash is cut, batched and scored exactly as the first time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.records import Chunk, Cursor, Int64, Rows

CHUNK_ROWS = 4096
"""Rows of a chunk at most: enough windows of each length for batches without much padding.

A part is cut evenly, since a short last chunk would have small batches, just before the part's end.
"""

CHUNK_BYTES = 8 * 2**20
"""UTF-8 bytes of text in a chunk at most, unless one row alone has more."""

COLUMN_BYTES = 64 * 2**20
"""Bytes of all columns of a chunk at most, likewise: an image can be a thousand times the text."""


def chunks(rows: Iterable[Rows], part_rows: int, first_part: int = 0) -> Iterator[Chunk]:
    """Cut a stream of rows that begins with the first row of part `first_part`.

    Each part has `part_rows` rows, the last one fewer. A stream without any row gives no chunk.
    """
    part, left = first_part, part_rows
    held: list[Rows] = []
    rows_held = bytes_held = columns_held = (
        0  # running: to measure all that is held for each piece would be quadratic
    )
    for piece in rows:
        if not len(piece):
            continue
        held.append(piece)
        rows_held += len(piece)
        bytes_held += _bytes_at_most(piece)
        columns_held += piece.columns.nbytes
        # one row more than fits shows that the stream goes on
        while rows_held > _most_rows(left) or bytes_held > CHUNK_BYTES or columns_held > COLUMN_BYTES:
            end = _chunk_end(held, left)
            if end == rows_held:
                break
            chunk, held = _split(held, end)
            yield Chunk(chunk, part, last_of_part=end == left)
            part, left = (part + 1, part_rows) if end == left else (part, left - end)
            rows_held -= end
            bytes_held = sum(map(_bytes_at_most, held))
            columns_held = sum(piece.columns.nbytes for piece in held)
    while held:
        end = _chunk_end(held, left)
        chunk, held = _split(held, end)
        yield Chunk(chunk, part, last_of_part=end == left or not held)
        part, left = (part + 1, part_rows) if end == left else (part, left - end)


def _bytes_at_most(rows: Rows) -> int:
    """The bytes of the texts and a little more, quickly."""
    return int(rows.context.nbytes + rows.question.nbytes)


def _most_rows(left: int) -> int:
    """Rows of the next chunk at most, when the part still lacks `left` rows: an even share of them."""
    return -(-left // -(-left // CHUNK_ROWS))


def _split(held: list[Rows], end: int) -> tuple[Rows, list[Rows]]:
    """The first `end` rows as one, and the pieces that are left."""
    taken: list[Rows] = []
    for at, piece in enumerate(held):
        if len(piece) > end:
            taken += [piece.slice(0, end)] if end else []
            return _join(taken), [piece.slice(end, len(piece)), *held[at + 1 :]]
        taken.append(piece)
        end -= len(piece)
    return _join(taken), []


def _chunk_end(held: list[Rows], left: int) -> int:
    """How many of the rows held are the next chunk, when the part still lacks `left` rows (at least 1)."""
    sizes = _text_bytes(held)
    most = min(_most_rows(left), len(sizes))
    fits = int(np.searchsorted(np.cumsum(sizes[:most]), CHUNK_BYTES, side="right"))
    if sum(piece.columns.nbytes for piece in held) > COLUMN_BYTES:
        # of each row by itself, since the cut must not depend on how the rows came
        columns = np.concatenate([_column_bytes(piece.columns.to_struct_array()) for piece in held])
        fits = min(fits, int(np.searchsorted(np.cumsum(columns[:most]), COLUMN_BYTES, side="right")))
    return min(max(fits, 1), most)


def _text_bytes(pieces: list[Rows]) -> Int64:
    """The bytes of each row's texts."""
    total: Int64 = np.zeros(sum(map(len, pieces)), np.int64)
    for texts in ([rows.context for rows in pieces], [rows.question for rows in pieces]):
        total += pc.fill_null(pc.binary_length(pa.chunked_array(texts)), 0).to_numpy()
    return total


def _column_bytes(column: pa.Array) -> Int64:
    """The bytes of each value, 8 for one of a fixed size or that a dictionary holds: int64, (values,)."""
    kind, is_a = column.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _column_bytes(column.storage)
    if is_a.is_struct(kind):
        return sum(map(_column_bytes, column.flatten()), np.zeros(len(column), np.int64))
    if is_a.is_map(kind):
        return _of_lists(_column_bytes(column.keys) + _column_bytes(column.items), column.offsets)
    if is_a.is_list(kind) or is_a.is_large_list(kind):
        return _of_lists(_column_bytes(column.values), column.offsets)
    if is_a.is_string_view(kind) or is_a.is_binary_view(kind):
        column = column.cast(pa.large_binary())
    try:
        lengths = pc.binary_length(column)
    except pa.ArrowNotImplementedError:
        return np.full(len(column), 8, dtype=np.int64)
    return pc.fill_null(lengths.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _of_lists(items: Int64, offsets: pa.Array) -> Int64:
    """The sum of each list's items."""
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(items)])
    sums: Int64 = np.diff(before[offsets.to_numpy()])
    return sums


def _join(pieces: list[Rows]) -> Rows:
    if len(pieces) == 1:
        return pieces[0]
    starts: list[int] = np.cumsum([0, *map(len, pieces)]).tolist()
    cursors = [piece.cursor_after for piece in pieces]
    places = [piece.locate for piece in pieces]

    def cursor_after(count: int) -> Cursor:
        piece = max(bisect_left(starts, count) - 1, 0)
        return cursors[piece](count - starts[piece])

    def locate(row: int) -> str:
        piece = bisect_right(starts, row) - 1
        return places[piece](row - starts[piece])

    return Rows(
        columns=pa.concat_batches([piece.columns for piece in pieces]),
        context=pa.concat_arrays([piece.context for piece in pieces]),
        question=pa.concat_arrays([piece.question for piece in pieces]),
        faults={
            start + row: fault
            for start, piece in zip(starts, pieces, strict=False)
            for row, fault in piece.faults.items()
        },
        first_record=pieces[0].first_record,
        cursor_after=cursor_after,
        locate=locate,
    )
