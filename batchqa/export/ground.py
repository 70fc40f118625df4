"""What variants are made from and measured against: the graph, the checked road, the original's answers.

What takes long is a stage that is kept (`stages.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from batchqa.bundle import (
    TOKENIZER,
    Abstention,
    Bundle,
    Manifest,
    Source,
    Threshold,
    Variant,
)
from batchqa.records import Float64
from batchqa.settings import WindowSettings
from batchqa.steps.windowing import learn_layout

from . import graphs, quantize
from .abstention import Abstains, Probed, decide, probe
from .builtin_passages import everything, long_rows
from .checkpoint import Checkpoint, write_special_as_tokens, write_tokenizer
from .extras import load, versions
from .limits import Limits
from .parity import batches_of, check_parity, padding_matters
from .reference import Raw, Reference
from .stages import Stages, digest
from .threshold import best_for_f1
from .verify import (
    Original,
    Progress,
    TorchScorer,
    VerifiedOn,
)

NOT_FITTED = "not fitted: the usual default of models trained on SQuAD 2.0"
LARGEST_FILE = 2**31
"""Bytes of an ONNX file with its weights inside: protobuf's limit."""


@dataclass
class Ground:
    """What every variant is made from and measured against."""

    checkpoint: Checkpoint
    folder: Path
    table: pa.Table
    calibration: pa.Table
    limits: Limits
    verified_on: VerifiedOn
    say: Progress
    reduce_range: bool = False
    manifest: Manifest = None  # type: ignore[assignment]  # set by begin()
    scorer: TorchScorer = None  # type: ignore[assignment]
    original: Original = None  # type: ignore[assignment]

    @property
    def bundle(self) -> Bundle:
        """The bundle as far as it is made."""
        return Bundle(self.folder, self.manifest, digest="")

    def _with(self, variant: Variant) -> Bundle:
        """The bundle as if it had this variant alone."""
        return replace(self.bundle, manifest=replace(self.manifest, variants=(variant,)))

    def begin(
        self,
        name: str,
        source: Source,
        threshold: float | None,
        note: str | None,
        abstains: Abstains,
        *,
        keeps_special: bool,
    ) -> None:
        """Export the graph, check the road, and describe the model."""
        checkpoint = self.checkpoint
        write_tokenizer(checkpoint.tokenizer, self.folder / TOKENIZER)
        if keeps_special:
            write_special_as_tokens(self.folder / TOKENIZER, checkpoint.special_tokens)
        self._say_what_differs_by_intent(keeps_special)
        self.table = _with_questions_cut(self.table, checkpoint.fast)
        model = checkpoint.load_model()
        self.reference = Reference(checkpoint.name, checkpoint.fast, model, keeps_special)
        self.reference.raw(
            long_rows().slice(0, 1)
        )  # a model that fails by itself says so before it is exported
        inputs = tuple(node.name for node in self.graph.graph.input)
        layout = learn_layout(checkpoint.tokenizer, checkpoint.pad_id, checkpoint.pad_type)
        self.manifest = Manifest(
            name=name,
            source=source,
            architecture=checkpoint.architecture,
            inputs=inputs,
            outputs=graphs.OUTPUTS,
            max_length=checkpoint.longest_input(model),
            layout=layout if checkpoint.token_types else layout.without_types(),
            abstains=Abstention(True, "not decided yet"),
            threshold=Threshold(threshold or 0.0, note or ("given" if threshold is not None else NOT_FITTED)),
            calibration=None,
            variants=(),
            versions=versions(),
        )
        self._check_parity()
        self.scorer = TorchScorer(model, inputs)
        feeds = batches_of(self.bundle, everything())
        if self._once("padding", {}, lambda: padding_matters(self.scorer, feeds)):
            self._run_unpadded("its logits change with the padding beside a window")
        seen = Probed(**self._once("abstention", {}, lambda: asdict(probe(self.bundle, self.scorer))))
        if seen.doubt:
            self.say(f"{checkpoint.name}: {seen.doubt}")
        self.manifest = replace(self.manifest, abstains=decide(abstains, seen))

    @cached_property
    def stages(self) -> Stages:
        """What earlier exports of this checkpoint finished."""
        tokenizer = (self.folder / TOKENIZER).read_text(encoding="utf-8")
        about = {"tokenizer": tokenizer, "reduce_range": self.reduce_range}
        return Stages(self.checkpoint.folder, versions(), about)

    def _once(self, what: str, of: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """What an earlier export found out, or what `make` does now: something that JSON can hold."""
        found = self.stages.record(what, of)
        if found is None:
            found = make()
            self.stages.keep_record(what, of, found)
        return found

    def _say_what_differs_by_intent(self, keeps_special: bool) -> None:
        own = self.checkpoint.special_tokens
        if own and not keeps_special:
            shown = ", ".join(own[:5]) + (", ..." if len(own) > 5 else "")
            self.say(
                f"{self.checkpoint.name}: its tokenizer has special tokens of its own ({shown}); in a "
                "row's texts they are text, unlike in transformers; --special-tokens tokens makes them tokens"
            )

    def _check_parity(self) -> None:
        self.say(f"{self.checkpoint.name}: comparing the road with transformers")

        def check() -> bool:
            check_parity(
                self.bundle, self.graph, self.reference, self.table if self.verified_on.is_users else None
            )
            return True

        self._once("road", {"rows": self._rows, "layout": asdict(self.manifest.layout)}, check)

    def _run_unpadded(self, why: str) -> None:
        self.say(f"{self.checkpoint.name}: {why}; windows of one length only are run together")
        self.manifest = replace(self.manifest, unpadded=True)
        self.scorer.unpadded = True
        self.__dict__.pop("feeds", None)

    @cached_property
    def graph(self) -> Any:
        """The checkpoint as an ONNX graph in float32."""
        with TemporaryDirectory(prefix="batchqa-graph-") as work:
            file = Path(work) / "graph.onnx"
            if self.stages.fetch("graph", {}, file):
                self.say(f"{self.checkpoint.name}: going on from an earlier export")
                return load("onnx").load(str(file))
            self.say(f"{self.checkpoint.name}: exporting {self.checkpoint.architecture} to ONNX")
            graph = graphs.export_graph(self.checkpoint, Path(work))
            if graph.ByteSize() < LARGEST_FILE:
                graphs.save(graph, file)
                self.stages.put("graph", {}, file)
            return graph

    @cached_property
    def feeds(self) -> list[quantize.Feed]:
        """The calibration's rows as batches."""
        return batches_of(self.bundle, self.calibration)

    @cached_property
    def fused(self) -> graphs.Fused:
        """The graph for int8, with fused attention."""
        return graphs.fuse(self.graph, self.checkpoint, self.feeds[:2], for_int8=True)

    @cached_property
    def observed(self) -> dict[str, quantize.Observed]:
        """What calibration sees."""
        self.say(f"{self.checkpoint.name}: calibrating int8 on {len(self.calibration)} rows")
        return quantize.observe(self.fused.model, self.feeds)

    def fit_threshold(self, labelled: pa.Table, file: str | Path, note: str | None) -> None:
        """Take the threshold that is best for the original on a labelled file."""
        self.say(f"{self.checkpoint.name}: fitting the threshold on {file}")
        of = {"rows": labelled.to_pydict(), "unpadded": self.manifest.unpadded}
        value = self._once("threshold", of, lambda: best_for_f1(self.bundle, self.scorer, labelled))
        fitted = Threshold(value, note or f"best F1 on {Path(file).name}")
        self.manifest = replace(self.manifest, threshold=fitted)

    @property
    def weight_bits(self) -> int:
        """Of int8's codes: 7 cannot overflow on any processor."""
        return 7 if self.reduce_range else 8

    def answer_with_original(self) -> None:
        """Let the original answer the verification's rows."""
        self.say(
            f"{self.checkpoint.name}: the original answers {len(self.table)} rows of {self.verified_on.name}"
        )
        pairs = self.table.select(["context", "question"])
        found = self._once("original", {"rows": self._rows}, lambda: _plain(self.reference.raw(pairs)))
        manifest = self.manifest
        self.original = Original.of(
            _raw(found), self.table, manifest.abstains.value, manifest.threshold.value
        )

    @cached_property
    def _rows(self) -> str:
        return digest(self.table.to_pydict())


def _with_questions_cut(table: pa.Table, tokenizer: Any) -> pa.Table:
    """The rows with questions of as many tokens as a run takes, so that both roads are given the same."""
    most, cut = WindowSettings().max_question_length, []
    for question in table["question"].to_pylist():
        encoded = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in encoded["offset_mapping"]]
        cut.append(question if len(ends) <= most else question[: ends[most - 1]])
    return table.set_column(table.column_names.index("question"), "question", pa.array(cut, pa.string()))


def _plain(raw: Raw) -> dict[str, Any]:
    """As JSON has it: infinity is null there."""
    values = {each.name: getattr(raw, each.name) for each in fields(raw)}
    return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in values.items()}


def _raw(record: Mapping[str, Any]) -> Raw:
    def numbers(name: str) -> Float64:
        return np.array([np.inf if value is None else value for value in record[name]], dtype=np.float64)

    return Raw(
        start=np.array(record["start"], dtype=np.int64),
        end=np.array(record["end"], dtype=np.int64),
        null_odds=numbers("null_odds"),
        margin=numbers("margin"),
        judged=np.array(record["judged"], dtype=bool),
        windows=record["windows"],
        seconds=record["seconds"],
    )
