"""The plan of a job's parts is the one that a run makes by reading everything."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from batchqa import run
from batchqa.errors import InputError
from batchqa.output.manifest import RECORD_KEY
from batchqa.records import Cursor, Rows
from batchqa.settings import ReadingSettings
from batchqa.steps.chunking import chunks
from batchqa.steps.reading import Source, cursors, open_source

HEADER = b"id,context,question\n"


def _source(folder: Path, files: dict[str, bytes], **settings: Any) -> Source:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return open_source([str(folder / name) for name in files], ReadingSettings(**settings))


def _up_to(rows: Any, limit: int | None) -> Any:
    left = limit
    for piece in rows:
        if left is None:
            yield piece
            continue
        if left:
            yield piece.slice(0, min(left, len(piece)))
        left -= min(left, len(piece))


def _read_through(source: Source, part_rows: int, limit: int | None = None) -> tuple[tuple[Cursor, ...], int]:
    """The places behind the parts, and the number of records, by reading every row as a run does."""
    ends: list[Cursor] = []
    total = 0
    for chunk in chunks(_up_to(source.read(), limit), part_rows=part_rows):
        rows: Rows = chunk.rows
        total += len(rows)
        if chunk.last_of_part:
            ends.append(rows.cursor_after(len(rows)))
    return tuple(ends), total


def _check(
    source: Source, *, parts: Sequence[int] = (1, 2, 3, 7), limits: Sequence[int | None] = (None,)
) -> None:
    for part_rows in parts:
        for limit in limits:
            planned = source.parts(part_rows, limit)
            assert (planned.ends, planned.records) == _read_through(source, part_rows, limit)
            assert len(planned.sizes) == len(planned.ends)
            assert planned.begins[:1] == ((Cursor(),) if planned.ends else ())


LINES = st.sampled_from(
    [
        b'{"id": 1, "context": "c", "question": "q"}',
        b'{"context": "a longer one", "question": "q"}  ',
        b"\xef\xbb\xbf" + b'{"context": "marked", "question": "q"}',
        b'{"context": "CRLF", "question": "q"}\r',
        b'{"context": "' + b"x" * 90 + b'", "question": "too long"}',
        b"not json",
        b"[1]",
        b'{"context": "\xff", "question": "q"}',
        b"",
        b" \t\r",
        b" " * 90,
        b"\xef\xbb\xbf",
        b"\xef\xbb\xbf ",
        b"\x0b",
    ]
)


@given(
    st.lists(st.tuples(st.lists(LINES, max_size=12), st.booleans()), min_size=1, max_size=3),
    st.integers(1, 5),
    st.none() | st.integers(1, 20),
)
def test_parts_of_lines_end_where_a_run_ends_them(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[list[bytes], bool]],
    part_rows: int,
    limit: int | None,
) -> None:
    first = b'{"id": 1, "context": "c", "question": "q"}\n'
    contents = {
        f"{n}.jsonl": first + b"\n".join(lines) + b"\n" * closed for n, (lines, closed) in enumerate(files)
    }
    source = _source(tmp_path_factory.mktemp("lines"), contents, max_line_bytes=80)
    _check(source, parts=[part_rows], limits=[limit])


REGULAR = ["", "x", '"x"', '"a,b"', '"two\nlines"', '"CR\r\nLF"', '"a ""pair"""', '""', '""""', '"\n\n"', "ü"]
ODD = ['5" pipe', '"open', 'x"', '"x"y', "a\rb", '"\r"', '" "', "'", "\x0b", "z" * 70]
RECORDS = st.lists(st.sampled_from([*REGULAR, *ODD]), min_size=3, max_size=3).map(",".join) | st.sampled_from(
    ["", "\r", "a,b", "  ", ",,,"]
)


@given(
    st.lists(
        st.tuples(st.lists(st.tuples(RECORDS, st.sampled_from(["\n", "\r\n"])), max_size=14), st.booleans()),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 5),
    st.none() | st.integers(1, 20),
    st.integers(1, 60),
)
def test_parts_of_tables_as_text_end_where_a_run_ends_them(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[list[tuple[str, str]], bool]],
    part_rows: int,
    limit: int | None,
    block: int,
) -> None:
    contents = {}
    for number, (lines, closed) in enumerate(files):
        text = "".join(line + end for line, end in lines).encode()
        contents[f"{number}.csv"] = HEADER + (text if closed else text.removesuffix(b"\n"))
    source = _source(tmp_path_factory.mktemp("table"), contents, max_line_bytes=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cursors, "_COUNTED_BYTES", block)
        patch.setattr(cursors, "_READ_AGAIN", 2)
        patch.setattr(cursors, "_READ_BYTES", max(block // 3, 1))
        _check(source, parts=[part_rows], limits=[limit])


def _jsonl(count: int) -> bytes:
    rows = ({"id": n, "context": f"It is {n}.\n" * (n % 40 + 1), "question": "What?"} for n in range(count))
    return b"".join(json.dumps(row).encode() + b"\n\n" for row in rows)


def _csv(count: int) -> bytes:
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["id", "context", "question"])
    rows.writerows([n, f'It "is" {n},\n' * (n % 40 + 1), "What?"] for n in range(count))
    return text.getvalue().encode()


def _parquet(count: int) -> bytes:
    raw = io.BytesIO()
    table = pa.table({"id": range(count), "context": ["c"] * count, "question": ["q"] * count})
    pq.write_table(table, raw, row_group_size=max(count // 3, 1))
    return raw.getvalue()


def _squad(count: int) -> bytes:
    qas = [{"id": str(n), "question": "q", "answers": []} for n in range(count)]
    return json.dumps({"data": [{"paragraphs": [{"context": "c", "qas": qas}]}]}).encode()


FORMATS: dict[str, Callable[[int], bytes]] = {
    "jsonl": _jsonl,
    "jsonl.gz": lambda count: gzip.compress(_jsonl(count), 1),
    "jsonl.zst": lambda count: zstandard.compress(_jsonl(count), 1),
    "json": lambda count: b"[" + b",\n".join(_jsonl(count).split(b"\n\n")[:-1]) + b"]",
    "csv": _csv,
    "csv.gz": lambda count: gzip.compress(_csv(count), 1),
    "parquet": _parquet,
    "squad.json": _squad,
}


@pytest.mark.parametrize("kind", FORMATS)
def test_parts_go_over_the_ends_of_files_and_stop_at_the_limit_in_every_format(
    tmp_path: Path, kind: str
) -> None:
    content = FORMATS[kind]
    source = _source(
        tmp_path, {"a." + kind: content(1_500), "b." + kind: content(1), "c." + kind: content(700)}
    )
    _check(source, parts=(400, 1_500, 2_201, 9_999), limits=(None, 1, 1_500, 1_501, 5_000))
    planned = source.parts(400)
    assert (len(planned.ends), planned.records) == (6, 2_201)
    begin = planned.begins[4]
    assert len(next(iter(source.read(begin, 1_600)))) > 0


@pytest.mark.parametrize("kind", ["jsonl", "csv.gz", "parquet", "squad.json"])
def test_planned_parts_are_those_in_the_records_of_a_whole_run(
    tmp_path: Path, kind: str, tiny_bundle: Path
) -> None:
    content = FORMATS[kind]
    source = _source(tmp_path, {"a." + kind: content(11), "b." + kind: content(6)})
    names = [file.path for file in source.files]
    run(names, tmp_path / "out", model=tiny_bundle, part_rows=5, limit=16, strict=False, in_process=True)
    written = [
        Cursor(**json.loads(pq.read_metadata(part).metadata[RECORD_KEY.encode()])["cursor"])
        for part in sorted((tmp_path / "out").glob("part-*.parquet"))
    ]
    assert written == [*source.parts(5, 16).ends]


def test_marks_in_odd_places_of_a_long_table_lose_no_record(tmp_path: Path) -> None:
    odd = '5" pipe'
    rows = (f"{n},{'word ' * 60}{odd * (n % 700 == 3)},What?\n" for n in range(9_000))
    source = _source(tmp_path, {"a.csv": HEADER + "".join(rows).encode()})
    _check(source, parts=[1_000])
    assert source.parts(1_000).records == 9_000


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv"])
def test_the_size_of_a_part_is_that_of_its_text_over_all_files(tmp_path: Path, kind: str) -> None:
    content = FORMATS[kind]
    texts = [FORMATS[kind.removesuffix(".gz")](count) for count in (50, 30)]
    planned = _source(tmp_path, {"a." + kind: content(50), "b." + kind: content(30)}).parts(7)
    blank = 1 if kind.startswith("jsonl") else 0  # the blank line at the end of a file is no record's
    assert sum(planned.sizes) == sum(map(len, texts)) - 2 * blank
    assert max(planned.sizes) > 3 * min(planned.sizes)


def test_the_size_of_a_part_is_its_records_where_no_text_is_looked_at(tmp_path: Path) -> None:
    planned = _source(tmp_path, {"a.parquet": _parquet(50), "b.parquet": _parquet(30)}).parts(7, 40)
    assert planned.sizes == (7, 7, 7, 7, 7, 5)


def test_a_stream_is_not_shared_out() -> None:
    source = open_source(["-"], ReadingSettings(), stdin=io.BytesIO(_jsonl(2)))
    with pytest.raises(InputError, match="can be read only once and cannot be split"):
        source.parts(1)


def test_a_file_without_records_has_no_parts(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", b"\n \n"), ("a.csv", HEADER), ("a.parquet", _parquet(0))):
        planned = _source(tmp_path, {name: content}).parts(10)
        assert (planned.ends, planned.begins, planned.records) == ((), (), 0)
