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

from batchqa.answer_columns import QUESTIONS_TYPE
from batchqa.records import Chunk, Cursor, Int64, Rows

CHUNK_ROWS = 4096
"""Rows of a chunk at most: enough windows of each length for batches without much padding.

A part is cut evenly, since a short last chunk would have small batches, just before the part's end.
"""

CHUNK_BYTES = 8 * 2**20
"""UTF-8 bytes of text in a chunk at most, unless one row alone has more."""


def chunks(
    rows: Iterable[Rows], part_rows: int, first_part: int = 0, *, questions: int = 1
) -> Iterator[Chunk]:
    """Cut a stream of rows that begins with the first row of part `first_part`.

    Each part has `part_rows` rows, the last one fewer. A stream without any row gives no chunk. `questions`
    are asked of each row, unless it brings a list of them: a row counts as often, and so does its context.
    """
    part, left = first_part, part_rows
    held: list[Rows] = []
    rows_held = asked_held = bytes_held = 0  # running: to measure all that is held would be quadratic
    for piece in rows:
        if not len(piece):
            continue
        held.append(piece)
        rows_held += len(piece)
        asked_held += int(_times_asked(piece, questions).sum())
        bytes_held += _bytes_at_most(piece, questions)
        # one row more than fits shows that the stream goes on
        while rows_held > _most_rows(left, questions) or asked_held > CHUNK_ROWS or bytes_held > CHUNK_BYTES:
            end = _chunk_end(held, left, questions)
            if end == rows_held:
                break
            chunk, held = _split(held, end)
            yield Chunk(chunk, part, last_of_part=end == left)
            part, left = (part + 1, part_rows) if end == left else (part, left - end)
            rows_held -= end
            asked_held = sum(int(_times_asked(rest, questions).sum()) for rest in held)
            bytes_held = sum(_bytes_at_most(rest, questions) for rest in held)
    while held:
        end = _chunk_end(held, left, questions)
        chunk, held = _split(held, end)
        yield Chunk(chunk, part, last_of_part=end == left or not held)
        part, left = (part + 1, part_rows) if end == left else (part, left - end)


def _times_asked(rows: Rows, questions: int) -> Int64:
    """How many questions each row is asked, one where it has none: int64, (rows,)."""
    if rows.question.type != QUESTIONS_TYPE:
        return np.full(len(rows), questions, dtype=np.int64)
    lengths: Int64 = pc.fill_null(pc.list_value_length(rows.question), 0).to_numpy().astype(np.int64)
    return np.maximum(lengths, 1)


def _bytes_at_most(rows: Rows, questions: int) -> int:
    """The bytes of the texts and a little more, quickly."""
    return int(rows.context.nbytes * _times_asked(rows, questions).max() + rows.question.nbytes)


def _most_rows(left: int, questions: int) -> int:
    """Rows of the next chunk at most, when the part still lacks `left` rows: an even share of them."""
    return -(-left // -(-left // max(CHUNK_ROWS // questions, 1)))


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


def _chunk_end(held: list[Rows], left: int, questions: int) -> int:
    """How many of the rows held are the next chunk, when the part still lacks `left` rows (at least 1)."""
    counts = np.concatenate([_times_asked(rows, questions) for rows in held])
    sizes = _text_bytes(held, counts)
    most = min(_most_rows(left, questions), len(sizes))
    limits = ((sizes, CHUNK_BYTES), (counts, CHUNK_ROWS))
    fits = min(int(np.searchsorted(np.cumsum(each[:most]), limit, side="right")) for each, limit in limits)
    return min(max(fits, 1), most)


def _text_bytes(pieces: list[Rows], counts: Int64) -> Int64:
    """The bytes of each row's texts, its context counted for each question."""
    contexts = pa.chunked_array([rows.context for rows in pieces])
    total: Int64 = pc.fill_null(pc.binary_length(contexts), 0).to_numpy() * counts
    if pieces[0].question.type != QUESTIONS_TYPE:
        questions = pa.chunked_array([rows.question for rows in pieces])
        total = total + pc.fill_null(pc.binary_length(questions), 0).to_numpy()
    return total


def _join(pieces: list[Rows]) -> Rows:
    if len(pieces) == 1:
        return pieces[0]
    starts: list[int] = np.cumsum([0, *map(len, pieces)]).tolist()
    cursors = [piece.cursor_after for piece in pieces]
    places = [piece.locate for piece in pieces]
    values = [piece.values for piece in pieces if piece.values is not None]

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
        values=pa.concat_batches(values) if values else None,
    )
