"""The whole export, on checkpoints with the true classes of each architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchqa.annotator import Annotator
from batchqa.bundle import CARD, Variant, open_bundle
from batchqa.engines.loading import Library
from batchqa.errors import InputError, ModelError, PreconditionError, SettingsError
from batchqa.export import variants
from batchqa.export.builtin_passages import all_rows
from batchqa.export.exporting import export
from batchqa.export.verify import VariantComparison
from tests.models import FAMILIES, SENTENCES
from tests.reference import reference_answers

pytest.importorskip("torch")
pytest.importorskip("optimum.exporters.onnx")

# these tests change how variants are made, which those of another test would hide
pytestmark = pytest.mark.usefixtures("own_cache")

CLOSE = 1e-4
"""Decisions with a smaller margin may fall either way (docs/contract.md, Equality)."""

ONE_OF_EACH_TOKENIZER = {"bert-uncased", "roberta", "albert"}
"""WordPiece, byte-level BPE, SentencePiece."""


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family in ONE_OF_EACH_TOKENIZER else pytest.mark.slow)
        for family in sorted(FAMILIES)
    ],
)
def test_an_exported_checkpoint_answers_as_the_original_does(
    family: str, checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = checkpoints(family)
    manifest = export(
        str(checkpoint),
        tmp_path / "bundle",
        precisions=("fp32", "int8"),
        min_agreement=0.0,
        max_f1_drop=100.0,
        abstains="yes",
    )

    table = all_rows().select(["context", "question"])
    answers = Annotator(tmp_path / "bundle", device="cpu", variant="fp32", threads=1).annotate(table)
    expected = reference_answers(checkpoint, list(zip(*table.to_pydict().values(), strict=True)))

    got = list(zip(answers["qa_start"].to_pylist(), answers["qa_end"].to_pylist(), strict=True))
    different = [
        row
        for row, (span, reference) in enumerate(zip(got, expected, strict=True))
        if span != (reference.start, reference.end) and reference.margin >= CLOSE
    ]
    assert different == []
    assert manifest.architecture == FAMILIES[family].architecture
    assert set(manifest.inputs) == set(FAMILIES[family].inputs)
    assert manifest.max_length == 512
    for variant in manifest.variants:
        assert variant.verification["changed_by_batching"] == 0
    assert manifest.variants[0].verification["span_agreement"] >= 0.99


def test_a_bundle_says_how_it_was_made_and_what_it_was_verified_on(
    checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    export(
        str(checkpoints("bert-uncased")),
        tmp_path / "b",
        precisions=("int8",),
        min_agreement=0.0,
        name="tiny",
        languages=("en",),
    )

    bundle = open_bundle(tmp_path / "b")
    figures = bundle.manifest.variants[0].verification
    assert bundle.manifest.name == "tiny"
    assert bundle.manifest.source.revision is None
    assert bundle.manifest.abstains.pairs
    assert {"optimum", "torch", "onnxruntime"} <= set(bundle.manifest.versions)
    assert {"scheme", "rows", "span_agreement", "f1", "megabytes"} <= set(figures)
    assert bundle.manifest.languages == ("en",)
    assert bundle.manifest.texts is not None
    assert list(bundle.manifest.texts.scripts) == ["LATIN"]  # of the passages, the English ones
    assert bundle.manifest.texts.words > 400
    card = (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# tiny\n")
    assert "Languages: en\n" in card
    assert figures["scheme"] in card


def test_a_model_that_answers_nothing_of_what_is_plain_is_doubted(
    checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    """A tokenizer of another model, no larger than the right one, cannot be told by its vocabulary."""
    said: list[str] = []

    export(str(checkpoints("bert-uncased")), tmp_path / "b", precisions=("fp32",), on_progress=said.append)

    (line,) = [line for line in said if "plain questions" in line]
    assert "its tokenizer may be another model's" in line
    assert open_bundle(tmp_path / "b").manifest.abstains.pairs


def test_an_export_below_its_limits_leaves_nothing(checkpoints: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(all_rows().select(["context", "question"]), file)

    with pytest.raises(ModelError, match="--min-agreement"):
        _export_with_damaged_weights(checkpoints("bert-uncased"), tmp_path / "out" / "bundle", file)

    assert list((tmp_path / "out").iterdir()) == []


def _export_with_damaged_weights(checkpoint: Path, output: Path, rows: Path) -> None:
    """An export whose int8 weights have three values each: far from what the original says."""
    from batchqa.export import per_token_int8, quantize

    honest = quantize.LARGEST_CODE
    per_token_int8.LARGEST_CODE = quantize.LARGEST_CODE = 1
    try:
        export(str(checkpoint), output, precisions=("int8",), min_agreement=1.0, verify_on=rows)
    finally:
        per_token_int8.LARGEST_CODE = quantize.LARGEST_CODE = honest


@pytest.mark.parametrize("option", ["verify_on", "calibrate_on", "fit_threshold_on"])
def test_gold_answers_that_are_none_are_refused_before_the_checkpoint_is_opened(
    tmp_path: Path, option: str
) -> None:
    rows = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"context": ["A."], "question": ["Q?"], "answers": [[1998]]}), rows)

    with pytest.raises(InputError, match=r"column 'answers' is of type list<.*int64>, not gold answers"):
        export(str(tmp_path / "no checkpoint"), tmp_path / "bundle", **{option: rows})


def test_rows_to_verify_on_may_have_their_gold_answers_as_texts(
    checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.parquet"
    passages = all_rows().slice(0, 6)
    texts = [answers["text"] for answers in passages["answers"].to_pylist()]
    pq.write_table(passages.set_column(2, "answers", pa.array(texts)), rows)

    manifest = export(str(checkpoints("bert-uncased")), tmp_path / "b", precisions=("fp32",), verify_on=rows)

    assert "f1_of_original" in manifest.variants[0].verification


def test_an_existing_output_is_kept(checkpoints: Callable[..., Path], tmp_path: Path) -> None:
    kept = tmp_path / "bundle"
    kept.mkdir()
    (kept / "mine.txt").write_text("mine", encoding="utf-8")

    with pytest.raises(PreconditionError, match="exists"):
        export(str(checkpoints("bert-uncased")), kept)

    assert (kept / "mine.txt").read_text(encoding="utf-8") == "mine"


def test_an_output_that_another_command_makes_meanwhile_is_kept(
    checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    target = tmp_path / "bundle"

    def other_command(_: str) -> None:
        target.mkdir(exist_ok=True)
        (target / "theirs.txt").write_text("theirs", encoding="utf-8")

    with pytest.raises(PreconditionError, match="another command"):
        export(str(checkpoints("bert-uncased")), target, precisions=("fp32",), on_progress=other_command)

    assert [file.name for file in tmp_path.iterdir()] == ["bundle"]
    assert (target / "theirs.txt").read_text(encoding="utf-8") == "theirs"


@pytest.mark.parametrize(
    ("precision", "reason"),
    [("int8-cuda", "does not run on CUDA"), ("int4", "must be one of fp32, fp16, int8, not 'int4'")],
)
def test_a_precision_that_cannot_be_is_refused_with_the_reason(
    precision: str, reason: str, checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=reason):
        export(str(checkpoints("bert-uncased")), tmp_path / "bundle", precisions=(precision,))

    assert list(tmp_path.iterdir()) == []


def test_an_engine_stands_in_a_bundle_only_if_it_was_verified_here(
    checkpoints: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="needs the extra `openvino`")
    checkpoint = str(checkpoints("bert-uncased"))

    def variant(name: str, least: float) -> Variant:
        return export(checkpoint, tmp_path / name, precisions=("fp32",), min_agreement=least).variants[0]

    good = variant("good", 0.0)
    figures = good.verification["openvino"]
    assert good.engines == ("onnxruntime", "openvino")
    assert figures["changed_by_batching"] == 0
    assert f"with OpenVINO in {figures['arithmetic']}:" in (tmp_path / "good" / CARD).read_text("utf-8")
    if figures["span_agreement"] < 1:  # bfloat16, and random weights
        assert variant("bad", 1.0).engines == ("onnxruntime",)
        assert ", not used" in (tmp_path / "bad" / CARD).read_text("utf-8")
    monkeypatch.setattr(Library, "is_installed", lambda self: self.module != "openvino")
    assert variant("without", 0.0).engines == ("onnxruntime",)


def test_int8_for_openvino_reads_its_matrices_from_the_file_beside_and_answers_whatever_the_batch(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="needs the extra `openvino`")
    path = tmp_path / "b"
    first, second = export(str(checkpoints("bert-uncased")), path, min_agreement=0.0).variants

    assert (first.precision, first.engines) == ("int8", ("onnxruntime",))
    assert (second.precision, second.engines) == ("int8", ("openvino",))
    assert (path / second.file).stat().st_size < 0.8 * open_bundle(path).size(second)
    assert second.verification["changed_by_batching"] == 0
    arithmetic = second.verification["arithmetic"]
    card = (path / CARD).read_text("utf-8")
    assert f"### {second.file}" in card
    assert f"with openvino on cpu in {arithmetic}:" in card

    table = pa.table(
        {"context": [f"{text} {text}" for text in SENTENCES], "question": ["who?"] * len(SENTENCES)}
    )
    options: dict[str, Any] = {"device": "cpu", "in_process": True, "engine": "openvino", "variant": "int8"}
    small = Annotator(path, batch_tokens=64, threads=1, **options)
    assert small.resolved.compute_dtype == arithmetic
    expected, given = small.annotate(table), Annotator(path, batch_tokens=2048, **options).annotate(table)
    assert given.equals(expected)
    assert expected["qa_error"].null_count == len(table)


@pytest.mark.parametrize("why", ["below its limits", "cannot be loaded", "not installed"])
def test_without_a_good_int8_for_openvino_a_bundle_has_onnxruntimes_alone(
    checkpoints: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    pytest.importorskip("openvino", reason="needs the extra `openvino`")
    said: list[str] = []
    compared = variants.compare_openvino

    def poor(*arguments: Any) -> Any:
        if why == "cannot be loaded":
            raise ModelError("no such operator")
        return _poor(compared(*arguments))

    monkeypatch.setattr(variants, "compare_openvino", poor)
    if why == "not installed":
        monkeypatch.setattr(Library, "is_installed", lambda self: self.module != "openvino")
    export(str(checkpoints("bert-uncased")), tmp_path / "b", min_agreement=0.0, on_progress=said.append)

    assert [v.engines for v in open_bundle(tmp_path / "b").manifest.variants] == [("onnxruntime",)]
    lines = [line for line in said if "no int8 for OpenVINO" in line]
    assert len(lines) == (0 if why == "not installed" else 1)
    assert all("batched otherwise" in line or "no such operator" in line for line in lines)


def _poor(found: VariantComparison) -> VariantComparison:
    return replace(found, figures={**found.figures, "changed_by_batching": 1})
