"""Annotator: tables and streams in Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchqa import Annotator, DeviceError, InputError, ModelError, SettingsError
from batchqa.engines.onnxruntime import OnnxScorer
from tests.models import SENTENCES

TABLE = pa.table(
    {
        "id": pa.array([7, 8, 9], pa.int8()),
        "context": ["The old bridge was closed in 1987.", None, "The rye loaf costs four dollars."],
        "question": ["When was it closed?", "Who?", "What costs four dollars?"],
    }
)


@pytest.fixture(scope="module")
def annotator(bundles: Callable[..., Path]) -> Annotator:
    options = {"device": "cpu", "threads": 1, "batch_tokens": 512, "in_process": True}
    return Annotator(bundles(abstains=False), **options)


def test_a_table_comes_back_with_its_columns_and_the_answers(annotator: Annotator) -> None:
    out = annotator.annotate(TABLE)
    assert out.select(TABLE.schema.names).equals(TABLE)
    assert out.schema.names[3:] == [
        "qa_answer",
        "qa_start",
        "qa_end",
        "qa_score",
        "qa_no_answer",
        "qa_null_odds",
        "qa_error",
        "qa_error_detail",
    ]
    first, bad, last = out.to_pylist()
    assert first["context"][first["qa_start"] : first["qa_end"]] == first["qa_answer"]
    assert 0 <= last["qa_score"] <= 1
    assert (bad["qa_error"], bad["qa_answer"]) == ("null_context", None)
    assert "row 2" in bad["qa_error_detail"]


def test_a_stream_gives_the_same_answers_as_the_whole_table(annotator: Annotator) -> None:
    batches = TABLE.to_batches(max_chunksize=1)
    streamed = pa.Table.from_batches(annotator.stream(batches)).drop("qa_error_detail")
    assert streamed.equals(annotator.annotate(TABLE).drop("qa_error_detail"))


def test_an_empty_table_keeps_its_columns_and_gets_the_others(annotator: Annotator) -> None:
    out = annotator.annotate(TABLE.slice(0, 0))
    assert out.num_rows == 0
    assert out.schema.field("qa_start").type == pa.int32()
    assert list(annotator.stream([])) == []


def test_an_annotator_serves_one_table_after_the_other(annotator: Annotator) -> None:
    assert annotator.annotate(TABLE).equals(annotator.annotate(TABLE))


def test_the_metadata_of_the_columns_is_kept(annotator: Annotator) -> None:
    table = TABLE.replace_schema_metadata({"made by": "a test"})
    assert annotator.annotate(table).schema.metadata == {b"made by": b"a test"}


def test_a_table_without_the_columns_is_refused_and_its_columns_named(annotator: Annotator) -> None:
    with pytest.raises(InputError, match=r"no column 'question'.*id, context"):
        annotator.annotate(TABLE.drop("question"))


def test_answers_of_contexts_with_large_string_and_dictionary_types_are_the_same(
    annotator: Annotator,
) -> None:
    expected = annotator.annotate(TABLE).column("qa_answer")
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        at = TABLE.schema.get_field_index("context")
        table = TABLE.set_column(at, "context", TABLE.column("context").combine_chunks().cast(kind))
        out = annotator.annotate(table)
        assert out.column("qa_answer").equals(expected)
        assert out.schema.field("context").type == kind


def test_a_window_longer_than_the_model_takes_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(SettingsError, match="--max-length 600 is more than the 512 tokens"):
        Annotator(tiny_bundle, device="cpu", max_length=600, batch_tokens=512)


def test_a_model_that_is_not_there_is_refused_with_the_way_on(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="batchqa export"):
        Annotator(tmp_path / "nothing", device="cpu")


def test_a_bundle_with_no_variant_for_the_device_says_what_it_has(bundles: Callable[..., Path]) -> None:
    with pytest.raises(DeviceError, match=r"no int8 or fp32 variant verified for cpu.*fp16 \(cuda"):
        Annotator(bundles(precision="fp16", devices=("cuda",)), device="cpu")


def test_an_option_that_does_not_exist_is_a_mistake_of_the_caller(tiny_bundle: Path) -> None:
    with pytest.raises(TypeError, match="top_n"):
        Annotator(tiny_bundle, device="cpu", top_n=3)


def _micro_batches(annotator: Annotator, rows: list[dict[str, str]]) -> list[np.ndarray]:
    """The masks of what the engine computes at once for these rows."""
    masks = []
    scorer = annotator.engine.scorer
    assert isinstance(scorer, OnnxScorer)
    run = scorer._run

    def watched(ids: Any, mask: Any, types: Any) -> Any:
        masks.append(mask)
        return run(ids, mask, types)

    scorer._run = watched  # type: ignore[method-assign]
    assert annotator.annotate(pa.Table.from_pylist(rows)).num_rows == len(rows)
    return masks


ROWS = [{"context": " ".join(SENTENCES[:3]) + " So." * n, "question": "Who?"} for n in range(12)]


def test_the_model_in_the_package_never_sees_padding_because_its_answers_would_depend_on_it() -> None:
    options: dict[str, Any] = {"device": "cpu", "engine": "onnxruntime", "in_process": True, "workers": 1}
    with Annotator(batch_tokens=1000, **options) as annotator:
        masks = _micro_batches(annotator, ROWS * 2)

    assert sum(map(len, masks)) == 12  # a pair that comes again is not asked again
    assert all(mask.all() for mask in masks)


def test_the_engine_takes_no_more_tokens_at_once_than_the_budget(tiny_bundle: Path) -> None:
    for budget in (300, 700):
        with Annotator(
            tiny_bundle, device="cpu", in_process=True, workers=1, batch_tokens=budget
        ) as annotator:
            masks = _micro_batches(annotator, ROWS)
        assert sum(map(len, masks)) == 12
        assert all(mask.size <= budget or len(mask) == 1 for mask in masks)
        assert max(map(len, masks)) > 1
