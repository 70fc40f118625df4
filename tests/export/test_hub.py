"""Hub ids without a network: the hub's own cache serves, and a cold one says what to do."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from batchqa.bundle import open_bundle
from batchqa.errors import ModelError, TryAgainError
from batchqa.export import cached_bundles
from batchqa.export.cached_bundles import ensure_cached
from batchqa.export.exporting import export

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
    offline_hub: Path, checkpoints: Callable[..., Path], own_cache: Path, tmp_path: Path
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

    monkeypatch.setattr(cached_bundles, "export", counted)
    first = ensure_cached("someone/tiny", tmp_path / "cache")
    shutil.rmtree(offline_hub)  # what was exported needs the hub no more
    second = ensure_cached("someone/tiny", tmp_path / "cache")
    pinned = ensure_cached(f"someone/tiny@{COMMIT}", tmp_path / "cache")

    assert first == second == pinned
    assert len(calls) == 1


_CACHED = """
import sys
from batchqa.export.cached_bundles import ensure_cached
print(ensure_cached(sys.argv[1], on_progress=lambda text: print(text, file=sys.stderr)))
"""


def _processes(count: int, environment: dict[str, str]) -> list[tuple[int, str, str]]:
    """Several processes that ask for the same hub id at the same time: exit codes, outputs, errors."""
    command = [sys.executable, "-c", _CACHED, "someone/tiny"]
    started = [
        subprocess.Popen(
            command,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    said = [process.communicate(timeout=500) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]


def test_two_processes_that_need_the_same_hub_id_at_once_export_it_once(
    checkpoints: Callable[..., Path], own_cache: Path, tmp_path: Path
) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    _put(hub, checkpoints("bert-uncased"))
    environment = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(hub),
        "BATCHQA_CACHE": str(own_cache),
    }

    done = _processes(2, environment)

    assert [code for code, _, _ in done] == [0, 0], done
    paths = {out.splitlines()[-1] for _, out, _ in done}
    assert paths == {str(own_cache / "bundles" / f"someone--tiny@{COMMIT}")}
    assert sum("this is done once" in err for _, _, err in done) == 1
    assert open_bundle(Path(paths.pop())).manifest.source.revision == COMMIT
    left = sorted(path.name for path in (own_cache / "bundles").iterdir())
    assert [name for name in left if not name.endswith(".lock")] == [f"someone--tiny@{COMMIT}"]


@pytest.mark.parametrize(
    "arguments",
    [("export", "someone/tiny", "-o"), ("run", "ROWS", "--model", "someone/tiny", "-o")],
    ids=["export", "run"],
)
def test_a_hub_that_does_not_answer_is_a_matter_of_trying_again(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """A port on which nobody listens: what a machine without a network sees, without anything replaced."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"context": "Ada wrote it.", "question": "Who?"}\n', encoding="utf-8")
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "BATCHQA_CACHE": str(tmp_path / "cache"),
    }
    command = [str(rows) if each == "ROWS" else each for each in arguments]

    done = subprocess.run(
        [sys.executable, "-m", "batchqa", *command, str(tmp_path / "out" / "result.parquet"), "--quiet"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 75, done.stderr
    (line,) = done.stderr.splitlines()
    assert "someone/tiny is not in the hub's cache and the hub cannot be reached" in line
    assert "batchqa export FOLDER" in line
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_name_that_leaves_the_cache_is_no_hub_id(tmp_path: Path) -> None:
    for name in ("../up", "a/../b", "/etc/passwd", "a/b/c"):
        with pytest.raises(ModelError, match="hub id"):
            ensure_cached(name, tmp_path)
