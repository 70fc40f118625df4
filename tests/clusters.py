"""Ray and Spark for tests: environments of their own, and a small cluster in each."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.environments import environment, python_that_runs_batchqa_with

LIBRARIES = {
    "ray": ("ray[data]", "botocore"),
    "spark": ("pyspark>=4", "pandas", "botocore"),
    # takes numpy 1 only, as no later pyarrow does, and distutils, which setuptools has
    "spark35": ("pyspark==3.5.*", "setuptools", "numpy<2", "pyarrow<20", "pandas", "botocore"),
}

STARTED = {
    "ray": """
import ray
ray.init(log_to_driver=False)
""",
    "spark": """
from pyspark.sql import SparkSession
SparkSession.builder.master("local[2,4]").config("spark.ui.enabled", "false").getOrCreate()
""",
}
"""What a program does to be in a cluster of two CPUs, which its jobs then use."""


def python_of(engine: str) -> Path:
    """The Python that has the engine; the test is skipped where it, or its Java, is not to be had."""
    if engine.startswith("spark") and not shutil.which("java"):
        pytest.skip("Spark needs Java (apt-get install default-jre-headless)")
    return python_that_runs_batchqa_with(engine, *LIBRARIES[engine])


def variables(engine: str, home: Path) -> dict[str, str]:
    """The environment of its programs: nothing is kept in the user's home, nobody is called."""
    return environment(
        HOME=str(home),
        PYSPARK_PYTHON=str(python_of(engine)),
        SPARK_LOCAL_IP="127.0.0.1",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_AUTH_MODE="disabled",  # else a token is made and kept in the home folder
    )


@contextlib.contextmanager
def running(engine: str, home: Path) -> Iterator[dict[str, str]]:
    """A cluster that outlives its drivers, if it is Ray; yields the environment for them."""
    given = variables(engine, home)
    if engine != "ray":
        yield given
        return
    # the paths of its sockets may have 107 characters at most
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        head, port = _head_of_ray(given, Path(folder))
        try:
            yield given | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
        finally:
            _end(head)


def _head_of_ray(given: dict[str, str], folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The process and the port of a Ray of two CPUs."""
    command = [python_of("ray").with_name("ray"), "start", "--head", "--block", "--num-cpus=2"]
    command += ["--include-dashboard=false", "--include-log-monitor=false", "--no-monitor"]
    command += ["--disable-usage-stats", f"--object-store-memory={100 * 2**20}", f"--temp-dir={folder}"]
    log = folder / "head.log"
    # Ray gives its own processes 15 seconds each to start; on a busy machine, in vain at times
    for _ in range(4):
        port, metrics, grpc, runtime = _free_ports(4)
        ports = [f"--port={port}", f"--metrics-export-port={metrics}", f"--runtime-env-agent-port={runtime}"]
        with log.open("w") as file:
            head = subprocess.Popen(
                [*command, *ports, f"--dashboard-agent-grpc-port={grpc}"],
                env=given | {"RAY_raylet_start_wait_time_s": "60", "RAY_agent_register_timeout_ms": "60000"},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        while "Ray runtime started" not in log.read_text():
            if head.poll() is not None:
                break
            time.sleep(0.2)
        else:
            return head, port
        _end(head)
    raise RuntimeError(f"Ray did not start: {log.read_text()}")


def _end(head: subprocess.Popen[bytes]) -> None:
    """End Ray with all that it has started."""
    left = descendants(head.pid)
    head.terminate()
    head.wait()
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            kill(pid)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def parts_of(output: Path) -> int:
    """How many parts of a one-file output are committed."""
    return len([*output.with_name(f"{output.name}.batchqa").glob("part-*.parquet")])


def descendants(pid: int) -> dict[int, str]:
    """The command lines of a process's children and theirs, by their numbers."""
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                for child in map(int, children.read_text().split()):
                    found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
                    waiting.append(child)
            except OSError:  # it has ended meanwhile
                continue
    return found


def kill(pid: int) -> None:
    """End a process at once, as the kernel does where memory is short, and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        time.sleep(0.01)
