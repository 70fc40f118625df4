"""A checkpoint's weights: found, converted and named as the model wants them, or what they are instead.

No pickle is read but on demand, and then by `torch.load(weights_only=True)` in a child process.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchqa.bundle import MANIFEST, disguise
from batchqa.errors import ModelError

from .extras import load, quiet

WEIGHTS = "model.safetensors"
SHARDS = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_SHARDS = "pytorch_model.bin.index.json"
ADAPTER = "adapter_config.json"

_OTHERS = {
    "*.h5": "TensorFlow weights; load it with from_pretrained(..., from_tf=True), then save_pretrained",
    "*.ckpt*": "a TensorFlow or Lightning checkpoint; save its model with transformers' save_pretrained",
    "*.msgpack": "Flax weights; load it with from_pretrained(..., from_flax=True), then save_pretrained",
    "saved_model.pb": "a TensorFlow SavedModel; save the model with transformers' save_pretrained",
    "*.onnx": "an ONNX file; give the checkpoint that it was made from",
    "*.gguf": "a GGUF file; give the checkpoint that it was made from",
    "*.ot": "weights for Rust; give the checkpoint that they were made from",
    "*.pt": "a PyTorch file in a format of its own; save its model with transformers' save_pretrained",
    "*.pth": "a PyTorch file in a format of its own; save its model with transformers' save_pretrained",
}
"""What else a folder may hold instead of weights in a format of transformers, and what to do."""

_CONVERT = """
import sys, torch
from safetensors.torch import save_file
*files, target = sys.argv[1:]
tensors = {}
for file in files:
    weights = torch.load(file, map_location="cpu", weights_only=True)
    weights = weights.get("state_dict", weights)
    weights = {k: v for k, v in weights.items() if isinstance(v, torch.Tensor)}
    tensors.update((k, v.detach().clone().contiguous()) for k, v in weights.items())
save_file(tensors, target, metadata={"format": "pt"})
"""


def check_what_it_is(folder: Path, files: Sequence[str]) -> None:
    """Raise ModelError for a folder that is something else than a checkpoint; `files` are all that it has."""
    if MANIFEST in files:
        raise ModelError(
            f"{folder} is already a bundle: use it with --model, or give the checkpoint that it was made from"
        )
    if ADAPTER in files and not {WEIGHTS, SHARDS, PICKLE, PICKLE_SHARDS} & set(files):
        base = _base_of_adapter(folder)
        raise ModelError(
            f"{folder} holds a PEFT adapter only{base}: merge it into its base (model.merge_and_unload(), "
            "then save_pretrained) and export that"
        )


def _base_of_adapter(folder: Path) -> str:
    try:
        base = json.loads((folder / ADAPTER).read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return ""
    return f", of {base}" if base else ""


def as_safetensors(folder: Path, name: str, work: Path, files: Sequence[str], *, allow_pickle: bool) -> Path:
    """A folder with config.json and safetensors: the checkpoint's own, or a converted copy in `work`.

    `files` are the names of all that the checkpoint has, also of what was not fetched.
    """
    if {WEIGHTS, SHARDS} & set(files):
        for file in sorted(folder.glob("*.safetensors")):
            _check_safetensors(file)
        return folder
    if not {PICKLE, PICKLE_SHARDS} & set(files):
        raise ModelError(_without_weights(folder, name, files))
    if not allow_pickle:
        raise ModelError(
            f"{name} has its weights as a pickle only, which can run code when it is read; give "
            "--allow-pickle to convert it in a separate process that reads tensors only, or ask its owner "
            "for safetensors"
        )
    pickles = _pickles(folder)
    converted = _copied(folder, work, "converted")
    command = [sys.executable, "-I", "-c", _CONVERT, *map(str, pickles), str(converted / WEIGHTS)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- our own code
    if child.returncode:
        said = child.stderr.strip().splitlines()
        raise ModelError(
            f"{pickles[0]} cannot be read as plain tensors: {said[-1][:300] if said else 'it crashed'}"
        )
    return converted


def _pickles(folder: Path) -> list[Path]:
    """The pickled files, all there and none something else. Raises ModelError."""
    names = [PICKLE]
    if not (folder / PICKLE).exists():
        index = folder / PICKLE_SHARDS
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index} is not an index of weights{disguise(index.read_bytes())}") from error
    for name in names:
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise ModelError(f"{folder} lacks {name}, a part of its weights; fetch the model again")
        with file.open("rb") as stream:
            if hint := disguise(stream.read(512)):
                raise ModelError(f"{file} has the wrong content{hint}")
    return [folder / name for name in names]


def _without_weights(folder: Path, name: str, files: Sequence[str]) -> str:
    """What to say of a checkpoint without weights that can be used."""
    for pattern, what in _OTHERS.items():
        if any(Path(file).match(pattern) for file in files):
            return f"{name} has no weights for PyTorch, only {what}"
    other = next((file for file in sorted(files) if file.endswith((".safetensors", ".bin"))), None)
    if other:
        return f"{name} has no {WEIGHTS}, but {other}; if that is the whole model, rename it"
    unknown = "; if the hub has them as a pickle only, give --allow-pickle" if is_of_hub(folder) else ""
    return f"{folder} has no weights: there is no {WEIGHTS} in it{unknown}"


def is_of_hub(folder: Path) -> bool:
    """Whether a folder is a snapshot in the hub's cache, where only what was asked for is."""
    return folder.parent.name == "snapshots"


def _check_safetensors(file: Path) -> None:
    """Raises ModelError where a file of weights is something else, or ends early."""
    safetensors = load("safetensors")
    with file.open("rb") as stream:
        hint = disguise(stream.read(512))
    try:
        with safetensors.safe_open(file, framework="numpy"):
            return
    except Exception as error:
        raise ModelError(
            f"{file} is damaged{hint}: {type(error).__name__}: {str(error)[:200]}; fetch the model again"
        ) from error


def fit_to_model(
    folder: Path, name: str, work: Path, *, head_required: bool, allow_unnamed_head: bool
) -> tuple[Path, int | None]:
    """A folder whose weights have the names that the model wants, and how many positions the model has.

    The folder is `folder` itself, unless all of its names share a prefix ("module.", of a model that was
    trained in parallel), which is taken off. Raises ModelError where the head does not give two numbers for
    each token, or nothing says that it was trained; not of a base for training (`head_required` False).
    """
    try:
        wanted, heads, positions = _wanted(folder)
    except (OSError, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - loading the model will say what is wrong with it
        return folder, None
    stored = _stored(folder)
    prefix = _prefix(wanted, stored)
    shapes = {key.removeprefix(prefix): shape for key, shape in stored.items()}
    if head_required:
        _check_head(folder, name, wanted, heads, shapes, allow_unnamed_head=allow_unnamed_head)
    return (_renamed(folder, work, prefix) if prefix else folder), positions


def _check_head(
    folder: Path,
    name: str,
    wanted: Mapping[str, tuple[int, ...]],
    heads: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    allow_unnamed_head: bool,
) -> None:
    """Raise ModelError unless there is a head for question answering, which its owner says was trained."""
    outputs = {shapes[key][0] for key in heads if key in shapes and shapes[key][0] != wanted[key][0]}
    has_head = all(key in shapes for key in heads)
    if has_head and outputs:
        raise ModelError(
            f"{name}: its head gives {max(outputs)} numbers for each token, not two (the answer's start and "
            "end): it was trained for another task, such as labelling tokens"
        )
    said = json.loads((folder / "config.json").read_bytes()).get("architectures") or []
    if said and not any("QuestionAnswering" in str(head) for head in said):
        text = f"{name} is not a question-answering model: config.json says {', '.join(map(str, said))}"
        if not has_head:
            raise ModelError(
                f"{text}; give a checkpoint that was fine-tuned for extractive question answering"
            )
        if not allow_unnamed_head:
            raise ModelError(
                f"{text}; but its weights hold such a head. If it was trained for extractive question "
                "answering, give --allow-unnamed-head"
            )


def _wanted(folder: Path) -> tuple[dict[str, tuple[int, ...]], list[str], int | None]:
    """Names and shapes of the weights of a model for question answering, its head's, and its positions.

    RoBERTa's family counts positions from the padding id on, so that its table has more rows: a table with a
    padding row says so. None where no table does.
    """
    torch, transformers = load("torch"), load("transformers")
    with quiet():
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, num_labels=2
        )
        with torch.device("meta"):
            model = transformers.AutoModelForQuestionAnswering.from_config(config)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    body = f"{model.base_model_prefix}."
    heads = [key for key in shapes if not key.startswith(body) and shapes[key]]
    tables = [each for key, each in model.named_modules() if key.endswith("position_embeddings")]
    padded = [each for each in tables if getattr(each, "padding_idx", None) is not None]
    positions = [int(each.weight.shape[0]) - each.padding_idx - 1 for each in padded]
    return shapes, heads, min(positions, default=None)


def _stored(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the stored weights; only the files' headers are read."""
    safetensors = load("safetensors")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in _files(folder):
        with safetensors.safe_open(file, framework="numpy") as opened:
            shapes |= {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
    return shapes


def _files(folder: Path) -> list[Path]:
    """The files of the model's weights; a folder may hold others, an optimizer's or an adapter's."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    names = json.loads((folder / SHARDS).read_bytes())["weight_map"].values()
    return [folder / name for name in sorted(set(names))]


def _prefix(wanted: Mapping[str, Any], stored: Mapping[str, Any]) -> str:
    """What stands before the names of all stored weights, "" where nothing does."""
    some = next(iter(wanted))
    ends = [key.removesuffix(some) for key in stored if key.endswith(some)]
    return next((end for end in ends if end and all(key.startswith(end) for key in stored)), "")


def _renamed(folder: Path, work: Path, prefix: str) -> Path:
    """A copy in `work` whose weights lack the prefix."""
    torch_files = load("safetensors.torch")
    copied = _copied(folder, work, "renamed")
    tensors: dict[str, Any] = {}
    for file in _files(folder):
        tensors |= {key.removeprefix(prefix): value for key, value in torch_files.load_file(file).items()}
    torch_files.save_file(tensors, copied / WEIGHTS, metadata={"format": "pt"})
    return copied


def _copied(folder: Path, work: Path, name: str) -> Path:
    """A folder of this name in `work` with all that the checkpoint has besides weights."""
    copied = work / name
    copied.mkdir()
    for file in folder.iterdir():
        if file.suffix in (".json", ".txt", ".model", ".codes") and not file.name.endswith(".index.json"):
            shutil.copyfile(file, copied / file.name)
    return copied
