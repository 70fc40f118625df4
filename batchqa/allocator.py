"""Which allocator Arrow takes in a process of ours. It is chosen before Arrow is loaded, or not at all."""

from __future__ import annotations

import os
import platform
from importlib.util import find_spec
from pathlib import Path

CHOICE = "ARROW_DEFAULT_MEMORY_POOL"
"""The environment variable that Arrow reads when it is loaded."""


def choose_allocator() -> None:
    """Have Arrow allocate by jemalloc, where it surely can and the user has not chosen.

    A job's columns are allocated by the thread that reads and freed by the one that writes. Arrow's default,
    mimalloc, keeps some 25 MiB more of them (docs/decisions/0004-host-pipeline.md; mimalloc's issue 1111).
    Asked for what it was built without, Arrow says so on standard error: its wheels for glibc have jemalloc,
    other builds may not.
    """
    if CHOICE not in os.environ and _is_wheel_for_glibc():
        os.environ[CHOICE] = "jemalloc"


def _is_wheel_for_glibc() -> bool:
    """Whether the installed pyarrow carries its own libarrow, as wheels do, and runs on glibc."""
    package = find_spec("pyarrow")
    folders = package.submodule_search_locations if package else None
    carried = any(any(Path(folder).glob("libarrow.so*")) for folder in folders or [])
    return carried and platform.libc_ver()[0] == "glibc"
