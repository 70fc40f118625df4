"""The `batchqa` command as a program for `tests.forking`; what it imports late is imported before a fork."""

from __future__ import annotations

import onnxruntime  # noqa: F401
import tokenizers  # noqa: F401

import batchqa.job
import batchqa.runners  # noqa: F401
from batchqa.cli.entry import main

__all__ = ["main"]
