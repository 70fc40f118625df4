"""Checkpoints that are not what they should be: one line that says why, exit code 5, and nothing written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from batchqa.cli.entry import main
from batchqa.errors import ModelError
from batchqa.export.checkpoint import open_checkpoint
from batchqa.export.exporting import export
from tests.models import SENTENCES

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

Spoil = Callable[[Path], object]


def _drop_head(folder: Path) -> None:
    weights = safetensors_torch.load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("qa_outputs")}
    safetensors_torch.save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def _set_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | values), encoding="utf-8")


def _remove(folder: Path, key: str) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop(key)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _set_head(folder: Path, labels: int) -> None:
    weights = safetensors_torch.load_file(folder / "model.safetensors")
    weights |= {"qa_outputs.weight": torch.zeros(labels, 32), "qa_outputs.bias": torch.zeros(labels)}
    safetensors_torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _only(folder: Path, file: str, content: bytes = b"weights") -> None:
    """Another file stands in the place of the weights; an adapter has no config.json either."""
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(content)
    if file.startswith("adapter"):
        (folder / "config.json").unlink()


def _shards(folder: Path) -> None:
    weights = safetensors_torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {key: f"pytorch_model-0000{1 + at % 2}-of-00002.bin" for at, key in enumerate(sorted(weights))}
    for file in set(names.values()):
        torch.save({key: value for key, value in weights.items() if names[key] == file}, folder / file)
    index = json.dumps({"weight_map": names})
    (folder / "pytorch_model.bin.index.json").write_text(index, encoding="utf-8")


def _prefixed(folder: Path, prefix: str) -> None:
    weights = safetensors_torch.load_file(folder / "model.safetensors")
    named = {prefix + key: value for key, value in weights.items()}
    safetensors_torch.save_file(named, folder / "model.safetensors", metadata={"format": "pt"})


def _pickle_only(folder: Path) -> None:
    weights = safetensors_torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def _truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _replace(file: str, content: bytes) -> Spoil:
    return lambda folder: (folder / file).write_bytes(content)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 45144116\n"
PAGE = b"<!DOCTYPE html><html><body>404</body></html>"


def _no_tokenizer(folder: Path) -> None:
    for file in folder.glob("*tok*"):
        file.unlink()
    for file in folder.glob("vocab*"):
        file.unlink()


BAD: dict[str, tuple[Spoil, str]] = {
    "no head in the weights": (_drop_head, "question-answering head"),
    "another head in the config": (
        lambda f: _set_config(f, architectures=["BertForMaskedLM"]),
        "--allow-unnamed-head",
    ),
    "another head in the config and the weights": (
        lambda f: (_set_config(f, architectures=["BertForMaskedLM"]), _drop_head(f)),
        "not a question-answering model: config.json says BertForMaskedLM; give a checkpoint",
    ),
    "a head with three labels": (lambda f: _set_head(f, 3), "3 numbers for each token, not two"),
    "no model_type": (lambda f: _remove(f, "model_type"), '"model_type": "bert"'),
    "an adapter alone": (
        lambda f: _only(f, "adapter_config.json", b'{"base_model_name_or_path": "some/base"}'),
        "a PEFT adapter only, of some/base: merge it",
    ),
    "TensorFlow's weights alone": (lambda f: _only(f, "tf_model.h5"), "only TensorFlow weights"),
    "Flax's weights alone": (lambda f: _only(f, "flax_model.msgpack"), "only Flax weights"),
    "weights under another name": (
        lambda f: (f / "model.safetensors").rename(f / "best.safetensors"),
        "but best.safetensors",
    ),
    "a bundle": (lambda f: (f / "bundle.json").write_text("{}"), "is already a bundle"),
    "pickle only": (_pickle_only, "--allow-pickle"),
    "truncated safetensors": (_truncate, "damaged"),
    "empty safetensors": (_replace("model.safetensors", b""), "it is empty"),
    **{
        f"{kind} for {file}": (_replace(file, content), kind)
        for kind, content in (("Git LFS pointer", POINTER), ("HTML page", PAGE))
        for file in ("config.json", "model.safetensors", "tokenizer.json")
    },
    "a tokenizer that is no tokenizer": (_replace("tokenizer.json", b"{}"), "cannot be loaded"),
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
    case: str, checkpoints: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil, reason = BAD[case]
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoints("bert-uncased"), folder)
    spoil(folder)

    code = main(["export", str(folder), "-o", str(tmp_path / "out" / "bundle"), "--quiet"])

    said = capfd.readouterr()
    assert code == 5, said.err
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("batchqa: error: ")
    assert reason in line
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_pickle_is_converted_on_demand(checkpoints: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoints("bert-uncased"), folder)
    _pickle_only(folder)

    manifest = export(str(folder), tmp_path / "bundle", precisions=("fp32",), allow_pickle=True)

    assert manifest.variants[0].verification["span_agreement"] == 1.0


GOOD: dict[str, tuple[Spoil, dict[str, bool]]] = {
    "pickled shards": (_shards, {"allow_pickle": True}),
    "names of a model trained in parallel": (lambda f: _prefixed(f, "module."), {}),
    "names of a compiled model trained in parallel": (lambda f: _prefixed(f, "module._orig_mod."), {}),
    "three labels in the config alone": (
        lambda f: _set_config(f, id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2}),
        {},
    ),
    "a trained head that the config does not name": (
        lambda f: _set_config(f, architectures=["BertModel"]),
        {"allow_unnamed_head": True},
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_a_checkpoint_that_is_only_stored_in_an_unusual_way_is_opened(
    case: str, checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    change, options = GOOD[case]
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoints("bert-uncased"), folder)
    change(folder)

    with open_checkpoint(checkpoints("bert-uncased").as_posix(), None) as usual:
        expected = usual.load_model().state_dict()
    with open_checkpoint(str(folder), None, **options) as opened:
        weights = opened.load_model().state_dict()

    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("file", ["sentencepiece.model", "spiece.model"])
def test_a_tokenizer_file_is_known_by_its_model_and_named_where_it_is_missing(
    file: str, checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    """RemBERT's is called sentencepiece.model, ALBERT's spiece.model: no list of ours has to know."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoints("bert-uncased"), folder)
    _no_tokenizer(folder)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    _set_config(folder, model_type="rembert" if file.startswith("sentence") else "albert")
    with pytest.raises(ModelError, match=f"no tokenizer: none of tokenizer.json.*{file}"):
        export(str(folder), tmp_path / "bundle")


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


def test_a_slow_tokenizer_is_converted_and_gives_the_same_tokens(
    checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    folder = _with_vocabulary_alone(checkpoints("bert-uncased"), tmp_path / "checkpoint")

    export(str(folder), tmp_path / "bundle", precisions=("fp32",))

    slow = transformers.BertTokenizer.from_pretrained(folder)
    converted = Tokenizer.from_file(str(tmp_path / "bundle" / "tokenizer.json"))
    for text in SENTENCES:
        assert converted.encode(text, add_special_tokens=False).tokens == slow.tokenize(text)


def test_a_slow_tokenizer_whose_conversion_gives_other_tokens_is_refused(
    checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    """transformers' conversion loses this setting: the slow tokenizer does not split at punctuation."""
    folder = _with_vocabulary_alone(checkpoints("bert-uncased"), tmp_path / "checkpoint")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    changed = settings | {"do_basic_tokenize": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(changed), encoding="utf-8")

    with pytest.raises(ModelError, match="gives other tokens") as caught:
        export(str(folder), tmp_path / "bundle", precisions=("fp32",))

    assert caught.value.exit_code == 5
    assert not (tmp_path / "bundle").exists()


def _with_vocabulary_alone(checkpoint: Path, folder: Path) -> Path:
    """A copy with vocab.txt and no tokenizer.json, as the uploads of 2019 have it."""
    shutil.copytree(checkpoint, folder)
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    for file in ("tokenizer.json", "special_tokens_map.json", "added_tokens.json"):
        (folder / file).unlink(missing_ok=True)
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)), encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


_FULL_DISK = """
import resource, sys
from batchqa.cli.entry import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(["export", sys.argv[2], "-o", sys.argv[3], "--precision", "fp32", "--quiet"]))
"""


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(1_000, id="tokenizer", marks=pytest.mark.slow),
        pytest.param(40_000, id="graph", marks=pytest.mark.slow),
        pytest.param(150_000, id="model"),
    ],
)
def test_a_full_disk_is_an_input_output_error_and_leaves_nothing(
    size: int, checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    """The kernel refuses to let a file grow beyond `size` bytes: a real failing write, wherever it comes."""
    place = tmp_path / "out"
    arguments = [str(size), str(checkpoints("bert-uncased")), str(place / "bundle")]

    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, *arguments], capture_output=True, text=True, check=False
    )

    assert done.returncode == 74, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("batchqa: error: ")
    assert "nothing was written" in line
    assert not list(tmp_path.glob("out/*"))


def test_a_model_that_is_neither_folder_nor_hub_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no checkpoint"):
        export(str(tmp_path / "nothing" / "here"), tmp_path / "bundle")
