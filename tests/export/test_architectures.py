"""Every architecture of docs/models.md, on real text: exported, it answers as the original does.

Slow: each checkpoint is made, exported in three precisions and answered a second time in PyTorch by an
independent reference. The fast tests at the end hold the document to the code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchqa.annotator import Annotator
from batchqa.bundle import Manifest, open_bundle
from batchqa.cli.commands.export import export_command
from batchqa.engines import library
from batchqa.export.exporting import export
from batchqa.export.verify import Answers, agreement, answer, onnx_scorer
from tests.reference import reference_answers

pytest.importorskip("torch")
pytest.importorskip("optimum.exporters.onnx")
pytest.importorskip("sentencepiece")

from batchqa.export import architectures
from tests.export.architectures import ARCHITECTURES, Architecture, write_real_checkpoint

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"

ROWS = 200
LEAST_EQUAL = 0.995
CLOSE = 1e-4
"""Decisions with a smaller margin may fall either way (docs/contract.md, Equality)."""

HALF_AGREES = 0.95
HALF_DIFFERS = 0.02
"""Largest difference of null odds, as a share of their range: float16 has 11 bits, and layers add up."""

Questions = Sequence[dict[str, Any]]


def _rows(xquad: Callable[[str], Questions], languages: Sequence[str]) -> pa.Table:
    """ROWS questions spread evenly over the languages and over each language's paragraphs."""
    each = ROWS // len(languages)
    picked: list[dict[str, Any]] = []
    for questions in map(xquad, languages):
        picked += questions[:: len(questions) // each][:each]
    assert len(picked) == ROWS
    return pa.table({name: [row[name] for row in picked] for name in ("context", "question")})


def _texts(xquad: Callable[[str], Questions], languages: Sequence[str]) -> list[str]:
    rows = [row for language in languages for row in xquad(language)]
    return list(dict.fromkeys(text for row in rows for text in (row["context"], row["question"])))


def _table_row(architecture: Architecture, manifest: Manifest) -> str:
    """The architecture's line in docs/models.md, from what its bundle says."""
    schemes = {v.precision: v.verification["scheme"] for v in manifest.variants if "onnxruntime" in v.engines}
    fused = re.search(r"(\d+) of (\d+) attention layers fused", schemes["fp32"])
    assert fused is not None
    types = "yes" if "token_type_ids" in manifest.inputs else "no"
    form = "per token" if "scale per token" in schemes["int8"] else "weights only"
    files = "tokenizer.json" if architecture.published_json else "converted"
    return (
        f"| {architecture.name} | `{manifest.architecture}` | {architecture.tokenizer}, {files} | {types} "
        f"| {fused[1]} of {fused[2]} | yes | yes | {form} | {', '.join(architecture.languages)} |"
    )


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: each.name)
def test_an_architecture_answers_real_text_as_pytorch_with_transformers_does(
    architecture: Architecture, xquad: Callable[[str], Questions], tmp_path: Path
) -> None:
    checkpoint = write_real_checkpoint(
        tmp_path / "checkpoint", architecture, _texts(xquad, architecture.languages)
    )
    table = _rows(xquad, architecture.languages)

    manifest = export(
        str(checkpoint),
        tmp_path / "bundle",
        precisions=("fp32", "fp16", "int8"),
        min_agreement=0.0,
        max_f1_drop=100.0,
        abstains="yes",
    )

    _assert_as_reference(tmp_path / "bundle", checkpoint, table)
    _assert_half_near(tmp_path / "bundle", table)
    assert manifest.max_length == 512
    assert ("token_type_ids" in manifest.inputs) == architecture.token_types
    for variant in manifest.variants:
        if variant.precision == "fp16":  # it rounds at the tolerance of `changed_by_batching` itself
            assert variant.verification["largest_logit_difference"] < architecture.half_differs
        else:
            assert variant.verification["changed_by_batching"] == 0
    if library("openvino").is_installed():
        per_token = [v.engines for v in manifest.variants if v.precision == "int8" and v.weight_bits]
        alone = architecture.model_type == "deberta-v2"  # OpenVINO cannot load its graph
        assert per_token in ([], [("onnxruntime",)] if alone else [("onnxruntime",), ("openvino",)])
    assert _table_row(architecture, manifest) in DOCUMENT.read_text(encoding="utf-8").splitlines()


def _assert_as_reference(bundle: Path, checkpoint: Path, table: pa.Table) -> None:
    answers = Annotator(bundle, device="cpu", variant="fp32").annotate(table)
    expected = reference_answers(checkpoint, list(zip(*table.to_pydict().values(), strict=True)))
    spans = list(zip(answers["qa_start"].to_pylist(), answers["qa_end"].to_pylist(), strict=True))
    margins = {
        row: reference.margin
        for row, (span, reference) in enumerate(zip(spans, expected, strict=True))
        if span != (reference.start, reference.end)
    }
    assert len(margins) <= (1 - LEAST_EQUAL) * ROWS, f"rows that differ, with their margins: {margins}"
    assert all(margin < CLOSE for margin in margins.values()), f"no close calls: {margins}"
    answered = sum(start is not None for start, _ in spans)
    assert answered > 0, "a model that answers nothing proves nothing"


def _assert_half_near(folder: Path, table: pa.Table) -> None:
    """float16 beside float32, both in onnxruntime on the CPU, which computes it in float32 between casts."""
    bundle = open_bundle(folder)
    single, half = (_answers(bundle, precision, table) for precision in ("fp32", "fp16"))
    assert agreement(single, half) >= HALF_AGREES
    odds = [np.asarray(each.columns["null_odds"].to_numpy(), dtype=np.float64) for each in (single, half)]
    assert float(np.abs(odds[0] - odds[1]).max()) < HALF_DIFFERS * float(np.ptp(odds[0]))


def _answers(bundle: Any, precision: str, table: pa.Table) -> Answers:
    return answer(bundle, onnx_scorer(bundle, precision), table)


def test_the_commands_of_the_readmes_model_table_parse_and_name_tested_architectures() -> None:
    readme = (DOCUMENT.parents[1] / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| `batchqa (export [^`|]+)` \| ([^|]+) \|$", readme, re.MULTILINE)
    names = {each.name for each in ARCHITECTURES}
    assert len(rows) == 7
    for command, tested in rows:
        _, *arguments = command.split()
        export_command.make_context("export", list(arguments))
        assert tested.partition(";")[0] in names or "docs/models.md" in tested


def test_the_document_lists_the_tested_architectures_and_no_others() -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    listed = [line.split("|")[1].strip() for line in lines if re.match(r"\| [^|]+ \| `[a-z0-9-]+` \|", line)]
    assert listed == [each.name for each in ARCHITECTURES]


def test_the_document_lists_what_is_exportable_but_untested_and_what_is_refused() -> None:
    text = " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    tested = {each.model_type for each in ARCHITECTURES}
    others = ", ".join(f"`{name}`" for name in architectures.exportable() if name not in tested)
    assert f"not tested here: {others}." in text
    for name, reason in architectures.UNSUITED.items():
        assert f"`{name}`" in text
        assert reason in text
