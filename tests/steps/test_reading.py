"""Which files a job reads, in which order, what they are, and whether they stayed the same."""

from __future__ import annotations

import gzip
import io
import os
import threading
from itertools import accumulate
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from batchqa.errors import (
    BatchqaError,
    InputError,
    NoInputError,
    PreconditionError,
    SettingsError,
    StorageError,
)
from batchqa.records import Cursor
from batchqa.settings import ReadingSettings
from batchqa.steps.reading import Source, open_source

DEFAULT = ReadingSettings()


def line(name: str) -> bytes:
    return orjson.dumps({"id": name, "context": f"the context of {name}", "question": "what?"}) + b"\n"


def write(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(line, names or [path.stem])))
    return path


def ids(source: Source) -> list[str]:
    return [name for rows in source.read() for name in rows.columns.column("id").to_pylist()]


def opened(*inputs: Path | str, **settings: object) -> Source:
    return open_source([str(item) for item in inputs], ReadingSettings(**settings))  # type: ignore[arg-type]


# --- which, and in which order


def test_arguments_are_read_in_the_order_given(tmp_path: Path) -> None:
    b, a = write(tmp_path / "b.jsonl"), write(tmp_path / "a.jsonl")
    assert ids(opened(b, a)) == ["b", "a"]


def test_a_folder_is_read_to_its_depths_sorted_bytewise_by_path(tmp_path: Path) -> None:
    for name in ("b.jsonl", "B.jsonl", "é.jsonl", "a/z.jsonl", "a.jsonl", "a/b/c.jsonl"):
        write(tmp_path / name)
    assert ids(opened(tmp_path)) == ["B", "a", "c", "z", "b", "é"]


def test_the_order_does_not_depend_on_the_order_of_creation(tmp_path: Path) -> None:
    for name in ("3", "1", "2"):
        write(tmp_path / f"{name}.jsonl")
    assert ids(opened(tmp_path / "*.jsonl")) == ["1", "2", "3"]


def test_names_that_begin_with_an_underscore_or_a_dot_are_skipped_in_folders_and_globs(
    tmp_path: Path,
) -> None:
    names = ("_SUCCESS.jsonl", ".crc.jsonl", "_batchqa/part.jsonl", ".git/x.jsonl", "day=1_$folder$")
    names += ("Thumbs.db", "desktop.ini", "a.jsonl.batchqa.json", "a.jsonl.batchqa/part-0000000.jsonl")
    for name in ("kept.jsonl", *names):
        write(tmp_path / name)
    assert ids(opened(tmp_path)) == ["kept"]
    assert ids(opened(tmp_path / "**" / "*.jsonl")) == ["kept"]


def test_a_hidden_file_that_is_named_itself_is_read(tmp_path: Path) -> None:
    assert ids(opened(write(tmp_path / "_hidden.jsonl"))) == ["_hidden"]


def test_a_glob_that_names_a_folder_reads_what_is_in_it(tmp_path: Path) -> None:
    write(tmp_path / "part-1" / "x.jsonl")
    write(tmp_path / "part-2" / "y.jsonl")
    assert ids(opened(tmp_path / "part-*")) == ["x", "y"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    write(tmp_path / "a1.jsonl")
    literal = write(tmp_path / "a[1].jsonl", "literal")
    assert ids(opened(literal)) == ["literal"]


@pytest.mark.parametrize(
    "spelling", ["{0}/a.jsonl", "{0}/./a.jsonl", "{0}/x/../a.jsonl", "{0}/link.jsonl", "{0}"]
)
def test_a_file_named_twice_is_a_mistake_however_it_is_spelled(tmp_path: Path, spelling: str) -> None:
    file = write(tmp_path / "in" / "a.jsonl")
    (tmp_path / "in" / "x").mkdir()
    if "link" in spelling:
        (tmp_path / "in" / "link.jsonl").symlink_to(file)
    with pytest.raises(SettingsError, match="named twice") as caught:
        opened(file, spelling.format(tmp_path / "in"))
    assert caught.value.exit_code == 2


def test_a_link_is_followed_and_its_target_identified(tmp_path: Path) -> None:
    file = write(tmp_path / "real.jsonl")
    (tmp_path / "link.jsonl").symlink_to(file)
    source = opened(tmp_path / "link.jsonl")
    assert ids(source) == ["real"]
    assert source.files[0].uri == file.as_uri()
    assert source.files[0].identity["inode"] == file.stat().st_ino


def test_two_names_of_one_file_in_a_folder_are_both_said(tmp_path: Path) -> None:
    file = write(tmp_path / "in" / "2024-05-01.jsonl")
    (tmp_path / "in" / "latest.jsonl").symlink_to(file)
    with pytest.raises(SettingsError, match=r"latest\.jsonl .*same file as .*2024-05-01\.jsonl"):
        opened(tmp_path / "in")


def test_a_link_to_nothing_in_a_folder_is_named_and_is_not_the_absence_of_input(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jsonl")
    (tmp_path / "in" / "b.jsonl").symlink_to(tmp_path / "gone.jsonl")
    for argument in (tmp_path / "in", tmp_path / "in" / "*.jsonl"):
        with pytest.raises(InputError, match=r"b\.jsonl is a link to a file that does not exist") as caught:
            opened(argument)
        assert not isinstance(caught.value, NoInputError)


def test_a_folder_that_links_to_itself_is_read_once(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert ids(opened(tmp_path)) == ["a"]


def test_key_value_folders_are_not_read_as_columns_and_that_is_said_once(tmp_path: Path) -> None:
    write(tmp_path / "day=1" / "a.jsonl")
    write(tmp_path / "day=2" / "b.jsonl")
    source = opened(tmp_path)
    assert [note for note in source.notes if "key=value" in note] == list(source.notes)
    assert len(source.notes) == 1
    assert "day" not in source.schema.names


@pytest.mark.parametrize("name", ["nothing.jsonl", "*.jsonl", "folder", "dangling", "a.jsonl/below"])
def test_an_argument_that_names_nothing_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    if "below" in name:
        write(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match=name.replace("*", r"\*")) as caught:
        opened(tmp_path / name)
    assert caught.value.exit_code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused_by_its_path(tmp_path: Path) -> None:
    file = write(tmp_path / "secret.jsonl")
    file.chmod(0)
    with pytest.raises(InputError, match=r"secret\.jsonl.*permission"):
        opened(file)


def test_a_name_that_is_not_utf8_is_refused_with_advice(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl")).write_bytes(line("x"))
    with pytest.raises(InputError, match="not UTF-8; rename"):
        opened(tmp_path)


def test_credentials_in_a_uri_are_not_in_the_message() -> None:
    with pytest.raises(BatchqaError) as caught:
        opened("nosuch://key:canary-secret@bucket/a.parquet?token=canary-token")
    assert "canary" not in str(caught.value)
    assert "nosuch://bucket/a.parquet" in str(caught.value)


def test_a_file_uri_is_a_local_file(tmp_path: Path) -> None:
    assert ids(opened("file://" + str(write(tmp_path / "a.jsonl")))) == ["a"]


# --- what they are


def test_the_content_decides_what_a_file_is_and_not_its_name(tmp_path: Path) -> None:
    parquet = tmp_path / "table.jsonl"
    pq.write_table(pa.table({"id": ["p"], "context": ["c"], "question": ["q"]}), parquet)
    zipped = tmp_path / "zipped.parquet"
    zipped.write_bytes(gzip.compress(line("g")))
    assert (opened(parquet).files[0].format, ids(opened(parquet))) == ("parquet", ["p"])
    assert (opened(zipped).files[0].compression, ids(opened(zipped))) == ("gzip", ["g"])


@pytest.mark.parametrize(
    "content",
    [
        b"1\n2\n",
        b"just some text",
        b"Dear reader, this is\na letter, and, as such, no table\n",
    ],
)
@pytest.mark.parametrize("name", ["x", "x.parquet", "x.jsonl"])
def test_what_is_none_of_the_formats_is_refused_by_its_name(
    tmp_path: Path, content: bytes, name: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} is in no format that batchqa reads \(Parquet, JSONL"):
        opened(tmp_path / name)


@pytest.mark.parametrize("name", ["part-0.json", "part-0.parquet", "part-0.csv", "part-0", "part-0.jsonl"])
@pytest.mark.parametrize("content", [b"", b"\n", gzip.compress(b"", mtime=0)], ids=["empty", "blank", "gzip"])
def test_parts_that_hold_nothing_are_passed_over_and_that_is_said(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    write(tmp_path / "part-1.json", "one")
    source = opened(tmp_path)
    assert ids(source) == ["one"]
    assert source.notes[0].startswith(f"1 of 2 files are empty and are skipped, such as {tmp_path / name}")
    assert ids(opened(*sorted(tmp_path.iterdir()))) == ["one"]  # as a shell writes a glob out


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x"])
def test_an_empty_file_that_is_not_named_jsonl_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"{name} is empty"):
        opened(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b" \r\n"])
def test_an_empty_jsonl_file_has_no_rows_and_typed_columns(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    source = opened(tmp_path / "x.jsonl")
    assert (source.rows, list(source.read())) == (0, [])
    assert source.schema == pa.schema({"context": pa.string(), "question": pa.string()})


def test_a_jsonl_file_with_bad_lines_is_still_jsonl(tmp_path: Path) -> None:
    (tmp_path / "x.data").write_bytes(b"rubbish\n" * 100 + line("good") + b'{"cut')
    source = opened(tmp_path / "x.data")
    assert [source.files[0].format, source.rows] == ["jsonl", 102]


def test_a_jsonl_file_with_nothing_but_a_cut_line_is_known_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"context": "cu')
    [rows] = opened(tmp_path / "x.jsonl").read()
    assert rows.faults[0].code == "bad_json"


@pytest.mark.parametrize("value", [b"NaN", b"-Infinity", b"1e999", rb'"\ud800"'])
@pytest.mark.parametrize("rows", [1, 2])
def test_lines_that_only_python_takes_for_json_are_rows_at_fault_and_no_document(
    tmp_path: Path, value: bytes, rows: int
) -> None:
    (tmp_path / "x.data").write_bytes((b'{"context": "c", "question": "q", "v": %b}\n' % value) * rows)
    [found] = opened(tmp_path / "x.data").read()
    assert {fault.code for fault in found.faults.values()} <= {"bad_json", "bad_utf8"}
    assert len(found.faults) == rows


@pytest.mark.parametrize("documents", [1, 2])
@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_pretty_printed_json_objects_are_refused_with_advice(
    tmp_path: Path, documents: int, name: str
) -> None:
    text = orjson.dumps({"context": "c\n{", "question": "q"}, option=orjson.OPT_INDENT_2)
    (tmp_path / name).write_bytes(b"\n".join([text] * documents))
    with pytest.raises(InputError, match=r"write one (record|object) per line \(jq -c \.\)"):
        opened(tmp_path / name)


def test_parquet_inside_gzip_is_refused_with_advice(tmp_path: Path) -> None:
    pq.write_table(pa.table({"context": ["c"]}), tmp_path / "x.parquet")
    (tmp_path / "x.parquet.gz").write_bytes(gzip.compress((tmp_path / "x.parquet").read_bytes()))
    with pytest.raises(InputError, match="Parquet inside gzip; decompress"):
        opened(tmp_path / "x.parquet.gz")


def test_files_of_two_formats_are_refused_naming_one_of_each(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl")
    pq.write_table(pa.table({"context": ["c"], "question": ["q"]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"a\.jsonl is jsonl and .*b\.parquet is parquet"):
        opened(tmp_path)


# --- compression


def compressed(kind: str, data: bytes) -> bytes:
    return gzip.compress(data) if kind == "gzip" else zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_all_members_of_a_compressed_file_are_read(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "x.jsonl.z"
    file.write_bytes(
        compressed(kind, line("1")) + compressed(kind, b"") + compressed(kind, line("2") + line("3"))
    )
    source = opened(file)
    assert ids(source) == ["1", "2", "3"]
    assert source.files[0].compression == kind


def test_a_zstd_file_may_begin_with_a_skippable_frame(tmp_path: Path) -> None:
    frame = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"
    (tmp_path / "x.zst").write_bytes(frame + compressed("zstd", line("1")))
    assert ids(opened(tmp_path / "x.zst")) == ["1"]


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_truncated_stream_is_a_storage_error_with_its_compressed_offset(tmp_path: Path, kind: str) -> None:
    noise = b"".join(line(os.urandom(50).hex()) for _ in range(20_000))
    data = compressed(kind, noise)[:-10]
    file = tmp_path / f"x.jsonl.{kind}"
    file.write_bytes(data)
    with pytest.raises(
        StorageError, match=rf"x\.jsonl\.{kind}, byte {len(data)} of the {kind} file: truncated"
    ) as caught:
        ids(opened(file))
    assert caught.value.exit_code == 74


def test_rows_before_the_truncation_are_handed_on(tmp_path: Path) -> None:
    data = gzip.compress(b"".join(line(os.urandom(50).hex()) for _ in range(40_000)))
    (tmp_path / "x.gz").write_bytes(data[:-10])
    rows: list[int] = []
    with pytest.raises(StorageError):
        rows.extend(map(len, opened(tmp_path / "x.gz").read()))
    assert sum(rows) > 10_000


def test_a_damaged_stream_is_a_storage_error(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(b"".join(line(os.urandom(50).hex()) for _ in range(1000))))
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "x.gz").write_bytes(data)
    with pytest.raises(StorageError, match=r"x\.gz, byte \d+ of the gzip file: truncated or damaged"):
        ids(opened(tmp_path / "x.gz"))


# --- standard input and pipes


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda data: compressed("zstd", data)])
def test_standard_input_is_jsonl_that_is_read_once(pack: object) -> None:
    names = [str(i) for i in range(30_000)]  # more than the sample
    data = pack(b"".join(map(line, names)))  # type: ignore[operator]
    source = open_source(["-"], DEFAULT, stdin=io.BytesIO(data))
    assert not source.replayable
    assert any("cannot be resumed" in note for note in source.notes)
    assert ids(source) == names
    with pytest.raises(ValueError, match="only once"):
        ids(source)


def test_standard_input_without_any_row_is_an_empty_job() -> None:
    source = open_source(["-"], DEFAULT, stdin=io.BytesIO(b""))
    assert (source.rows, ids(source)) == (0, [])


def test_a_pipe_by_name_is_read_like_standard_input(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    names = [str(i) for i in range(20_000)]
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(b"".join(map(line, names))))
    writer.start()
    source = opened(tmp_path / "pipe")
    assert not source.replayable
    assert ids(source) == names
    writer.join()


def test_a_pipe_by_its_descriptor_is_read_as_shells_name_it() -> None:
    """`batchqa run <(zcat a.gz)`: /dev/fd/63, whose real path is no path."""
    ours, theirs = os.pipe()
    os.write(theirs, line("a"))
    os.close(theirs)
    try:
        assert ids(opened(f"/dev/fd/{ours}")) == ["a"]
    finally:
        os.close(ours)


@pytest.mark.parametrize("rows", [10, 40_000])
def test_a_truncated_stream_on_standard_input_is_a_storage_error_too(rows: int) -> None:
    data = gzip.compress(b"".join(line(os.urandom(50).hex()) for _ in range(rows)))[:-10]
    with pytest.raises(StorageError, match=rf"standard input, byte {len(data)} of the gzip file: truncated"):
        ids(open_source(["-"], DEFAULT, stdin=io.BytesIO(data)))


def test_parquet_through_a_pipe_is_refused_with_the_reason() -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"context": ["c"], "question": ["q"]}), buffer)
    with pytest.raises(InputError, match=r"standard input is Parquet.*give the path of the file"):
        open_source(["-"], DEFAULT, stdin=io.BytesIO(buffer.getvalue()))


def test_standard_input_named_twice_is_a_mistake() -> None:
    with pytest.raises(SettingsError, match="twice"):
        open_source(["-", "-"], DEFAULT, stdin=io.BytesIO(line("a")))


# --- identity


def test_the_identity_names_size_time_inode_and_a_hash_of_the_content(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", "a", "b")
    [found] = opened(file).files
    status = file.stat()
    assert found.size == found.identity["size"] == status.st_size
    assert found.identity["mtime_ns"] == status.st_mtime_ns
    assert (found.identity["device"], found.identity["inode"]) == (status.st_dev, status.st_ino)
    file.write_bytes(line("a") + line("c"))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert opened(file).files[0].identity["sha256"] != found.identity["sha256"]


def test_the_last_mib_of_a_large_file_is_in_its_hash(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *map(str, range(60_000)))
    assert file.stat().st_size > 3 * 2**20
    before = opened(file).files[0].identity["sha256"]
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    assert opened(file).files[0].identity["sha256"] != before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes() + line("more")), "changed"),
        (lambda file: os.utime(file, ns=(1, 1)), "changed"),
        (lambda file: write(file.with_name("new")).replace(file), "replaced"),
        (lambda file: file.unlink(), "deleted"),
    ],
)
def test_an_input_that_changes_after_planning_is_noticed(tmp_path: Path, change: object, said: str) -> None:
    file = write(tmp_path / "a.jsonl", *map(str, range(20_000)))
    source = opened(file)
    source.check_unchanged()
    change(file)  # type: ignore[operator]
    with pytest.raises(PreconditionError, match=rf"a\.jsonl was {said}") as caught:
        source.check_unchanged()
    assert caught.value.exit_code == 4
    with pytest.raises(PreconditionError, match=said):
        next(source.read())


# --- cursor


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_reading_goes_on_from_any_cursor_with_the_same_rows(tmp_path: Path, suffix: str) -> None:
    """The cursors of three files of several batches each; blank lines and a byte order mark included."""
    for part in range(3):
        names = [f"{part}-{i}" for i in range(1_500)]
        if suffix == ".parquet":
            table = pa.table({"id": names, "context": ["c"] * 1_500, "question": ["q"] * 1_500})
            pq.write_table(table, tmp_path / f"{part}.parquet", row_group_size=700)
            continue
        data = b"\xef\xbb\xbf\n" + b"\r\n \n".join(map(line, names))
        packed = {".gz": gzip.compress, ".zst": lambda d: compressed("zstd", d)}.get(suffix[6:], bytes)(data)
        (tmp_path / f"{part}{suffix}").write_bytes(packed)
    source = opened(tmp_path)
    batches = list(source.read())
    everything = ids(source)
    assert len(everything) == 4_500
    assert len(batches) >= 6
    for rows in batches:
        for count in {0, 1, len(rows) // 2, len(rows) - 1, len(rows)}:
            done = rows.first_record + count
            rest = list(source.read(rows.cursor_after(count), done))
            assert [name for part in rest for name in part.columns.column("id").to_pylist()] == everything[
                done:
            ]
            assert not rest or rest[0].first_record == done
    assert [rows.first_record for rows in batches] == [0, *accumulate(map(len, batches))][:-1]


def test_details_after_a_resume_name_the_same_line_and_byte(tmp_path: Path) -> None:
    good = b"".join(line(str(i)) for i in range(5_000))
    (tmp_path / "x.jsonl").write_bytes(good + b"\n{bad\n" + line("z"))
    source = opened(tmp_path / "x.jsonl")
    first = next(iter(source.read()))
    [fault] = [
        fault
        for rows in source.read(first.cursor_after(len(first)), len(first))
        for fault in rows.faults.values()
    ]
    assert fault.detail.startswith(f"{tmp_path}/x.jsonl:5002, byte {len(good) + 1}: ")


def test_a_cursor_in_a_later_file_does_not_open_the_earlier_ones(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl")
    source = opened(a, b)
    a.unlink()
    assert [len(rows) for rows in source.read(Cursor(file=1), 1)] == [1]
