"""What many tests of the export share: the part of an export that comes before its variants, done once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from batchqa.engines.loading import Library


@pytest.fixture(scope="session")
def begun(checkpoints: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the stages of the tiny BERT's export that come before its variants; do not change it."""
    from batchqa.export.exporting import export

    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCHQA_CACHE", str(folder / "cache"))
        patch.setattr(Library, "is_installed", lambda self: self.module != "openvino")
        export(str(checkpoints("bert-uncased")), folder / "bundle", precisions=("fp32",), min_agreement=0.0)
    made = list(folder.glob("cache/exports/*/variant-*"))
    assert made
    for stage in made:
        stage.unlink()
    return folder / "cache"


@pytest.fixture
def own_cache(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A test's own cache, in which no variant is made yet but the tiny BERT's export is begun."""
    folder = tmp_path.with_name(f"{tmp_path.name}-cache")
    shutil.copytree(begun, folder)
    monkeypatch.setenv("BATCHQA_CACHE", str(folder))
    return folder
