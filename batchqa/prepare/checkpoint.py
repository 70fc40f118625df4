"""MODEL -> a checkpoint that is what it should be: with a trained head, safetensors and a tokenizer.

A checkpoint comes from strangers. Nothing of it is run: no code of its own (`trust_remote_code` is never
set), no pickle but on demand, and then by `torch.load(weights_only=True)` in a child process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer

from batchqa.bundle import disguise
from batchqa.cache import give_hub_a_home
from batchqa.errors import ModelError, SettingsError, TryAgainError
from batchqa.steps.windowing import open_tokenizer

from . import architectures
from .extras import load, quiet

WEIGHTS = "model.safetensors"
SHARDS = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_SHARDS = "pytorch_model.bin.index.json"
NEEDED = ("*.json", "*.safetensors", "*.txt", "*.model")
"""Files that are fetched from a hub; *.bin too where a pickle is allowed and there is nothing else."""

HEADS = ("qa_outputs.", "classifier.")
"""What the weights of a question-answering head are called in transformers."""

LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]+)*|multilingual")
"""A language's code, or what hub cards say of a model for many."""

HUB_ID = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
UNLIMITED = 10**6
"""Tokenizers without a limit of their own say 10^30."""

_CONVERT = """
import sys, torch
from safetensors.torch import save_file
weights = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
weights = weights.get("state_dict", weights)
save_file({k: v.detach().clone().contiguous() for k, v in weights.items() if isinstance(v, torch.Tensor)},
          sys.argv[2], metadata={"format": "pt"})
"""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that can be exported. `folder` has config.json, safetensors and the tokenizer's files.

    `max_length` is in tokens, special ones included. `revision` is a 40-hex commit, None for a folder.
    """

    name: str
    id: str
    revision: str | None
    licence: str | None
    languages: tuple[str, ...]
    folder: Path
    architecture: str
    config: Mapping[str, Any]
    tokenizer: Tokenizer
    max_length: int
    pad_id: int
    pad_type: int

    @property
    def digest(self) -> str:
        """sha256 of the weights, file by file in the order of their names."""
        return sha256_of(*sorted(self.folder.glob("*.safetensors")))

    @property
    def layers(self) -> int:
        """Transformer layers; 0 where the configuration does not say."""
        return int(self.config.get("num_hidden_layers") or self.config.get("n_layers") or 0)

    @property
    def heads(self) -> int:
        """Attention heads per layer; 0 lets the optimizer find out."""
        return int(self.config.get("num_attention_heads") or self.config.get("n_heads") or 0)

    @property
    def width(self) -> int:
        """Width of the hidden state; 0 lets the optimizer find out."""
        return int(self.config.get("hidden_size") or self.config.get("dim") or 0)

    def load_model(self, *, head_required: bool = True, attention: str | None = None) -> Any:
        """The PyTorch model in float32, ready to answer; `attention` is transformers' implementation of it.

        Without `head_required` a head that the checkpoint lacks is a new one, at random: for training.
        Raises ModelError where weights are missing or do not fit.
        """
        transformers, torch = load("transformers"), load("torch")
        try:
            with quiet():
                model, loaded = transformers.AutoModelForQuestionAnswering.from_pretrained(
                    self.folder,
                    dtype=torch.float32,
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                    **({"attn_implementation": attention} if attention else {}),
                )
        except (OSError, MemoryError) as error:
            if isinstance(error, MemoryError) or error.errno:
                raise
            raise _unloadable(self.name, error) from error
        except Exception as error:  # transformers and safetensors raise errors of many kinds
            raise _unloadable(self.name, error) from error
        missing = [key for key in loaded["missing_keys"] if not key.endswith("position_ids")]
        missing += [str(entry[0]) for entry in loaded["mismatched_keys"]]
        if not head_required:
            missing = [key for key in missing if not key.startswith(HEADS)]
        if missing:
            shown = ", ".join(sorted(missing)[:3])
            raise ModelError(
                f"{self.name} has no question-answering head that was trained: weights are missing for "
                f"{shown}; name a checkpoint that was fine-tuned for extractive question answering"
            )
        return model.eval()


def sha256_of(*files: Path) -> str:
    """sha256 of the files, one after the other."""
    digest = sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()


@contextmanager
def open_checkpoint(
    model: str, revision: str | None, *, allow_pickle: bool = False, head_required: bool = True
) -> Iterator[Checkpoint]:
    """Find, fetch and check MODEL, a folder or a hub id (`org/name[@revision]`); a context manager.

    Without `head_required` an encoder will do, which is a base for training.
    Raises ModelError for what is no usable checkpoint, TryAgainError where the network is needed and away.
    """
    path = Path(model)
    with TemporaryDirectory(prefix="batchqa-checkpoint-") as work:
        if path.is_dir():
            if revision:
                raise SettingsError(f"--revision is for hub ids; {model} is a folder")
            name, commit, folder = path.resolve().name, None, path
        elif HUB_ID.fullmatch(model) and not path.exists():
            repository, _, pinned = model.partition("@")
            if pinned and revision and pinned != revision:
                raise SettingsError(f"{model} and --revision {revision} name two revisions; give one")
            name = repository.rpartition("/")[2]
            commit, folder = fetch(repository, revision or pinned or None, allow_pickle=allow_pickle)
            model = repository
        else:
            raise ModelError(f"there is no checkpoint at {model}; name a folder, or a hub id as org/name")
        yield _inspect(
            folder,
            name,
            model if commit else name,
            commit,
            Path(work),
            allow_pickle=allow_pickle,
            head_required=head_required,
        )


def fetch(repository: str, revision: str | None, *, allow_pickle: bool = False) -> tuple[str, Path]:
    """Resolve a hub id to its commit, and that commit's files to a folder in the hub's own cache.

    Without a network a revision that is in the cache serves. Raises ModelError where the hub has no such
    model, TryAgainError where it cannot be asked.
    """
    give_hub_a_home()
    hub = load("huggingface_hub")
    errors = load("huggingface_hub.errors")
    patterns = [*NEEDED, "*.bin"] if allow_pickle else [*NEEDED, PICKLE_SHARDS]
    wanted = {"repo_id": repository, "revision": revision, "allow_patterns": patterns}
    try:
        with quiet():
            try:
                commit = hub.HfApi().model_info(repository, revision=revision, timeout=20).sha
                folder = Path(hub.snapshot_download(**(wanted | {"revision": commit})))
            except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
                raise
            except Exception:  # noqa: BLE001 - whatever the trouble is, the cache may have the files
                folder = Path(hub.snapshot_download(**wanted, local_files_only=True))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        at = f" at {revision}" if revision else ""
        raise ModelError(
            f"the hub has no model {repository}{at}, or it is private; check the name, or log in to the hub"
        ) from error
    except Exception as error:
        at = f" --revision {revision}" if revision else ""
        raise TryAgainError(
            f"{repository} is not in the hub's cache and the hub cannot be reached ({type(error).__name__}); "
            f"run the same command with a network, or copy the model's folder here and run "
            f"`batchqa export FOLDER`{at}"
        ) from error
    if not re.fullmatch(r"[0-9a-f]{40}", folder.name):
        raise ModelError(
            f"{repository}: the hub's cache has no commit for {folder.name!r}; fetch the model again"
        )
    return folder.name, folder


def _inspect(
    folder: Path,
    name: str,
    source: str,
    commit: str | None,
    work: Path,
    *,
    allow_pickle: bool,
    head_required: bool,
) -> Checkpoint:
    config = _config(folder, name, head_required=head_required)
    prepared = _with_safetensors(folder, name, work, allow_pickle=allow_pickle)
    tokenizer, settings = _tokenizer(folder, name, work)
    vocabulary = int(config.get("vocab_size", 0))
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= vocabulary:
        raise ModelError(
            f"{name}: the tokenizer has token ids up to {largest}, the model knows {vocabulary}: they do not "
            "belong together; take the tokenizer that the model was trained with"
        )
    pad_id = settings["pad_id"] if settings["pad_id"] is not None else config.get("pad_token_id") or 0
    return Checkpoint(
        name=name,
        id=source,
        revision=commit,
        licence=_licence(folder),
        languages=_languages(folder),
        folder=prepared,
        architecture=str(config["model_type"]),
        config=config,
        tokenizer=tokenizer,
        max_length=_max_length(config, settings["max_length"]),
        pad_id=int(pad_id),
        pad_type=settings["pad_type"],
    )


def _config(folder: Path, name: str, *, head_required: bool) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"{folder} is not a checkpoint: it has no config.json")
    raw = file.read_bytes()
    try:
        config: dict[str, Any] = json.loads(raw)
        architecture = str(config["model_type"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{file} is not a model's configuration{disguise(raw)}; fetch the model again"
        ) from error
    if "auto_map" in config:
        raise ModelError(
            f"{name} brings code of its own (auto_map in config.json); batchqa runs no code of a model"
        )
    architectures.check(architecture, name)
    heads = config.get("architectures") or []
    if head_required and heads and not any("QuestionAnswering" in head for head in heads):
        raise ModelError(
            f"{name} is not a question-answering model: config.json says {', '.join(map(str, heads))}; name "
            "a checkpoint that was fine-tuned for extractive question answering"
        )
    return config


def _with_safetensors(folder: Path, name: str, work: Path, *, allow_pickle: bool) -> Path:
    """A folder with config.json and safetensors: the checkpoint's own, or a converted copy in `work`."""
    weights = sorted(folder.glob("*.safetensors"))
    if (folder / WEIGHTS).exists() or (folder / SHARDS).exists():
        for file in weights:
            _check_safetensors(file)
        return folder
    if not (folder / PICKLE).exists():
        if (folder / PICKLE_SHARDS).exists() and allow_pickle:
            raise ModelError(
                f"{name}: its pickled weights are in several files, which is not supported; convert it "
                "to safetensors"
            )
        if not (folder / PICKLE_SHARDS).exists() and folder.parent.name != "snapshots":
            raise ModelError(f"{folder} has no weights: there is no {WEIGHTS} in it")
    if not allow_pickle:
        raise ModelError(
            f"{name} has its weights as a pickle only, which can run code when it is read; give "
            "--allow-pickle to convert it in a child process that reads tensors only, or ask its owner "
            "for safetensors"
        )
    with (folder / PICKLE).open("rb") as stream:
        hint = disguise(stream.read(512))
    if hint:
        raise ModelError(f"{folder / PICKLE} is not what it should be{hint}")
    converted = work / "converted"
    converted.mkdir()
    (converted / "config.json").write_bytes((folder / "config.json").read_bytes())
    command = [sys.executable, "-I", "-c", _CONVERT, str(folder / PICKLE), str(converted / WEIGHTS)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- our own code
    if child.returncode:
        said = child.stderr.strip().splitlines()
        raise ModelError(
            f"{folder / PICKLE} cannot be read as plain tensors: "
            f"{said[-1][:300] if said else 'the child died'}"
        )
    return converted


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


def _tokenizer(folder: Path, name: str, work: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer as tokenizer.json has it, and what transformers says about it.

    A slow-only tokenizer is converted; on the package's passages both must give the same tokens.
    """
    transformers = load("transformers")
    known = (
        "tokenizer.json",
        "vocab.txt",
        "vocab.json",
        "spiece.model",
        "sentencepiece.bpe.model",
        "spm.model",
    )
    if not any((folder / file).exists() for file in known):
        raise ModelError(f"{folder} has no tokenizer: none of {', '.join(known)} is in it")
    for file in (folder / each for each in known if (folder / each).exists()):
        with file.open("rb") as stream:
            if hint := disguise(stream.read(512)):
                raise ModelError(f"{file} is not what it should be{hint}")
    try:
        with quiet():
            options = {"local_files_only": True, "trust_remote_code": False}
            fast = transformers.AutoTokenizer.from_pretrained(folder, use_fast=True, **options)
            if not fast.is_fast:
                raise ModelError(f"{name}: its tokenizer cannot be converted to tokenizer.json")
            if not (folder / "tokenizer.json").exists():
                slow = transformers.AutoTokenizer.from_pretrained(folder, use_fast=False, **options)
                _check_conversion(name, slow, fast)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{name}: its tokenizer cannot be loaded: {type(error).__name__}: {str(error)[:200]}"
        ) from error
    file = work / "tokenizer.json"
    write_tokenizer(fast.backend_tokenizer, file)
    settings = {
        "max_length": fast.model_max_length,
        "pad_id": fast.pad_token_id,
        "pad_type": fast.pad_token_type_id,
    }
    return open_tokenizer(file), settings


def write_tokenizer(tokenizer: Tokenizer, file: Path) -> None:
    """Write tokenizer.json. Raises OSError on a full disk, where the tokenizers library raises Exception."""
    file.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")


def _check_conversion(name: str, slow: Any, fast: Any) -> None:
    from .passages import passages

    texts = [text for passage in passages() for text in (passage.context, *passage.questions)]
    different = sum(
        slow.encode(text, add_special_tokens=False) != fast.encode(text, add_special_tokens=False)
        for text in texts
    )
    if different > len(texts) // 100:
        raise ModelError(
            f"{name}: its tokenizer, converted to tokenizer.json, gives other tokens for {different} of "
            f"{len(texts)} texts; export it with a tokenizer.json of its own"
        )


def _max_length(config: Mapping[str, Any], of_tokenizer: int) -> int:
    """The longest input in tokens. RoBERTa's family counts positions from the padding id on."""
    positions = int(config.get("max_position_embeddings") or UNLIMITED)
    if config["model_type"] in (
        "roberta",
        "xlm-roberta",
        "camembert",
        "mpnet",
        "xlm-roberta-xl",
        "longformer",
    ):
        positions -= int(config.get("pad_token_id") or 1) + 1
    return min(positions, of_tokenizer if of_tokenizer < UNLIMITED else positions)


def _licence(folder: Path) -> str | None:
    """What the model card's header says."""
    found = re.search(r"^licen[sc]e:\s*(\S+)", _header(folder), re.MULTILINE)
    return found[1] if found else None


def _languages(folder: Path) -> tuple[str, ...]:
    """Those of the model card's header: `language: en`, `language: [en, es]`, or a list of lines."""
    found = re.search(r"^language:(.*(?:\n\s*-\s.*)*)", _header(folder), re.MULTILINE)
    words = re.findall(r"[\w-]*\w", found[1].lower()) if found else []
    return tuple(word for word in words if LANGUAGE.fullmatch(word))


def _header(folder: Path) -> str:
    """The YAML header of the model card; "" where there is none."""
    card = folder / "README.md"
    if not card.is_file():
        return ""
    header = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    return header[1] if header else ""


def _unloadable(name: str, error: BaseException) -> ModelError:
    text = str(error).strip().splitlines()
    return ModelError(f"{name} cannot be loaded: {type(error).__name__}: {text[0][:300] if text else ''}")
