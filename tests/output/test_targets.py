"""What may be an output, seen before anything is done."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from batchqa.errors import SettingsError
from batchqa.output import (
    Target,
    check_target,
    space_shortage,
)
from tests.commit_job import RECORDS, kept, run
from tests.output.looking import (
    numbers_in,
)


@pytest.mark.parametrize(
    ("text", "kind", "form"),
    [
        ("a/x.parquet", "parquet", "parquet"),
        ("x.jsonl", "text", "jsonl"),
        ("x.csv", "text", "csv"),
        ("a/x.TSV", "text", "tsv"),
        ("x.PARQUET", "parquet", "parquet"),
        ("-", "stdout", "jsonl"),
        ("a/x", "folder", "parquet"),
        ("x/", "folder", "parquet"),
        ("x.parquet/", "folder", "parquet"),
        ("x.jsonl/", "folder", "jsonl"),
        ("x.csv/", "folder", "csv"),
        ("v1.2/", "folder", "parquet"),
    ],
)
def test_the_text_of_an_output_says_what_it_is(text: str, kind: str, form: str) -> None:
    target = Target.parse(text)
    assert (target.kind, target.format) == (kind, form)
    assert kind == "stdout" or target.path == Path.cwd() / text


def test_a_file_uri_is_a_local_output() -> None:
    assert Target.parse("file:///tmp/x.parquet") == Target.parse("/tmp/x.parquet")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x.xlsx",
        "x.json",
        "x.batchqa",
        "/",
        "a\0b",
        "x.jsonl.gz",
        "ftp://b/x.parquet",
        "hdfs://b/x",
        "s3://b",
        "s3:///x/",
    ],
)
def test_a_text_that_is_no_output_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        Target.parse(text)


@pytest.mark.parametrize(
    "spelling", ["in.jsonl", "./in.jsonl", "d/../in.jsonl", "link.jsonl", "hard.jsonl", "{abs}"]
)
def test_an_output_that_is_an_input_is_refused_however_it_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "in.jsonl").write_text("{}\n")
    (tmp_path / "link.jsonl").symlink_to("in.jsonl")
    (tmp_path / "hard.jsonl").hardlink_to("in.jsonl")
    text = spelling.format(abs=tmp_path / "in.jsonl")
    with pytest.raises(SettingsError, match=r"input|symbolic link"):
        check_target(Target.parse(text), ["in.jsonl"], overwrite=True)
    with pytest.raises(SettingsError, match="input"):
        check_target(Target.parse("in.jsonl"), [text], overwrite=True)


def test_an_input_that_would_be_replaced_by_the_rejects_is_refused(tmp_path: Path) -> None:
    rejects = tmp_path / "out.parquet.rejects.jsonl"
    rejects.write_text("{}\n")
    with pytest.raises(SettingsError, match="is an input"):
        check_target(Target.parse(f"{tmp_path}/out.parquet"), [str(rejects)], overwrite=True)


@pytest.mark.parametrize("output", ["in/out", "in/out.parquet", "in/deep/out/", "in/", "linked/out.jsonl"])
def test_an_output_inside_an_input_folder_is_refused(tmp_path: Path, output: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.parquet").write_text("")
    (tmp_path / "linked").symlink_to("in")
    with pytest.raises(SettingsError, match="inside"):
        check_target(Target.parse(f"{tmp_path}/{output}"), [f"{tmp_path}/in"], overwrite=False)


@pytest.mark.parametrize(
    ("pattern", "output", "refused"),
    [
        ("in/*.parquet", "in/out.parquet", True),
        ("in/*.parquet", "in/sub/out.parquet", False),
        ("in/**/*.parquet", "in/sub/out.parquet", True),
        ("in/*/*.parquet", "in/out/", True),
        ("in/*", "in/out/", True),
        ("in/*.jsonl", "in/out.parquet", False),
        ("*.parquet", "out.parquet", True),
    ],
)
def test_an_output_that_a_glob_of_the_inputs_would_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, output: str, refused: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    if refused:
        with pytest.raises(SettingsError, match="matches the input"):
            check_target(Target.parse(output), [pattern], overwrite=False)
    else:
        check_target(Target.parse(output), [pattern], overwrite=False)


def test_an_output_beside_its_input_is_fine(tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_text("")
    for name in ("out.parquet", "out/", "new/folder/out.jsonl"):
        check_target(Target.parse(f"{tmp_path}/{name}"), [f"{tmp_path}/in.parquet"], overwrite=False)


def test_an_input_inside_the_output_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "in.jsonl").write_text("")
    with pytest.raises(SettingsError, match="lies inside"):
        check_target(Target.parse(f"{tmp_path}/out/"), [f"{tmp_path}/out/in.jsonl"], overwrite=False)


def test_things_that_are_no_files_are_refused_as_outputs(tmp_path: Path) -> None:
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "real.parquet").write_text("")
    (tmp_path / "link.parquet").symlink_to("real.parquet")
    (tmp_path / "dangling.parquet").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, why in [
        ("folder.parquet", "is a folder"),
        ("file", "is a file"),
        ("link.parquet", "symbolic link"),
        ("dangling.parquet", "symbolic link"),
        ("pipe.jsonl", "not a regular file"),
        ("file/out.parquet", "not a|Not a"),
    ]:
        with pytest.raises(SettingsError, match=why):
            check_target(Target.parse(f"{tmp_path}/{name}"), [], overwrite=True)


def test_a_name_for_which_no_companion_fits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="too long"):
        check_target(Target.parse(f"{tmp_path}/{'x' * 244}.jsonl"), [], overwrite=False)
    with pytest.raises(SettingsError):
        check_target(Target.parse(f"{tmp_path}/{'x' * 300}/out.jsonl"), [], overwrite=False)
    check_target(Target.parse(f"{tmp_path}/{'x' * 230}.jsonl"), [], overwrite=False)


def test_names_that_are_no_utf8_work(tmp_path: Path) -> None:
    for name in (b"a\xff.parquet", b"a\xff.jsonl", b"a\xff/"):
        output = f"{tmp_path}/{os.fsdecode(name)}"
        check_target(Target.parse(output), [], overwrite=False)
        run(output, stop_at=3)
        run(output)
        assert run(output).state == "done"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(SettingsError, match="cannot be written"):
        check_target(Target.parse(f"{tmp_path}/closed/sub/out.parquet"), [], overwrite=False)


def test_a_folder_that_cannot_be_written_is_refused_for_root_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A read-only file system refuses root as well; access(2) says so.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SettingsError, match="cannot be written"):
        check_target(Target.parse(f"{tmp_path}/sub/out.parquet"), [], overwrite=False)
    (tmp_path / "done.parquet").write_text("")
    check_target(Target.parse(f"{tmp_path}/done.parquet"), [], overwrite=False)


def test_missing_folders_above_the_output_are_made(tmp_path: Path) -> None:
    run(tmp_path / "a" / "b" / "out.parquet")
    assert numbers_in(str(tmp_path / "a" / "b" / "out.parquet")) == kept(RECORDS)


def test_too_little_space_is_said_before_the_start(tmp_path: Path) -> None:
    target, folder = Target.parse(f"{tmp_path}/a/out.parquet"), Target.parse(f"{tmp_path}/a/out/")
    assert space_shortage(target, 1) is None
    shortage = space_shortage(target, 10**18)
    assert shortage is not None
    assert "are free" in shortage
    half = shutil.disk_usage(tmp_path).free * 2 // 3
    assert space_shortage(target, half) is not None
    assert space_shortage(folder, half) is None
