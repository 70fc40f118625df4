"""Outputs of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.output.looking import OUTPUTS


@pytest.fixture(params=OUTPUTS)
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An output of each kind; a trailing slash makes it a folder."""
    return f"{tmp_path}/{request.param}"
