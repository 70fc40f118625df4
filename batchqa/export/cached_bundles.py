"""The bundle of a hub id: exported into the cache when it is first used."""

from __future__ import annotations

import time
from itertools import chain
from pathlib import Path

from batchqa.bundle import open_bundle
from batchqa.errors import ModelError, TryAgainError
from batchqa.store.files import translated
from batchqa.store.lock import Lock
from batchqa.user_cache import cache_folders, cache_note

from .exporting import export
from .hub import HUB_ID, fetch
from .verify import Progress


def ensure_cached(
    model: str, cache: str | Path | None = None, on_progress: Progress = lambda _: None
) -> Path:
    """The bundle of a hub id (`org/name[@revision]`), exported into the cache on first use.

    The cache is `cache`, else BATCHQA_CACHE, else the user's cache folder. One process exports, others wait.
    Raises TryAgainError, saying what to do, where the network is needed and not there.
    """
    if not HUB_ID.fullmatch(model):
        raise ModelError(
            f"{model!r} is neither a bundle's folder nor a hub id (org/name or org/name@revision)"
        )
    roots = [folder / "bundles" for folder in ([Path(cache)] if cache else cache_folders())]
    root = roots[0]
    repository, _, revision = model.partition("@")
    name = repository.replace("/", "--")
    for folder in roots:
        if (pinned := folder / f"{name}@{revision}").is_dir():
            return _checked(pinned)
    try:
        commit, _ = fetch(repository, revision or None)
    except TryAgainError:
        found = chain.from_iterable(folder.glob(f"{name}@*") for folder in roots)
        made = sorted(found, key=lambda path: path.stat().st_mtime)
        if made and not revision:
            return _checked(made[-1])  # offline: the newest that is here
        raise
    target = root / f"{name}@{commit}"
    for folder in roots[1:]:
        if (folder / target.name).is_dir():
            return _checked(folder / target.name)
    with translated(f"making {target}"):
        root.mkdir(parents=True, exist_ok=True)
    lock = _wait_for(root / f"{target.name}.lock", model)
    try:
        if not target.is_dir():
            if cache is None and (note := cache_note()):
                on_progress(note)
            on_progress(f"exporting {model} to {target}; this is done once")
            export(repository, target, revision=commit, on_progress=on_progress)
    finally:
        lock.release()
    return _checked(target)


def _checked(bundle: Path) -> Path:
    open_bundle(bundle)
    return bundle


def _wait_for(path: Path, model: str, seconds: float = 3600.0) -> Lock:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return Lock(path, f"the cached bundle of {model}")
        except TryAgainError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)
