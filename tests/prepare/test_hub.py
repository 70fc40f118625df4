"""Hub ids without a network: the hub's own cache serves, and a cold one says what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from batchqa.bundle import open_bundle
from batchqa.errors import ModelError, TryAgainError
from batchqa.prepare import export as exporting
from batchqa.prepare.export import ensure_cached, export

hub_constants = pytest.importorskip("huggingface_hub.constants")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network: the library's own offline mode."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(cache))
    return cache


def _put(cache: Path, checkpoint: Path) -> None:
    """Lay a checkpoint out as the hub's cache does: snapshots of links into blobs."""
    repository = cache / "models--someone--tiny"
    snapshot = repository / "snapshots" / COMMIT
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    (repository / "blobs").mkdir()
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(checkpoint.iterdir())):
        blob = repository / "blobs" / f"{number:040x}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)


def test_a_cold_cache_without_a_network_says_what_to_do(offline_hub: Path, tmp_path: Path) -> None:
    with pytest.raises(TryAgainError, match="batchqa export FOLDER") as caught:
        export("someone/tiny", tmp_path / "out" / "bundle")

    assert caught.value.exit_code == 75
    assert not (tmp_path / "out" / "bundle").exists()


def test_a_hub_id_is_resolved_to_its_commit_which_is_recorded(
    offline_hub: Path, checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    _put(offline_hub, checkpoints("bert-uncased"))

    export("someone/tiny", tmp_path / "bundle", precisions=("fp32",))

    source = open_bundle(tmp_path / "bundle").manifest.source
    assert source.id == "someone/tiny"
    assert source.revision == COMMIT


def test_a_hub_id_is_exported_once_and_used_from_then_on(
    offline_hub: Path, checkpoints: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(offline_hub, checkpoints("bert-uncased"))
    calls = []

    def counted(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        return export(*arguments, **options, min_agreement=0.0, max_f1_drop=100.0)  # type: ignore[arg-type]

    monkeypatch.setattr(exporting, "export", counted)
    first = ensure_cached("someone/tiny", tmp_path / "cache")
    shutil.rmtree(offline_hub)  # what was exported needs the hub no more
    second = ensure_cached("someone/tiny", tmp_path / "cache")
    pinned = ensure_cached(f"someone/tiny@{COMMIT}", tmp_path / "cache")

    assert first == second == pinned
    assert len(calls) == 1


def test_a_name_that_leaves_the_cache_is_no_hub_id(tmp_path: Path) -> None:
    for name in ("../up", "a/../b", "/etc/passwd", "a/b/c"):
        with pytest.raises(ModelError, match="hub id"):
            ensure_cached(name, tmp_path)
