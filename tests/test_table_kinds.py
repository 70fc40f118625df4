"""`annotate` takes tables of every kind and gives the same kind back; `ask` answers single questions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from batchqa import Annotator, InputError

ROWS = [
    {"id": 1, "context": "The old bridge was closed in 1987.", "question": "When was it closed?"},
    {"id": 2, "context": None, "question": "Who?"},
    {"id": 3, "context": "The rye loaf costs four dollars.", "question": "What costs four dollars?"},
]
TABLE = pa.Table.from_pylist(ROWS)
CONTEXT = "The ferry leaves at seven from the north pier."


@pytest.fixture(scope="module")
def annotator(bundles: Callable[..., Path]) -> Annotator:
    return Annotator(bundles(abstains=False), device="cpu", threads=1, batch_tokens=512)


@pytest.fixture(scope="module")
def expected(annotator: Annotator) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = annotator.annotate(TABLE).to_pylist()
    assert answers[0]["qa_answer"]
    return answers


def test_a_list_of_dicts_comes_back_as_one_and_the_given_one_is_left_alone(
    annotator: Annotator, expected: list[dict[str, Any]]
) -> None:
    given = [dict(row) for row in ROWS]
    del given[1]["context"]  # a key that a row lacks is null
    given[0], given[1] = given[1], given[0]  # and the first row does not decide which columns there are
    out = annotator.annotate(given)
    assert [row["qa_answer"] for row in out] == [expected[at]["qa_answer"] for at in (1, 0, 2)]
    assert out[0]["qa_error"] == "null_context"
    assert "context" not in given[0]


def test_a_polars_table_comes_back_as_one(annotator: Annotator, expected: list[dict[str, Any]]) -> None:
    polars = pytest.importorskip("polars")
    out = annotator.annotate(polars.DataFrame(ROWS))
    assert isinstance(out, polars.DataFrame)
    assert out.to_dicts() == expected
    with pytest.raises(TypeError, match="LazyFrame; collect it first"):
        annotator.annotate(polars.DataFrame(ROWS).lazy())


def test_a_pandas_table_comes_back_with_its_index_and_whole_numbers_stay_whole(
    annotator: Annotator, expected: list[dict[str, Any]]
) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(ROWS, index=["x", "y", "z"]).assign(price=[1.5, None, 2.0])
    frame["kind"] = pandas.Categorical(["a", "b", "a"])
    out = annotator.annotate(frame)
    pandas.testing.assert_frame_equal(out[list(frame.columns)], frame)
    assert list(out.index) == ["x", "y", "z"]
    assert out["qa_start"].dtype == "Int32"
    assert out.loc["x", "qa_start"] == expected[0]["qa_start"]
    assert out.loc["y", "qa_start"] is pandas.NA
    assert out["qa_no_answer"].dtype == "boolean"


def test_batches_and_readers_come_back_as_such_and_a_reader_is_read_as_it_is_asked_for(
    annotator: Annotator, expected: list[dict[str, Any]]
) -> None:
    batch = annotator.annotate(TABLE.to_batches()[0])
    assert isinstance(batch, pa.RecordBatch)
    assert batch.to_pylist() == expected
    assert annotator.annotate(TABLE.to_batches()[0].slice(0, 0)).num_rows == 0
    read = []

    def batches() -> Any:
        for piece in TABLE.to_batches():
            read.append(piece)
            yield piece

    reader = annotator.annotate(pa.RecordBatchReader.from_batches(TABLE.schema, batches()))
    assert isinstance(reader, pa.RecordBatchReader)
    assert not read
    assert reader.read_all().to_pylist() == expected


def test_any_other_arrow_stream_comes_back_as_a_pyarrow_table(
    annotator: Annotator, expected: list[dict[str, Any]]
) -> None:
    class Foreign:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return TABLE.__arrow_c_stream__(requested_schema)

    out = annotator.annotate(Foreign())
    assert isinstance(out, pa.Table)
    assert out.to_pylist() == expected


@pytest.mark.parametrize("given", [{"context": ["a"]}, "a.parquet", [1, 2], None])
def test_what_is_no_table_is_a_type_error_that_says_what_is_taken(annotator: Annotator, given: Any) -> None:
    with pytest.raises(TypeError, match="polars or pandas table, a list of dicts"):
        annotator.annotate(given)


def test_values_of_several_types_in_a_column_are_named(annotator: Annotator) -> None:
    rows = [{**ROWS[0], "note": 1}, {**ROWS[2], "note": "x"}]
    with pytest.raises(
        InputError, match=r"column 'note' cannot become an Arrow column: .*convert its values to one type"
    ):
        annotator.annotate(rows)


def test_the_schema_of_the_output_is_known_before_anything_is_scored(annotator: Annotator) -> None:
    assert annotator.schema(TABLE.schema).equals(annotator.annotate(TABLE).schema, check_metadata=True)
    with pytest.raises(InputError, match="no column 'question'"):
        annotator.schema(pa.schema([("context", pa.string())]))


def test_a_question_gets_the_answer_that_its_row_would_get(annotator: Annotator) -> None:
    row = annotator.annotate([{"context": CONTEXT, "question": "When does it leave?"}])[0]
    asked = annotator.ask("When does it leave?", CONTEXT)
    assert asked == {name: row["qa_" + name] for name in ("answer", "start", "end", "score", "no_answer")}
    assert CONTEXT[asked["start"] : asked["end"]] == asked["answer"]


def rounded(answers: Any) -> Any:
    """The answers with scores as they are equal whatever is scored beside them."""
    if isinstance(answers, list):
        return [rounded(each) for each in answers]
    return {**answers, "score": round(answers["score"], 4)}


def test_lists_are_answered_one_by_one_and_a_single_text_goes_with_each(annotator: Annotator) -> None:
    questions, contexts = ["When?", "From where?"], [CONTEXT, "It left at nine from the south pier."]
    each = [annotator.ask(q, c) for q, c in zip(questions, contexts, strict=True)]
    assert rounded(annotator.ask(questions, contexts)) == rounded(each)
    for asked, context in (("When?", contexts), (questions, CONTEXT)):
        pairs = (
            [("When?", each) for each in contexts] if asked == "When?" else [(q, CONTEXT) for q in questions]
        )
        assert rounded(annotator.ask(asked, context)) == rounded([annotator.ask(*pair) for pair in pairs])
    assert annotator.ask(["When?"], CONTEXT) == [annotator.ask("When?", CONTEXT)]
    assert annotator.ask([], CONTEXT) == []


def test_the_best_answers_are_a_list_that_begins_with_the_decision(annotator: Annotator) -> None:
    best = annotator.ask("When?", CONTEXT, top_k=3)
    assert len(best) == 3
    assert best[0] == annotator.ask("When?", CONTEXT)
    assert [each["score"] for each in best] == sorted((each["score"] for each in best), reverse=True)
    assert len({(each["start"], each["end"]) for each in best}) == 3
    assert annotator.ask(["When?", "Who?"], CONTEXT, top_k=2)[0][0]["answer"] == best[0]["answer"]


def test_no_answer_is_said_only_where_it_may_be(bundles: Callable[..., Path]) -> None:
    with Annotator(bundles(), device="cpu", batch_tokens=512, no_answer_threshold=-1e6) as annotator:
        refused = annotator.ask("When?", CONTEXT)
        assert (refused["answer"], refused["start"], refused["no_answer"]) == (None, None, True)
        forced = annotator.ask("When?", CONTEXT, handle_impossible_answer=False)
        assert forced["answer"]
        assert forced["no_answer"] is None
        both = annotator.ask("When?", CONTEXT, top_k=2, handle_impossible_answer=True)
        assert [each["no_answer"] for each in both] == [True, False]


def test_a_text_that_cannot_be_judged_says_why_and_costs_the_others_nothing(annotator: Annotator) -> None:
    empty, fine = annotator.ask(["", "When?"], CONTEXT)
    assert empty["error"] == "empty_question"
    assert empty["answer"] is None
    assert "error" not in fine


def test_a_mistake_in_asking_is_an_error_of_python(annotator: Annotator) -> None:
    with pytest.raises(ValueError, match="2 questions and 3 contexts"):
        annotator.ask(["a", "b"], ["x", "y", "z"])
    with pytest.raises(TypeError, match="question must be a text or a list of texts, not of int"):
        annotator.ask([1], CONTEXT)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        annotator.ask("When?", CONTEXT, top_k=0)


def test_what_only_the_road_needs_is_no_method_of_an_annotator() -> None:
    assert not hasattr(Annotator, "answer")


def test_a_list_of_no_rows_is_a_list_of_no_rows(annotator: Annotator) -> None:
    assert annotator.annotate([]) == []


def test_names_of_a_data_frame_that_are_no_texts_stay_as_they_are(annotator: Annotator) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([[7, CONTEXT, "When?"]], columns=[0, "context", "question"])
    assert annotator.annotate(frame).columns.tolist()[:4] == [0, "context", "question", "qa_answer"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (pd.DataFrame({"context": ["c"], "question": ["q"], "n": [2**70]}), "too large"),
        ([{"context": "c", "question": "q", 5: 1}], "column names must be text, not 5"),
        (pl.Series("context", ["c"]), "cannot become an Arrow table"),
    ],
)
def test_what_arrow_cannot_hold_is_an_error_of_the_input(annotator: Annotator, given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        annotator.annotate(given)


def test_half_of_a_surrogate_pair_is_an_error_of_the_input(annotator: Annotator) -> None:
    with pytest.raises(InputError, match=r"column 'context' .*surrogates"):
        annotator.annotate([{"context": "a \ud800", "question": "What?"}])
    with pytest.raises(InputError, match="cannot be written as UTF-8"):
        annotator.ask("What \ud800?", CONTEXT)


def test_batches_of_a_stream_that_differ_are_made_like_the_first_or_refused(
    annotator: Annotator,
) -> None:
    first = pa.record_batch({"n": [1.5], "context": [CONTEXT], "question": ["When?"]})
    turned = pa.record_batch({"question": ["Where?"], "context": [CONTEXT], "n": [2]})
    out = pa.Table.from_batches(annotator.stream(iter([first, turned])))
    assert out["n"].to_pylist() == [1.5, 2.0]
    assert out["question"].to_pylist() == ["When?", "Where?"]
    more = pa.record_batch({"n": [1.0], "context": [CONTEXT], "question": ["When?"], "note": ["lost?"]})
    with pytest.raises(InputError, match="batch 2 has the columns n, context, question, note"):
        list(annotator.stream([first, more]))
    other = turned.set_column(2, "n", pa.array(["x"]))
    with pytest.raises(InputError, match="batch 2 has other types"):
        list(annotator.stream([first, other]))
    with pytest.raises(TypeError, match=r"a stream is of pyarrow\.RecordBatch, not pyarrow\.lib\.Table"):
        list(annotator.stream([TABLE]))
