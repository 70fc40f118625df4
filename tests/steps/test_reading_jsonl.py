"""JSONL: what is a line, what is wrong with it and where, and how values become columns."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchqa.errors import InputError, SettingsError
from batchqa.records import Rows
from batchqa.settings import ReadingSettings
from batchqa.steps.reading import Source, json_sample, open_source

GOOD = b'{"context": "c", "question": "q"}'


def opened(path: Path, data: bytes, *, keep_raw: bool = False, **settings: Any) -> Source:
    path.write_bytes(data)
    return open_source([str(path)], ReadingSettings(**settings), keep_raw=keep_raw)


def lines(*records: Any) -> bytes:
    return b"".join(
        (json.dumps(record).encode() if not isinstance(record, bytes) else record) + b"\n"
        for record in records
    )


def only(source: Source) -> Rows:
    """All rows as one."""
    parts = list(source.read())
    return Rows(
        pa.concat_batches([part.columns for part in parts]),
        pa.concat_arrays([part.context for part in parts]),
        pa.concat_arrays([part.question for part in parts]),
        {part.first_record + row: fault for part in parts for row, fault in part.faults.items()},
        0,
        parts[-1].cursor_after,
        parts[0].locate,
    )


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schema is fixed by 50 records in place of 10,000: SAMPLE and the following files it."""
    monkeypatch.setattr(json_sample, "SAMPLE_RECORDS", 50)


def columns(source: Source) -> dict[str, list[Any]]:
    return pa.Table.from_batches([rows.columns for rows in source.read()], source.schema).to_pydict()


def faults(source: Source) -> dict[int, tuple[str, str]]:
    """By record: the code, and the detail without the folder."""
    found = {}
    for rows in source.read():
        for row, fault in rows.faults.items():
            found[rows.first_record + row] = (fault.code, fault.detail.rpartition("/")[2])
    return found


# --- lines


def test_lines_end_at_newlines_only_and_one_carriage_return_is_dropped(tmp_path: Path) -> None:
    context = "a\u2028b\u2029c\u0085d\u000be"
    record = orjson.dumps({"context": context, "question": "q"})
    rows = only(opened(tmp_path / "x.jsonl", record + b"\r\n" + record + b"\r\n"))
    assert rows.context.to_pylist() == [context, context]
    assert not rows.faults
    # a carriage return is white space of JSON elsewhere in a line
    rows = only(opened(tmp_path / "y.jsonl", b'{"context": "a",\r"question": "q"}\n'))
    assert rows.context.to_pylist() == ["a"]


def test_the_last_line_needs_no_newline(tmp_path: Path) -> None:
    source = opened(tmp_path / "x.jsonl", GOOD + b"\n" + GOOD)
    assert (source.rows, len(only(source))) == (2, 2)


def test_blank_lines_are_no_records_but_count_as_lines(tmp_path: Path) -> None:
    data = b"\n" + GOOD + b"\n\r\n  \t\n" + b"{bad\n" + GOOD
    source = opened(tmp_path / "x.jsonl", data)
    assert len(only(source)) == 3
    [(row, (code, detail))] = faults(source).items()
    assert (row, code) == (1, "bad_json")
    assert detail.startswith(f"x.jsonl:5, byte {data.index(b'{bad')}: ")


def test_a_byte_order_mark_is_dropped_at_the_start_of_lines_as_joined_files_have_it(tmp_path: Path) -> None:
    bom = b"\xef\xbb\xbf"
    source = opened(tmp_path / "x.jsonl", bom + GOOD + b"\n" + bom + GOOD + b"\n" + bom + b"\n" + GOOD + bom)
    assert list(faults(source)) == [2]
    assert only(source).context.to_pylist() == ["c", "c", None]


def test_nul_and_other_escaped_controls_are_kept(tmp_path: Path) -> None:
    source = opened(tmp_path / "x.jsonl", b'{"context": "a\\u0000b\\u001f", "question": "q"}\n')
    assert only(source).context.to_pylist() == ["a\0b\x1f"]


def test_of_duplicate_keys_the_last_wins(tmp_path: Path) -> None:
    source = opened(tmp_path / "x.jsonl", b'{"context": "first", "question": "q", "context": "last"}\n')
    assert only(source).context.to_pylist() == ["last"]


@pytest.mark.parametrize("data", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_a_line_over_the_cap_is_a_fault_and_the_next_line_is_read(tmp_path: Path, data: Any) -> None:
    long = b'{"context": "' + b"x" * 5_000_000 + b'", "question": "q"}'
    text = GOOD + b"\n" + long + b"\n" + GOOD + b"\n{bad\n" + long
    source = opened(tmp_path / "x.jsonl", data(text), max_line_bytes=100_000)
    found = faults(source)
    assert {row: code for row, (code, _) in found.items()} == {
        1: "line_too_long",
        3: "bad_json",
        4: "line_too_long",
    }
    assert found[1][1].startswith(f"x.jsonl:2, byte {len(GOOD) + 1}: ")
    assert found[3][1].startswith(f"x.jsonl:4, byte {text.index(b'{bad')}: ")
    assert [text for rows in source.read() for text in rows.context.to_pylist()] == [
        "c",
        None,
        "c",
        None,
        None,
    ]


@pytest.mark.parametrize("over", [0, 1])
def test_the_cap_counts_the_bytes_of_the_line_without_its_newline(tmp_path: Path, over: int) -> None:
    source = opened(tmp_path / "x.jsonl", GOOD + b"\n" + GOOD + b" " * over + b"\n", max_line_bytes=len(GOOD))
    assert list(faults(source)) == ([1] if over else [])


def test_a_line_that_spans_many_blocks_is_one_record(tmp_path: Path) -> None:
    context = "é" * 3_000_000
    source = opened(tmp_path / "x.jsonl", lines({"context": context, "question": "q"}) * 2)
    assert [text for rows in source.read() for text in rows.context.to_pylist()] == [context, context]


def test_batches_are_bounded_in_rows(tmp_path: Path) -> None:
    source = opened(tmp_path / "x.jsonl", (GOOD + b"\n") * 30_000)
    sizes = [len(rows) for rows in source.read()]
    assert max(sizes) <= 4096
    assert sum(sizes) == 30_000


# --- bad lines


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (b'{"context": "c", "question"', "bad_json", "unexpected end of data"),
        (b'{"context": "c", "question": "q",}', "bad_json", "trailing comma"),
        (b'{"context": "c", "question": "q"}{}', "bad_json", "after document"),
        (b'{"context": "c", "question": NaN}', "bad_json", "NaN, which JSON does not have (write null)"),
        (b'{"context": "c", "question": "q", "x": Infinity}', "bad_json", "Infinity, which JSON"),
        (b'{"context": "c", "question": "q", "x": -Infinity}', "bad_json", "-Infinity, which JSON"),
        (b'{"context": "c\x00", "question": "q"}', "bad_json", "control character"),
        (b'{"context": "c\tc", "question": "q"}', "bad_json", "control character"),
        (b'{"context": "c", "question": "q", "x": ' + b"[" * 2000 + b"]" * 2000 + b"}", "bad_json", ""),
        (b'{"context": "c", "question": "q", "x": 1' + b"0" * 5000 + b"}", "bad_json", ""),
        (b'{"context": "c", "question": "q", "x": 1e400}', "bad_json", ""),
        (b"rubbish", "bad_json", "unexpected character"),
        (
            b'{"context": "a\xffb", "question": "q"}',
            "bad_utf8",
            "-f WINDOWS-1252 -t UTF-8), 14 bytes into the line",
        ),
        (b'{"context": "a\xed\xa0\xbd", "question": "q"}', "bad_utf8", "invalid UTF-8"),
        (b'{"context": "c", "question": "q", "note\xff": 1}', "bad_utf8", "invalid UTF-8"),
        (b'{"context": "a\\ud83db", "question": "q"}', "bad_utf8", "surrogate"),
        (b'{"context": "c", "question": "q", "x": ["\\udc00"]}', "bad_utf8", "surrogate"),
        (b'{"context": "c", "question": "q", "\\uDBFF": 1}', "bad_utf8", "surrogate"),
        (b'["a"]', "not_an_object", "an array"),
        (b'"a"', "not_an_object", "a string"),
        (b"null", "not_an_object", "null"),
        (b"1.5", "not_an_object", "a number"),
        (b'{"question": "q"}', "missing_context", "no key 'context'"),
        (b'{"context": "c"}', "missing_question", "no key 'question'"),
        (b"{}", "missing_context", ""),
        (b'{"context": 1, "question": "q"}', "type_context", "a number, not a string"),
        (b'{"context": ["c"], "question": "q"}', "type_context", "an array"),
        (b'{"context": "c", "question": {"text": "q"}}', "type_question", "an object"),
        (b'{"context": "c", "question": true}', "type_question", "a boolean"),
        (b'{"context": null, "question": "q"}', "null_context", "null"),
        (b'{"context": "c", "question": null}', "null_question", "null"),
    ],
)
def test_a_bad_line_keeps_its_place_with_its_code_line_and_byte(
    tmp_path: Path, line: bytes, code: str, said: str
) -> None:
    source = opened(tmp_path / "x.jsonl", GOOD + b"\n\n" + line + b"\n" + GOOD)
    rows = only(source)
    [(row, (found, detail))] = faults(source).items()
    assert (row, found) == (1, code)
    assert detail.startswith(f"x.jsonl:3, byte {len(GOOD) + 2}: ")
    assert said in detail
    assert rows.context.to_pylist() == ["c", None, "c"]
    assert rows.question.to_pylist() == ["q", None, "q"]
    if code in ("bad_json", "bad_utf8", "not_an_object"):
        assert all(column.to_pylist()[1] is None for column in rows.columns.columns)


@pytest.mark.usefixtures("small_sample")
def test_messages_never_hold_the_text_of_a_row(tmp_path: Path) -> None:
    bad = [
        b'{"context": "canary',
        b'{"context": "canary\xff"}',
        b'{"context": "canary\\ud800"}',
        b'"canary"',
        b'{"context": {"canary": 1}, "question": "q"}',
        b'{"context": "c", "question": "q", "n": "canary"}',
    ]
    source = opened(tmp_path / "x.jsonl", lines({"context": "c", "question": "q", "n": 1}) * 51 + lines(*bad))
    assert len(faults(source)) == 6
    assert not any("canary" in detail for _, detail in faults(source).values())


def test_a_context_over_the_limit_is_too_large_and_still_passes_through(tmp_path: Path) -> None:
    source = opened(tmp_path / "x.jsonl", lines({"context": "é" * 11, "question": "q"}), max_context_chars=10)
    assert faults(source)[0][0] == "too_large"
    assert columns(source)["context"] == ["é" * 11]
    assert only(source).context.to_pylist() == [None]


@given(st.binary(max_size=60), st.integers(0, 3))
@example(b"\xef\xbb\xbf", 0)
@example(b'{"a":' * 3, 1)
def test_no_bytes_make_a_traceback_or_lose_a_line(tmp_path: Path, noise: bytes, place: int) -> None:
    records = [GOOD] * 4
    records.insert(place, noise)
    data = b"\n".join(records)
    source = opened(tmp_path / "x.jsonl", data)
    rows = only(source)
    text = data.removeprefix(b"\xef\xbb\xbf")
    expected = [line for line in text.split(b"\n") if line.strip(b" \t\r")]
    assert len(rows) == len(expected) == source.rows
    assert [rows.context[i].as_py() for i in range(len(rows)) if i not in rows.faults].count("c") >= 4


# --- schema


def test_the_sample_fixes_a_type_for_every_key_in_the_order_of_appearance(tmp_path: Path) -> None:
    records = [
        {"id": 1, "context": "c", "question": "q", "flag": True, "share": 0.5, "tags": ["a"], "d": {"x": 1}},
        {"share": 1, "context": "c", "question": "q", "tags": [], "d": {"y": [1.5]}, "note": "n", "id": None},
    ]
    source = opened(tmp_path / "x.jsonl", lines(*records))
    expected = {
        "id": pa.int64(),
        "context": pa.string(),
        "question": pa.string(),
        "flag": pa.bool_(),
        "share": pa.float64(),
        "tags": pa.list_(pa.string()),
        "d": pa.struct({"x": pa.int64(), "y": pa.list_(pa.float64())}),
        "note": pa.string(),
    }
    assert source.schema == pa.schema(expected)
    found = columns(source)
    assert found["id"] == [1, None]
    assert found["share"] == [0.5, 1.0]
    assert found["d"] == [{"x": 1, "y": None}, {"x": None, "y": [1.5]}]
    assert not faults(source)


def test_the_schema_is_that_of_the_first_records_over_all_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    opened(tmp_path / "in" / "a.jsonl", lines({"context": "c", "question": "q", "a": 1}))
    opened(tmp_path / "in" / "b.jsonl", lines({"context": "c", "question": "q", "b": "x"}))
    source = open_source([str(tmp_path / "in")], ReadingSettings())
    assert columns(source)["a"] == [1, None]
    assert columns(source)["b"] == [None, "x"]
    assert [file.rows for file in source.files] == [1, 1]


def test_values_of_several_types_pass_through_as_their_json_text(tmp_path: Path) -> None:
    values = [1, "one", None, [1, {"é": 2.5}], True]
    source = opened(tmp_path / "x.jsonl", lines(*({"context": "c", "question": "q", "v": v} for v in values)))
    assert columns(source)["v"] == ["1", '"one"', None, '[1,{"é":2.5}]', "true"]
    assert source.schema.field("v").metadata == {b"batchqa.type": b"json"}
    assert any("'v'" in note and "JSON text" in note for note in source.notes)
    assert not faults(source)


def test_empty_objects_and_maps_with_very_many_keys_pass_through_as_json_text(tmp_path: Path) -> None:
    records = [{"context": "c", "question": "q", "e": {}, "m": {f"k{i}": i}} for i in range(300)]
    source = opened(tmp_path / "x.jsonl", lines(*records))
    assert columns(source)["e"][0] == "{}"
    assert columns(source)["m"][299] == '{"k299":299}'


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"v": value}
    return value


def test_deep_nesting_that_is_valid_passes_through(tmp_path: Path) -> None:
    source = opened(
        tmp_path / "x.jsonl", orjson.dumps({"context": "c", "question": "q", "v": deep(200)}) + b"\n"
    )
    found = columns(source)["v"][0]
    while isinstance(found, dict):
        found = found["v"]
    text = json.loads(found)
    while isinstance(text, dict):
        text = text["v"]
    assert text == 1


SAMPLE = lines({"context": "c", "question": "q", "n": 1, "d": {"x": 1}, "l": [{"x": 1}], "t": "s"}) * 51


@pytest.mark.usefixtures("small_sample")
def test_later_unknown_keys_go_into_the_extra_column_nested_as_they_were(tmp_path: Path) -> None:
    late = {"context": "c", "question": "q", "n": 2, "new": [1, "é"], "d": {"x": 2, "y": {"z": None}}}
    source = opened(tmp_path / "x.jsonl", SAMPLE + lines(late))
    assert source.schema.names == ["context", "question", "n", "d", "l", "t", "qa_extra"]
    assert source.rows is None
    extra = columns(source)["qa_extra"]
    assert extra[:51] == [None] * 51
    assert json.loads(extra[51]) == {"new": [1, "é"], "d": {"y": {"z": None}}}
    assert columns(source)["d"][-1] == {"x": 2}
    assert not faults(source)


def test_without_an_extra_column_an_unknown_key_of_a_struct_is_a_misfit(tmp_path: Path) -> None:
    """With --keep nothing else is wanted, yet a part of a kept column must not vanish."""
    data = SAMPLE * 197 + lines({"context": "c", "question": "q", "new": 1, "d": {"x": 1, "late": 2}})
    source = opened(tmp_path / "x.jsonl", data, keep=("d",))
    assert [code for code, _ in faults(source).values()] == ["type_field"]
    assert columns(source)["d"][-1] is None


def test_keys_of_a_struct_with_texts_that_are_too_many_go_into_the_extra_column(tmp_path: Path) -> None:
    records = [{"d": {"context": "c", "question": "q", f"k{i}": i}} for i in range(300)]
    source = opened(tmp_path / "x.jsonl", lines(*records), context="d.context", question="d.question")
    assert not faults(source)
    found = columns(source)
    for i in (0, 299):
        extra = json.loads(found["qa_extra"][i] or '{"d": {}}')["d"]
        assert {**found["d"][i], **extra}[f"k{i}"] == i


def test_there_is_no_extra_column_where_the_sample_saw_everything(tmp_path: Path) -> None:
    assert (
        "qa_extra"
        not in opened(tmp_path / "x.jsonl", lines({"context": "c", "question": "q"}) * 10_000).schema.names
    )
    assert (
        "qa_extra"
        in opened(tmp_path / "x.jsonl", lines({"context": "c", "question": "q"}) * 10_001).schema.names
    )


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize(
    ("late", "said"),
    [
        ({"n": "2"}, "'n' is a string, not int64"),
        ({"n": 1.0}, "'n' is a number, not int64"),
        ({"n": True}, "'n' is a boolean, not int64"),
        ({"n": 2**63}, "'n' is an integer beyond the exact range of int64"),
        ({"n": 2**64}, "'n' is an integer beyond"),
        ({"n": -(2**70)}, "'n' is an integer beyond"),
        ({"d": [1]}, "'d' is an array, not struct"),
        ({"d": {"x": "1"}}, "'d' is a string, not int64"),
        ({"l": [{"x": 1, "y": 2}]}, "'l' has a key that its type does not have"),
        ({"t": 5}, "'t' is an integer, not string"),
    ],
)
def test_a_later_value_that_does_not_fit_is_null_and_its_row_at_fault(
    tmp_path: Path, late: dict[str, Any], said: str
) -> None:
    source = opened(tmp_path / "x.jsonl", SAMPLE + lines({"context": "c", "question": "q", "n": 7, **late}))
    [(row, (code, detail))] = faults(source).items()
    assert (row, code) == (51, "type_field")
    assert said in detail
    found = columns(source)
    assert found[next(iter(late))][-1] is None
    assert found["context"][-1] == "c"
    last = list(source.read())[-1]
    assert last.context.to_pylist()[-1] is None


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 2**64 - 1, 2**64, -(2**63) - 1, 10**30, 2**53 + 1])
@pytest.mark.parametrize("other", [1, 0.5, "text"])
def test_an_integer_of_any_size_is_exact_beside_whatever_else_its_column_holds(
    tmp_path: Path, number: int, other: Any
) -> None:
    records = [{"context": "c", "question": "q", "v": v, "in": {"l": [v]}} for v in (number, other)]
    source = opened(tmp_path / "x.jsonl", lines(*records))
    found = columns(source)
    as_text = str(number)
    assert found["v"][0] in (number, as_text)
    assert type(found["v"][0]) is not float
    assert found["in"][0]["l"][0] in (number, as_text)
    assert type(found["in"][0]["l"][0]) is not float
    assert not faults(source)


@pytest.mark.usefixtures("small_sample")
def test_a_large_integer_among_unknown_keys_is_exact(tmp_path: Path) -> None:
    source = opened(tmp_path / "x.jsonl", SAMPLE + lines({"context": "c", "question": "q", "new": 2**64 + 1}))
    assert columns(source)["qa_extra"][-1] == '{"new":18446744073709551617}'


def test_a_key_that_no_record_has_is_refused_with_the_keys_found(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"x\.jsonl has no column 'question'; it has: context, q; name .* --question"
    ):
        opened(tmp_path / "x.jsonl", lines({"context": "c", "q": "?"}))


@pytest.mark.parametrize("name", ["qa_answer", "qa_candidates"])
def test_a_key_that_the_run_would_add_is_refused_unless_it_is_left_out(tmp_path: Path, name: str) -> None:
    data = lines({"context": "c", "question": "q", name: 1})
    with pytest.raises(InputError, match=f"{name}.*--output-prefix"):
        opened(tmp_path / "x.jsonl", data)
    assert name not in opened(tmp_path / "x.jsonl", data, drop=(name,)).schema.names


@pytest.mark.usefixtures("small_sample")
def test_keep_and_drop_choose_the_columns(tmp_path: Path) -> None:
    data = SAMPLE + lines({"context": "c", "question": "q", "new": 1, "n": 5})
    kept = opened(tmp_path / "x.jsonl", data, keep=("n",))
    assert kept.schema.names == ["n"]
    assert columns(kept)["n"][-1] == 5
    dropped = opened(tmp_path / "x.jsonl", data, drop=("n", "context"))
    assert dropped.schema.names == ["question", "d", "l", "t", "qa_extra"]
    assert columns(dropped)["qa_extra"][-1] == '{"new":1}'
    assert next(dropped.read()).context[0].as_py() == "c"
    nothing = next(opened(tmp_path / "x.jsonl", data, keep=()).read())
    assert nothing.columns.num_rows == len(nothing) > 0


# --- dotted paths


def test_a_dotted_path_reaches_into_objects(tmp_path: Path) -> None:
    records = [
        {"d": {"context": "c", "question": "q", "n": 1}},
        {"d": None},
        {"d": {"question": "q"}},
        {},
        {"d": 5},
        {"d": {"context": 1, "question": "q"}},
        {"d": {"context": None, "question": "q"}},
        {"d": "a text of its own"},
    ]
    source = opened(tmp_path / "x.jsonl", lines(*records), context="d.context", question="d.question")
    codes = {row: code for row, (code, _) in faults(source).items()}
    assert codes == {
        1: "null_context",
        2: "missing_context",
        3: "missing_context",
        4: "type_context",
        5: "type_context",
        6: "null_context",
        7: "type_context",
    }
    assert only(source).context.to_pylist() == ["c", *[None] * 7]
    assert columns(source)["d"][0] == {"context": "c", "question": "q", "n": 1}


def test_a_literal_key_wins_over_a_path(tmp_path: Path) -> None:
    record = {"d": {"context": "path"}, "d.context": "literal", "question": "q"}
    assert only(opened(tmp_path / "x.jsonl", lines(record), context="d.context")).context.to_pylist() == [
        "literal"
    ]


# --- --schema


RECORD = {
    "context": "c",
    "question": "q",
    "n": 1,
    "when": "2024-05-06T07:08:09",
    "tags": ["a"],
    "d": {"x": 1},
    "any": [1],
}


@pytest.mark.parametrize("form", ["inline", "file", "object"])
def test_a_given_schema_fixes_the_columns_and_the_rest_is_extra(tmp_path: Path, form: str) -> None:
    given = "question:string, context:large_string, n:int8, when:timestamp[us], tags:list<string>, any:json"
    given += ", later:double"
    if form != "inline":
        text = json.dumps(dict(column.strip().split(":", 1) for column in given.split(",")))
        given = text if form == "object" else str(tmp_path / "schema.json")
        (tmp_path / "schema.json").write_text(text, encoding="utf-8-sig")
    source = opened(tmp_path / "x.jsonl", lines(RECORD, {**RECORD, "n": 200}), schema=given)
    assert source.schema.names == ["question", "context", "n", "when", "tags", "any", "later", "qa_extra"]
    assert source.schema.field("context").type == pa.large_string()
    found = columns(source)
    assert found["n"] == [1, None]
    assert found["when"][0].isoformat() == "2024-05-06T07:08:09"
    assert found["any"] == ["[1]", "[1]"]
    assert found["later"] == [None, None]
    assert found["qa_extra"] == ['{"d":{"x":1}}'] * 2
    assert {row: code for row, (code, _) in faults(source).items()} == {1: "type_field"}


def test_a_schema_file_may_nest_lists_and_structs(tmp_path: Path) -> None:
    given = json.dumps({"d": {"x": "int32", "l": ["string"]}})
    source = opened(
        tmp_path / "x.jsonl", lines({**RECORD, "d": {"x": 1, "l": ["a"]}}), schema=given, drop=("context",)
    )
    assert source.schema.field("d").type == pa.struct({"x": pa.int32(), "l": pa.list_(pa.string())})
    assert columns(source)["d"] == [{"x": 1, "l": ["a"]}]
    assert only(source).context.to_pylist() == ["c"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("context", "neither name:type"),
        ("context:string,context:string", "occurs twice"),
        ("n:nosuchtype", "there is no type 'nosuchtype'"),
        ("n:binary", "not a type that JSON values can have"),
        ("context:int64", "must be a string"),
        ("{bad", "not valid JSON"),
        ('{"n": 5}', "the type of 'n'"),
        ("{}", "names no column"),
    ],
)
def test_a_schema_that_cannot_be_is_a_usage_error(tmp_path: Path, given: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        opened(tmp_path / "x.jsonl", lines(RECORD), schema=given)
    assert caught.value.exit_code == 2


# --- keep_raw


def test_raw_records_are_the_original_lines_or_hold_those_that_are_no_objects(tmp_path: Path) -> None:
    good = '{"question":"q",  "context":"é", "n": 1.0e5, "big": 123456789012345678901234567890}'.encode()
    bad = [b'{"cut', b'{"context": "\xff"}', b'["a"]', b'{"context": "x\\ud800"}', b"{" + b" " * 200 + b"}"]
    bad += [b'{"a": 1} {"b": 2}', b'{"n": NaN}', b"{no: 'JSON'}"]
    data = b"\xef\xbb\xbf" + good + b"\r\n\n" + b"\n".join(bad) + b"\n" + good
    source = opened(tmp_path / "x.jsonl", data, keep_raw=True, max_line_bytes=150)
    assert source.schema == pa.schema({"_record": pa.large_string()})
    text = good.decode()
    held = [line.decode() for line in (bad[0], bad[2], bad[3], *bad[5:])]
    found = columns(source)["_record"]
    assert [found[0], found[2], found[5], found[-1]] == [text, None, None, text]
    assert [json.loads(found[row])["_record"] for row in (1, 3, 4, 6, 7, 8)] == held
    assert [code for code, _ in faults(source).values()] == [
        "bad_json",
        "bad_utf8",
        "not_an_object",
        "bad_utf8",
        "line_too_long",
        *["bad_json"] * 3,
    ]
    assert only(source).context.to_pylist() == ["é", *[None] * 8, "é"]


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize("key", ["qa_answer", "qa_error", "qa_candidates"])
def test_a_raw_record_behind_the_sample_with_a_key_of_ours_is_at_fault(tmp_path: Path, key: str) -> None:
    late = {"context": "c", "question": "q", key: "mine"}
    source = opened(tmp_path / "x.jsonl", SAMPLE + lines(late), keep_raw=True)
    [(row, (code, detail))] = faults(source).items()
    assert (code, f"would add {key!r}" in detail) == ("type_field", True)
    held = json.loads(columns(source)["_record"][row])
    assert json.loads(held["_record"]) == late


@pytest.mark.usefixtures("small_sample")
def test_raw_records_know_no_misfits(tmp_path: Path) -> None:
    source = opened(
        tmp_path / "x.jsonl", SAMPLE + lines({"context": "c", "question": "q", "n": "late"}), keep_raw=True
    )
    assert not faults(source)


def test_raw_records_with_keep_or_drop_are_written_anew_without_the_other_keys(tmp_path: Path) -> None:
    data = lines({"context": "c", "question": "q", "n": 2**70, "secret": "s"}) + b'{"secret": "cut'
    dropped = opened(tmp_path / "x.jsonl", data, keep_raw=True, drop=("secret",))
    assert columns(dropped)["_record"] == ['{"context":"c","question":"q","n":1180591620717411303424}', None]
    kept = opened(tmp_path / "x.jsonl", data, keep_raw=True, keep=("n",))
    assert columns(kept)["_record"] == ['{"n":1180591620717411303424}', None]


# --- properties

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=6),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), below, max_size=3)
    ),
    max_leaves=8,
)


def restored(value: Any, field: pa.Field) -> Any:
    """A cell as JSON had it: JSON text parsed again."""
    if value is None:
        return None
    if (field.metadata or {}).get(b"batchqa.type") == b"json":
        return json.loads(value)
    if pa.types.is_list(field.type):
        return [restored(item, field.type.value_field) for item in value]
    if pa.types.is_struct(field.type):
        return {f.name: restored(value[f.name], f) for f in field.type if value[f.name] is not None}
    return value


def without_nulls(value: Any) -> Any:
    """Null and absent are one in a struct."""
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


@given(st.lists(JSON_VALUES, min_size=1, max_size=5))
def test_whatever_the_values_are_nothing_is_lost_on_the_way_into_columns(
    tmp_path: Path, values: list[Any]
) -> None:
    records = [{"context": "c", "question": "q", "v": value} for value in values]
    source = opened(tmp_path / "x.jsonl", lines(*records))
    assert not faults(source)
    field = source.schema.field("v")
    found = [restored(value, field) for value in columns(source)["v"]]
    assert [without_nulls(value) for value in found] == [without_nulls(value) for value in values]
