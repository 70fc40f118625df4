"""Text files: one document each, whose questions come from elsewhere. Here, from the column `path`."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchqa.errors import InputError
from batchqa.records import Cursor
from batchqa.settings import ReadingSettings
from batchqa.steps.reading import Source, open_dataset, open_source

DOCUMENTS = {
    "a.txt": b"Dear Ann, I was born in 1894.\r\nYours, Bob\n",
    "b/b.txt": "\ufeffÜber «alles».".encode(),
    "c.TXT": b"---\ntitle: a text that begins like YAML\n",
    "d.txt": b"<b>like markup</b>",
    "e.txt": b"name,age\nAnn,3\nBob,4\n",
    "f.txt": b"[1] a list\n[2] of references\n",
    "g.txt": b"",
    "h.txt": b"{as in a text}",
}


def _write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(content)
    return folder


def _open(given: Path, **settings: Any) -> Source:
    return open_source([str(given)], ReadingSettings(question="path", **settings))


def table(source: Source) -> list[dict[str, Any]]:
    return [row for rows in source.read() for row in rows.columns.to_pylist()]


def test_each_text_file_of_a_folder_is_a_row_with_its_path_and_its_text_as_it_is(tmp_path: Path) -> None:
    folder = _write(tmp_path / "in", DOCUMENTS | {"z.txt.gz": gzip.compress(b"packed")})
    source = _open(folder)
    rows = table(source)
    assert (source.rows, source.schema.names) == (9, ["path", "context"])
    assert [row["path"] for row in rows] == [str(folder / name) for name in [*DOCUMENTS, "z.txt.gz"]]
    texts = [content.decode("utf-8-sig") for content in DOCUMENTS.values()]
    assert [row["context"] for row in rows] == [*texts, "packed"]


def test_a_glob_of_texts_is_resumed_at_any_document(tmp_path: Path) -> None:
    _write(tmp_path, DOCUMENTS)
    source = _open(tmp_path / "*.txt")
    parts = source.parts(2)
    assert (len(parts.ends), parts.records) == (3, 6)
    assert parts.begins[1] == Cursor(file=1, row=1)
    (rows,) = [rows for rows in source.read(parts.begins[2], 4) if rows.first_record == 4]
    assert rows.columns["path"].to_pylist() == [str(tmp_path / "g.txt")]


def test_a_text_that_cannot_be_read_is_the_fault_of_its_row(tmp_path: Path) -> None:
    _write(tmp_path, {"a.txt": b"Stra\xdfe", "b.txt": "ü".encode() * 401, "c.txt": b"good"})
    faults = [rows.faults.get(0) for rows in _open(tmp_path, max_context_chars=400).read()]
    assert [fault and fault.code for fault in faults] == ["bad_utf8", "too_large", None]
    assert faults[0] is not None
    assert faults[0].detail.startswith(f"{tmp_path}/a.txt, byte 4: invalid UTF-8 (if it is Latin-1: iconv")


def test_questions_of_the_job_are_asked_of_every_text(tmp_path: Path) -> None:
    folder = _write(tmp_path, {"a.txt": b"one", "b.txt": b"two"})
    source = open_source([str(folder)], ReadingSettings(template_columns=("path",)))
    assert [row["context"] for row in table(source)] == ["one", "two"]
    with pytest.raises(InputError, match="has no column 'author'"):
        open_source([str(folder)], ReadingSettings(template_columns=("author",)))


def test_text_files_without_questions_are_refused_with_the_way_out(tmp_path: Path) -> None:
    _write(tmp_path, DOCUMENTS)
    with pytest.raises(InputError, match="brings no questions; ask your own with --ask NAME="):
        open_source([str(tmp_path)], ReadingSettings())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "a PDF document; extract its text first"),
        ("Text".encode("utf-16"), "UTF-16 text; convert it"),
        (b"PK\x03\x04....xl/workbook.xml", "an Excel workbook; save the sheet as CSV"),
    ],
)
def test_what_is_named_as_a_text_and_is_none_is_refused_for_what_it_is(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _open(_write(tmp_path, {"a.txt": content}))


def test_rows_of_json_may_be_named_as_a_text(tmp_path: Path) -> None:
    folder = _write(tmp_path, {"a.txt": b'{"context": "c", "path": "q"}\n'})
    assert table(_open(folder)) == [{"context": "c", "path": "q"}]


def test_single_texts_are_taken_from_a_dataset_of_them(tmp_path: Path) -> None:
    folder = _write(tmp_path, DOCUMENTS)
    dataset = open_dataset(str(folder))
    assert dataset.names == ("path", "context")
    assert dataset.take(["context"], np.array([3, 0]))["context"].to_pylist() == [
        "<b>like markup</b>",
        "Dear Ann, I was born in 1894.\r\nYours, Bob\n",
    ]
