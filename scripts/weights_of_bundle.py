"""A BERT bundle's int8 weights -> a checkpoint: `python scripts/weights_of_bundle.py BUNDLE LIKE OUTPUT`.

For a bundle whose checkpoint is lost, as the one of the package's model was. Rounding to int8 is all that
differs: of the package's model 98 % of the answers are the same. LIKE is a checkpoint of the same shape; it
gives the tokenizer, and the word embeddings where it has the bundle's (they are frozen in training).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

EMBEDDINGS = "bert.embeddings.{}_embeddings.weight"
ROUNDING = 0.51
"""Of a step of int8: how far an embedding may be from the original's and still be its rounding."""


def weights_of_bundle(bundle: Path, like: Path, output: Path) -> None:
    """Write to the folder `output` a checkpoint with the weights of the bundle's variant for onnxruntime."""
    import onnx
    import torch
    from transformers import AutoTokenizer, BertForQuestionAnswering

    graph = onnx.load(bundle / "model.int8.onnx").graph
    known = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    model = BertForQuestionAnswering.from_pretrained(like, dtype=torch.float32)
    weights = model.state_dict()

    def put(name: str, value: Any) -> None:
        weights[name].copy_(torch.from_numpy(np.array(value, dtype=np.float32)))

    for name in known.keys() & weights.keys():
        put(name, known[name])
    products = sorted(
        (name for name in known if re.fullmatch(r"onnx::MatMul_\d+_code", name)),
        key=lambda name: int(name.split("_")[1]),
    )
    places = ("attention.self.query", "attention.self.key", "attention.self.value")
    places += ("attention.output.dense", "intermediate.dense", "output.dense")
    for layer in range(model.config.num_hidden_layers):
        prefix = f"bert.encoder.layer.{layer}."
        for number, place in enumerate(places):
            weight = _product(known, products[len(places) * layer + number])
            smoothing = {0: 4 * layer, 1: 4 * layer, 2: 4 * layer, 4: 4 * layer + 2}.get(number)
            if smoothing is not None:
                weight = known[f"int8_{smoothing}_smoothing"][:, None] * weight
            put(f"{prefix}{place}.weight", weight.T)
        for place in ("query", "value"):
            put(f"{prefix}attention.self.{place}.bias", known[f"Attention_{layer}_qkv_bias_divided_{place}"])
        weights[f"{prefix}attention.self.key.bias"].zero_()  # it moves all scores of a query alike
    (head,) = (value for value in known.values() if value.shape == (model.config.hidden_size, 2))
    put("qa_outputs.weight", head.T)
    for name in (EMBEDDINGS.format("word"), EMBEDDINGS.format("position")):
        rounded, step = known[f"{name}_code"] * known[f"{name}_scale"], known[f"{name}_scale"]
        if np.any(np.abs(rounded - weights[name].numpy()) > ROUNDING * step):
            put(name, rounded)
    model.save_pretrained(output)
    AutoTokenizer.from_pretrained(like).save_pretrained(output)


def _product(known: dict[str, Any], name: str) -> Any:
    """A weight as (inputs, outputs), float32: its codes times the scale of each output."""
    scale = name.removesuffix("_code") + "_scale"
    return known[name].astype(np.float32) * (known[scale] if scale in known else known[f"{scale}_divided"])


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.argument("like", type=click.Path(exists=True, path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
def main(bundle: Path, like: Path, output: Path) -> None:
    """Write to OUTPUT a checkpoint with the weights of BUNDLE, a BERT of the shape of LIKE."""
    if output.exists():
        click.echo(f"error: {output} already exists; choose another output", err=True)
        sys.exit(4)
    weights_of_bundle(bundle, like, output)


if __name__ == "__main__":
    main()
