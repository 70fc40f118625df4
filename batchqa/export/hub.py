"""A hub id (`org/name[@revision]`) -> the commit that it means, and a folder with that commit's files."""

from __future__ import annotations

import re
from pathlib import Path

from batchqa.errors import ModelError, TryAgainError
from batchqa.user_cache import give_hub_a_home

from .extras import load, quiet

HUB_ID = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")

NEEDED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.codes")
"""Files that are fetched from a hub; *.bin too where a pickle is allowed."""


def fetch(repository: str, revision: str | None, *, allow_pickle: bool = False) -> tuple[str, Path]:
    """Resolve a hub id to its commit, and that commit's files to a folder in the hub's own cache.

    Without a network a revision that is in the cache serves. Raises ModelError where the hub has no such
    model, TryAgainError where it cannot be asked.
    """
    give_hub_a_home()
    hub = load("huggingface_hub")
    errors = load("huggingface_hub.errors")
    patterns = [*NEEDED, "*.bin"] if allow_pickle else [*NEEDED]
    wanted = {"repo_id": repository, "revision": revision, "allow_patterns": patterns}
    try:
        with quiet():
            try:
                commit = hub.HfApi().model_info(repository, revision=revision, timeout=20).sha
                folder = Path(hub.snapshot_download(**(wanted | {"revision": commit})))
            except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
                raise
            except Exception:  # noqa: BLE001 - whatever the trouble is, the cache may have the files
                folder = Path(hub.snapshot_download(**wanted, local_files_only=True))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        at = f" at {revision}" if revision else ""
        raise ModelError(
            f"the hub has no model {repository}{at}, or it is private; check the name, or log in to the hub"
        ) from error
    except Exception as error:
        at = f" --revision {revision}" if revision else ""
        raise TryAgainError(
            f"{repository} is not in the hub's cache and the hub cannot be reached ({type(error).__name__}); "
            f"run the same command with network access, or copy the model's folder here and run "
            f"`batchqa export FOLDER`{at}"
        ) from error
    if not re.fullmatch(r"[0-9a-f]{40}", folder.name):
        raise ModelError(
            f"{repository}: the hub's cache has no commit for {folder.name!r}; fetch the model again"
        )
    return folder.name, folder


def files_of_hub(repository: str, commit: str) -> list[str]:
    """The names of all files of a hub's model, of which some are fetched; none where it cannot be asked."""
    try:
        with quiet():
            found = load("huggingface_hub").HfApi().model_info(repository, revision=commit, timeout=20)
    except Exception:  # noqa: BLE001 - then the messages know less
        return []
    return [file.rfilename for file in found.siblings or () if "/" not in file.rfilename]
