"""An export keeps what passes and says all that does not; repeated, it resumes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchqa.bundle import open_bundle
from batchqa.cli.entry import main
from batchqa.engines.loading import Library
from batchqa.errors import ModelError
from batchqa.export import graphs, variants
from batchqa.export.exporting import export
from batchqa.export.reference import Reference
from batchqa.export.stages import KEPT, Stages

pytest.importorskip("torch")
pytest.importorskip("optimum.exporters.onnx")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one; where stages of an export are not what is tested, `own_cache` takes its place."""
    monkeypatch.setattr(Library, "is_installed", lambda self: self.module != "openvino")
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BATCHQA_CACHE", str(folder))
    return folder


def _poor(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variant of this precision has none of the original's answers."""
    compare = variants.compare

    def compared(bundle: Any, which: str, *others: Any) -> Any:
        found = compare(bundle, which, *others)
        return replace(found, measured=replace(found.measured, equal=0)) if which == precision else found

    monkeypatch.setattr(variants, "compare", compared)


@pytest.mark.usefixtures("own_cache")
def test_what_misses_a_limit_is_left_out_and_the_rest_is_kept(
    checkpoints: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    _poor("fp16", monkeypatch)
    checkpoint = str(checkpoints("bert-uncased"))
    code = main(["export", checkpoint, "-o", str(tmp_path / "b"), "--precision", "fp16,fp32", "--quiet"])

    assert code == 3
    (line,) = capfd.readouterr().err.splitlines()
    assert "was made without fp16 gives the original's answer on 0.00% of 98 rows" in line
    manifest = open_bundle(tmp_path / "b").manifest
    assert [variant.precision for variant in manifest.variants] == ["fp32"]
    assert list(manifest.left_out) == ["fp16"]
    assert not (tmp_path / "b" / "model.fp16.onnx").exists()
    assert "## Left out" in (tmp_path / "b" / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("own_cache")
def test_a_repeated_export_resumes_from_finished_work_and_is_judged_anew(
    checkpoints: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = str(checkpoints("bert-uncased"))
    with monkeypatch.context() as patch:
        _poor("fp32", patch)
        with pytest.raises(ModelError, match="finished work is kept"):
            export(checkpoint, tmp_path / "b", precisions=("fp32",))

    def again(*_: Any) -> Any:
        pytest.fail("done a second time")

    monkeypatch.setattr(graphs, "export_graph", again)
    monkeypatch.setattr(variants, "compare", again)
    made = export(checkpoint, tmp_path / "b", precisions=("fp32",), min_agreement=0.0)
    assert made.variants[0].precision == "fp32"
    assert open_bundle(tmp_path / "b").manifest == made


@pytest.mark.usefixtures("own_cache")
def test_another_file_to_verify_on_is_answered_anew(
    checkpoints: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = str(checkpoints("bert-uncased"))
    export(checkpoint, tmp_path / "a", precisions=("fp32",))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"context": "Ada wrote it in May.", "question": "Who wrote it?"}\n', encoding="utf-8")
    asked: list[int] = []
    raw = Reference.raw

    def counted(self: Reference, table: Any, *others: Any) -> Any:
        asked.append(len(table))
        return raw(self, table, *others)

    monkeypatch.setattr(Reference, "raw", counted)
    made = export(checkpoint, tmp_path / "b", precisions=("fp32",), verify_on=rows)
    assert 1 in asked
    assert made.variants[0].verification["rows"] == 1


def test_stages_of_a_few_checkpoints_are_kept_and_a_changed_file_is_another_checkpoint(
    tmp_path: Path, cache: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for number in range(KEPT + 2):
        (checkpoint / "config.json").write_text(str(number), encoding="utf-8")
        stages = Stages(checkpoint, {})
        assert stages.record("x", {}) is None
        stages.keep_record("x", {}, [number])
        assert Stages(checkpoint, {}).record("x", {}) == [number]
    assert len(list((cache / "exports").iterdir())) == KEPT


def test_without_a_cache_that_can_be_written_an_export_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("BATCHQA_CACHE", str(file))
    stages = Stages(tmp_path, {})
    stages.keep_record("x", {}, 1)
    stages.put("y", {}, file)
    assert stages.record("x", {}) is None
    assert not stages.fetch("y", {}, tmp_path / "copy")


def test_stages_that_another_export_cleared_away_meanwhile_are_made_anew(tmp_path: Path, cache: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}", encoding="utf-8")
    stages = Stages(checkpoint, {})
    model = tmp_path / "model"
    model.write_bytes(b"weights")
    stages.put("model", {}, model)
    stages.keep_record("found", {}, [1])
    shutil.rmtree(cache / "exports")

    assert not stages.fetch("model", {}, tmp_path / "copy")
    assert stages.record("found", {}) is None
    stages.put("model", {}, model)  # nowhere to keep it: no error
    assert stages.once("found", {}, lambda: [2]) == [2]
