"""CSV, TSV and JSON arrays, compressed files of other programs, and what an input is that cannot be read."""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.orc as orc
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from batchqa.errors import InputError, SettingsError, StorageError
from batchqa.records import Cursor, RowFault
from batchqa.settings import ReadingSettings
from batchqa.steps.reading import Source, columns, open_source, streams
from batchqa.steps.reading import csv_files as csv_reader

TEXTS = [
    "The ferry leaves at seven.",
    'She said "no", twice.',
    "one\nline, and\r\nanother",
    "",
    "Málaga; ñ|\t",
]


def opened(path: Path, content: bytes, **settings: Any) -> Source:
    path.write_bytes(content)
    return open_source([str(path)], ReadingSettings(**settings))


def table(source: Source, start: Cursor = Cursor()) -> list[dict[str, Any]]:  # noqa: B008 -- frozen
    return [record for rows in source.read(start) for record in rows.columns.to_pylist()]


def faults(source: Source) -> dict[int, RowFault]:
    return {rows.first_record + row: fault for rows in source.read() for row, fault in rows.faults.items()}


def written(records: list[dict[str, str]], **options: Any) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(records[0]), **options)
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


ROWS = [{"id": str(i), "context": text, "question": f"what is {i}?"} for i, text in enumerate(TEXTS)]


# --- CSV and TSV


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("ends", ["\r\n", "\n"])
@pytest.mark.parametrize("packed", [bytes, gzip.compress, zstandard.compress])
def test_a_table_as_text_is_read_whatever_separates_its_fields(
    tmp_path: Path, delimiter: str, ends: str, packed: Callable[[bytes], bytes]
) -> None:
    content = b"\xef\xbb\xbf" + written(ROWS, delimiter=delimiter, lineterminator=ends)
    source = opened(tmp_path / "x.csv", packed(content))
    assert (source.files[0].format, source.schema.types) == ("csv", [pa.string()] * 3)
    assert table(source) == ROWS
    assert not faults(source)


def test_a_table_is_known_by_its_content_where_its_name_says_nothing(tmp_path: Path) -> None:
    assert table(opened(tmp_path / "part-00000", written(ROWS))) == ROWS


def test_the_separator_that_excel_writes_before_the_header_is_used(tmp_path: Path) -> None:
    assert table(opened(tmp_path / "x.csv", b"sep=;\r\n" + written(ROWS, delimiter=";"))) == ROWS


@pytest.mark.parametrize(
    "before", [b"\xef\xbb\xbf", b"\xef\xbb\xbf" * 2, b"\n \r\n", b"\r\n\xef\xbb\xbfsep=;\r\n"]
)
@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_marks_and_blank_lines_before_a_header_are_no_part_of_it(
    tmp_path: Path, before: bytes, packed: Callable[[bytes], bytes]
) -> None:
    content = before + written(ROWS, delimiter=";", quoting=csv.QUOTE_ALL)
    assert table(opened(tmp_path / "x.csv", packed(content))) == ROWS


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_reading_goes_on_from_the_place_behind_any_record(
    tmp_path: Path, packed: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_reader, "MAX_ROWS", 2)
    content = written(ROWS)[:-2]  # the last line needs no end
    for source in (
        opened(tmp_path / "x.csv", packed(content)),
        opened(tmp_path / "x.json", packed(orjson.dumps(ROWS))),
    ):
        for rows in source.read():
            for count in range(len(rows) + 1):
                after = rows.cursor_after(count)
                assert table(source, after) == ROWS[rows.first_record + count :]


def test_bad_records_are_faults_of_their_lines_and_the_others_are_read(tmp_path: Path) -> None:
    lines = [
        b"id,context,question",
        b"1,c,q",
        b"2,c",
        b"3,c,q,more",
        b'4,"c"x,q',
        b"5,\xe9,q",
        b"",
        b"6,c,q,,",
        b'7,"c,q',
        b"8,c,q",
    ]
    source = opened(tmp_path / "x.csv", b"\n".join(lines) + b"\n")
    found = {
        row: (fault.code, fault.detail.split("x.csv:")[1].split(": ")[0])
        for row, fault in faults(source).items()
    }
    assert found == {
        1: ("type_field", "3"),
        2: ("type_field", "4"),
        3: ("type_field", "5, byte 41"),
        4: ("bad_utf8", "6, byte 50"),
        6: ("type_field", "9, byte 65"),
    }
    assert [record["id"] for record in table(source)] == ["1", "2", "3", None, "5", "6", None, "8"]
    assert "2 fields, and the header has 3" in faults(source)[1].detail
    assert table(source)[4]["context"] is None


def test_a_record_over_the_cap_costs_its_own_line_only(tmp_path: Path) -> None:
    content = (
        b'id,context,question\n1,"'
        + b"x" * 50
        + b"\n"
        + b"2,c,q\n" * 20
        + b"3,"
        + b"y" * 200
        + b",q\n4,c,q\n"
    )
    source = opened(tmp_path / "x.csv", content, max_line_bytes=100)
    assert [(row, fault.code) for row, fault in faults(source).items()] == [
        (0, "line_too_long"),
        (21, "line_too_long"),
    ]
    assert [record["id"] for record in table(source)] == [None, *["2"] * 20, None, "4"]


def test_schema_gives_types_and_what_does_not_fit_is_a_fault(tmp_path: Path) -> None:
    content = b"n,day,context,question\n1,2024-02-29,c,q\n,,c,q\nx,2024-02-30,c,q\n"
    source = opened(tmp_path / "x.csv", content, schema="n:int64,day:date32")
    assert source.schema.types == [pa.int64(), pa.date32(), pa.string(), pa.string()]
    assert [record["n"] for record in table(source)] == [1, None, None]
    assert [(row, fault.code) for row, fault in faults(source).items()] == [(2, "type_field")]


def test_a_name_in_schema_that_no_table_has_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--schema day: .*no such column; it has: context, question"):
        opened(tmp_path / "x.csv", b"context,question\nc,q\n", schema="day:date32")


def test_tables_with_other_columns_are_one_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"id,context,question\n1,c,q\n")
    (tmp_path / "b.tsv").write_bytes(b"question\tnote\tcontext\nr\tn\td\n")
    source = open_source([str(tmp_path)], ReadingSettings())
    assert table(source) == [
        {"id": "1", "context": "c", "question": "q", "note": None},
        {"id": None, "context": "d", "question": "r", "note": "n"},
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"id,text,question\n1,c,q\n", "no column 'context'"),
        (b"context,question,context\nc,q,d\n", "two columns named 'context'"),
        (b'context,"question\nc,q\n', "x.csv:1, byte 0: not a record"),
        (b"context,question\rc,q\r", "ends its lines with CR alone"),
    ],
)
def test_a_header_that_cannot_be_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(InputError) as caught:
        opened(tmp_path / "x.csv", content)
    assert said in str(caught.value)


def test_a_table_of_a_header_alone_has_no_rows_and_columns_without_names_get_one(tmp_path: Path) -> None:
    source = opened(tmp_path / "x.csv", b",context,question,\n")
    assert (table(source), source.schema.names) == ([], ["column_1", "context", "question", "column_4"])
    source = opened(tmp_path / "x.csv", b"context,question,,column_3\nc,q,made,own\n")
    assert table(source) == [{"context": "c", "question": "q", "column_3_": "made", "column_3": "own"}]


@given(
    st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), min_size=3, max_size=3))
)
def test_what_the_csv_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, cells: list[list[str]]
) -> None:
    records = [dict(zip(("id", "context", "question"), row, strict=True)) for row in cells]
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([["id", "context", "question"], *cells])
    source = opened(tmp_path_factory.mktemp("csv") / "x.csv", text.getvalue().encode())
    assert table(source) == records


# --- JSON arrays


@pytest.mark.parametrize("indent", [None, 1, "\t"])
@pytest.mark.parametrize("packed", [bytes, gzip.compress])
@pytest.mark.parametrize("piece", [1, 2, 7, 1 << 20])
def test_a_json_array_is_read_like_lines(
    tmp_path: Path, indent: Any, packed: Callable[[bytes], bytes], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        {**row, "tags": ['a"],[{', "b\\"], "more": {"x": [1, 2.5, None]}, "n": 10**18 + n}
        for n, row in enumerate(ROWS)
    ]
    read = streams.TextStream.read
    monkeypatch.setattr(streams.TextStream, "read", lambda stream, size: read(stream, min(size, piece)))
    text = json.dumps(records, indent=indent, ensure_ascii=False).encode()
    source = opened(tmp_path / "x.json", packed(b"\xef\xbb\xbf" + text + b"\n"))
    assert (source.files[0].format, source.rows) == ("json", len(records))
    assert table(source) == records
    assert not faults(source)


def test_an_item_that_is_no_object_is_a_fault_with_its_number(tmp_path: Path) -> None:
    text = b'[\n{"context": "c", "question": "q"},\n 5, ["x", "y"],\n{"context": "a\nb", "question": "q"},{]'
    source = opened(tmp_path / "x.json", text.replace(b",{]", b"]"))
    found = {
        row: (fault.code, fault.detail.split("x.json, ")[1].split(",")[0])
        for row, fault in faults(source).items()
    }
    assert found == {
        1: ("not_an_object", "record 2"),
        2: ("not_an_object", "record 3"),
        3: ("bad_json", "record 4"),
    }


def test_an_array_that_is_cut_off_is_said_and_not_taken_for_its_end(tmp_path: Path) -> None:
    whole = json.dumps(ROWS).encode()
    for end in (len(whole) - 1, whole.rindex(b"}, {") + 1):
        source = opened(tmp_path / "x.json", whole[:end] + b"\n", schema="context:string")
        with pytest.raises(StorageError, match="the JSON array is not closed"):
            table(source)


def test_arrays_and_lines_are_one_job(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(orjson.dumps(ROWS))
    (tmp_path / "b.jsonl").write_bytes(orjson.dumps(ROWS[0]))
    assert table(open_source([str(tmp_path)], ReadingSettings())) == [*ROWS, ROWS[0]]


# --- compression


@pytest.mark.parametrize("packed", [gzip.compress, zstandard.compress])
def test_zeros_that_fill_up_the_last_block_are_no_damage(
    tmp_path: Path, packed: Callable[[bytes], bytes]
) -> None:
    text = b"".join(orjson.dumps(row) + b"\n" for row in ROWS)
    source = opened(tmp_path / "x.jsonl.gz", packed(text) + bytes(512) + packed(text) + bytes(3_000_000))
    assert table(source) == ROWS + ROWS


def test_a_zstd_window_over_the_limit_is_named_and_the_limit_can_be_raised(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    frame = compressor.compressobj()
    packed = frame.compress(orjson.dumps(ROWS[0])) + frame.flush()
    with pytest.raises(InputError, match=r"256 MiB.*--max-zstd-window 268435456") as caught:
        opened(tmp_path / "x.jsonl.zst", packed)
    assert caught.value.exit_code == 2
    source = opened(tmp_path / "x.jsonl.zst", packed, max_zstd_window=2**28)
    assert table(source) == [ROWS[0]]


def test_a_small_zstd_file_of_a_huge_text_is_read_in_bounded_pieces(tmp_path: Path) -> None:
    packed = zstandard.compress(b'{"context": "' + b"x" * 300_000_000)
    assert len(packed) < 100_000
    pieces: list[int] = []
    decoded = streams._Members._decoded

    def counted(members: Any) -> bytes:
        text = decoded(members)
        pieces.append(len(text))
        return text

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams._Members, "_decoded", counted)
        (tmp_path / "x.jsonl.zst").write_bytes(packed)
        source = open_source([str(tmp_path)], ReadingSettings())
        assert [fault.code for fault in faults(source).values()] == ["line_too_long"]
    assert max(pieces) <= 64 * 2**20


# --- other content


def _zipped(name: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, "x")
    return packed.getvalue()


def _tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x.jsonl"))
    return packed.getvalue()


def _arrow(write: Callable[[pa.Table, Any], None]) -> bytes:
    sink = io.BytesIO()
    write(pa.table({"context": ["c"], "question": ["q"]}), sink)
    return sink.getvalue()


def _stream(rows: pa.Table, sink: Any) -> None:
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)


def _sqlite() -> bytes:
    with sqlite3.connect(":memory:") as database:
        database.execute("create table t (a)")
        return database.serialize()


LINE = orjson.dumps(ROWS[0]) + b"\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_zipped("a.jsonl"), "a ZIP archive; unpack it"),
        (_zipped("xl/workbook.xml"), "an Excel workbook; save the sheet as CSV"),
        (_tar(), "a tar archive"),
        (gzip.compress(_tar(), mtime=0), "gzip around a tar archive"),
        (bz2.compress(LINE), "a bzip2 file; decompress it"),
        (lzma.compress(LINE), "an xz file"),
        (pa.compress(LINE, "lz4", asbytes=True)[:0] + b"\x04\x22\x4d\x18" + LINE, "an lz4 file"),
        (_arrow(feather.write_feather), "an Arrow IPC (Feather) file"),
        (_arrow(_stream), "an Arrow IPC stream"),
        (_arrow(orc.write_table), "an ORC file"),
        (b"Obj\x01\x04\x14avro.codec" + bytes(9), "an Avro file"),
        (_sqlite(), "an SQLite database"),
        (pickle.dumps([1]), "a Python pickle"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"<!DOCTYPE html>\n<html>", "an HTML page"),
        (b"<?xml version='1.0'?><a/>", "an XML document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"- context: c\n  question: q\n", "a YAML document"),
        (b"---\ncontext: c\n", "a YAML document"),
        (b"{'context': 'c'}\n", "Python's notation"),
        (bytes(5000), "nothing but zero bytes"),
        (b"\x89PNG\r\n\x1a\n\0\0", "an image"),
        (bytes(range(256)), "binary data of a format"),
        *[
            (LINE.decode().encode(encoding), f"{said} text; convert it to UTF-8 (iconv -f {said}")
            for encoding, said in (
                ("utf-16", "UTF-16"),
                ("utf-16-le", "UTF-16"),
                ("utf-16-be", "UTF-16"),
                ("utf-32", "UTF-32"),
                ("utf-32-le", "UTF-32"),
                ("utf-32-be", "UTF-32"),
            )
        ],
    ],
)
@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x"])
def test_other_content_is_named_for_what_it_is_whatever_its_name(
    tmp_path: Path, content: bytes, said: str, name: str
) -> None:
    with pytest.raises(InputError) as caught:
        opened(tmp_path / name, content)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("word", ["ORCID", "SEQ", "GGUF", "BZh", "RDX", "LZIP", "GIF8", "Obj"])
def test_a_table_whose_first_word_is_another_format_s_magic_is_a_table(tmp_path: Path, word: str) -> None:
    source = opened(tmp_path / "x", f"{word},context,question\n1,c,q\n".encode())
    assert table(source) == [{word: "1", "context": "c", "question": "q"}]


@given(st.binary(max_size=300), st.sampled_from(["x.json", "x.csv", "x.zst", "x.parquet"]))
def test_no_content_is_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    with contextlib.suppress(InputError, StorageError):
        table(opened(tmp_path_factory.mktemp("any") / name, content))


def test_batches_of_tables_are_bounded(tmp_path: Path) -> None:
    row = {"id": "1", "context": "x" * 1_000_000, "question": "q"}
    source = opened(tmp_path / "x.csv", written([row] * 30))
    sizes = [rows.columns.nbytes for rows in source.read()]
    assert sum(len(rows) for rows in source.read()) == 30
    assert max(sizes) < columns.BATCH_BYTES + 2_000_000
