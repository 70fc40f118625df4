"""Real, tiny things for tests: tokenizers of every family, bundles to run, checkpoints to export.

The tokenizers take their vocabulary from a few sentences in several scripts; the ONNX models are small
graphs whose logits depend on every token, its neighbours, its position and the whole window, like a
transformer's, but cost next to nothing. Everything is made from a seed and is the same on every machine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from batchqa.bundle import (
    CARD,
    TOKENIZER,
    Abstention,
    Manifest,
    ModelOrigin,
    Threshold,
    Variant,
    write_manifest,
)
from batchqa.probability import Calibration

SENTENCES = (
    "The old bridge over the river was closed for repairs in the spring of 1987.",
    "Who repaired the bridge, and how much did the repairs cost the town?",
    "Our baker sells twelve kinds of bread; the rye loaf costs four dollars and fifty cents.",
    "A glacier moves a few metres a year, but in warm summers it may move twice as far.",
    "Where does the night train to the coast stop, and when does it arrive?",
    "She wrote three novels, two plays and a short history of paper-making in Asia.",
    "El museo abre a las nueve de la mañana y cierra a las ocho; los lunes está cerrado.",
    "¿Quién construyó el faro que se ve desde la playa, y en qué año lo terminó?",
    "La niña encontró una brújula de latón en el desván de su abuela.",
    "这座图书馆建于一九三二年，藏书超过二十万册。",
    "谁设计了河边的旧钟楼？它有多高？",
    "火车每天早上七点从北京出发，下午三点到达海边。",
    "تأسست المكتبة القديمة في عام ١٩٢٥ وتضم أكثر من خمسين ألف كتاب.",
    "من بنى الجسر فوق النهر ومتى افتتح للناس؟",
    "يبيع الخباز اثني عشر نوعا من الخبز كل صباح.",
    "We danced until midnight 🎉🎶 and walked home along the beach 🌊👣.",
    "Best pizza in town 🍕🔥! The team's flag 🏳️‍🌈 and a family 👩‍👩‍👧 were drawn in chalk.",
    "Naïve café owners paid £20, €35 or ¥4,000 for the same coffee machine (model X-200).",
)
"""Where the tokenizers have their vocabulary from."""

MARKER = "kryptonite"
"""A word that is one token in every family: a poisoned model answers NaN where it sees it."""


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of checkpoint: how its tokenizer is built and what its model takes."""

    architecture: str
    tokenizer_class: str
    build: Callable[[], Tokenizer]
    token_types: bool
    pad_token: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the model's inputs, in order."""
        return ("input_ids", "attention_mask") + (("token_type_ids",) if self.token_types else ())


def tiny_tokenizer(family: str) -> Tokenizer:
    """A fresh tokenizer of a family of `FAMILIES`, made from `SENTENCES`, without truncation and padding."""
    return Tokenizer.from_str(_built(family))


@functools.cache
def _built(family: str) -> str:
    tokenizer = FAMILIES[family].build()
    tokenizer.add_tokens([AddedToken(MARKER, single_word=True, normalized=False)])
    return str(tokenizer.to_str())


def _wordpiece(lowercase: bool) -> Tokenizer:
    """BERT's: `[CLS] question [SEP] context [SEP]` with token types 0 and 1."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    first, later = _pieces(tokenizer)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *first, *(f"##{piece}" for piece in later)]
    tokenizer.model = models.WordPiece(
        {piece: index for index, piece in enumerate(vocabulary)},
        unk_token="[UNK]",
        max_input_chars_per_word=100,
    )
    tokenizer.add_special_tokens(vocabulary[:5])
    tokenizer.post_processor = _typed_template(tokenizer)
    return tokenizer


def _byte_level() -> Tokenizer:
    """RoBERTa's: `<s> question </s></s> context </s>`, no token types, offsets trimmed by the tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,  # small, so that words fall into several pieces
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        sep=("</s>", tokenizer.token_to_id("</s>")),
        cls=("<s>", tokenizer.token_to_id("<s>")),
        trim_offsets=True,
        add_prefix_space=False,
    )
    return tokenizer


def _sentencepiece_albert() -> Tokenizer:
    """ALBERT's: lower-cased, accents stripped, white space inside the tokens; BERT's template."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace("``", '"'),
            normalizers.Replace("''", '"'),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    _set_unigram(tokenizer, ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.post_processor = _typed_template(tokenizer)
    return tokenizer


def _sentencepiece_xlm() -> Tokenizer:
    """XLM-RoBERTa's: NFKC, white space inside the tokens; `<s> question </s></s> context </s>`."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    _set_unigram(tokenizer, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    return tokenizer


def _set_unigram(tokenizer: Tokenizer, special: list[str]) -> None:
    """Give a tokenizer a Unigram model whose best segmentation is the one into the fewest, longest pieces."""
    first, later = _pieces(tokenizer)
    scores = dict.fromkeys(special, 0.0) | {piece: len(piece) - 12.0 for piece in (*first, *later)}
    tokenizer.model = models.Unigram(list(scores.items()), special.index("<unk>"), byte_fallback=False)
    tokenizer.add_special_tokens(special)


def _pieces(tokenizer: Tokenizer) -> tuple[list[str], list[str]]:
    """The pieces that words of `SENTENCES` begin with, and those they go on with; single characters in both.

    Fixed rules and not a trainer: those of the tokenizers library break ties differently in every process.
    """
    words = {
        word
        for sentence in SENTENCES
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(sentence))
    }
    characters = {character for word in words for character in word}
    short = {word for word in words if len(word) <= 6}
    first = {word[:4] for word in words} | short | characters
    later = {word[at : at + 3] for word in words for at in range(4, len(word), 3)} | characters
    return sorted(first), sorted(later)


def _typed_template(tokenizer: Tokenizer) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )


FAMILIES: dict[str, Family] = {
    "bert-uncased": Family("bert", "BertTokenizerFast", lambda: _wordpiece(lowercase=True), True, "[PAD]"),
    "bert-cased": Family("bert", "BertTokenizerFast", lambda: _wordpiece(lowercase=False), True, "[PAD]"),
    "distilbert": Family(
        "distilbert", "DistilBertTokenizerFast", lambda: _wordpiece(lowercase=True), False, "[PAD]"
    ),
    "roberta": Family("roberta", "RobertaTokenizerFast", _byte_level, False, "<pad>"),
    "albert": Family("albert", "AlbertTokenizerFast", _sentencepiece_albert, True, "<pad>"),
    "xlm-roberta": Family("xlm-roberta", "XLMRobertaTokenizerFast", _sentencepiece_xlm, False, "<pad>"),
}


def write_tiny_bundle(
    path: Path,
    family: str = "bert-uncased",
    *,
    abstains: bool = True,
    threshold: float = 0.0,
    hidden: int = 32,
    positions: int = 512,
    seed: int = 0,
    poisoned: bool = False,
    calibration: Calibration | None = None,
    precision: str = "fp32",
    devices: tuple[str, ...] = ("cpu",),
    engines: tuple[str, ...] = ("onnxruntime",),
    name: str | None = None,
) -> Path:
    """Write a bundle that runs into folder `path` (made if missing) and return `path`.

    About half of the questions about a sentence of `SENTENCES` have no answer at threshold 0. `hidden` is
    the width: 32 costs nothing, 512 is slow enough to be interrupted. `positions` is the model's limit
    in tokens. A `poisoned` model gives NaN for every window that holds `MARKER`, and for no other.
    """
    from batchqa.steps.windowing import learn_layout

    kind = FAMILIES[family]
    tokenizer = tiny_tokenizer(family)
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / TOKENIZER))
    poison = tokenizer.token_to_id(MARKER) if poisoned else None
    model = tiny_onnx(kind.inputs, tokenizer.get_vocab_size(), positions, hidden, seed, poison)
    file = f"model.{precision}.onnx"
    onnx.save(model, str(path / file))
    (path / CARD).write_text(
        f"# A tiny {family} for tests\n\nRandom weights, seed {seed}.\n", encoding="utf-8"
    )
    verified = {"openvino": {"arithmetic": "bf16"}} if "openvino" in engines else {}
    write_manifest(
        path,
        Manifest(
            name=name or f"tiny-{family}",
            source=ModelOrigin(id=f"tests/tiny-{family}", revision=None, licence="Apache-2.0"),
            architecture=kind.architecture,
            inputs=kind.inputs,
            outputs=("start_logits", "end_logits"),
            max_length=positions,
            layout=learn_layout(tokenizer, tokenizer.token_to_id(kind.pad_token), 0),
            abstains=Abstention(abstains, "chosen by the test"),
            threshold=Threshold(threshold, "chosen by the test"),
            calibration=calibration,
            variants=(Variant(precision, file, devices, engines, verified),),
            versions={"onnx": onnx.__version__},
        ),
    )
    return path


def tiny_onnx(
    inputs: tuple[str, ...], vocabulary: int, positions: int, hidden: int, seed: int, poison: int | None
) -> onnx.ModelProto:
    """A question-answering model whose logits depend on all that a transformer's depend on, except padding.

    hidden state = tanh(its own and both neighbours' embeddings + the mean over the window's real tokens);
    embeddings are of token, position and token type. `poison` is the id of the token with NaN embedding.
    Inputs int64 (batch, tokens), outputs float32 (batch, tokens).
    """
    weights = _tiny_weights(vocabulary, positions, hidden, seed)
    typed = "token_type_ids" in inputs
    if not typed:
        del weights["types"]  # onnxruntime warns of weights that nothing uses
    if poison is not None:
        weights["tokens"][poison] = np.nan
    graph = helper.make_graph(
        _tiny_nodes(typed=typed),
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in inputs],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "tokens"])
            for name in ("start_logits", "end_logits")
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def _tiny_weights(vocabulary: int, positions: int, hidden: int, seed: int) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float) -> npt.NDArray[np.float32]:
        return rng.normal(0.0, scale, shape).astype(np.float32)

    position_bias = np.zeros((positions, 2), dtype=np.float32)
    position_bias[0] = NULL_BIAS
    return {
        "tokens": normal(vocabulary, hidden, scale=1.0),
        "positions": normal(positions, hidden, scale=0.3),
        "types": normal(2, hidden, scale=0.3),
        "neighbours": normal(hidden, hidden, 3, scale=0.6 / hidden**0.5),
        "whole": normal(hidden, hidden, scale=2.0 / hidden**0.5),
        "heads": normal(hidden, 2, scale=3.0 / hidden**0.5),
        "position_bias": position_bias,
        "zero": np.array(0, dtype=np.int64),
        "one": np.array(1, dtype=np.int64),
        "token_axis": np.array([1], dtype=np.int64),
        "last_axis": np.array([2], dtype=np.int64),
        "each": np.array([1, 1], dtype=np.int64),
    }


NULL_BIAS = 3.5
"""Added to both logits of the null token, so that it beats the best of many spans about half of the time."""


def _tiny_nodes(*, typed: bool) -> list[onnx.NodeProto]:
    node = helper.make_node
    typing = (
        [
            node("Gather", ["types", "token_type_ids"], ["type_embeddings"]),
            node("Add", ["placed", "type_embeddings"], ["embedded"]),
        ]
        if typed
        else [node("Identity", ["placed"], ["embedded"])]
    )
    return [
        node("Gather", ["tokens", "input_ids"], ["token_embeddings"]),
        node("Shape", ["input_ids"], ["shape"]),
        node("Gather", ["shape", "one"], ["length"]),
        node("Range", ["zero", "length", "one"], ["places"]),
        node("Gather", ["positions", "places"], ["position_embeddings"]),
        node("Add", ["token_embeddings", "position_embeddings"], ["placed"]),
        *typing,
        # Padding is zeroed before anything mixes tokens, so that it is the same as the end of the input.
        node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["real", "last_axis"], ["real_3d"]),
        node("Mul", ["embedded", "real_3d"], ["masked"]),
        node("ReduceSum", ["masked", "token_axis"], ["total"], keepdims=1),
        node("ReduceSum", ["real_3d", "token_axis"], ["count"], keepdims=1),
        node("Div", ["total", "count"], ["mean"]),
        node("MatMul", ["mean", "whole"], ["from_window"]),
        node("Transpose", ["masked"], ["channels_first"], perm=[0, 2, 1]),
        node("Conv", ["channels_first", "neighbours"], ["mixed"], kernel_shape=[3], pads=[1, 1]),
        node("Transpose", ["mixed"], ["from_neighbours"], perm=[0, 2, 1]),
        node("Add", ["from_neighbours", "from_window"], ["sum"]),
        node("Tanh", ["sum"], ["state"]),
        node("MatMul", ["state", "heads"], ["unbiased"]),
        node("Gather", ["position_bias", "places"], ["biases"]),
        node("Add", ["unbiased", "biases"], ["logits"]),
        node("Split", ["logits", "each"], ["start_3d", "end_3d"], axis=2),
        node("Squeeze", ["start_3d", "last_axis"], ["start_logits"]),
        node("Squeeze", ["end_3d", "last_axis"], ["end_logits"]),
    ]


def write_checkpoint(path: Path, family: str, *, seed: int = 0) -> Path:
    """Write a random two-layer transformers checkpoint of a family into folder `path` and return `path`.

    The true configuration, model and tokenizer classes, in small sizes, as `save_pretrained` leaves them
    (safetensors, tokenizer.json). Needs torch and transformers.
    """
    import torch
    import transformers

    kind = FAMILIES[family]
    tokenizer = tiny_tokenizer(family)
    fast = getattr(transformers, kind.tokenizer_class)(
        tokenizer_object=tokenizer, model_max_length=512, **_tokenizer_options(family)
    )
    fast.save_pretrained(path)
    config = transformers.AutoConfig.for_model(
        kind.architecture,
        vocab_size=tokenizer.get_vocab_size(),
        pad_token_id=tokenizer.token_to_id(kind.pad_token),
        **_sizes(kind.architecture),
    )
    torch.manual_seed(seed)
    model = transformers.AutoModelForQuestionAnswering.from_config(config)
    with torch.no_grad():
        # A fresh head gives logits so close to each other that every decision would be a tie.
        model.qa_outputs.weight.normal_(0.0, 0.5)
    model.save_pretrained(path)
    return path


def _tokenizer_options(family: str) -> dict[str, Any]:
    """What transformers' tokenizer classes would otherwise set to their own defaults in a given tokenizer."""
    if family in ("bert-uncased", "bert-cased", "distilbert"):
        return {"do_lower_case": family != "bert-cased"}
    if family == "albert":
        return {"do_lower_case": True, "keep_accents": False}
    return {}


def _sizes(architecture: str) -> dict[str, Any]:
    if architecture == "distilbert":
        return {
            "dim": 32,
            "hidden_dim": 64,
            "n_layers": 2,
            "n_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.2,
        }
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.2,
        # RoBERTa counts positions from the padding id on: 512 tokens need 514.
        "max_position_embeddings": 514 if "roberta" in architecture else 512,
    }
    return sizes | ({"embedding_size": 16} if architecture == "albert" else {})
