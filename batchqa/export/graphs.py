"""Checkpoint -> ONNX graph in float32; the same with fused attention; the same in float16."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from batchqa.errors import ModelError, first_line

from .architectures import TASK
from .calibration_data import Feed
from .checkpoint import Checkpoint
from .extras import load, quiet

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("start_logits", "end_logits")

FUSION_TOLERANCE = 1e-3
"""Largest logit difference between a graph and its fused form; more means that the fusion is wrong."""

LARGEST_FILE = 2**31
"""Bytes of an ONNX file with its weights inside: protobuf's limit."""

LEAST_SHARED = 65_536
"""Bytes of a tensor from which on it is not stored a second time."""

_ATTENTION = ("Attention", "MultiHeadAttention")


@dataclass(frozen=True, slots=True)
class Fused:
    """A graph after fusion. `attentions` of `layers` were fused; not `kept`: the plain graph stays.

    A graph in which only some could be fused is kept too: its logits were compared all the same.
    """

    model: Any
    attentions: int
    layers: int
    kept: bool

    @property
    def said(self) -> str:
        """For bundle.json and the model card."""
        used = "" if self.kept else " (the plain graph is used)"
        return f"{self.attentions} of {self.layers} attention layers fused{used}"


def export_graph(checkpoint: Checkpoint, folder: Path) -> Any:
    """Export the checkpoint in float32 with optimum, by way of `folder`, and return the graph (ModelProto).

    Raises ModelError where the exporter does not take the architecture or gives other inputs or outputs.
    """
    exporter, onnx = load("optimum.exporters.onnx"), load("onnx")
    torch = load("torch")
    model = checkpoint.load_model()
    try:
        with quiet(), torch.no_grad(), _types_that_exist(checkpoint):
            exporter.onnx_export_from_model(model=model, output=folder, task=TASK, do_validation=False)
        graph = onnx.load(str(folder / "model.onnx"))
    except (OSError, MemoryError):
        raise
    except Exception as error:  # exporter, tracer and onnx raise errors of many kinds
        raise ModelError(
            f"{checkpoint.name}: architecture {checkpoint.architecture!r} cannot be exported to ONNX: "
            f"{_named(error)}"
        ) from error
    inputs = [node.name for node in graph.graph.input]
    outputs = [node.name for node in graph.graph.output]
    if not {"input_ids", "attention_mask"} <= set(inputs) <= set(INPUTS) or set(outputs) != set(OUTPUTS):
        raise ModelError(
            f"{checkpoint.name}: the exported graph takes {inputs} and gives {outputs}; batchqa runs models "
            f"that take {list(INPUTS)} and give {list(OUTPUTS)}"
        )
    return graph


@contextmanager
def _types_that_exist(checkpoint: Checkpoint) -> Iterator[None]:
    """Have the exporter try the model out with token types that it has: it takes 0 and 1 for granted."""
    generator = load("optimum.utils.input_generators").DummyTextInputGenerator
    generate, kinds = generator.generate, int(checkpoint.config.get("type_vocab_size") or 2)

    def of_the_model(self: Any, input_name: str, *arguments: Any, **options: Any) -> Any:
        made = generate(self, input_name, *arguments, **options)
        return made.clamp(max=kinds - 1) if input_name == "token_type_ids" else made

    generator.generate = of_the_model
    try:
        yield
    finally:
        generator.generate = generate


def fuse(graph: Any, checkpoint: Checkpoint, feeds: Sequence[Feed], *, for_int8: bool) -> Fused:
    """The graph with attention and GELU as single operators, if its logits on `feeds` stay what they are.

    `for_int8` keeps the matrix products of attention as nodes of their own, so that they can be quantized,
    and leaves LayerNormalization alone.
    """
    optimizer = load("onnxruntime.transformers.optimizer")
    options = load("onnxruntime.transformers.fusion_options").FusionOptions("bert")
    if for_int8:
        options.use_multi_head_attention = True
        options.enable_skip_layer_norm = options.enable_bias_skip_layer_norm = False
        options.enable_embed_layer_norm = False
    layers = checkpoint.layers
    plain = _copy(graph)
    try:
        with quiet():
            optimized = optimizer.optimize_model(
                plain,
                "bert",
                num_heads=checkpoint.heads,
                hidden_size=checkpoint.width,
                opt_level=0,
                optimization_options=options,
            ).model
        difference = largest_difference(graph, optimized, feeds)
    except Exception:  # noqa: BLE001 - a fusion that fails costs speed only: the plain graph is there
        return Fused(graph, 0, layers, kept=False)
    counted = Counter(node.op_type for node in optimized.graph.node)
    attentions = sum(counted[kind] for kind in _ATTENTION)
    good = attentions > 0 and difference <= FUSION_TOLERANCE
    return Fused(optimized if good else graph, attentions, layers, kept=good)


def half(graph: Any) -> Any:
    """The graph in float16, with inputs and outputs as they were: what a CUDA device runs fastest."""
    convert = load("onnxruntime.transformers.float16").convert_float_to_float16
    copy = _copy(graph)
    _constants_to_initializers(copy)
    kept = _position_buckets(copy)
    with quiet():
        # the converter needs the types around nodes that it must leave alone, and only those
        return convert(copy, keep_io_types=True, disable_shape_infer=not kept, node_block_list=kept)


def _position_buckets(graph: Any) -> list[str]:
    """Names of the nodes that sort relative positions into logarithmic buckets (MPNet, DeBERTa).

    From a logarithm to the integer that it becomes they stay in float32: in float16 a position would fall
    into the neighbouring bucket, and MPNet's logits would be off by 0.5 instead of 0.01.
    """
    changed: set[str] = set()
    kept = []
    for node in graph.graph.node:  # in topological order
        if node.op_type == "Log" or changed.intersection(node.input):
            kept.append(node)
            if node.op_type != "Cast":
                changed.update(node.output)
    return [node.name for node in kept]


def _constants_to_initializers(graph: Any) -> None:
    """Hold constants as initializers: onnxruntime's converter (1.31) would make float16 of the others."""
    constants = [node for node in graph.graph.node if node.op_type == "Constant"]
    for node in constants:
        (value,) = (attribute.t for attribute in node.attribute if attribute.name == "value")
        value.name = node.output[0]
        graph.graph.initializer.append(value)
        graph.graph.node.remove(node)


def save(graph: Any, target: Path, beside: Path | None = None) -> int:
    """Write a graph to `target`, with its weights inside the file (protobuf's limit is 2 GB).

    `beside` is another model in the same folder: matrices that stand in it too, byte for byte, are read from
    there (as ONNX's external data). Returns the bytes of the file and of what it reads from `beside`.
    """
    onnx = load("onnx")
    if graph.ByteSize() >= LARGEST_FILE:
        raise ModelError(f"{target.name} would be larger than 2 GB; export a smaller model")
    size = int(graph.ByteSize())
    if beside is not None:
        graph, content = _copy(graph), beside.read_bytes()
        for tensor in graph.graph.initializer:
            found = content.find(tensor.raw_data) if len(tensor.raw_data) >= LEAST_SHARED else -1
            if found >= 0:
                length = len(tensor.raw_data)
                onnx.external_data_helper.set_external_data(tensor, beside.name, found, length)
                tensor.ClearField("raw_data")
    onnx.save(graph, str(target))
    return size


def _copy(graph: Any) -> Any:
    copy = type(graph)()
    copy.CopyFrom(graph)
    return copy


def session(graph: Any, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU for a graph in memory."""
    ort = load("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    return ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def largest_difference(one: Any, other: Any, feeds: Sequence[Feed]) -> float:
    """Largest difference of any real token's logit between two graphs; infinite where one is not finite."""
    sessions = [session(graph) for graph in (one, other)]
    names = [node.name for node in sessions[0].get_inputs()]
    worst = 0.0
    for feed in feeds:
        real = feed["attention_mask"] > 0
        given = {name: feed[name] for name in names}
        left, right = (each.run(list(OUTPUTS), given) for each in sessions)
        for a, b in zip(left, right, strict=True):
            difference = np.abs(a[real].astype(np.float64) - b[real])
            worst = max(worst, float(difference.max()) if np.isfinite(difference).all() else float("inf"))
    return worst


def _named(error: BaseException) -> str:
    name, line = type(error).__name__, first_line(error)
    return line if line == name else f"{name}: {line}"
