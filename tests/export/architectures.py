"""A small checkpoint of every architecture that batchqa exports, as its owner would have published it.

True configuration classes in small sizes, random weights from a seed, and a real tokenizer of the family,
trained on the texts of XQuAD. Some come with tokenizer.json and some with a vocabulary or a SentencePiece
model alone, as the old uploads do. Needs the extra `export`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCABULARY = 3000
LAYERS = 2

Write = Callable[[Path, Sequence[str]], None]
"""Trains a tokenizer on texts and writes its files, except tokenizer_config.json, into a folder."""


@dataclass(frozen=True)
class Architecture:
    """One row of docs/models.md. `languages` are XQuAD's; `tokenizer_class` is what AutoTokenizer is told.

    With `published_json` the checkpoint has a tokenizer.json, else only what the slow tokenizer reads.
    `half_differs` is by how much a logit may be off in float16, which has 11 bits.
    """

    name: str
    model_type: str
    tokenizer: str
    tokenizer_class: str
    write: Write
    languages: tuple[str, ...] = ("en",)
    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_options: Mapping[str, Any] = field(default_factory=dict)
    token_types: bool = True
    published_json: bool = True
    half_differs: float = 0.05


def _wordpiece(*, lowercase: bool) -> Write:
    def write(folder: Path, texts: Sequence[str]) -> None:
        tokenizer = tokenizers.BertWordPieceTokenizer(lowercase=lowercase)
        tokenizer.train_from_iterator(texts, vocab_size=VOCABULARY, show_progress=False)
        tokenizer.save_model(str(folder))

    return write


def _wordpiece_mpnet(folder: Path, texts: Sequence[str]) -> None:
    special = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
    tokenizer = tokenizers.BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(texts, vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.save_model(str(folder))


def _byte_level(folder: Path, texts: Sequence[str]) -> None:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.save_model(str(folder))


def _byte_level_modern(folder: Path, texts: Sequence[str]) -> None:
    """ModernBERT's: byte-level BPE with BERT's names for the special tokens; tokenizer.json alone."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def _sentencepiece(file: str, **pieces: Any) -> Write:
    def write(folder: Path, texts: Sequence[str]) -> None:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_prefix=str(folder / "trained"),
            vocab_size=VOCABULARY,
            model_type="unigram",
            character_coverage=0.9995,
            num_threads=1,
            minloglevel=2,
            **pieces,
        )
        (folder / "trained.model").rename(folder / file)
        (folder / "trained.vocab").unlink()

    return write


_ALBERT = _sentencepiece(
    "spiece.model", pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols=["[CLS]", "[SEP]", "[MASK]"]
)
_XLM = _sentencepiece("sentencepiece.bpe.model", unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
_DEBERTA = _sentencepiece(
    "spm.model",
    pad_id=0,
    bos_id=1,
    eos_id=2,
    unk_id=3,
    pad_piece="[PAD]",
    bos_piece="[CLS]",
    eos_piece="[SEP]",
    unk_piece="[UNK]",
    user_defined_symbols=["[MASK]"],
)

_ROBERTA_POSITIONS = {"max_position_embeddings": 514}
"""RoBERTa's family counts positions from the padding id on: 512 tokens need 514."""

_DEBERTA_V3 = {
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_CASED = {"do_lower_case": False}
_UNCASED = {"do_lower_case": True}

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        "BERT, cased",
        "bert",
        "WordPiece, cased",
        "BertTokenizer",
        _wordpiece(lowercase=False),
        ("es",),
        tokenizer_options=_CASED,
        published_json=False,
    ),
    Architecture(
        "BERT, uncased",
        "bert",
        "WordPiece, uncased",
        "BertTokenizer",
        _wordpiece(lowercase=True),
        tokenizer_options=_UNCASED,
    ),
    Architecture(
        "DistilBERT",
        "distilbert",
        "WordPiece, uncased",
        "DistilBertTokenizer",
        _wordpiece(lowercase=True),
        ("es",),
        tokenizer_options=_UNCASED,
        token_types=False,
    ),
    Architecture(
        "DistilBERT, multilingual cased",
        "distilbert",
        "WordPiece, cased",
        "DistilBertTokenizer",
        _wordpiece(lowercase=False),
        ("en", "es", "ar", "zh"),
        tokenizer_options=_CASED,
        token_types=False,
        published_json=False,
    ),
    Architecture(
        "RoBERTa",
        "roberta",
        "byte-level BPE",
        "RobertaTokenizer",
        _byte_level,
        config=_ROBERTA_POSITIONS,
        token_types=False,
        published_json=False,
    ),
    Architecture(
        "ALBERT",
        "albert",
        "SentencePiece unigram",
        "AlbertTokenizer",
        _ALBERT,
        ("es",),
        config={"embedding_size": 16},
        tokenizer_options={"keep_accents": True},
        published_json=False,
    ),
    Architecture(
        "XLM-RoBERTa",
        "xlm-roberta",
        "SentencePiece unigram",
        "XLMRobertaTokenizer",
        _XLM,
        ("en", "es", "ar", "zh"),
        config=_ROBERTA_POSITIONS,
        token_types=False,
        published_json=False,
    ),
    Architecture(
        "CamemBERT",
        "camembert",
        "SentencePiece unigram",
        "CamembertTokenizer",
        _XLM,
        ("es",),
        config=_ROBERTA_POSITIONS,
        token_types=False,
    ),
    Architecture(
        "MobileBERT",
        "mobilebert",
        "WordPiece, uncased",
        "MobileBertTokenizer",
        _wordpiece(lowercase=True),
        config={"embedding_size": 16, "intra_bottleneck_size": 32, "num_feedforward_networks": 2},
        tokenizer_options=_UNCASED,
        half_differs=0.5,  # it has no LayerNormalization that would keep the numbers small
    ),
    Architecture(
        "ELECTRA",
        "electra",
        "WordPiece, uncased",
        "ElectraTokenizer",
        _wordpiece(lowercase=True),
        config={"embedding_size": 16},
        tokenizer_options=_UNCASED,
    ),
    Architecture(
        "DeBERTa-v2",
        "deberta-v2",
        "SentencePiece unigram",
        "DebertaV2Tokenizer",
        _DEBERTA,
        config=_DEBERTA_V3 | {"conv_kernel_size": 3, "conv_act": "gelu"},
        token_types=False,
    ),
    Architecture(
        "DeBERTa-v3",
        "deberta-v2",
        "SentencePiece unigram",
        "DebertaV2Tokenizer",
        _DEBERTA,
        config=_DEBERTA_V3,
        token_types=False,
        published_json=False,
    ),
    Architecture(
        "MPNet",
        "mpnet",
        "WordPiece, uncased",
        "MPNetTokenizer",
        _wordpiece_mpnet,
        config=_ROBERTA_POSITIONS,
        tokenizer_options=_UNCASED,
        token_types=False,
    ),
    Architecture(
        "ModernBERT",
        "modernbert",
        "byte-level BPE",
        "PreTrainedTokenizerFast",
        _byte_level_modern,
        config={"global_attn_every_n_layers": 2, "local_attention": 16, "reference_compile": False},
        tokenizer_options={
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        },
        token_types=False,
    ),
)


def write_real_checkpoint(folder: Path, architecture: Architecture, texts: Sequence[str]) -> Path:
    """Write a checkpoint of `architecture`, its tokenizer trained on `texts`; return `folder`."""
    import torch
    import transformers

    folder.mkdir(parents=True)
    architecture.write(folder, texts)
    settings = {"tokenizer_class": architecture.tokenizer_class, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | dict(architecture.tokenizer_options)), encoding="utf-8"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if architecture.published_json:
        tokenizer.save_pretrained(folder)
    config = transformers.AutoConfig.for_model(
        architecture.model_type,
        **_sizes(architecture),
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForQuestionAnswering.from_config(config)
    head = getattr(model, "qa_outputs", None) or model.classifier
    with torch.no_grad():
        # A fresh head gives logits so close to each other that every decision would be a tie.
        head.weight.normal_(0.0, 0.5)
    model.save_pretrained(folder)
    return folder


def _sizes(architecture: Architecture) -> dict[str, Any]:
    if architecture.model_type == "distilbert":
        sizes: dict[str, Any] = {"dim": 32, "hidden_dim": 64, "n_layers": LAYERS, "n_heads": 2}
    else:
        sizes = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 2,
        }
    return sizes | {"max_position_embeddings": 512, "initializer_range": 0.2} | dict(architecture.config)
