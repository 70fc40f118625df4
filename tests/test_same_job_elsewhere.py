"""The same job from another folder, or with another file of options: the same bytes, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from batchqa import PreconditionError, SettingsError, job
from batchqa.job import Summary
from batchqa.job.running import one_of
from batchqa.settings import Shard
from tests.models import SENTENCES
from tests.output.looking import contents

Run = Callable[..., Summary]
ROWS = [{"context": f"{SENTENCES[i % 6]} Row {i}.", "question": f"What is {i}?", "n": i} for i in range(12)]


@pytest.fixture
def run(tiny_bundle: Path) -> Run:
    options = {"device": "cpu", "threads": 1, "batch_tokens": 512, "part_rows": 3, "in_process": True}
    return partial(job.run, model=tiny_bundle, **options)


def _lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _texts(folder: Path) -> dict[str, Any]:
    for number, row in enumerate(ROWS):
        (folder / f"{number:02}.txt").write_text(str(row["context"]))
    return {"ask": ["q=What is it?"]}


def _bad_lines(folder: Path) -> dict[str, Any]:
    (folder / "a.jsonl").write_text(_lines([*ROWS[:2], {"context": 5}, *ROWS[2:9], [], *ROWS[9:]]))
    return {"max_errors": 2}


def _rejected_lines(folder: Path) -> dict[str, Any]:
    return _bad_lines(folder) | {"on_error": "reject"}


def _bad_table(folder: Path) -> dict[str, Any]:
    rows = [f"What is {n}?,It is the number {n}." for n in range(8)]
    (folder / "a.csv").write_text("\n".join(["question,context", "one field", *rows, "another one"]) + "\n")
    return {"max_errors": 2}


def _keyed(folder: Path) -> dict[str, Any]:
    for year, rows in ((2024, ROWS[:6]), (2025, ROWS[6:])):
        (folder / f"year={year}").mkdir()
        (folder / f"year={year}" / "a.jsonl").write_text(_lines(rows))
    return {"partition_columns": True}


@pytest.mark.parametrize("write", [_texts, _bad_lines, _rejected_lines, _bad_table, _keyed])
def test_shards_in_other_folders_write_what_one_run_writes(
    write: Callable[[Path], dict[str, Any]], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    options = write(folder)
    run(folder, f"{tmp_path}/one/out.parquet", **options)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.*"))
    (tmp_path / "link").symlink_to(folder)
    inside = files[0].parent
    named: list[tuple[Path, list[str]]] = [
        (tmp_path, ["in"]),
        (folder / inside, ["../" * len(inside.parts) + str(path) for path in files[1:]]),
        (tmp_path, ["link/**/*.*"]),
    ]
    named[1][1].insert(0, files[0].name)
    for index, (here, inputs) in enumerate(named):
        monkeypatch.chdir(here)
        run(inputs, f"{tmp_path}/many/out.parquet", shard=Shard(index, 3), **options)
    job.finalize(tmp_path / "many/out.parquet")
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_a_link_that_says_another_value_of_its_rows_is_another_input(run: Run, tmp_path: Path) -> None:
    options = _keyed(tmp_path)
    (tmp_path / "links").mkdir()
    for year, other in ((2024, 2034), (2025, 2035)):
        (tmp_path / "links" / f"year={other}").symlink_to(tmp_path / f"year={year}")
    run([f"{tmp_path}/year=2024", f"{tmp_path}/year=2025"], tmp_path / "out/", shard="0/2", **options)
    with pytest.raises(PreconditionError, match=r"keys\.year.*2034"):
        run(tmp_path / "links", tmp_path / "out/", shard="1/2", **options)


def test_a_schema_is_what_is_in_its_file_and_not_the_file_s_name(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(_lines(ROWS))
    schema, source = tmp_path / "schema.json", tmp_path / "in.jsonl"
    schema.write_text('{"n": "int64"}')
    run(source, tmp_path / "out.parquet", schema=str(schema), shard="0/2")
    run(source, tmp_path / "one.parquet", schema=str(schema))
    assert run(source, tmp_path / "one.parquet", schema="n:int64").already_done
    schema.write_text('{"n": "float64"}')
    with pytest.raises(PreconditionError, match=r"options\.reading\.schema.*int64.*float64"):
        run(source, tmp_path / "out.parquet", schema=str(schema), shard="1/2")
    with pytest.raises(PreconditionError, match=r"made from other inputs or with other options"):
        run(source, tmp_path / "one.parquet", schema=str(schema))


def test_a_schema_needs_no_file_where_the_job_runs(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"n": "int64", "tags": ["string"]}')
    for given in (str(tmp_path / "schema.json"), '{"n": "int64", "tags": ["string"]}'):
        assert one_of(None, {"schema": given}).reading.schema == '{"n":"int64","tags":["string"]}'
    assert one_of(None, {"schema": "n:int64, m:double"}).reading.schema == '{"n":"int64","m":"double"}'
    with pytest.raises(SettingsError, match="neither name:type,name:type nor a file"):
        one_of(None, {"schema": str(tmp_path / "missing.json")})
