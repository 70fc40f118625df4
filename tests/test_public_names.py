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


CLI = """
from batchqa.cli.entry import commands
commands(["run", "--help"], standalone_mode=False)
"""


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


@pytest.mark.parametrize("code", ["import batchqa", "import batchqa; batchqa.run; batchqa.Annotator", CLI])
def test_no_engine_is_even_looked_for_unless_it_is_asked_for(code: str) -> None:
    # whether they are installed or not
    watch = """
import sys
looked_for = set()
class Watch:
    def find_spec(self, name, *others):
        looked_for.add(name.partition(".")[0])
sys.meta_path.insert(0, Watch())
"""
    engines = '{"ray", "pyspark", "airflow", "dask", "daft", "dagster", "prefect"}'
    said = f"{watch}{code}\nprint('\\n', *looked_for & ({engines} | {{'batchqa'}}))"
    ran = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1].split() == ["batchqa"]


def test_the_version_is_that_of_the_installed_package() -> None:
    try:
        installed = importlib.metadata.version("batchqa")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("batchqa is not installed here, only on the path")
    assert batchqa.__version__ == installed
