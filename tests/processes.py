"""Processes of their own, and what they took."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

_MEASURE = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([done.returncode, peak * 1024, done.stdout, done.stderr]))
"""
# Linux counts a process's peak from before its exec, when it still is a copy of the one that starts it: the
# tests' own memory would be counted. So a small process stands in between.


def peak_memory(arguments: Sequence[str]) -> tuple[int, int, str, str]:
    """Run a command: its exit code, peak resident memory in bytes, standard output and error.

    The peak is that of the largest one of the command's processes.
    """
    measured = subprocess.run([sys.executable, "-c", _MEASURE, *arguments], capture_output=True, check=True)
    code, peak, out, err = json.loads(measured.stdout)
    return code, peak, out, err
