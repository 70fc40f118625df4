"""A bundle that is not what its manifest says, or that would reach outside itself, is never used."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from batchqa.annotator import Annotator
from batchqa.bundle import MANIFEST, TOKENIZER, Manifest, open_bundle, sealed, write_manifest
from batchqa.errors import DeviceError, ModelError
from tests.models import tiny_tokenizer, write_tiny_bundle

MODEL = "model.fp32.onnx"
ENGINES = ("onnxruntime", "openvino")
Change = Callable[[Path], object]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of one's own, to be damaged."""
    return write_tiny_bundle(tmp_path / "bundle")


def signed_anew(folder: Path) -> Path:
    """The manifest with the digests of the files as they are now: what somebody with bad intent would do.

    It is for both engines, whoever verified it.
    """
    manifest = open_bundle_unverified(folder)
    variants = tuple(replace(variant, engines=ENGINES) for variant in manifest.variants)
    write_manifest(folder, replace(manifest, variants=variants))
    return folder


def open_bundle_unverified(folder: Path) -> Manifest:
    from batchqa.bundle import _manifest_from, orjson

    return _manifest_from(orjson.loads((folder / MANIFEST).read_bytes()))


def use(folder: Path, engine: str = "onnxruntime") -> None:
    """Open the bundle, load it, ask it something."""
    import pyarrow as pa

    with Annotator(folder, device="cpu", threads=1, batch_tokens=512, engine=engine) as annotator:
        annotator.annotate(pa.table({"context": ["Ada wrote it."], "question": ["Who?"]}))


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "the download failed"),
    ],
    ids=["empty", "Git LFS pointer", "HTML page"],
)
@pytest.mark.parametrize("name", [MODEL, TOKENIZER, MANIFEST])
def test_a_file_that_is_something_else_is_recognized_and_named(
    bundle: Path, name: str, content: bytes, hint: str
) -> None:
    (bundle / name).write_bytes(content)
    with pytest.raises(ModelError, match=hint) as refused:
        use(bundle)
    assert name in str(refused.value)


@pytest.mark.parametrize("name", [MODEL, TOKENIZER, "README.md"])
def test_a_file_with_one_changed_byte_is_refused_with_both_digests(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(
        ModelError, match=rf"{name} is damaged: sha256 [0-9a-f]{{64}}, expected [0-9a-f]{{64}}"
    ):
        use(bundle)


def test_a_cut_model_is_refused(bundle: Path) -> None:
    (bundle / MODEL).write_bytes((bundle / MODEL).read_bytes()[:-100])
    with pytest.raises(ModelError, match="is damaged"):
        use(bundle)


def test_a_missing_file_is_named(bundle: Path) -> None:
    (bundle / TOKENIZER).unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        use(bundle)


@pytest.mark.parametrize(
    "name",
    ["model.ort", "pytorch_model.bin", "weights.pt", "modeling.py", "custom.so", "all.tar.gz", "x.zip"],
)
def test_a_bundle_holds_no_code_no_pickle_and_no_archive_even_if_the_manifest_names_it(
    bundle: Path, name: str
) -> None:
    (bundle / name).write_bytes(b"anything")
    with pytest.raises(ModelError, match=f"{name} does not belong"):
        use(signed_anew(bundle))


def test_a_strangers_file_is_refused(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("not in the manifest", encoding="utf-8")
    with pytest.raises(ModelError, match=r"notes\.txt does not belong"):
        use(bundle)


def test_an_archive_is_no_bundle(bundle: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "bundle"), "zip", bundle)
    with pytest.raises(ModelError, match="is not a bundle"):
        use(Path(archive))


@pytest.mark.parametrize("name", ["../secret.json", "/etc/hostname.txt", "sub/file.json"])
def test_a_manifest_cannot_name_what_is_outside_the_bundle(bundle: Path, name: str) -> None:
    manifest = open_bundle_unverified(bundle)
    files = {name: manifest.files[TOKENIZER], **manifest.files}
    (bundle / MANIFEST).write_bytes(sealed(asdict(manifest) | {"files": files}))
    with pytest.raises(ModelError, match="outside the bundle"):
        use(bundle)


def test_a_link_that_leaves_the_bundle_is_refused_though_its_content_is_right(
    bundle: Path, tmp_path: Path
) -> None:
    shutil.move(bundle / MODEL, tmp_path / "elsewhere.onnx")
    (bundle / MODEL).symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ModelError, match="link to a file outside the bundle"):
        use(bundle)


def test_a_hub_cache_with_its_own_links_is_used(bundle: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "models--org--name" / "blobs"
    snapshot = tmp_path / "models--org--name" / "snapshots" / ("0" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(bundle.iterdir())):
        shutil.copy(file, blobs / str(i))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(i))
    use(snapshot)


def _external(bundle: Path, location: str) -> None:
    """Move a weight of the model to a file of its own at `location`, without writing that file."""
    model = onnx.load(bundle / MODEL)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "tokens")
    set_external_data(weight, location, offset=0, length=len(weight.raw_data))
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    (bundle / MODEL).write_bytes(model.SerializeToString())


def _weight_bytes(bundle: Path) -> bytes:
    model = onnx.load(bundle / MODEL)
    return next(bytes(tensor.raw_data) for tensor in model.graph.initializer if tensor.name == "tokens")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Each of the engines that read a bundle's files by themselves."""
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="needs the extra `openvino`")
    return str(request.param)


def test_external_data_beside_the_model_is_used(bundle: Path, engine: str) -> None:
    (bundle / "weights.onnx_data").write_bytes(_weight_bytes(bundle))
    _external(bundle, "weights.onnx_data")
    use(signed_anew(bundle), engine)


@pytest.mark.parametrize("kept", [0, 100], ids=["missing", "short"])
def test_external_data_that_is_missing_or_short_is_refused(bundle: Path, kept: int, engine: str) -> None:
    data = _weight_bytes(bundle)[:kept]
    _external(bundle, "weights.onnx_data")
    if data:
        (bundle / "weights.onnx_data").write_bytes(data)
    with pytest.raises(ModelError, match=r"cannot be loaded|missing"):
        use(signed_anew(bundle), engine)


@pytest.mark.parametrize("spelled", ["parent", "absolute", "link"])
def test_external_data_outside_the_bundle_is_refused(
    bundle: Path, tmp_path: Path, spelled: str, engine: str
) -> None:
    (tmp_path / "outside.onnx_data").write_bytes(_weight_bytes(bundle))
    location = {"parent": "../outside.onnx_data", "absolute": str(tmp_path / "outside.onnx_data")}
    _external(bundle, location.get(spelled, "inside.onnx_data"))
    if spelled == "link":
        (bundle / "inside.onnx_data").symlink_to(tmp_path / "outside.onnx_data")
    with pytest.raises(ModelError, match=r"cannot be loaded|outside the bundle"):
        use(signed_anew(bundle), engine)


def test_external_data_that_is_hard_linked_to_another_file_is_refused_by_its_digest(
    bundle: Path, tmp_path: Path
) -> None:
    (bundle / "weights.onnx_data").write_bytes(_weight_bytes(bundle))
    _external(bundle, "weights.onnx_data")
    signed_anew(bundle)
    secret = tmp_path / "secret"
    secret.write_bytes(os.urandom(len((bundle / "weights.onnx_data").read_bytes())))
    (bundle / "weights.onnx_data").unlink()
    os.link(secret, bundle / "weights.onnx_data")
    with pytest.raises(ModelError, match=r"weights\.onnx_data is damaged"):
        use(bundle)


def test_the_working_directory_is_no_place_for_external_data(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    (tmp_path / "weights.onnx_data").write_bytes(_weight_bytes(bundle))
    _external(bundle, "weights.onnx_data")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded"):
        use(signed_anew(bundle), engine)


def test_sparse_weights_with_external_data_outside_the_bundle_are_refused(
    bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside.onnx_data").write_bytes(np.ones(4, dtype=np.float32).tobytes())
    model = onnx.load(bundle / MODEL)
    values = numpy_helper.from_array(np.ones(4, dtype=np.float32), "sparse")
    set_external_data(values, "../outside.onnx_data", offset=0, length=16)
    values.ClearField("raw_data")
    values.data_location = TensorProto.EXTERNAL
    indices = numpy_helper.from_array(np.arange(4, dtype=np.int64), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [10]))
    (bundle / MODEL).write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="cannot be loaded"):
        use(signed_anew(bundle))


def test_a_tokenizer_of_another_vocabulary_is_refused_at_the_start(bundle: Path) -> None:
    tokenizer = tiny_tokenizer("bert-uncased")
    tokenizer.add_tokens([f"added{i}" for i in range(50)])
    tokenizer.save(str(bundle / TOKENIZER))
    with pytest.raises(ModelError, match=r"token .* tokenizer"):
        Annotator(signed_anew(bundle), device="cpu", threads=1, batch_tokens=512)


def test_a_variant_that_was_not_verified_for_the_device_is_not_taken(bundle: Path) -> None:
    manifest = open_bundle_unverified(bundle)
    variants = tuple(replace(variant, devices=("cuda",)) for variant in manifest.variants)
    write_manifest(bundle, replace(manifest, variants=variants))
    with pytest.raises(DeviceError, match=r"no int8 or fp32 variant verified for cpu"):
        use(bundle)


def test_a_bundle_of_a_later_format_is_refused(bundle: Path) -> None:
    write_manifest(bundle, replace(open_bundle_unverified(bundle), format=99))
    with pytest.raises(ModelError, match="format 99"):
        open_bundle(bundle)


def test_openvino_takes_products_of_bytes_first_and_widened_bytes_last(bundle: Path) -> None:
    (only,) = open_bundle_unverified(bundle).variants
    fp32 = replace(only, engines=ENGINES)
    widened = replace(fp32, precision="int8", file="widened.onnx", weight_bits=0)
    bytes_ = replace(fp32, precision="int8", file="bytes.onnx", engines=("openvino",), weight_bits=8)
    variants = (widened, fp32, bytes_)
    opened = replace(open_bundle(bundle), manifest=replace(open_bundle_unverified(bundle), variants=variants))

    assert opened.choices("cpu", "openvino", None) == [bytes_, fp32, widened]
    assert opened.choices("cpu", "openvino", "int8") == [bytes_, widened]
    assert opened.choices("cpu", "onnxruntime", None) == [widened, fp32]
    assert opened.choose("cpu", "openvino", None) == bytes_
