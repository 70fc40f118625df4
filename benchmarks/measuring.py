"""What every benchmark shares: measured processes, spreads, the machine, results that are kept."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from batchqa.machine import cpu_flags, cpu_model, peak_memory

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WORK = ROOT / ".bench"
"""Where samples, models and outputs are kept between runs."""

WATCH_SECONDS = 0.1
"""How often a process's memory is looked at."""

VERSIONS = (
    "batchqa",
    "onnxruntime-gpu",
    "onnxruntime",
    "openvino",
    "tokenizers",
    "pyarrow",
    "polars",
    "torch",
    "transformers",
    "optimum",
    "optimum-onnx",
    "haystack-ai",
)


@dataclass(frozen=True, slots=True)
class Process:
    """What a process took, and the lines that it printed.

    `peak_mib` is the sum of the peaks of it and of all processes below it that lived together.
    """

    lines: list[str]
    seconds: float
    cpu_seconds: float
    peak_mib: float


def measured(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Process:
    """Run a program to its end; it must succeed."""
    began = time.perf_counter()
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables)
    assert process.stdout is not None
    with _watched(process.pid) as peaks:
        lines = process.stdout.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed with status {status}")
    return Process(
        lines,
        time.perf_counter() - began,
        usage.ru_utime + usage.ru_stime,
        max(peaks) / 2**20,
    )


@contextmanager
def _watched(process: int) -> Iterator[list[int]]:
    """Look again and again at the summed peak memory, in bytes, of a process and those below it."""
    peaks, ended = [peak_memory(process)], threading.Event()

    def watch() -> None:
        while not ended.wait(WATCH_SECONDS):
            peaks.append(peak_memory(process))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        ended.set()
        watcher.join()


def spread(values: Sequence[float], digits: int) -> str:
    """Median (smallest to largest)."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def keep(kind: str, folder: Path, table: str, facts: Mapping[str, Any]) -> Path:
    """Write a table and the raw figures, with date, machine, versions and commit, into `folder`.

    Returns the results' path without its suffix.
    """
    folder.mkdir(parents=True, exist_ok=True)
    commit = _commit()
    today = dt.datetime.now(dt.UTC).date().isoformat()
    record = {
        "date": today,
        "commit": commit,
        "machine": {
            "cpu": cpu_model(),
            "flags": sorted(f for f in cpu_flags() if "amx" in f or "vnni" in f or "bf16" in f),
            "python": platform.python_version(),
        },
        "versions": {name: found for name in VERSIONS if (found := _version(name))},
        **facts,
    }
    name = folder / f"{today}-{kind}-{commit[:8]}"
    name.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    head = f"{cpu_model()}; commit {commit[:8]}"
    name.with_suffix(".md").write_text(f"{head}\n\n{table}\n", encoding="utf-8")
    print(f"\n{table}\n\nwritten: {name}.json and .md")
    return name


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
