"""A bundle answers as transformers does, whatever is unusual about the checkpoint, or is not made."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchqa.annotator import Annotator
from batchqa.bundle import Manifest, open_bundle, write_manifest
from batchqa.engines import library
from batchqa.engines.loading import Library
from batchqa.errors import ModelError
from batchqa.export.builtin_passages import all_rows, long_rows
from tests import reference
from tests.reference import reference_answers

pytest.importorskip("torch")
pytest.importorskip("optimum.exporters.onnx")

from batchqa.export.exporting import export
from tests.export.odd import change_json, write_odd

NO_TYPES = {"model_input_names": ["input_ids", "attention_mask"]}
CLOSE = 1e-4


@pytest.fixture(autouse=True)
def _one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Library, "is_installed", lambda self: self.module != "openvino")
    monkeypatch.setattr(reference, "BATCH", 1)  # for models whose answers change with padding


def _made(checkpoint: Path, bundle: Path, **options: Any) -> Manifest:
    return export(str(checkpoint), bundle, precisions=("fp32",), abstains="yes", **options)


def _answers(bundle: Path, table: pa.Table, batch_tokens: int = 512, **options: Any) -> list[tuple[Any, ...]]:
    settings: dict[str, Any] = {"device": "cpu", "engine": "onnxruntime", "threads": 1, "in_process": True}
    annotator = Annotator(bundle, batch_tokens=batch_tokens, **settings | options)
    columns = annotator.annotate(table.select(["context", "question"]))
    return list(zip(columns["qa_start"].to_pylist(), columns["qa_end"].to_pylist(), strict=True))


def _equal_to_transformers(checkpoint: Path, bundle: Path, table: pa.Table) -> None:
    rows = list(zip(table["context"].to_pylist(), table["question"].to_pylist(), strict=True))
    expected = reference_answers(checkpoint, rows)
    different = [
        row
        for row, (given, wanted) in enumerate(zip(_answers(bundle, table), expected, strict=True))
        if given != (wanted.start, wanted.end) and wanted.margin >= CLOSE
    ]
    assert different == []


UNUSUAL = [
    pytest.param({}, id="BERT without token types"),
    pytest.param({"config": {"type_vocab_size": 1}}, id="BERT with one token type", marks=pytest.mark.slow),
    pytest.param({"model_type": "ibert"}, id="RoBERTa's positions, of 514", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("options", UNUSUAL)
def test_an_unusual_checkpoint_answers_long_and_short_rows_as_transformers_does(
    options: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = write_odd(tmp_path / "checkpoint", tokenizer=NO_TYPES, **options)
    manifest = _made(checkpoint, tmp_path / "bundle")
    assert manifest.max_length == 512
    table = pa.concat_tables([long_rows().slice(0, 1), all_rows().slice(0, 20)])
    _equal_to_transformers(checkpoint, tmp_path / "bundle", table)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "padding on the left": ({"tokenizer": {"padding_side": "left"}}, "--allow-question-first"),
    "token types that the graph does not take": (
        {"model_type": "roberta"},
        r"of 7 long rows differently from transformers.*token types, which the exported graph",
    ),
    "block-sparse attention": (
        {"model_type": "big_bird", "tokenizer": NO_TYPES},
        r"long rows differently from transformers.*block_sparse.*set attention_type to original_full",
    ),
    "a fixed length": (
        {"model_type": "nystromformer", "config": {"segment_means_seq_len": 512}},
        r"the model itself, in transformers, fails on windows of 384 tokens.*padded to a fixed length",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_checkpoint_that_would_answer_otherwise_than_transformers_is_refused_with_the_reason(
    kind: str, tmp_path: Path
) -> None:
    options, message = REFUSED[kind]
    checkpoint = write_odd(tmp_path / "checkpoint", **options)
    with pytest.raises(ModelError, match=message):
        _made(checkpoint, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_padding_on_the_left_is_taken_where_the_user_says_that_the_question_comes_first(
    tmp_path: Path,
) -> None:
    checkpoint = write_odd(tmp_path / "checkpoint", tokenizer={"padding_side": "left"})
    assert _made(checkpoint, tmp_path / "bundle", allow_question_first=True).variants


CHANGED_BY_NEIGHBOURS = [
    pytest.param("mobilebert", {"pad_row": 1.0}, id="MobileBERT, a trained padding row"),
    pytest.param("convbert", {}, id="ConvBERT", marks=pytest.mark.slow),
    pytest.param("nystromformer", {}, id="Nystromformer", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("model_type", "options"), CHANGED_BY_NEIGHBOURS)
def test_a_model_whose_answers_change_with_padding_runs_windows_of_one_length_together(
    model_type: str, options: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = write_odd(tmp_path / "checkpoint", model_type, **options)
    said: list[str] = []
    manifest = _made(checkpoint, tmp_path / "bundle", on_progress=said.append)

    assert manifest.unpadded
    assert manifest.variants[0].verification["changed_by_batching"] == 0
    assert any("only windows of equal length are run together" in line for line in said)
    assert "change with padding" in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    table = all_rows()
    alone = _answers(tmp_path / "bundle", table, batch_tokens=1)
    assert _answers(tmp_path / "bundle", table, batch_tokens=4096) == alone
    _equal_to_transformers(checkpoint, tmp_path / "bundle", table.slice(0, 40))

    # control: padded, its answers do change; and a bundle of an earlier version, which says only how many did
    for changed, equal in ((0, False), (9, True)):
        old = tmp_path / f"old{changed}"
        shutil.copytree(tmp_path / "bundle", old)
        figures = {"changed_by_batching": changed}
        variant = replace(manifest.variants[0], verification=figures)
        write_manifest(old, replace(manifest, unpadded=False, variants=(variant,), format=2))
        assert (_answers(old, table, batch_tokens=4096) == alone) == equal
        assert open_bundle(old).manifest.runs_unpadded == equal


@pytest.mark.slow
@pytest.mark.skipif(not library("openvino").is_installed(), reason="needs the extra `openvino`")
def test_openvino_runs_such_a_model_unpadded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Library, "is_installed", lambda self: True)
    checkpoint = write_odd(tmp_path / "checkpoint", "mobilebert", pad_row=1.0)
    (variant,) = _made(checkpoint, tmp_path / "bundle", min_agreement=0.0).variants
    assert "openvino" in variant.engines
    given = _answers(tmp_path / "bundle", all_rows(), 4096, engine="openvino", arithmetic="f32")
    assert given == _answers(tmp_path / "bundle", all_rows(), 1)


def test_special_tokens_of_a_tokenizer_are_text_unless_they_are_kept(tmp_path: Path) -> None:
    checkpoint = write_odd(tmp_path / "checkpoint", special=("<num>",))
    said: list[str] = []
    _made(checkpoint, tmp_path / "text", on_progress=said.append)
    _made(checkpoint, tmp_path / "tokens", special_tokens="tokens")

    assert any("<num>" in line and "--special-tokens tokens" in line for line in said)
    import transformers

    fast = transformers.AutoTokenizer.from_pretrained(checkpoint)
    from batchqa.steps.windowing import open_tokenizer

    for name, split in (("text", True), ("tokens", False)):
        ours = open_tokenizer(tmp_path / name / "tokenizer.json").encode(
            "who <num> is [SEP]", add_special_tokens=False
        )
        theirs = fast("who <num> is", add_special_tokens=False, split_special_tokens=split)["input_ids"]
        assert ours.ids[: len(theirs)] == theirs
        assert fast.sep_token_id not in ours.ids


@pytest.mark.parametrize("model_type", ["data2vec-text", "ibert"])
def test_the_longest_input_of_any_family_comes_from_the_model(model_type: str, tmp_path: Path) -> None:
    """A table of 514 positions, from the padding id on, is 512 tokens; a list knew some families."""
    from batchqa.export.checkpoint import open_checkpoint

    config = {"pad_token_id": 1}
    checkpoint = write_odd(tmp_path / "checkpoint", model_type, tokenizer=NO_TYPES, config=config)
    limits = {"model_max_length": 10**9}
    change_json(checkpoint / "tokenizer_config.json", **limits)
    with open_checkpoint(str(checkpoint), None) as opened:
        assert opened.max_length == 512
        assert replace(opened, max_length=514).longest_input(opened.load_model()) == 512
