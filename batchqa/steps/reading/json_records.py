"""The records of one JSONL file, or of one JSON array."""

from __future__ import annotations

from collections.abc import Iterator

from batchqa.records import Cursor
from batchqa.settings import ReadingSettings

from .columns import MAX_ROWS
from .cursors import RecordEnds, line_ends
from .formats import FileFormat
from .input_files import Place
from .lines import Parsed, blocks, parse
from .streams import ArrayLines, TextStream

_FIRST = Cursor()


def read_records(
    place: Place, kind: FileFormat, settings: ReadingSettings, start: Cursor = _FIRST
) -> Iterator[Parsed]:
    """The blocks of one file that have records, from `start` on; at most MAX_ROWS lines each."""
    longest = settings.max_line_bytes
    array = kind.format == "json"
    where = f"{place.in_rows}, record " if array else f"{place.in_rows}:"
    with TextStream(place, kind.compression, settings.max_zstd_window) as text:
        stream = ArrayLines(text, place.shown) if array else text
        if start.byte:
            stream.skip(start.byte)
        for large in blocks(stream, start.line, start.byte, longest):
            for block in large.split(MAX_ROWS):
                parsed = parse(block, where, longest)
                if parsed.records:
                    yield parsed


def record_ends(place: Place, kind: FileFormat, settings: ReadingSettings) -> Iterator[RecordEnds]:
    """Where the records of one file end, found without making them."""
    with TextStream(place, kind.compression, settings.max_zstd_window) as text:
        stream = ArrayLines(text, place.shown) if kind.format == "json" else text
        yield from line_ends(stream, settings.max_line_bytes)
