"""Where what can be made again is kept: BATCHQA_CACHE, the user's cache folder, or the temporary folder."""

from __future__ import annotations

import functools
import os
import stat
from pathlib import Path
from tempfile import gettempdir, mkdtemp

NAME = "batchqa"

_said: set[str] = set()


def cache_folders() -> list[Path]:
    """Where to look for what was kept; the first one is where to keep it.

    Without a home folder, or one that can be written, that is a folder of this user's own in the temporary
    folder. A home folder is never made. Raises OSError where there is no temporary folder either.
    """
    given = os.environ.get("BATCHQA_CACHE")
    if given:
        return [Path(given)]
    folder = _of_the_user()
    if folder is None:
        return [_temporary()]
    return [folder] if _can_be_written(folder) else [_temporary(), folder]


def is_temporary() -> bool:
    """Whether the temporary folder stands for the user's cache."""
    return not os.environ.get("BATCHQA_CACHE") and cache_folders()[0] != _of_the_user()


def cache_note() -> str | None:
    """That the cache is in the temporary folder, and why; None where it is not, or where that was said."""
    if not is_temporary():
        return None
    folder = _of_the_user()
    reason = "there is no home folder" if folder is None else f"{folder} cannot be written"
    text = (
        f"{reason}: measurements and cached files are kept in {_temporary()}; set BATCHQA_CACHE "
        "to use another folder"
    )
    if text in _said:
        return None
    _said.add(text)
    return text


def give_hub_a_home() -> None:
    """Have huggingface_hub keep its files here, where it has no folder of its own and can make none.

    It would make one called "~" in the working directory. To be called before it is loaded.
    """
    if {"HF_HOME", "HF_HUB_CACHE"} & set(os.environ) or not is_temporary():
        return
    folder = _of_the_user()
    if folder is None or not (folder.parent / "huggingface").is_dir():
        os.environ["HF_HOME"] = str(cache_folders()[0] / "huggingface")


def has_home() -> bool:
    """Whether HOME names a folder that exists.

    The system's list of users is not asked: a service or a container that is given no HOME is to have none.
    """
    home = os.environ.get("HOME", "")
    return Path(home).is_absolute() and Path(home).is_dir()


def _of_the_user() -> Path | None:
    from platformdirs import user_cache_path

    has_own = Path(os.environ.get("XDG_CACHE_HOME", "")).is_absolute()
    return user_cache_path(NAME) if has_own or has_home() else None


def _can_be_written(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


@functools.cache
def _temporary() -> Path:
    """This user's folder in the temporary folder; a new one where another user has taken that name."""
    folder = Path(gettempdir()) / f"{NAME}-cache-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
    return folder if is_ours else Path(mkdtemp(prefix=f"{NAME}-cache-", dir=gettempdir()))
