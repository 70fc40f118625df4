"""Which allocator Arrow takes in the command's process."""

from __future__ import annotations

import os
import subprocess
import sys

import pyarrow as pa
import pytest

from batchqa.allocator import CHOICE

_COMMAND = """
import sys
from batchqa.cli.entry import program
sys.argv = ["batchqa", "--version"]
assert "pyarrow" not in sys.modules, "Arrow is loaded before the choice is made"
program()
import pyarrow
print(pyarrow.default_memory_pool().backend_name)
"""


@pytest.mark.skipif("jemalloc" not in pa.supported_memory_backends(), reason="this pyarrow has no jemalloc")
@pytest.mark.parametrize(
    ("asked", "taken"), [({}, "jemalloc"), ({CHOICE: "system"}, "system")], ids=["alone", "the-user-s-choice"]
)
def test_the_command_takes_jemalloc_unless_the_user_has_chosen(asked: dict[str, str], taken: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != CHOICE}
    script = [sys.executable, "-c", _COMMAND]
    run = subprocess.run(script, capture_output=True, text=True, env=environment | asked, check=True)
    assert run.stdout.splitlines()[-1] == taken
    assert run.stderr == ""


def test_the_library_leaves_the_choice_to_its_user() -> None:
    script = f"import os; import batchqa, batchqa.job; assert {CHOICE!r} not in os.environ"
    environment = {name: value for name, value in os.environ.items() if name != CHOICE}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
