"""MODEL -> a checkpoint that is what it should be: with a trained head, safetensors and a tokenizer.

A checkpoint comes from strangers. Nothing of it is run: no code of its own (`trust_remote_code` is never
set), no pickle but on demand (`weights.py`).
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer

from batchqa.bundle import disguise
from batchqa.errors import ModelError, SettingsError
from batchqa.steps.windowing import open_tokenizer

from . import architectures, weights
from .extras import load, quiet
from .hub import HUB_ID, fetch, files_of_hub

HEADS = ("qa_outputs.", "classifier.")
"""What the weights of a question-answering head are called in transformers."""

LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]+)*|multilingual")
"""A language's code, or what hub cards say of a model for many."""

UNLIMITED = 10**6
"""Tokenizers without a limit of their own say 10^30."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that can be exported. `folder` has config.json, safetensors and the tokenizer's files.

    `fast` is the tokenizer as transformers has it and `tokenizer` the one that a run uses. `max_length`, in
    tokens, special ones included, is what the model's table of positions and the tokenizer say of the longest
    input; `longest_input` tries it. `token_types`: transformers' tokenizer gives the model token types.
    `special_tokens`: those that are not of the pair's template, padding and the like. `revision` is a 40-hex
    commit, None for a folder.
    """

    name: str
    id: str
    revision: str | None
    licence: str | None
    languages: tuple[str, ...]
    folder: Path
    architecture: str
    config: Mapping[str, Any]
    fast: Any
    tokenizer: Tokenizer
    max_length: int
    pad_id: int
    pad_type: int
    token_types: bool
    special_tokens: tuple[str, ...]

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
                    num_labels=2,
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
                f"{self.name} has no trained question-answering head: weights are missing for "
                f"{shown}; give a checkpoint that was fine-tuned for extractive question answering"
            )
        return model.eval()

    def longest_input(self, model: Any) -> int:
        """The longest input that the model's own embeddings take, in tokens.

        RoBERTa's family counts positions from the padding id on, so that 514 of them are 512 tokens.
        """
        torch, embeddings = load("torch"), getattr(model.base_model, "embeddings", None)
        if embeddings is None or self.max_length >= UNLIMITED:
            return self.max_length
        pads = (self.pad_id, self.config.get("pad_token_id"))
        token = next(token for token in (1, 2, 3) if token not in pads)  # padding has no position of its own

        def takes(tokens: int) -> bool:
            try:
                with quiet(), torch.inference_mode():
                    embeddings(input_ids=torch.full((1, tokens), token))
            except (IndexError, RuntimeError, ValueError, TypeError):
                return False
            return True

        if takes(self.max_length) or not takes(1):
            return self.max_length
        return bisect.bisect_left(range(1, self.max_length), True, key=lambda tokens: not takes(tokens))


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
    model: str,
    revision: str | None,
    *,
    allow_pickle: bool = False,
    allow_unnamed_head: bool = False,
    allow_question_first: bool = False,
    head_required: bool = True,
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
            raise ModelError(f"there is no checkpoint at {model}; give a folder, or a hub id as org/name")
        files = sorted(
            {file.name for file in folder.iterdir()} | set(files_of_hub(model, commit) if commit else ())
        )
        weights.check_what_it_is(folder, files)
        config = _config(folder, name)
        tokenizer, settings = _tokenizer(folder, name, Path(work))
        pads_left = settings.pop("padding_side") == "left"
        if pads_left and head_required and not allow_question_first:
            raise ModelError(
                f"{name}: its tokenizer pads on the left (padding_side), and then transformers' scripts for "
                "question answering put the context first, which batchqa does not; if it was trained with "
                "the question first, give --allow-question-first"
            )
        prepared = weights.as_safetensors(folder, name, Path(work), files, allow_pickle=allow_pickle)
        prepared, positions = weights.fit_to_model(
            prepared, name, Path(work), head_required=head_required, allow_unnamed_head=allow_unnamed_head
        )
        source = model if commit else name
        yield _inspected(
            config,
            prepared,
            name,
            source,
            commit,
            folder,
            tokenizer,
            settings | {"positions": positions},
        )


def _inspected(
    config: Mapping[str, Any],
    folder: Path,
    name: str,
    source: str,
    commit: str | None,
    fetched: Path,
    tokenizer: Tokenizer,
    settings: Mapping[str, Any],
) -> Checkpoint:
    vocabulary = int(config.get("vocab_size", 0))
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= vocabulary:
        raise ModelError(
            f"{name}: the tokenizer has token ids up to {largest}, the model knows {vocabulary}: they do not "
            "belong together; use the tokenizer that the model was trained with"
        )
    pad_id = settings["pad_id"] if settings["pad_id"] is not None else config.get("pad_token_id") or 0
    positions = settings["positions"] or int(config.get("max_position_embeddings") or UNLIMITED)
    of_tokenizer = int(min(settings["max_length"], UNLIMITED))
    return Checkpoint(
        name=name,
        id=source,
        revision=commit,
        licence=_licence(fetched),
        languages=_languages(fetched),
        folder=folder,
        architecture=str(config["model_type"]),
        config=config,
        fast=settings["fast"],
        tokenizer=tokenizer,
        max_length=min(positions, of_tokenizer),
        pad_id=int(pad_id),
        pad_type=settings["pad_type"],
        token_types=settings["token_types"],
        special_tokens=settings["special_tokens"],
    )


def _config(folder: Path, name: str) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(
            f"{folder} is not a checkpoint: it has no config.json; give the folder of a Hugging Face model"
        )
    raw = file.read_bytes()
    try:
        config = json.loads(raw)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ModelError(f"{file} is not a model's configuration{disguise(raw)}; fetch the model again")
    if not config.get("model_type"):
        raise ModelError(
            f"{file} has no model_type, which says what the model is; add it, such as "
            f'"model_type": "{_guessed_type(config)}"'
        )
    if "auto_map" in config:
        raise ModelError(
            f"{name} needs code of its own (auto_map in config.json); batchqa never runs code from a model"
        )
    architectures.check(str(config["model_type"]), name)
    return config


def _guessed_type(config: Mapping[str, Any]) -> str:
    """The model_type whose classes a configuration names; BERT's where it names none that is known."""
    named = [
        re.sub(r"(For|Model|LMHead).*", "", str(head)).lower() for head in config.get("architectures") or ()
    ]
    known = {re.sub(r"\W", "", kind): kind for kind in architectures.exportable()}
    return next((known[each] for each in named if each in known), "bert")


def _tokenizer(folder: Path, name: str, work: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer as tokenizer.json has it, and what transformers says about it.

    A slow-only tokenizer is converted; on the package's passages both must give the same tokens.
    """
    transformers = load("transformers")
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".txt", ".model") and file.is_file():
            with file.open("rb") as stream:
                if hint := disguise(stream.read(512)):
                    raise ModelError(f"{file} has the wrong content{hint}")
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            fast = transformers.AutoTokenizer.from_pretrained(folder, use_fast=True, **options)
            if not fast.is_fast:
                raise ModelError(f"{name}: its tokenizer cannot be converted to tokenizer.json")
            if not (folder / "tokenizer.json").exists():
                slow = transformers.AutoTokenizer.from_pretrained(folder, use_fast=False, **options)
                _check_conversion(name, slow, fast)
    except ModelError:
        raise
    except Exception as error:
        wanted = _tokenizer_files(folder)
        if wanted and not any((folder / file).exists() for file in wanted):
            raise ModelError(f"{folder} has no tokenizer: none of {', '.join(wanted)} is in it") from error
        raise ModelError(
            f"{name}: its tokenizer cannot be loaded: {type(error).__name__}: {str(error)[:200]}"
        ) from error
    file = work / "tokenizer.json"
    write_tokenizer(fast.backend_tokenizer, file)
    roles = {
        token
        for value in fast.special_tokens_map.values()
        for token in ([value] if isinstance(value, str) else [])
    }
    added = (token for token in fast.added_tokens_decoder.values() if token.special)
    settings = {
        "fast": fast,
        "max_length": fast.model_max_length,
        "pad_id": fast.pad_token_id,
        "pad_type": fast.pad_token_type_id,
        "padding_side": fast.padding_side,
        "token_types": "token_type_ids" in fast("a b", "c d"),
        "special_tokens": tuple(token.content for token in added if token.content not in roles),
    }
    return open_tokenizer(file), settings


def _tokenizer_files(folder: Path) -> list[str]:
    """The names of the files that this model's tokenizers are read from, as their classes have them."""
    transformers = load("transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        classes = transformers.TOKENIZER_MAPPING[type(config)]
    except Exception:  # noqa: BLE001 - then there is nothing to be said of it
        return []
    names = [name for kind in classes if kind is not None for name in kind.vocab_files_names.values()]
    return list(dict.fromkeys(["tokenizer.json", *names]))


def write_tokenizer(tokenizer: Tokenizer, file: Path) -> None:
    """Write tokenizer.json. Raises OSError on a full disk, where the tokenizers library raises Exception."""
    file.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")


def _check_conversion(name: str, slow: Any, fast: Any) -> None:
    from .builtin_passages import passages

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
