"""Chunks of records -> chunks of questions: bounded, nothing repeated but numbers, put together again."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from batchqa.records import AnsweredChunk, Chunk, Rows
from batchqa.settings import AskingSettings
from batchqa.steps import chunking
from batchqa.steps.asking import Questions, asked, expanding, whole
from batchqa.steps.chunking import chunks
from tests.steps.rows import rows_of


def _questions(count: int) -> Questions:
    questions = Questions.of(
        AskingSettings(ask=tuple(f"q{number}=Question {number}?" for number in range(count)))
    )
    assert questions is not None
    return questions


def _records(sizes: list[int]) -> Rows:
    return rows_of([(f"{number:03d}" + "x" * (size - 3), None) for number, size in enumerate(sizes)])


def _answered(chunk: Chunk) -> AnsweredChunk:
    """Each row's context and question as its answer."""
    texts = [
        f"{c}|{q}"
        for c, q in zip(chunk.rows.context.to_pylist(), chunk.rows.question.to_pylist(), strict=True)
    ]
    return AnsweredChunk(
        chunk, pa.record_batch({"answer": texts}), windows=len(texts), questions_cut=1, reused_rows=2
    )


@pytest.mark.parametrize("count", [1, 7, 60])
def test_a_chunk_of_many_records_has_no_more_questions_and_text_than_one_of_rows(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [50, 60_000] * 100
    monkeypatch.setattr(chunking, "CHUNK_BYTES", 2**20)
    cut = list(chunks([_records(sizes)], 1000, questions=count))
    assert sum(len(chunk.rows) for chunk in cut) == len(sizes)
    for chunk in cut:
        pieces = list(asked([chunk], _questions(count)))
        assert len(chunk.rows) == 1 or len(pieces) == 1
        for piece in pieces:
            text = pc.sum(pc.binary_length(piece.rows.context.dictionary_decode())).as_py()
            assert len(piece.rows) <= (chunking.CHUNK_ROWS if len(chunk.rows) > 1 else expanding.MOST_ROWS)
            assert text <= (2**20 if len(chunk.rows) > 1 else expanding.MOST_BYTES)


def test_chunks_of_lists_are_bounded_by_their_questions() -> None:
    lists = pa.array([[{"name": None, "question": "Q?"}] * count for count in (1, 3000, 2000, 0, 5000, 1)])
    rows = rows_of([("c", None)] * 6)
    rows = Rows(
        rows.columns,
        rows.context,
        lists.cast(expanding.QUESTIONS_TYPE),
        {},
        0,
        rows.cursor_after,
        rows.locate,
    )
    cut = list(chunks([rows.slice(0, 2), rows.slice(2, 6)], 100))
    assert [len(chunk.rows) for chunk in cut] == [2, 2, 1, 1]
    assert [len(piece.rows) for piece in asked(cut, None)] == [3001, 2001, 5000, 1]


def test_a_record_of_very_many_questions_comes_in_pieces_and_is_put_together_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(expanding, "MOST_ROWS", 4)
    (chunk,) = chunks([_records([10, 10])], 100, questions=5)
    pieces = list(asked([chunk], _questions(5)))
    assert [len(piece.rows) for piece in pieces] == [4, 4, 2]
    assert [piece.last_of_part for piece in pieces] == [False, False, True]
    (together,) = whole(map(_answered, pieces))
    assert together.chunk is chunk
    assert together.asked is not None
    contexts = chunk.rows.context.to_pylist()
    assert together.answers["answer"].to_pylist() == [
        f"{c}|Question {n}?" for c in contexts for n in range(5)
    ]
    assert together.asked.record.tolist() == [0] * 5 + [1] * 5
    assert (together.windows, together.questions_cut, together.reused_rows) == (10, 3, 6)


def test_pieces_are_bounded_by_the_text_that_their_windows_will_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expanding, "MOST_BYTES", 2500)
    (chunk,) = chunks([_records([1000])], 100, questions=5)
    assert [len(piece.rows) for piece in asked([chunk], _questions(5))] == [2, 2, 1]


def test_a_context_is_held_once_however_many_questions_it_has() -> None:
    (chunk,) = chunks([_records([20_000] * 3)], 100, questions=100)
    (piece,) = asked([chunk], _questions(100))
    assert len(piece.rows.context) == 300
    assert piece.rows.context.nbytes < 70_000
    assert len(piece.rows.question.dictionary) == 100


def test_thresholds_go_with_their_questions() -> None:
    questions = Questions.given({"a": "A?", "b": {"question": "B?", "threshold": 2}}, "long")
    (piece,) = asked(chunks([_records([10, 10])], 100), questions)
    assert piece.asked is not None
    assert piece.asked.threshold is not None
    np.testing.assert_equal(piece.asked.threshold, [np.nan, 2, np.nan, 2])
