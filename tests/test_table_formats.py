"""Folders that are more than folders: Delta, Iceberg and Hudi tables, and `key=value` folders."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchqa import job
from batchqa.errors import InputError
from batchqa.job import Summary

Run = Callable[..., Summary]
ROW = {"context": ["It was built in 1894."], "question": ["When?"]}


@pytest.fixture
def run(tiny_bundle: Path) -> Run:
    return partial(job.run, model=tiny_bundle, device="cpu", threads=1, batch_tokens=512, in_process=True)


def write(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**ROW, **columns}), path)
    return path


def delta(folder: Path, **added: Any) -> Path:
    """A Delta table of two files of which one was removed; `added` goes into the action of the other."""
    for name in ("dead", "live"):
        write(folder / f"{name}.parquet", name=[name])
    log = folder / "_delta_log"
    log.mkdir()
    (log / f"{0:020}.json").write_text('{"add": {"path": "dead.parquet"}}\n')
    actions = [{"add": {"path": "live.parquet", **added}}, {"remove": {"path": "dead.parquet"}}]
    (log / f"{1:020}.json").write_text("\n".join(map(json.dumps, actions)))
    return folder


def table_of(kind: str, folder: Path) -> Path:
    write(folder / "data" / "a.parquet")
    marks = {
        "Delta": "_delta_log/0.json",
        "Iceberg": "metadata/v1.metadata.json",
        "Hudi": ".hoodie/hoodie.properties",
    }
    mark = folder / marks[kind]
    mark.parent.mkdir(parents=True)
    mark.write_text("{}")
    return folder


@pytest.mark.parametrize("kind", ["Delta", "Iceberg", "Hudi"])
@pytest.mark.parametrize("argument", ["", "/data", "/data/*.parquet", "/../", "/**/*.parquet"])
def test_a_table_is_no_plain_folder(
    run: Run, tmp_path: Path, kind: str, argument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    table = table_of(kind, tmp_path / "in" / "table")
    with pytest.raises(InputError, match=f"table is an? {kind} table; .* name its live files"):
        run(f"{table}{argument}", tmp_path / "out.parquet")
    assert run(table / "data" / "a.parquet", tmp_path / "out.parquet").rows == 1


def test_a_folder_called_metadata_makes_no_table(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.parquet")
    (tmp_path / "in" / "metadata").mkdir()
    assert run(tmp_path / "in", tmp_path / "out.parquet").rows == 1


def test_a_file_that_a_delta_table_has_removed_is_refused_by_its_name_too(run: Run, tmp_path: Path) -> None:
    table = delta(tmp_path / "table")
    with pytest.raises(InputError, match=r"dead\.parquet is no longer part of it"):
        run(table / "dead.parquet", tmp_path / "out.parquet")
    run(table / "live.parquet", tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["name"].to_pylist() == ["live"]


def test_a_file_with_a_deletion_vector_is_refused(run: Run, tmp_path: Path) -> None:
    table = delta(tmp_path / "table", deletionVector={"storageType": "u"})
    with pytest.raises(InputError, match="deleted some of its rows"):
        run(table / "live.parquet", tmp_path / "out.parquet")


@pytest.mark.parametrize("argument", ["", "/", "/**/*.parquet"])
def test_the_live_rows_of_a_delta_table_are_read_with_its_partitions(
    run: Run, tmp_path: Path, argument: str
) -> None:
    deltalake = pytest.importorskip("deltalake")
    path = str(tmp_path / "table")
    rows = {name: values * 3 for name, values in ROW.items()}
    rows |= {"n": [1, 2, 3], "lang": ["de", "fr é", None], "year": pa.array([7, 8, 9], pa.int32())}
    table = pa.table({name: pa.array(values) for name, values in rows.items()})
    deltalake.write_deltalake(path, table, partition_by=["lang", "year"])
    deltalake.write_deltalake(path, table, mode="append", partition_by=["lang", "year"])
    deltalake.DeltaTable(path).delete("n = 2")
    run(path + argument, tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    expected = deltalake.DeltaTable(path).to_pyarrow_table()
    assert expected.num_rows == 4
    names = ["n", "lang", "year"]
    key = [(name, "ascending") for name in names]
    assert found.select(names).sort_by(key).to_pylist() == expected.select(names).sort_by(key).to_pylist()
    assert found.schema.field("year").type == pa.int32()


def test_a_delta_table_with_column_mapping_is_refused(run: Run, tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    path = str(tmp_path / "table")
    deltalake.write_deltalake(path, pa.table(ROW))
    first = tmp_path / "table" / "_delta_log" / f"{0:020}.json"
    first.write_text(
        first.read_text().replace('"configuration":{}', '"configuration":{"delta.columnMapping.mode":"name"}')
    )
    with pytest.raises(InputError, match="Delta table with columnMapping"):
        run(path, tmp_path / "out.parquet")


# --- key=value folders


def keyed(folder: Path, kind: str) -> Path:
    for lang, year, number in (
        ("de", "2024", 1),
        ("a%20b", "2025", 2),
        ("__HIVE_DEFAULT_PARTITION__", "2026", 3),
    ):
        path = write(folder / f"lang={lang}" / f"year={year}" / "x.parquet", n=[number])
        if kind == "jsonl":
            path.unlink()
            row = {name: values[0] for name, values in ROW.items()}
            path.with_suffix(".jsonl").write_text(json.dumps({**row, "n": number}) + "\n")
    return folder


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("output", ["out.parquet", "out.jsonl"])
def test_folders_of_keys_are_columns_where_that_is_asked_for(
    run: Run, tmp_path: Path, kind: str, output: str
) -> None:
    run(keyed(tmp_path / "in", kind), tmp_path / output, partition_columns=True)
    if output.endswith("jsonl"):
        rows = [json.loads(line) for line in (tmp_path / output).read_text().splitlines()]
    else:
        rows = pq.read_table(tmp_path / output).to_pylist()
    found = sorted((row["n"], row["lang"], row["year"]) for row in rows)
    assert found == [(1, "de", 2024), (2, "a b", 2025), (3, None, 2026)]
    assert all("qa_score" in row for row in rows)


def test_folders_of_keys_can_be_kept_and_dropped_like_columns(run: Run, tmp_path: Path) -> None:
    folder = keyed(tmp_path / "in", "parquet")
    run(folder, tmp_path / "a.parquet", partition_columns=True, keep=("lang", "n"))
    assert pq.read_schema(tmp_path / "a.parquet").names[:3] == ["n", "lang", "qa_answer"]
    run(folder, tmp_path / "b.parquet", partition_columns=True, drop=("lang",))
    assert pq.read_schema(tmp_path / "b.parquet").names[:4] == ["context", "question", "n", "year"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("keep", [None, ("n",)])
def test_a_question_may_hold_what_the_folders_say(
    run: Run, tmp_path: Path, kind: str, keep: tuple[str, ...] | None
) -> None:
    folder = keyed(tmp_path / "in", kind)
    asked = ("when=When in {year}, in {lang}?", "what=What is {n}?", "who=Who?")
    run(folder, tmp_path / "out.parquet", partition_columns=True, keep=keep, ask=asked)
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    found = {(row["n"], row["qa_question"]) for row in rows if row["qa_name"] == "when"}
    assert found == {(1, "When in 2024, in de?"), (2, "When in 2025, in a b?"), (3, None)}
    assert {row["qa_error"] for row in rows if row["n"] == 3} == {"null_question", None}
    with pytest.raises(InputError, match="no column 'year'"):
        run(folder, tmp_path / "not.parquet", ask=asked)


def test_numbers_with_leading_zeros_stay_texts(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "in" / "code=007" / "x.parquet")
    run(tmp_path / "in", tmp_path / "out.parquet", partition_columns=True)
    assert pq.read_table(tmp_path / "out.parquet")["code"].to_pylist() == ["007"]


def test_a_key_that_is_a_column_of_the_files_is_refused(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "in" / "lang=de" / "x.parquet", lang=["fr"])
    with pytest.raises(InputError, match="'lang' is in the files and in the names of their folders"):
        run(tmp_path / "in", tmp_path / "out.parquet", partition_columns=True)


@pytest.mark.parametrize("output", ["out.parquet", "out.jsonl"])
@pytest.mark.parametrize(
    ("key", "said"), [("lang", "'lang' is in the files"), ("qa_start", "the run would add")]
)
def test_a_key_that_the_output_has_already_is_refused_in_every_form(
    run: Run, tmp_path: Path, output: str, key: str, said: str
) -> None:
    file = tmp_path / "in" / f"{key}=5" / "x.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"context": "A bridge.", "question": "What?", "lang": "fr"}) + "\n")
    with pytest.raises(InputError, match=said):
        run(tmp_path / "in", tmp_path / output, partition_columns=True)


def test_without_the_option_it_is_said_once_that_keys_are_not_read(run: Run, tmp_path: Path) -> None:
    notes: list[str] = []
    run(keyed(tmp_path / "in", "parquet"), tmp_path / "out.parquet", on_note=notes.append)
    assert sum("--partition-columns" in note for note in notes) == 1
