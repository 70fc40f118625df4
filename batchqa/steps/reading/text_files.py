"""Text files: each is one document, whose questions come from elsewhere (`--ask`, `--questions`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from batchqa.errors import InputError
from batchqa.records import Cursor, RowFault, Rows
from batchqa.settings import ReadingSettings

from .columns import ColumnPlan
from .formats import FileFormat
from .input_files import Place
from .lines import NOT_UTF8
from .streams import read_whole

SCHEMA = pa.schema([pa.field("path", pa.string()), pa.field("context", pa.large_string())])


class TextReader:
    """All text files of a job, one row each: the file's path and its text, line ends as they are."""

    def __init__(
        self, places: Sequence[Place], kinds: Sequence[FileFormat], settings: ReadingSettings
    ) -> None:
        self._places = places
        self._kinds = kinds
        self._settings = settings
        shown = places[0].shown
        if settings.template_columns is None and settings.question not in SCHEMA.names:
            raise InputError(
                f"{shown} is a text file, which brings no questions; ask your own with --ask NAME=QUESTION "
                "or --questions FILE"
            )
        self._plan = ColumnPlan.of(SCHEMA, settings, shown)
        self.schema = self._plan.schema
        self.rows: list[int | None] = [1] * len(places)
        self.notes: tuple[str, ...] = ()
        self.lists = self._plan.lists

    def read(self, start: Cursor, first_record: int) -> Iterator[Rows]:
        """The row of one file, unless `start` is behind it."""
        if start.row:
            return
        place, kind = self._places[start.file], self._kinds[start.file]
        batch, fault = read_text(place, kind, self._settings)
        faults = {} if fault is None else {0: fault}
        yield self._plan.rows(batch, lambda _: place.in_rows, first_record, start, faults=faults)


def read_text(
    place: Place, kind: FileFormat, settings: ReadingSettings
) -> tuple[pa.RecordBatch, RowFault | None]:
    """One row, of `SCHEMA`; the text is null where the fault says why."""
    longest = settings.max_context_chars
    raw = read_whole(place, kind.compression, settings.max_zstd_window, 4 * longest)  # bytes of a character
    text, fault = None, None
    if raw is None:
        detail = f"{place.in_rows}: the context is longer than {longest} characters (--max-context-chars)"
        fault = RowFault("too_large", detail)
    else:
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            fault = RowFault("bad_utf8", f"{place.in_rows}, byte {error.start}: {NOT_UTF8}")
    row = [pa.array([place.in_rows], pa.string()), pa.array([text], pa.large_string())]
    return pa.RecordBatch.from_arrays(row, schema=SCHEMA), fault
