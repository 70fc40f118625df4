"""Checkpoints that are not what they should be: one line that says why, exit code 5, and nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from batchqa.errors import ModelError
from batchqa.prepare.export import export

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

Spoil = Callable[[Path], None]


def _drop_head(folder: Path) -> None:
    weights = safetensors_torch.load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("qa_outputs")}
    safetensors_torch.save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def _set_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | values), encoding="utf-8")


def _pickle_only(folder: Path) -> None:
    weights = safetensors_torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def _truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 45144116\n"
    )


def _page(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"<!DOCTYPE html><html><body>404</body></html>")


def _no_tokenizer(folder: Path) -> None:
    for file in folder.glob("*tok*"):
        file.unlink()
    for file in folder.glob("vocab*"):
        file.unlink()


BAD: dict[str, tuple[Spoil, str]] = {
    "no head in the weights": (_drop_head, "question-answering head"),
    "another head in the config": (
        lambda f: _set_config(f, architectures=["BertForMaskedLM"]),
        "no question-answering",
    ),
    "pickle only": (_pickle_only, "--allow-pickle"),
    "truncated safetensors": (_truncate, "damaged"),
    "LFS pointer": (_pointer, "Git LFS pointer"),
    "HTML page": (_page, "HTML page"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "no tokenizer": (_no_tokenizer, "no tokenizer"),
    "a tokenizer of another vocabulary": (lambda f: _set_config(f, vocab_size=20), "do not belong together"),
    "unknown architecture": (lambda f: _set_config(f, model_type="abacus"), "unknown"),
    "an architecture that cannot be exported": (
        lambda f: _set_config(f, model_type="canine"),
        "cannot be exported to ONNX",
    ),
    "an architecture that batchqa cannot run": (
        lambda f: _set_config(f, model_type="bart"),
        "an encoder with a decoder",
    ),
    "code of its own": (lambda f: _set_config(f, auto_map={"AutoModel": "x.Y"}), "code of its own"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_a_bad_checkpoint_is_refused_in_one_line_and_nothing_is_written(
    case: str, checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    spoil, reason = BAD[case]
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoints("bert-uncased"), folder)
    spoil(folder)

    with pytest.raises(ModelError, match=reason) as caught:
        export(str(folder), tmp_path / "out" / "bundle")

    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_pickle_is_converted_on_demand(checkpoints: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoints("bert-uncased"), folder)
    _pickle_only(folder)

    manifest = export(str(folder), tmp_path / "bundle", precisions=("fp32",), allow_pickle=True)

    assert manifest.variants[0].verification["span_agreement"] == 1.0


def test_a_pickle_that_would_run_code_is_refused_and_runs_none(
    checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoints("bert-uncased"), folder)
    (folder / "model.safetensors").unlink()
    torch.save(_Trap(tmp_path / "sprung"), folder / "pytorch_model.bin")

    with pytest.raises(ModelError, match="plain tensors"):
        export(str(folder), tmp_path / "bundle", allow_pickle=True)

    assert not (tmp_path / "sprung").exists()


class _Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._mark,)


def test_a_model_that_is_neither_folder_nor_hub_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no checkpoint"):
        export(str(tmp_path / "nothing" / "here"), tmp_path / "bundle")
