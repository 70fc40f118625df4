"""Files as other programs write them, and what those programs read back; run by a Python that has them.

    python writers.py names                      what is installed, one a line
    python writers.py write NAME FILE            a file (or folder) of that writer
    python writers.py compare NAME FILE OUTPUT   exit 1 and what differs, unless OUTPUT has all of FILE

A column is compared by its type and its values as the program itself gives them.
"""

from __future__ import annotations

import datetime as dt
import decimal
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTEXTS = ["Marie Curie was born in Warsaw.", "The ferry leaves at seven.", "Water boils.", "Nobody knows."]
QUESTIONS = ["Where was she born?", "When does it leave?", "What boils?", "Who knows?"]
TEXTS = {"context": CONTEXTS, "question": QUESTIONS}
ADDED = ("qa_answer", "qa_start", "qa_end", "qa_score", "qa_no_answer", "qa_error", "qa_candidates")

Columns = dict[str, tuple[str, Any]]
"""By name: the type, and the values."""

Writer = tuple[str, Callable[[str], None], Callable[[str], Columns]]
"""The library, what writes a file, and what reads one."""


def _pandas_frame() -> Any:
    import pandas as pd

    return pd.DataFrame(
        {
            **TEXTS,
            "kind": pd.Categorical(["a", "b", "a", None]),
            "when": pd.to_datetime(["2024-01-01", None, "2024-03-01", "2024-04-01"]).tz_localize(
                "Europe/Berlin"
            ),
            "n": pd.array([1, None, 3, 4], dtype="Int64"),
            "small": pd.array([1, 2, 3, 4], dtype="uint8"),
            "gap": pd.to_timedelta([1, 2, None, 4], unit="s"),
            "list": [["a"], [], None, ["b", "c"]],
        }
    )


def _write_pandas(path: str) -> None:
    _pandas_frame().to_parquet(path)


def _write_pandas_index(path: str) -> None:
    _pandas_frame().set_index("n").to_parquet(path)


def _write_pandas_levels(path: str) -> None:
    import pandas as pd

    frame = pd.DataFrame(TEXTS)
    frame.columns = pd.MultiIndex.from_tuples([("text", "context"), ("text", "question")])
    frame.to_parquet(path)


def _write_pandas_numbers(path: str) -> None:
    import pandas as pd

    pd.DataFrame({0: CONTEXTS, 1: QUESTIONS, 2: [1, 2, 3, 4]}).to_parquet(path)


def _read_pandas(path: str) -> Columns:
    import pandas as pd

    frame = pd.read_parquet(path)
    columns = {str(name): (str(frame[name].dtype), frame[name].astype(object)) for name in frame.columns}
    index = frame.index
    return {**columns, "(index)": (f"{index.name} {index.dtype}", list(index))}


def _write_fastparquet(path: str) -> None:
    import fastparquet
    import pandas as pd

    frame = pd.DataFrame({**TEXTS, "n": [1.5, 2.5, None, 4.5], "when": pd.to_datetime(["2024-01-01"] * 4)})
    fastparquet.write(path, frame, times="int96", object_encoding={"context": "utf8", "question": "json"})


def _write_fastparquet_plain(path: str) -> None:
    import fastparquet
    import pandas as pd

    frame = pd.DataFrame({**TEXTS, "kind": pd.Categorical(["a", "b", "a", "b"])}, index=[5, 6, 7, 8])
    fastparquet.write(path, frame)


def _read_fastparquet(path: str) -> Columns:
    import fastparquet

    file = fastparquet.ParquetFile(path)
    # it has no lists of structs
    frame = file.to_pandas(columns=[name for name in file.columns if not name.startswith("qa_candidates")])
    # the type is one of pandas that it chooses by the encoding of the pages
    columns = {name: ("", list(frame[name].astype(object))) for name in frame.columns}
    return columns | {name: ("", []) for name in ("qa_candidates",) if "qa_answer" in columns}


def _write_polars(path: str) -> None:
    import polars as pl

    frame = pl.DataFrame(
        {
            **TEXTS,
            "kind": pl.Series(["a", "b", "a", None], dtype=pl.Categorical),
            "enum": pl.Series(["x", "y", "x", None], dtype=pl.Enum(["x", "y"])),
            "clock": pl.Series([dt.time(1), None, dt.time(2), dt.time(3)]),
            "gap": pl.Series([dt.timedelta(seconds=1)] * 4),
            "fixed": pl.Series([[1, 2]] * 4, dtype=pl.Array(pl.Int16, 2)),
            "money": pl.Series([decimal.Decimal("1.25")] * 4, dtype=pl.Decimal(10, 2)),
            "nested": [[{"a": 1, "b": ["x"]}], [], None, [{"a": None, "b": None}]],
            "nothing": [None] * 4,
            "u": pl.Series([2**64 - 1] * 4, dtype=pl.UInt64),
        }
    )
    frame.write_parquet(path)


def _read_polars(path: str) -> Columns:
    import polars as pl

    frame = pl.read_parquet(path)
    return {name: (str(frame[name].dtype), frame[name].to_list()) for name in frame.columns}


_DUCKDB_COLUMNS = (
    "INTERVAL 3 DAY AS gap",
    "TIMETZ '12:00:00+00' AS clock_tz",
    "TIME '12:00:00' AS clock",
    "TIMESTAMPTZ '2024-01-01 12:00:00+00' AS moment",
    "TIMESTAMP_NS '2024-01-01 12:00:00.123456789' AS nano",
    "TIMESTAMP_S '2024-01-01 12:00:00' AS seconds",
    "1.25::DECIMAL(5, 2) AS money",
    "1.25::DECIMAL(18, 2) AS more",
    "1.25::DECIMAL(38, 2) AS most",
    "uuid() AS u",
    "'x'::ENUM('x', 'y') AS letter",
    "'{\"a\": 1}'::JSON AS js",
    "'ab'::BLOB AS bytes",
    "MAP {'a': 1} AS m",
    "{'x': 1, 'y': [1, 2]} AS s",
    "200::UTINYINT AS tiny",
    "40000::USMALLINT AS small",
    "4000000000::UINTEGER AS middle",
    "18000000000000000000::UBIGINT AS large",
    "(-3)::TINYINT AS negative",
    "NULL::DATE AS day",
)


def _write_duckdb(path: str) -> None:
    import duckdb

    columns = ", ".join(_DUCKDB_COLUMNS)
    texts = ", ".join(f"('{c}', '{q}')" for c, q in zip(CONTEXTS, QUESTIONS, strict=True))
    duckdb.sql(
        f"COPY (SELECT context, question, {columns} FROM (VALUES {texts}) t(context, question)) "
        f"TO '{path}' (FORMAT parquet)"
    )


def _read_duckdb(path: str) -> Columns:
    import duckdb

    table = duckdb.sql(
        f"SELECT * FROM read_parquet('{path}', file_row_number = true) ORDER BY file_row_number"
    )
    rows = list(zip(*table.fetchall(), strict=True))
    return {
        name: (str(kind), list(values))
        for name, kind, values in zip(table.columns, table.types, rows, strict=True)
    }


def _write_datasets(path: str) -> None:
    import datasets

    features = datasets.Features(
        {
            "context": datasets.Value("string"),
            "question": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "n": datasets.Value("int32"),
            "answers": {"text": datasets.List(datasets.Value("string"))},
        }
    )
    rows = {**TEXTS, "label": [0, 1, 0, 1], "n": [1, 2, 3, 4], "answers": [{"text": ["a"]}] * 4}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


def _read_datasets(path: str) -> Columns:
    import datasets

    found = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=f"{path}.cache")
    return {name: (str(feature), list(found[name])) for name, feature in found.features.items()}


def _spark() -> Any:
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.driver.memory", "1g").config("spark.sql.session.timeZone", "UTC")
    # variants in their plain form: shredded into columns they are refused (tests/test_parquet_columns.py)
    builder = builder.config("spark.sql.variant.writeShredding.enabled", "false")
    builder = builder.config("spark.sql.variant.inferShreddingSchema", "false")
    return builder.config("spark.sql.shuffle.partitions", "1").getOrCreate()


_SPARK_COLUMNS = (
    "context",
    "question",
    "timestamp '9999-12-31 23:59:59' AS forever",
    "timestamp_ntz '2024-01-01 12:00:00' AS local",
    "date '2024-01-01' AS day",
    "cast(1.25 AS decimal(9, 2)) AS money",
    "cast(1.25 AS decimal(18, 2)) AS more",
    "cast(1.25 AS decimal(38, 2)) AS most",
    "map('a', cast(1 AS bigint)) AS m",
    "array(named_struct('text', 'a', 'at', timestamp '1600-01-01 00:00:00')) AS nested",
    "interval '3' day AS days",
    "interval '3' month AS months",
    "cast('x' AS binary) AS bytes",
    "cast(1 AS tinyint) AS tiny",
    "cast(1 AS smallint) AS small",
    "parse_json('{\"a\": 1}') AS any",
)


def _spark_rows(columns: tuple[str, ...]) -> Any:
    frame = _spark().createDataFrame(list(zip(CONTEXTS, QUESTIONS, strict=True)), ["context", "question"])
    return frame.selectExpr(*columns).coalesce(1)


def _write_spark(path: str) -> None:
    _spark_rows(_SPARK_COLUMNS).write.parquet(path)


def _write_spark_legacy(path: str) -> None:
    spark = _spark()
    spark.conf.set("spark.sql.parquet.writeLegacyFormat", "true")
    _spark_rows(tuple(column for column in _SPARK_COLUMNS if "parse_json" not in column)).write.parquet(path)


def _read_spark(path: str) -> Columns:
    frame = _spark().read.parquet(path)
    # a variant and intervals have no Python values
    shown = frame.selectExpr(*(_as_text(name, kind) for name, kind in frame.dtypes))
    rows = [row.asDict(recursive=True) for row in shown.collect()]
    return {name: (kind, [row[name] for row in rows]) for name, kind in frame.dtypes}


def _as_text(name: str, kind: str) -> str:
    if kind == "variant":
        return f"to_json(`{name}`) AS `{name}`"
    return (
        f"cast(`{name}` AS string) AS `{name}`" if kind.startswith(("interval", "timestamp")) else f"`{name}`"
    )


def _write_delta(path: str) -> None:
    import deltalake
    import pyarrow as pa

    rows = {**TEXTS, "lang": ["de", "de", "fr", "fr"], "n": pa.array([1, 2, 3, 4], pa.int32())}
    deltalake.write_deltalake(path, pa.table({**rows, "context": ["deleted"] * 4}), partition_by=["lang"])
    deltalake.write_deltalake(path, pa.table(rows), mode="overwrite", partition_by=["lang"])


def _read_delta(path: str) -> Columns:
    import deltalake
    import pyarrow.parquet as pq

    is_table = Path(path).is_dir()
    table = deltalake.DeltaTable(path).to_pyarrow_table() if is_table else pq.read_table(path)
    table = table.sort_by("n")
    return {field.name: (str(field.type), table[field.name].to_pylist()) for field in table.schema}


WRITERS: dict[str, Writer] = {
    "pandas": ("pandas", _write_pandas, _read_pandas),
    "pandas-index": ("pandas", _write_pandas_index, _read_pandas),
    "pandas-levels": ("pandas", _write_pandas_levels, _read_pandas),
    "pandas-numbers": ("pandas", _write_pandas_numbers, _read_pandas),
    "fastparquet": ("fastparquet", _write_fastparquet, _read_fastparquet),
    "fastparquet-plain": ("fastparquet", _write_fastparquet_plain, _read_fastparquet),
    "polars": ("polars", _write_polars, _read_polars),
    "duckdb": ("duckdb", _write_duckdb, _read_duckdb),
    "datasets": ("datasets", _write_datasets, _read_datasets),
    "deltalake": ("deltalake", _write_delta, _read_delta),
    "spark": ("pyspark", _write_spark, _read_spark),
    "spark-legacy": ("pyspark", _write_spark_legacy, _read_spark),
}

OPTIONS = {
    "pandas-levels": {"context": "('text', 'context')", "question": "('text', 'question')"},
    "pandas-numbers": {"context": "0", "question": "1"},
}
"""Options of the run for columns that have other names."""


def _equal(one: Any, other: Any) -> bool:
    return repr(list(one)) == repr(list(other))


def compare(name: str, file: str, output: str) -> list[str]:
    """What is other in the output than in the file, as that writer sees both; nothing but added columns."""
    read = WRITERS[name][2]
    before, after = read(file), read(output)
    found = [f"{column} cannot be seen" for column in (*before, *ADDED) if column not in after]
    for column, (kind, values) in before.items():
        if column in after and after[column][0] != kind:
            found.append(f"{column} was {kind} and is {after[column][0]}")
        elif column in after and not _equal(values, after[column][1]):
            found.append(f"{column} has other values: {values!r} became {after[column][1]!r}")
    return found


if __name__ == "__main__":
    if sys.argv[1] == "names":
        for each, writer in WRITERS.items():
            if importlib.util.find_spec(writer[0]):
                print(each)  # noqa: T201 -- a script
    elif sys.argv[1] == "write":
        WRITERS[sys.argv[2]][1](sys.argv[3])
    else:
        differing = compare(*sys.argv[2:5])
        print("\n".join(differing))  # noqa: T201 -- a script
        sys.exit(bool(differing))
