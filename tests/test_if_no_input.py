"""--if-no-input: a scheduled job on a day without data."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchqa
from batchqa.cli.entry import main
from batchqa.errors import InputError, NoInputError, SettingsError, TryAgainError
from batchqa.job import finalize

ROW = '{"context": "It was built in 1894.", "question": "When?"}\n'


def empty_table(path: Path) -> None:
    pq.write_table(
        pa.table({"context": pa.array([], pa.string()), "question": pa.array([], pa.string())}), path
    )


@pytest.fixture
def nothing(tmp_path: Path) -> Path:
    """A folder in which every name stands for no row."""
    folder = tmp_path / "in"
    (folder / "empty").mkdir(parents=True)
    (folder / "marker").mkdir()
    (folder / "marker" / "_SUCCESS").touch()
    (folder / "lines.jsonl").touch()
    (folder / "blank.jsonl").write_text("\n\n")
    (folder / "zero.parquet").touch()
    empty_table(folder / "rows.parquet")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "missing.parquet",
        "*.csv",
        "empty",
        "marker",
        "lines.jsonl",
        "blank.jsonl",
        "zero.parquet",
        "rows.parquet",
    ],
)
def test_without_input_a_run_that_may_skip_ends_with_99_and_writes_nothing(
    name: str, nothing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, summary = tmp_path / "out" / "answers.parquet", tmp_path / "summary.json"
    arguments = [str(nothing / name), "-o", str(output), "--if-no-input", "skip", "--summary", str(summary)]
    assert main(["run", *arguments]) == 99
    said = capsys.readouterr()
    assert "batchqa: nothing to do: " in said.err
    told = json.loads(said.out)
    assert (told["rows"], told["skipped"], told["fingerprint"]) == (0, True, None)
    assert json.loads(summary.read_bytes()) == told
    assert not output.parent.exists()


def test_standard_input_without_a_byte_is_no_input(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(), closed=False))
    assert main(["run", "-", "-o", str(tmp_path / "out.jsonl"), "--if-no-input", "skip"]) == 99


def test_without_input_a_run_fails_unless_it_may_skip(nothing: Path, tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match=r"no file matches .*\*\.csv"):
        batchqa.run(nothing / "*.csv", tmp_path / "out.parquet")


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("rosw.jsonl", r"did you mean .*/rows\.jsonl\?"),
        ("x", "check the path"),
        ("away/x", "no folder .*/away"),
    ],
)
def test_a_missing_input_is_named_with_what_to_check(given: str, advice: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(ROW)
    with pytest.raises(NoInputError, match=rf"{given} does not exist; .*{advice}"):
        batchqa.run(tmp_path / given, tmp_path / "out.parquet")


def test_an_input_that_is_there_is_never_skipped_for_another_that_is_missing(
    nothing: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there.jsonl"
    there.write_text(ROW)
    with pytest.raises(InputError, match=r"missing\.jsonl does not exist") as raised:
        batchqa.run([there, nothing / "missing.jsonl"], tmp_path / "out.parquet", if_no_input="skip")
    assert not isinstance(raised.value, NoInputError)


def test_a_run_with_rows_is_the_same_job_whether_it_may_skip_or_not(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there.jsonl"
    there.write_text(ROW)
    options = {"model": tiny_bundle, "device": "cpu", "in_process": True, "threads": 1, "batch_tokens": 512}
    first = batchqa.run(there, tmp_path / "out.parquet", if_no_input="skip", **options)
    assert (first.rows, first.skipped) == (1, False)
    assert batchqa.run(there, tmp_path / "out.parquet", **options).already_done


def test_finalize_of_shards_that_all_had_no_input_may_be_skipped_too(
    nothing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "out" / "answers.parquet")
    for shard in ("0/2", "1/2"):
        run = ["run", str(nothing / "*.csv"), "-o", output, "--shard", shard, "--if-no-input", "skip"]
        assert main(run) == 99
    capsys.readouterr()
    assert main(["finalize", output]) == 75
    assert "no shard has started" in capsys.readouterr().err
    assert main(["finalize", output, "--if-no-input", "skip"]) == 99
    said = capsys.readouterr()
    assert "batchqa: nothing to do: " in said.err
    assert (json.loads(said.out)["rows"], json.loads(said.out)["skipped"]) == (0, True)
    assert not (tmp_path / "out").exists()


def test_finalize_skips_nothing_where_a_shard_has_begun(tiny_bundle: Path, tmp_path: Path) -> None:
    there, output = tmp_path / "there.jsonl", tmp_path / "out.parquet"
    there.write_text(ROW * 4)
    options = {"model": tiny_bundle, "device": "cpu", "in_process": True, "threads": 1, "part_rows": 2}
    batchqa.run(there, output, shard="0/2", **options)
    with pytest.raises(TryAgainError, match="run these of the 2 shards again: 1"):
        finalize(output, if_no_input="skip")
    batchqa.run(there, output, shard="1/2", **options)
    assert finalize(output, if_no_input="skip").rows == 4
    with pytest.raises(SettingsError, match="--if-no-input must be one of fail, skip"):
        finalize(output, if_no_input="never")  # type: ignore[arg-type]
