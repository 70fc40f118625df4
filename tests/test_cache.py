"""Where the cache is: with a home folder, with one that cannot be written, and without."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchqa import job
from batchqa import user_cache as cache
from batchqa.user_cache import cache_folders, cache_note, give_hub_a_home
from tests.models import SENTENCES


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of the test's own, and an environment that names no cache."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    for name in ("BATCHQA_CACHE", "XDG_CACHE_HOME", "HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache, "gettempdir", lambda: str(folder))
    monkeypatch.setattr(cache, "_said", set())
    cache._temporary.cache_clear()
    yield folder
    cache._temporary.cache_clear()


def test_a_home_folder_holds_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (folder,) = cache_folders()
    assert folder.is_dir()
    assert folder.is_relative_to(tmp_path)
    assert cache_note() is None


@pytest.mark.parametrize("home", [None, "", "~", "/nonexistent/home"])
def test_without_a_home_folder_the_cache_is_in_the_temporary_folder_and_that_is_said_once(
    home: str | None, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if home is not None:
        monkeypatch.setenv("HOME", home)
    (folder,) = cache_folders()
    assert folder.parent == temporary
    assert folder.stat().st_mode & 0o777 == 0o700
    assert "there is no home folder" in str(cache_note())
    assert cache_note() is None
    assert not Path("/nonexistent").exists()


def test_where_the_home_folder_cannot_be_written_it_is_still_looked_into(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/proc")  # nobody can write there, root included
    assert cache_folders() == [temporary / f"batchqa-cache-{os.geteuid()}", Path("/proc/.cache/batchqa")]
    assert "/proc/.cache/batchqa cannot be written" in str(cache_note())


def test_a_cache_that_is_named_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHQA_CACHE", str(tmp_path / "here"))
    assert cache_folders() == [tmp_path / "here"]
    assert cache_note() is None
    monkeypatch.delenv("BATCHQA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folders() == [tmp_path / "xdg" / "batchqa"]


def test_a_folder_that_another_may_write_to_is_not_taken_for_ours(temporary: Path) -> None:
    planted = temporary / f"batchqa-cache-{os.geteuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    (folder,) = cache_folders()
    assert folder != planted
    assert folder.parent == temporary
    assert cache_folders() == [folder]


def test_the_hub_s_files_are_in_the_cache_where_there_is_no_home(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", "there")
    give_hub_a_home()
    assert os.environ["HF_HOME"] == "there"
    monkeypatch.delenv("HF_HOME")
    give_hub_a_home()
    assert Path(os.environ["HF_HOME"]).is_relative_to(temporary)


def test_a_job_without_a_home_folder_says_so_once_and_remembers_what_it_measured(
    tiny_bundle: Path, temporary: Path, tmp_path: Path
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"context": SENTENCES[0], "question": "When?"}), encoding="utf-8")
    notes: list[str] = []
    for name in ("a.parquet", "b.parquet"):
        job.run(source, tmp_path / name, model=tiny_bundle, device="cpu", on_note=notes.append)
    assert sum("there is no home folder" in note for note in notes) == 1
    assert len(list(temporary.glob("batchqa-cache-*/measured/*.json"))) == 1
