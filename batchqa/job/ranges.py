"""Where parts begin in the inputs, and reading one range of rows after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from batchqa.errors import PreconditionError
from batchqa.output import PartRange
from batchqa.records import Chunk, Cursor, Rows
from batchqa.steps.reading import Source


def up_to(rows: Iterable[Rows], end: int | None) -> Iterator[Rows]:
    """The rows before record `end`, all where it is None."""
    for piece in rows:
        left = len(piece) if end is None else end - piece.first_record
        if left <= 0:
            return
        yield piece if left >= len(piece) else piece.slice(0, left)
        if left <= len(piece) and end is not None:
            return


def single_parts(
    source: Source, missing: Iterable[PartRange], part_rows: int, limit: int | None
) -> Iterator[PartRange]:
    """Each missing part by itself, with the place where it begins; none that would hold no record."""
    parts = source.parts(part_rows, limit)
    ends, begins = parts.ends, parts.begins
    for each in missing:
        stop = len(ends) if each.stop_part is None else min(each.stop_part, len(ends))
        for part in range(each.first_part, stop):
            # behind the last part of all nothing may follow, which only reading on shows
            to = None if part + 1 == len(ends) else part + 1
            yield PartRange(part, part * part_rows, begins[part], to, ends[part : part + 1])


def as_planned(chunks: Iterator[Chunk], parts: PartRange) -> Iterator[Chunk]:
    """The same chunks; each part must end where the plan says so, if there is one.

    Raises PreconditionError before the part is committed: rows would be missing between two parts, or be
    there twice.
    """
    for chunk in chunks:
        if parts.ends and chunk.last_of_part:
            number, rows = chunk.part - parts.first_part, chunk.rows
            # the last part is not handed on before it is sure that nothing follows
            surplus = next(chunks, None) if number + 1 == len(parts.ends) else None
            if surplus or rows.cursor_after(len(rows)) != parts.ends[number]:
                raise PreconditionError(
                    f"part {chunk.part} of the input does not end where the job's plan says, and is not "
                    "written: an input was changed meanwhile, or batchqa has miscounted its records; please "
                    "report that"
                )
        yield chunk


class RangeReader:
    """Reads one range of rows after another. A compressed file is read on, and not from its start again."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._rows: Iterator[Rows] = iter(())
        self._held: Rows | None = None  # was read with a range, and belongs to a later one
        self._at: tuple[int, int] | None = None  # the file that is read, and the next record

    def rows(self, cursor: Cursor, first_record: int, end: int | None) -> Iterator[Rows]:
        """The records from `first_record`, which is at `cursor`, before `end`, or to the last one."""
        if end is not None and end <= first_record:
            return
        if not self._reads_on(cursor, first_record):
            self._rows, self._held = self._source.read(cursor, first_record), None
        while (piece := self._held or next(self._rows, None)) is not None:
            self._held = None
            after = piece.first_record + len(piece)
            self._at = (piece.cursor_after(len(piece)).file, after)
            if after <= first_record:
                continue
            if piece.first_record < first_record:
                piece = piece.slice(first_record - piece.first_record, len(piece))
            if end is not None and after > end:
                self._held = piece.slice(end - piece.first_record, len(piece))
                self._at = (self._held.cursor_after(0).file, end)
                piece = piece.slice(0, end - piece.first_record)
            yield piece
            if end is not None and after >= end:
                return
        self._at = None

    def _reads_on(self, cursor: Cursor, first_record: int) -> bool:
        if self._at is None or cursor.file >= len(self._source.files):
            return False
        compressed = self._source.files[cursor.file].compression != "none"
        return compressed and self._at[0] == cursor.file and self._at[1] <= first_record
