"""Small checkpoints of unusual makes, as their owners publish them: random weights, a tiny BERT tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.models import tiny_tokenizer

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}

OF_TYPE: dict[str, dict[str, Any]] = {
    "bert": {},
    "convbert": {"embedding_size": 16, "head_ratio": 1, "conv_kernel_size": 5},
    "nystromformer": {"segment_means_seq_len": 64, "num_landmarks": 64, "conv_kernel_size": 9},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 32, "num_feedforward_networks": 2},
    "big_bird": {"attention_type": "block_sparse", "block_size": 16, "num_random_blocks": 1},
    "ibert": {"max_position_embeddings": 514},
    "data2vec-text": {"max_position_embeddings": 514},
    "roberta": {"max_position_embeddings": 514, "type_vocab_size": 2},
}


def write_odd(
    folder: Path,
    model_type: str = "bert",
    *,
    config: dict[str, Any] | None = None,
    tokenizer: dict[str, Any] | None = None,
    pad_row: float = 0.0,
    special: tuple[str, ...] = (),
) -> Path:
    """Write a checkpoint; `pad_row` is the size of a trained [PAD] embedding, `special` tokens are added."""
    import torch
    import transformers

    fast = transformers.BertTokenizerFast(
        tokenizer_object=tiny_tokenizer("bert-uncased"), model_max_length=512
    )
    if special:
        fast.add_special_tokens({"additional_special_tokens": list(special)})
    fast.save_pretrained(folder)
    if tokenizer:
        change_json(folder / "tokenizer_config.json", **tokenizer)
    settings = {
        **SIZES,
        **OF_TYPE[model_type],
        "vocab_size": len(fast),
        "pad_token_id": fast.pad_token_id,
        **(config or {}),
    }
    torch.manual_seed(0)
    made = transformers.AutoConfig.for_model(model_type, **settings)
    model = transformers.AutoModelForQuestionAnswering.from_config(made)
    with torch.no_grad():
        # a fresh head gives logits so close to each other that every decision would be a tie
        head = next(module for name, module in model.named_modules() if name.endswith("qa_outputs"))
        head.weight.normal_(0.0, 0.5)
        if pad_row:
            table = model.get_input_embeddings().weight
            table[fast.pad_token_id].normal_(0.0, pad_row)
    model.save_pretrained(folder)
    return folder


def change_json(file: Path, **values: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    record = json.loads(file.read_text(encoding="utf-8")) | values
    kept = {key: value for key, value in record.items() if value is not None}
    file.write_text(json.dumps(kept), encoding="utf-8")
