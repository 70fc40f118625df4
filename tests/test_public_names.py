"""The public names: what users may import, and what importing costs."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

import batchqa


def loaded_after(code: str) -> set[str]:
    """The top-level modules that are loaded after `code` ran in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in run.stdout.splitlines()}


def test_every_public_name_can_be_imported() -> None:
    for name in batchqa.__all__:
        assert getattr(batchqa, name) is not None, name
    assert set(batchqa.__all__) <= set(dir(batchqa))
    assert batchqa.__all__ == sorted(batchqa.__all__)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'anotate'"):
        batchqa.anotate  # noqa: B018


def test_every_error_class_is_public() -> None:
    from batchqa import errors

    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert classes <= set(batchqa.__all__)


def test_import_batchqa_loads_no_heavy_library() -> None:
    loaded = loaded_after("import batchqa")
    assert loaded.isdisjoint({"torch", "transformers", "onnxruntime", "pyarrow", "numpy", "polars", "rich"})


def test_a_run_loads_neither_torch_nor_transformers() -> None:
    loaded = loaded_after("import batchqa; batchqa.run; batchqa.Annotator")
    assert "pyarrow" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "optimum", "onnx", "huggingface_hub", "polars"})


def test_the_version_is_that_of_the_installed_package() -> None:
    try:
        installed = importlib.metadata.version("batchqa")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("batchqa is not installed here, only on the path")
    assert batchqa.__version__ == installed
