"""A bundle of which one byte has changed, wherever it is, is not used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from batchqa.bundle import MANIFEST, open_bundle, sealed
from batchqa.engines import library
from batchqa.errors import ModelError
from batchqa.export.exporting import export

pytest.importorskip("torch")
pytest.importorskip("optimum.exporters.onnx")

FILES = (
    "README.md",
    "bundle.json",
    "model.fp16.onnx",
    "model.fp32.onnx",
    "model.int8.onnx",
    *(["model.int8.openvino.onnx"] if library("openvino").is_installed() else []),
    "tokenizer.json",
)
PLACES = 40


@pytest.fixture(scope="module")
def exported(checkpoints: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a variant of each precision."""
    folder = tmp_path_factory.mktemp("flipped") / "bundle"
    export(
        str(checkpoints("bert-uncased")),
        folder,
        precisions=("fp32", "fp16", "int8"),
        min_agreement=0.0,
        max_f1_drop=100.0,
    )
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_a_byte_that_changed_anywhere_in_any_file_is_noticed(
    name: str, exported: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(exported, tmp_path / "bundle")
    content = (bundle / name).read_bytes()
    open_bundle(bundle)

    for place in {0, len(content) - 1, *range(0, len(content), len(content) // PLACES)}:
        for bit in (1, 2):
            changed = bytearray(content)
            changed[place] ^= bit
            (bundle / name).write_bytes(changed)
            with pytest.raises(ModelError, match=name.replace(".", r"\.")) as caught:
                open_bundle(bundle)
            assert "\n" not in str(caught.value)

    (bundle / name).write_bytes(content)
    open_bundle(bundle)


def test_a_manifest_of_the_first_format_which_had_no_seal_is_still_read(
    exported: Path, tmp_path: Path
) -> None:
    import orjson

    bundle = shutil.copytree(exported, tmp_path / "bundle")
    record = orjson.loads((bundle / MANIFEST).read_bytes())
    del record["seal"]
    (bundle / MANIFEST).write_bytes(orjson.dumps(record | {"format": 1}))
    assert open_bundle(bundle).manifest.name == record["name"]

    (bundle / MANIFEST).write_bytes(orjson.dumps(record))  # of the second format, and without one
    with pytest.raises(ModelError, match="its checksum does not match"):
        open_bundle(bundle)
    (bundle / MANIFEST).write_bytes(sealed(record))
    open_bundle(bundle)
