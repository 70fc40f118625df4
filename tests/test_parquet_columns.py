"""What passes through from Parquet is what it was, and what other programs see of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchqa import job, thrift
from batchqa.errors import InputError
from batchqa.job import Progress, Summary
from tests import foreign
from tests.foreign import CONVERTED, LOGICAL, NAME, REPETITION, TEXTS, logical, time_utc

Run = Callable[..., Summary]
ADDED = {"qa_answer", "qa_start", "qa_end", "qa_score", "qa_no_answer", "qa_null_odds", "qa_error"}


@pytest.fixture
def run(tiny_bundle: Path) -> Run:
    return partial(
        job.run, model=tiny_bundle, device="cpu", threads=1, batch_tokens=512, in_process=True, part_rows=1
    )


def file(path: Path, columns: dict[str, Any], metadata: dict[str, Any] | None = None) -> Path:
    texts = {
        name: (values * 2)[: len(next(iter(columns.values())))] if columns else values
        for name, values in TEXTS.items()
    }
    table = pa.table({**texts, **columns})
    kept = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in (metadata or {}).items()
    }
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table.replace_schema_metadata(kept or None), path)
    return path


def described(path: Path) -> dict[str, Any]:
    metadata = pq.read_metadata(path).metadata or {}
    return {
        key.decode(): json.loads(value) for key, value in metadata.items() if value.startswith((b"{", b"["))
    }


# --- names


@pytest.mark.parametrize("values", [['{"x": 1}', "b"], [1, 2]])
def test_a_column_called_record_is_a_column_like_any_other(
    run: Run, tmp_path: Path, values: list[Any]
) -> None:
    pq.write_table(pa.table({"_record": values, **TEXTS}), tmp_path / "in.parquet")
    run(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["_record"] for row in rows] == values
    assert [row["context"] for row in rows] == TEXTS["context"]
    assert all(row.keys() >= ADDED for row in rows)


def test_an_output_that_is_annotated_again_keeps_its_columns_and_says_only_the_new_job(
    run: Run, tmp_path: Path
) -> None:
    first = run(file(tmp_path / "in.parquet", {"n": [1, 2]}), tmp_path / "once.parquet")
    second = run(tmp_path / "once.parquet", tmp_path / "twice.parquet", output_prefix="again_")
    metadata = pq.read_metadata(tmp_path / "twice.parquet").metadata
    assert metadata[b"batchqa.fingerprint"].decode() == second.fingerprint != first.fingerprint
    assert metadata[b"batchqa.record"].count(first.fingerprint.encode()) == 0
    once, twice = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("once", "twice"))
    assert twice.select(once.schema.names).equals(once)


def test_two_columns_of_one_name_that_are_left_out_are_no_trouble(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    table = pa.Table.from_arrays(
        [pa.array(TEXTS["context"]), pa.array(TEXTS["question"]), pa.array([1, 2]), pa.array([3, 4])],
        names=["context", "question", "n", "n"],
    )
    pq.write_table(table, path)
    with pytest.raises(InputError, match="two columns named 'n'"):
        run(path, tmp_path / "out.parquet")
    run(path, tmp_path / "out.parquet", drop=("n",))
    assert "n" not in pq.read_schema(tmp_path / "out.parquet").names


# --- types that Arrow does not have

TYPES = {
    "ENUM": (pa.array([b"x", b"y"]), {CONVERTED: (thrift.I32, 4)}),
    "BSON": (pa.array([b"x", None]), {LOGICAL: logical(13), CONVERTED: (thrift.I32, 20)}),
    "JSON": (pa.array(["1", None]), {CONVERTED: (thrift.I32, 19)}),
    "UUID": (pa.array([b"0" * 16, None], pa.binary(16)), {LOGICAL: logical(14)}),
    "FLOAT16": (pa.array([b"0" * 2, None], pa.binary(2)), {LOGICAL: logical(15)}),
    "INTERVAL": (pa.array([b"0" * 12, None], pa.binary(12)), {CONVERTED: (thrift.I32, 21)}),
    "TIME UTC": (pa.array([1, None], pa.time64("us")), time_utc()),
    "TIME_MILLIS": (pa.array([1, None], pa.int32()), {CONVERTED: (thrift.I32, 7)}),
    "TIMESTAMP_MILLIS": (pa.array([1, None]), {CONVERTED: (thrift.I32, 9)}),
    "GEOMETRY": (pa.array([b"x", None]), {LOGICAL: logical(17, {1: (thrift.BINARY, b"EPSG:3857")})}),
    "GEOGRAPHY": (pa.array([b"x", None]), {LOGICAL: logical(18)}),
    "a type of the future": (pa.array([b"x", None]), {LOGICAL: logical(25)}),
    "UINT_16": (pa.array([1, None], pa.int32()), {CONVERTED: (thrift.I32, 12)}),
    "plain bytes": (pa.array([b"x", None]), {}),
    "field id": (pa.array([1, None]), {9: (thrift.I32, 77)}),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("output", ["out.parquet", "out/"])
def test_a_logical_type_is_written_as_it_was_read(run: Run, tmp_path: Path, kind: str, output: str) -> None:
    values, element = TYPES[kind]
    path = foreign.write(tmp_path / "in.parquet", {**TEXTS, "x": values}, foreign.last_is(element))
    run(path, f"{tmp_path}/{output}")
    outputs = sorted((tmp_path / "out").glob("*.parquet")) if output == "out/" else [tmp_path / output]
    for written in outputs:
        assert foreign.elements(written, "x") == foreign.elements(path, "x")
    assert pq.read_table(outputs)["x"].equals(pq.read_table(path)["x"])


def test_a_variant_stays_one(run: Run, tmp_path: Path) -> None:
    values = pa.array([{"metadata": b"\x01\x00\x00", "value": b"\x0c\x01"}, None])

    def is_variant(elements: list[thrift.Struct]) -> None:
        elements[3] = dict(sorted({**elements[3], LOGICAL: logical(16)}.items()))

    path = foreign.write(tmp_path / "in.parquet", {**TEXTS, "v": values}, is_variant)
    run(path, tmp_path / "out.parquet")
    assert foreign.elements(tmp_path / "out.parquet", "v") == foreign.elements(path, "v")
    with pytest.raises(InputError, match=r"'v' is VARIANT, which cannot be written as JSON.*--drop v"):
        run(path, tmp_path / "out.jsonl")


def test_a_variant_that_is_shredded_into_columns_is_named_before_any_row_is_scored(
    run: Run, tmp_path: Path
) -> None:
    """Spark 4.3 writes its variants so."""
    members = {"metadata": pa.binary(), "value": pa.binary(), "typed_value": pa.int64()}
    rows = [{"metadata": b"\x01\x00\x00", "value": None, "typed_value": 1}, None]
    values = pa.array(rows, pa.struct(list(members.items())))

    def is_variant(elements: list[thrift.Struct]) -> None:
        elements[3] = dict(sorted({**elements[3], LOGICAL: logical(16)}.items()))

    path = foreign.write(tmp_path / "in.parquet", {**TEXTS, "v": values}, is_variant)
    with pytest.raises(InputError, match=r"'v' \(VARIANT.*cannot be written as it is.*--drop v"):
        run(path, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
    run(path, tmp_path / "out.parquet", drop=("v",))


@pytest.mark.parametrize("layout", ["two levels", "Hive", "no annotation"])
def test_lists_keep_the_layout_and_the_names_of_their_writer(run: Run, tmp_path: Path, layout: str) -> None:
    def change(elements: list[thrift.Struct]) -> None:
        outer, middle, leaf = elements[-3:]
        if layout == "Hive":
            middle[NAME], leaf[NAME] = (thrift.BINARY, b"bag"), (thrift.BINARY, b"array_element")
            return
        leaf = {**leaf, NAME: (thrift.BINARY, b"array"), REPETITION: (thrift.I32, 2)}
        if layout == "two levels":
            elements[-3:] = [outer, leaf]
        else:
            elements[-3:] = [{**leaf, NAME: outer[NAME]}]

    nullable = layout == "Hive"
    kind = pa.list_(pa.field("element", pa.int32(), nullable=nullable))
    schema = pa.schema([*pa.table(TEXTS).schema, pa.field("x", kind, nullable=layout != "no annotation")])
    table = pa.table({**TEXTS, "x": pa.array([[1, 2], [3]], kind)}, schema=schema)
    path = foreign.write(tmp_path / "in.parquet", table, change)
    before = pq.read_table(path)
    run(path, tmp_path / "out.parquet")
    assert foreign.elements(tmp_path / "out.parquet", "x") == foreign.elements(path, "x")
    after = pq.read_table(tmp_path / "out.parquet")
    assert after["x"].equals(before["x"])
    assert after["x"].to_pylist() == [[1, 2], [3]]


def test_decimals_that_are_integers_stay_integers(run: Run, tmp_path: Path) -> None:
    money = pa.array([Decimal("1.25"), None])
    table = pa.table({**TEXTS, "m": money.cast(pa.decimal128(9, 2)), "n": money.cast(pa.decimal128(18, 2))})
    pq.write_table(table, tmp_path / "in.parquet", store_decimal_as_integer=True)
    run(tmp_path / "in.parquet", tmp_path / "out.parquet")
    found = pq.ParquetFile(tmp_path / "out.parquet")
    assert [found.schema.column(i).physical_type for i in (2, 3)] == ["INT32", "INT64"]
    assert found.read(["m", "n"]).equals(table.select(["m", "n"]))


def test_a_column_that_pyarrow_cannot_read_is_named_with_its_type_and_can_be_left_out(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "in.parquet"
    pl.DataFrame({**TEXTS, "big": pl.Series([2**100, None], dtype=pl.Int128), "n": [1, 2]}).write_parquet(
        path
    )
    with pytest.raises(
        InputError, match="column 'big' is Int128, which cannot be read; leave it out with --drop big"
    ):
        run(path, tmp_path / "out.parquet")
    run(path, tmp_path / "out.parquet", drop=("big",))
    assert pq.read_table(tmp_path / "out.parquet")["n"].to_pylist() == [1, 2]


def test_a_resumed_job_accepts_parts_whose_columns_are_described_as_they_were(
    run: Run, tmp_path: Path
) -> None:
    values, element = TYPES["INTERVAL"]
    path = foreign.write(tmp_path / "in.parquet", {**TEXTS, "x": values}, foreign.last_is(element))

    def stop(progress: Progress) -> None:
        if progress.part:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(path, tmp_path / "out.parquet", progress=stop)
    assert run(path, tmp_path / "out.parquet").resumed_rows > 0


# --- INT96


def int96(path: Path, **columns: list[int]) -> Path:
    """Timestamps in INT96, given in nanoseconds; those that 64 bits do not hold are patched in."""
    texts = {name: values[:1] for name, values in TEXTS.items()}
    table = pa.table({**texts, **{name: pa.array([0], pa.timestamp("ns")) for name in columns}})
    pq.write_table(
        table,
        path,
        use_deprecated_int96_timestamps=True,
        use_dictionary=False,
        compression="none",
        store_schema=False,
        write_statistics=False,
    )
    data = path.read_bytes()
    for (nanoseconds,) in columns.values():
        day, rest = divmod(nanoseconds, 86_400 * 10**9)
        epoch = (0).to_bytes(8, "little") + (2_440_588).to_bytes(4, "little")
        value = rest.to_bytes(8, "little") + (2_440_588 + day).to_bytes(4, "little")
        data = data.replace(epoch, value, 1)
    path.write_bytes(data)
    return path


FOREVER = 253_402_300_799 * 10**9  # 9999-12-31 23:59:59


@pytest.mark.parametrize(
    ("nanoseconds", "unit"),
    [(FOREVER, "us"), (-FOREVER // 5, "us"), (1_000, "us"), (1_001, "ns"), (-1, "ns")],
)
def test_an_int96_timestamp_is_the_same_instant(
    run: Run, tmp_path: Path, nanoseconds: int, unit: str
) -> None:
    path = int96(tmp_path / "in.parquet", t=[nanoseconds])
    run(path, tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")["t"]
    assert found.type == pa.timestamp(unit)
    assert found.cast(pa.int64()).to_pylist() == [nanoseconds // {"us": 1000, "ns": 1}[unit]]


def test_int96_that_no_unit_holds_is_named_before_any_row_is_scored(run: Run, tmp_path: Path) -> None:
    path = int96(tmp_path / "in.parquet", t=[FOREVER], u=[1])
    with pytest.raises(
        InputError, match=r"column 't' is INT96 with years beyond.*column 'u' has nanosec.*--drop t"
    ):
        run(path, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet.batchqa").exists()
    run(path, tmp_path / "out.parquet", drop=("t",))
    assert pq.read_table(tmp_path / "out.parquet")["u"].cast(pa.int64()).to_pylist() == [1]


# --- descriptions of other writers

SPARK = "org.apache.spark.sql.parquet.row.metadata"


def spark(**types: Any) -> dict[str, Any]:
    fields = [
        {"name": name, "type": kind, "nullable": name != "n", "metadata": {"comment": name}}
        for name, kind in types.items()
    ]
    return {SPARK: {"type": "struct", "fields": fields}, "org.apache.spark.version": "4.0.0"}


def test_spark_is_told_of_all_columns(run: Run, tmp_path: Path) -> None:
    told = spark(context="string", question="string", n="integer", gone="string")
    path = file(tmp_path / "in.parquet", {"n": pa.array([1, 2], pa.int32()), "gone": ["x", "y"]}, told)
    run(path, tmp_path / "out.parquet", drop=("gone",), top_k=1)
    fields = described(tmp_path / "out.parquet")[SPARK]["fields"]
    assert fields[:3] == told[SPARK]["fields"][:3]
    types = {field["name"]: field["type"] for field in fields}
    assert list(types) == pq.read_schema(tmp_path / "out.parquet").names
    assert types["qa_answer"] == "string"
    assert types["qa_start"] == "integer"
    assert types["qa_score"] == "float"
    assert types["qa_no_answer"] == "boolean"
    assert types["qa_candidates"]["elementType"]["fields"][3]["type"] == "float"
    assert pq.read_metadata(tmp_path / "out.parquet").metadata[b"org.apache.spark.version"] == b"4.0.0"


def test_spark_is_told_the_wider_type_where_files_differ(run: Run, tmp_path: Path) -> None:
    for name, kind, told in (("a", pa.int32(), "integer"), ("b", pa.int64(), "long")):
        columns = {"n": pa.array([1, 2], kind)}
        file(tmp_path / "in" / f"{name}.parquet", columns, spark(context="string", question="string", n=told))
    run(tmp_path / "in", tmp_path / "out.parquet")
    fields = described(tmp_path / "out.parquet")[SPARK]["fields"]
    assert {field["name"]: field["type"] for field in fields}["n"] == "long"


@pytest.mark.parametrize("names", [["int64"], ["unicode", "unicode"], ["datetime"], ["mixed-integer"]])
def test_pandas_reads_columns_whose_names_are_no_texts(run: Run, tmp_path: Path, names: list[str]) -> None:
    column = {"name": None, "field_name": None, "numpy_type": "object", "metadata": None}
    told = {
        "index_columns": [{"kind": "range", "name": None, "start": 0, "stop": 2, "step": 1}, "gone"],
        "column_indexes": [{**column, "pandas_type": name} for name in names],
        "columns": [
            {
                "name": name,
                "field_name": name,
                "pandas_type": "unicode",
                "numpy_type": "object",
                "metadata": None,
            }
            for name in ("context", "question", "gone")
        ],
    }
    run(
        file(tmp_path / "in.parquet", {"gone": ["x", "y"]}, {"pandas": told}),
        tmp_path / "out.parquet",
        drop=("gone",),
    )
    found = described(tmp_path / "out.parquet")["pandas"]
    assert [index["pandas_type"] for index in found["column_indexes"]] == ["unicode"]
    assert [entry["name"] for entry in found["columns"]] == ["context", "question"]
    assert found["index_columns"] == told["index_columns"][:1]


def test_datasets_keeps_its_features_and_gets_ours(run: Run, tmp_path: Path) -> None:
    text = {"dtype": "string", "_type": "Value"}
    label = {"names": ["no", "yes"], "_type": "ClassLabel"}
    told = {"info": {"features": {"context": text, "question": text, "label": label, "gone": text}}}
    path = file(tmp_path / "in.parquet", {"label": [0, 1], "gone": ["x", "y"]}, {"huggingface": told})
    run(path, tmp_path / "out.parquet", drop=("gone",), top_k=1)
    features = described(tmp_path / "out.parquet")["huggingface"]["info"]["features"]
    assert list(features) == pq.read_schema(tmp_path / "out.parquet").names
    assert features["label"] == label
    assert features["qa_score"] == {"dtype": "float32", "_type": "Value"}
    assert features["qa_candidates"][0]["answer"] == text


def test_descriptions_that_would_hide_our_columns_go_and_the_users_metadata_stay(
    run: Run, tmp_path: Path
) -> None:
    hiding = dict.fromkeys(
        ("iceberg.schema", "parquet.avro.schema", "parquet.proto.class", "pandas", SPARK), "{}"
    )
    path = file(tmp_path / "in.parquet", {}, {**hiding, "mine": {"context": 1}, "broken": "{"})
    run(path, tmp_path / "out.parquet")
    metadata = pq.read_metadata(tmp_path / "out.parquet").metadata
    assert metadata[b"mine"] == b'{"context": 1}'
    assert metadata[b"broken"] == b"{"
    assert not {key.encode() for key in hiding} & metadata.keys()


def test_geoparquet_says_nothing_of_columns_and_bounds_that_are_gone(run: Run, tmp_path: Path) -> None:
    place = {"encoding": "WKB", "geometry_types": ["Point"], "bbox": [0, 0, 1, 1]}
    told = {"version": "1.1.0", "primary_column": "at", "columns": {"at": place, "gone": place}}
    path = file(tmp_path / "in.parquet", {"at": [b"x", b"y"], "gone": [b"x", b"y"]}, {"geo": told})
    run(path, tmp_path / "out.parquet", drop=("gone",))
    found = described(tmp_path / "out.parquet")["geo"]
    assert found["columns"] == {"at": {"encoding": "WKB", "geometry_types": []}}
    run(path, tmp_path / "other.parquet", drop=("at",))
    assert "geo" not in described(tmp_path / "other.parquet")


# --- several files

DIFFERENT = {
    "int32 and int64": (pa.array([1, 2], pa.int32()), pa.array([3, 2**40]), pa.int64()),
    "int8 and int16": (pa.array([1, 2], pa.int8()), pa.array([3, 4], pa.int16()), pa.int16()),
    "uint8 and uint16": (pa.array([1, 2], pa.uint8()), pa.array([3, 4], pa.uint16()), pa.uint16()),
    "float32 and float64": (pa.array([0.5, None], pa.float32()), pa.array([0.1, 0.2]), pa.float64()),
    "string and large_string": (
        pa.array(["a", "b"]),
        pa.array(["c", "d"], pa.large_string()),
        pa.large_string(),
    ),
    "string and dictionary": (pa.array(["a", "b"]), pa.array(["c", None]).dictionary_encode(), pa.string()),
    "null and any": (pa.nulls(2), pa.array([[1], None]), pa.list_(pa.int64())),
    "any and null": (pa.array([{"a": 1}, None]), pa.nulls(2), pa.struct({"a": pa.int64()})),
    "members": (
        pa.array([{"a": 1, "b": "x"}, None], pa.struct({"a": pa.int32(), "b": pa.string()})),
        pa.array([{"c": True, "a": 2**40}, None]),
        pa.struct({"a": pa.int64(), "b": pa.string(), "c": pa.bool_()}),
    ),
    "nested": (
        pa.array([[{"a": 1}], []], pa.list_(pa.struct({"a": pa.int32()}))),
        pa.array([[{"a": 2}], None], pa.large_list(pa.struct({"a": pa.int64()}))),
        pa.large_list(pa.struct({"a": pa.int64()})),
    ),
}


@pytest.mark.parametrize("how", DIFFERENT)
def test_harmless_differences_are_one_table(run: Run, tmp_path: Path, how: str) -> None:
    first, second, kind = DIFFERENT[how]
    file(tmp_path / "in" / "a.parquet", {"x": first})
    file(tmp_path / "in" / "b.parquet", {"x": second})
    run(tmp_path / "in", tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")["x"]
    assert found.type == kind
    assert found.combine_chunks().slice(0, 2).to_pylist() == first.cast(kind).to_pylist()
    assert found.combine_chunks().slice(2).to_pylist() == second.cast(kind).to_pylist()


def test_missing_columns_other_order_and_what_may_be_null_are_one_table(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    required = pa.schema([pa.field("n", pa.int64(), nullable=False), *pa.table(TEXTS).schema])
    pq.write_table(pa.table({"n": [1, 2], **TEXTS}, schema=required), tmp_path / "in" / "a.parquet")
    pq.write_table(pa.table({**TEXTS, "n": [None, 3], "more": ["x", "y"]}), tmp_path / "in" / "b.parquet")
    pq.write_table(pa.table({"context": TEXTS["context"], "n": [4, 5]}), tmp_path / "in" / "c.parquet")
    summary = run(tmp_path / "in", tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema.names[:4] == ["n", "context", "question", "more"]
    assert found["n"].to_pylist() == [1, 2, None, 3, 4, 5]
    assert found["more"].to_pylist() == [None, None, "x", "y", None, None]
    assert summary.statuses == {"null_question": 2}


def test_only_columns_that_are_kept_are_compared(run: Run, tmp_path: Path) -> None:
    file(tmp_path / "in" / "a.parquet", {"n": [1, 2]})
    file(tmp_path / "in" / "b.parquet", {"n": ["x", "y"]})
    with pytest.raises(
        InputError, match=r"column 'n' is int64 in the first and string in the second;.*--drop n"
    ):
        run(tmp_path / "in", tmp_path / "out.parquet")
    assert run(tmp_path / "in", tmp_path / "out.parquet", keep=("context",)).rows == 4
    assert run(tmp_path / "in", tmp_path / "other.parquet", drop=("n",)).rows == 4


def test_types_that_only_parquet_tells_apart_are_no_harmless_difference(run: Run, tmp_path: Path) -> None:
    values, element = TYPES["TIME UTC"]
    foreign.write(tmp_path / "in" / "a.parquet", {**TEXTS, "x": values}, foreign.last_is(element))
    file(tmp_path / "in" / "b.parquet", {"x": values})
    message = r"'x' is TIME\(MICROS, UTC\) in the first and TIME\(MICROS\) in the second"
    with pytest.raises(InputError, match=message):
        run(tmp_path / "in", tmp_path / "out.parquet")
