"""Parquet: types of text columns, bounded batches, bad cells, and files that are no whole Parquet."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchqa.errors import InputError, StorageError
from batchqa.records import RowFault, Rows
from batchqa.settings import ReadingSettings
from batchqa.steps.reading import Source, open_source

CONTEXTS = ["Lyon lies on the Rhône 🇫🇷.", "", None, "ligne\x00nul", "عربي"]
QUESTIONS = ["Where?", "What?", "Why?", None, "كم؟"]


def opened(path: Path, **settings: Any) -> Source:
    return open_source([str(path)], ReadingSettings(**settings))


def write(path: Path, columns: dict[str, Any] | pa.Table, **options: Any) -> Path:
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


def only(source: Source) -> Rows:
    [rows] = source.read()
    return rows


def broken_text(kind: pa.DataType = pa.string()) -> pa.Array:  # noqa: B008 -- immutable
    """["a", invalid, "b"] in a column that says it is text."""
    data = pa.py_buffer(b"a\xff\xfeb")
    offsets = b"".join(i.to_bytes(4, "little") for i in (0, 1, 3, 4))
    array = pa.Array.from_buffers(pa.string(), 3, [None, pa.py_buffer(offsets), data])
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], kind.index_type), array)
    return array.cast(kind, safe=False)


# --- text columns


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.string()),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
    ],
    ids=str,
)
def test_every_type_of_text_gives_the_same_rows_and_passes_through_as_it_was(
    tmp_path: Path, kind: pa.DataType
) -> None:
    table = pa.table({"context": pa.array(CONTEXTS).cast(kind), "question": pa.array(QUESTIONS).cast(kind)})
    source = opened(write(tmp_path / "x.parquet", table))
    rows = only(source)
    assert rows.context.to_pylist() == ["Lyon lies on the Rhône 🇫🇷.", "", None, None, "عربي"]
    assert rows.question.to_pylist() == ["Where?", "What?", None, None, "كم؟"]
    assert {row: fault.code for row, fault in rows.faults.items()} == {2: "null_context", 3: "null_question"}
    assert rows.context.type in (pa.string(), pa.large_string())
    assert source.schema.field("context").type == kind
    assert pa.Table.from_batches([rows.columns]) == table


def test_columns_types_metadata_and_nullability_pass_through_unchanged(tmp_path: Path) -> None:
    schema = pa.schema(
        [
            pa.field("n", pa.int16(), nullable=False, metadata={"unit": "m"}),
            pa.field("context", pa.string(), nullable=False),
            pa.field("list", pa.list_(pa.float32())),
            pa.field("when", pa.timestamp("us", "Europe/Paris")),
            pa.field("amount", pa.decimal128(20, 4)),
            pa.field("question", pa.string()),
            pa.field("nested", pa.struct([("a", pa.int8()), ("b", pa.map_(pa.string(), pa.date32()))])),
        ],
        metadata={"made by": "a test"},
    )
    table = schema.empty_table()
    source = opened(write(tmp_path / "x.parquet", table))
    stored = pq.read_schema(tmp_path / "x.parquet")
    assert source.schema.equals(stored, check_metadata=True)
    assert source.schema.metadata[b"made by"] == b"a test"
    assert (source.rows, list(source.read())) == (0, [])


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array([1]), "int64"),
        (pa.array([True]), "bool"),
        (pa.array([["a"]]), "list<"),
        (pa.array([{"a": "b"}]), "struct<"),
    ],
)
def test_a_text_column_of_a_wrong_type_is_refused_with_its_type(
    tmp_path: Path, column: pa.Array, said: str
) -> None:
    write(tmp_path / "x.parquet", {"context": column, "question": ["q"]})
    with pytest.raises(
        InputError, match=rf"x\.parquet: column 'context' \(--context\) is .*{said}"
    ) as caught:
        opened(tmp_path / "x.parquet")
    assert caught.value.exit_code == 2


def test_a_missing_column_is_refused_with_the_columns_found(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", {"ctx": ["c"], "question": ["q"], "n": [1]})
    with pytest.raises(
        InputError, match=r"x\.parquet has no column 'context'; it has: ctx, question, n; name .* --context"
    ):
        opened(tmp_path / "x.parquet")
    assert only(opened(tmp_path / "x.parquet", context="ctx")).context.to_pylist() == ["c"]


@pytest.mark.parametrize("option", ["keep", "drop", "id"])
def test_an_option_that_names_no_column_is_refused(tmp_path: Path, option: str) -> None:
    write(tmp_path / "x.parquet", {"context": ["c"], "question": ["q"]})
    with pytest.raises(InputError, match="nope"):
        opened(tmp_path / "x.parquet", **{option: "nope" if option == "id" else ("nope",)})


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays(
        [pa.array(["a"]), pa.array(["b"]), pa.array(["q"])], ["context", "context", "question"]
    )
    with pytest.raises(InputError, match="two columns named 'context'"):
        opened(write(tmp_path / "x.parquet", table))


@pytest.mark.parametrize("name", ["qa_answer", "qa_error_detail", "qa_candidates"])
def test_a_column_that_the_run_would_add_is_refused_unless_it_is_left_out(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / "x.parquet", {"context": ["c"], "question": ["q"], name: ["old"]})
    with pytest.raises(InputError, match=rf"{name}.*--output-prefix"):
        opened(file)
    assert name not in opened(file, drop=(name,)).schema.names
    assert name in opened(file, output_prefix="new_").schema.names


def test_keep_and_drop_choose_what_passes_through_and_the_texts_are_read_all_the_same(tmp_path: Path) -> None:
    file = write(tmp_path / "x.parquet", {"a": [1], "context": ["c"], "b": [2], "question": ["q"]})
    kept = opened(file, keep=("b", "a"))
    assert kept.schema.names == ["a", "b"]
    assert only(kept).columns.to_pydict() == {"a": [1], "b": [2]}
    assert only(kept).context.to_pylist() == ["c"]
    dropped = opened(file, drop=("a", "context", "question"))
    assert only(dropped).columns.to_pydict() == {"b": [2]}
    assert only(dropped).question.to_pylist() == ["q"]
    nothing = only(opened(file, keep=()))
    assert (nothing.columns.num_columns, nothing.columns.num_rows, len(nothing)) == (0, 1, 1)


# --- dotted paths


NESTED = pa.array([{"context": "c1", "n": 1}, None, {"context": None, "n": 3}])


@pytest.mark.parametrize("settings", [{}, {"drop": ("d",)}, {"keep": ()}])
def test_a_dotted_path_reaches_into_a_struct(tmp_path: Path, settings: dict[str, Any]) -> None:
    file = write(tmp_path / "x.parquet", {"d": NESTED, "question": ["q"] * 3})
    rows = only(opened(file, context="d.context", **settings))
    assert rows.context.to_pylist() == ["c1", None, None]
    assert {row: fault.code for row, fault in rows.faults.items()} == {1: "null_context", 2: "null_context"}
    if not settings:
        assert rows.columns.column("d").to_pylist() == NESTED.to_pylist()


def test_a_top_level_column_with_the_literal_name_wins_over_the_path(tmp_path: Path) -> None:
    file = write(tmp_path / "x.parquet", {"d": NESTED, "d.context": ["literal"] * 3, "question": ["q"] * 3})
    for settings in ({}, {"keep": ()}, {"keep": ("d.context",)}, {"drop": ("d",)}):
        rows = only(opened(file, context="d.context", **settings))
        assert rows.context.to_pylist() == ["literal"] * 3


def test_a_path_into_something_that_is_no_struct_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "x.parquet", {"d": [["a"]], "question": ["q"]})
    with pytest.raises(InputError, match=r"no column 'd\.context'"):
        opened(file, context="d.context")


# --- bad cells


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_invalid_utf8_in_a_text_column_is_a_fault_of_its_row_and_written_as_null(
    tmp_path: Path, kind: pa.DataType
) -> None:
    table = pa.table({"context": broken_text(kind), "question": ["q"] * 3})
    source = opened(write(tmp_path / "x.parquet", table))
    rows = only(source)
    assert rows.context.to_pylist() == ["a", None, "b"]
    assert rows.question.to_pylist() == ["q", None, "q"]
    where = f"{tmp_path}/x.parquet, row 2"
    detail = f"{where}: column 'context' is not valid UTF-8 and is written as null"
    assert rows.faults == {1: RowFault("bad_utf8", detail)}
    rows.columns.validate(full=True)
    assert rows.columns.column("context").to_pylist() == ["a", None, "b"]
    assert rows.columns.schema == source.schema
    assert source.schema.field("context").type == kind


def test_invalid_utf8_in_any_other_column_is_a_fault_too_also_nested(tmp_path: Path) -> None:
    bad = broken_text()
    table = {
        "context": ["c"] * 3,
        "question": ["q"] * 3,
        "note": bad,
        "tags": pa.ListArray.from_arrays(pa.array([0, 1, 2, 3]), bad),
        "d": pa.StructArray.from_arrays([bad], ["x"]),
    }
    rows = only(opened(write(tmp_path / "x.parquet", table)))
    assert [fault.code for fault in rows.faults.values()] == ["bad_utf8"]
    assert "'note'" in rows.faults[1].detail
    rows.columns.validate(full=True)
    assert rows.columns.column("tags").to_pylist() == [["a"], None, ["b"]]
    assert rows.columns.column("d").to_pylist() == [{"x": "a"}, None, {"x": "b"}]


def test_a_bad_cell_of_a_required_column_is_written_as_an_empty_string(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("context", pa.string(), nullable=False), pa.field("question", pa.string())])
    table = pa.Table.from_arrays([broken_text(), pa.array(["q"] * 3)], schema=schema)
    rows = only(opened(write(tmp_path / "x.parquet", table)))
    assert rows.columns.column("context").to_pylist() == ["a", "", "b"]
    assert rows.context.to_pylist() == ["a", None, "b"]
    assert "written as an empty string" in rows.faults[1].detail


def test_a_bad_cell_of_a_binary_text_column_is_a_fault_and_passes_through_as_bytes(tmp_path: Path) -> None:
    table = {"context": pa.array([b"a", b"\xff\xfe", None, b"b"]), "question": ["q"] * 4}
    rows = only(opened(write(tmp_path / "x.parquet", table)))
    assert rows.context.to_pylist() == ["a", None, None, "b"]
    assert {row: fault.code for row, fault in rows.faults.items()} == {1: "bad_utf8", 2: "null_context"}
    assert rows.columns.column("context").to_pylist() == [b"a", b"\xff\xfe", None, b"b"]


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.text(st.characters(codec="utf-8"), max_size=8).map(str.encode),
            st.binary(max_size=8),
        )
    )
)
def test_the_cells_that_python_cannot_decode_are_the_ones_at_fault(
    tmp_path: Path, cells: list[bytes | None]
) -> None:
    text = pa.array(cells, pa.binary()).cast(pa.string(), safe=False)
    write(tmp_path / "x.parquet", {"context": text, "question": ["q"] * len(cells)})
    expected = [None if cell is None or not _valid(cell) else cell.decode() for cell in cells]
    rows = list(opened(tmp_path / "x.parquet").read())
    assert [text for part in rows for text in part.context.to_pylist()] == expected
    bad = {i for i, cell in enumerate(cells) if cell is not None and not _valid(cell)}
    assert {i for part in rows for i, fault in part.faults.items() if fault.code == "bad_utf8"} == bad


def _valid(cell: bytes) -> bool:
    try:
        cell.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_a_context_over_the_limit_in_characters_is_too_large(tmp_path: Path) -> None:
    table = {"context": ["é" * 10, "é" * 11, "x", "é"], "question": ["q", "q", "q" * 11, "q" * 10]}
    rows = only(opened(write(tmp_path / "x.parquet", table), max_context_chars=10))
    assert {row: fault.code for row, fault in rows.faults.items()} == {1: "too_large", 2: "too_large"}
    assert rows.context.to_pylist() == ["é" * 10, None, None, "é"]
    assert rows.columns.to_pydict() == table


def test_a_row_error_goes_before_a_status_of_the_same_row(tmp_path: Path) -> None:
    table = {"context": pa.array([None]), "question": ["q" * 11]}
    rows = only(opened(write(tmp_path / "x.parquet", table), max_context_chars=10))
    assert rows.faults[0].code == "too_large"


def test_messages_never_hold_the_text_of_a_row(tmp_path: Path) -> None:
    table = {"context": ["canary" * 10, None], "question": pa.array([b"canary\xff", b"canary"])}
    rows = only(opened(write(tmp_path / "x.parquet", table), max_context_chars=10))
    assert len(rows.faults) == 2
    assert not any("canary" in fault.detail for fault in rows.faults.values())


# --- batches


def test_many_small_rows_come_in_batches_of_at_most_4096(tmp_path: Path) -> None:
    n = 20_000
    write(tmp_path / "x.parquet", {"context": ["c"] * n, "question": [str(i) for i in range(n)]})
    sizes = [len(rows) for rows in opened(tmp_path / "x.parquet").read()]
    assert sum(sizes) == n
    assert max(sizes) <= 4096
    assert len(sizes) <= 6


def test_large_rows_come_in_batches_of_about_8_mib(tmp_path: Path) -> None:
    contexts = [f"{i}" + "x" * 1_000_000 for i in range(40)]
    write(tmp_path / "x.parquet", {"context": contexts, "question": ["q"] * 40}, use_dictionary=False)
    batches = list(opened(tmp_path / "x.parquet").read())
    assert all(rows.context.nbytes <= 9 * 2**20 for rows in batches)
    assert sum(map(len, batches)) == 40


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_a_small_file_that_stands_for_a_large_text_is_cut_all_the_same(
    tmp_path: Path, kind: pa.DataType
) -> None:
    """400 cells of a megabyte in a kilobyte of Parquet (FAULTS 19): memory stays bounded."""
    contexts = pa.DictionaryArray.from_arrays(pa.array([0] * 400, pa.int32()), pa.array(["A" * 1_000_000]))
    table = {"context": contexts.cast(kind), "question": ["q"] * 400}
    write(tmp_path / "x.parquet", table, compression="zstd")
    assert (tmp_path / "x.parquet").stat().st_size < 100_000
    del contexts, table
    before = pa.total_allocated_bytes()
    rows = most = 0
    for batch in opened(tmp_path / "x.parquet").read():
        rows += len(batch)
        most = max(most, pa.total_allocated_bytes() - before)
        assert sum(len(text) for text in batch.context.to_pylist()) <= 9 * 2**20
    assert rows == 400
    assert most < 150 * 2**20


def test_small_row_groups_do_not_lose_or_double_rows(tmp_path: Path) -> None:
    names = [str(i) for i in range(1003)]
    write(tmp_path / "x.parquet", {"context": names, "question": names}, row_group_size=7)
    source = opened(tmp_path / "x.parquet")
    assert [text for rows in source.read() for text in rows.context.to_pylist()] == names
    assert source.rows == 1003


# --- several, and broken


def test_files_of_different_schemas_are_refused_naming_the_first_two(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"context": ["c"], "question": ["q"], "n": [1]})
    write(tmp_path / "b.parquet", {"context": ["c"], "question": ["q"], "n": [2]})
    write(tmp_path / "c.parquet", {"context": ["c"], "question": ["q"], "n": ["3"]})
    with pytest.raises(
        InputError, match=r"a\.parquet and .*c\.parquet have different schemas: column 'n' is int64"
    ):
        opened(tmp_path)


def test_files_whose_schemas_differ_only_in_metadata_are_one_input(tmp_path: Path) -> None:
    table = pa.table({"context": ["c"], "question": ["q"]})
    write(tmp_path / "a.parquet", table.replace_schema_metadata({"x": "1"}))
    write(tmp_path / "b.parquet", table.replace_schema_metadata({"x": "2"}))
    source = opened(tmp_path)
    assert all(rows.columns.schema.equals(source.schema, check_metadata=True) for rows in source.read())
    assert source.rows == 2


def test_a_cut_file_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    file = write(tmp_path / "x.parquet", {"context": ["c"], "question": ["q"]})
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"x\.parquet is not a complete Parquet file"):
        opened(file)


@pytest.mark.parametrize("plaintext_footer", [True, False])
def test_an_encrypted_file_is_refused_and_does_not_end_the_process(
    tmp_path: Path, plaintext_footer: bool
) -> None:
    table = pa.table({"context": ["c"], "question": ["q"]})
    keys = encryption.KmsConnectionConfig(
        custom_kms_conf={"footer": "0123456789012345", "column": "5432109876543210"}
    )
    configuration = encryption.EncryptionConfiguration(
        footer_key="footer", column_keys={"column": ["context"]}, plaintext_footer=plaintext_footer
    )
    properties = encryption.CryptoFactory(lambda _: _Keys()).file_encryption_properties(keys, configuration)
    with pq.ParquetWriter(tmp_path / "x.parquet", table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    with pytest.raises(InputError, match=r"x\.parquet is encrypted Parquet"):
        opened(tmp_path / "x.parquet")


class _Keys(encryption.KmsClient):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return base64.b64decode(wrapped_key)


def test_a_flipped_bit_in_a_checked_page_is_a_storage_error_with_file_and_row_group(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(2000)]
    file = write(
        tmp_path / "x.parquet",
        {"context": texts, "question": texts},
        row_group_size=1000,
        use_dictionary=False,
        compression="none",
        write_page_checksum=True,
    )
    data = bytearray(file.read_bytes())
    data[data.index(b"text 1500")] ^= 1
    file.write_bytes(data)
    rows: list[int] = []
    with pytest.raises(StorageError, match=r"x\.parquet, row group 1: the data is damaged") as caught:
        rows.extend(map(len, opened(file).read()))
    assert sum(rows) == 1000
    assert caught.value.exit_code == 74
    assert "text" not in str(caught.value)


def test_a_broken_page_header_is_a_storage_error(tmp_path: Path) -> None:
    file = write(
        tmp_path / "x.parquet", {"context": ["c"] * 10, "question": ["q"] * 10}, use_dictionary=False
    )
    data = bytearray(file.read_bytes())
    data[4:12] = b"\xff" * 8
    file.write_bytes(data)
    with pytest.raises(StorageError, match=r"x\.parquet, row group 0"):
        list(opened(file).read())


@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_any_changed_byte_gives_all_rows_or_one_of_our_errors(tmp_path: Path, place: int, value: int) -> None:
    file = tmp_path / "x.parquet"
    if not (tmp_path / "good").exists():
        table = {
            "context": ["some context", None] * 50,
            "question": [f"{i}?" for i in range(100)],
            "n": list(range(100)),
        }
        write(tmp_path / "good", table, write_page_checksum=True)
    data = bytearray((tmp_path / "good").read_bytes())
    data[-1 - place % len(data)] = value
    file.write_bytes(data)
    try:
        source = opened(file)
        assert sum(map(len, source.read())) == source.rows
    except (InputError, StorageError) as error:
        assert "x.parquet" in str(error)  # noqa: PT017 -- either may happen


def test_many_files_of_one_schema_are_one_kind_so_that_planning_is_linear(tmp_path: Path) -> None:
    for number in range(20):
        pq.write_table(
            pa.table({"context": ["c"], "question": [str(number)]}), tmp_path / f"{number:02d}.parquet"
        )
    source = open_source([str(tmp_path)], ReadingSettings())
    assert source.rows == 20
    assert len({id(kind) for kind in source._reader._kind_of}) == 1  # type: ignore[attr-defined]
