"""Gold answers in every shape that data sets have: which texts they are, and where they begin."""

from __future__ import annotations

import pyarrow as pa
import pytest

from batchqa.errors import InputError
from batchqa.gold import gold_column, read_gold

SHAPES: dict[str, tuple[pa.Array, list[list[str]], list[list[int | None]]]] = {
    "SQuAD's struct": (
        pa.array([{"text": ["a", "b"], "answer_start": [0, 7]}, {"text": [], "answer_start": []}, None]),
        [["a", "b"], [], []],
        [[0, 7], [], []],
    ),
    "starts that pandas made floats of": (
        pa.array([{"text": ["a"], "answer_start": [20.0]}]),
        [["a"]],
        [[20]],
    ),
    "a list of structs": (
        pa.array([[{"text": "a", "answer_start": 4}, {"text": None, "answer_start": 5}], None]),
        [["a"], []],
        [[4], []],
    ),
    "texts": (pa.array([["a", None, "b"], [], None]), [["a", "b"], [], []], [[None, None], [], []]),
    "one text": (pa.array(["a", "", None]), [["a"], [], []], [[None], [], []]),
    "a struct of one text": (pa.array([{"text": "a"}, {"text": None}]), [["a"], []], [[None], []]),
    "JSON as text": (
        pa.array(['{"text": ["a"], "answer_start": [3]}', '["b", "c"]', None]),
        [["a"], ["b", "c"], []],
        [[3], [None, None], []],
    ),
    "a text that only begins like JSON": (pa.array(["[1] a", "b"]), [["[1] a"], ["b"]], [[None], [None]]),
    "views and fixed sizes": (
        pa.array([["a"], ["b"]], pa.list_view(pa.string_view())),
        [["a"], ["b"]],
        [[None], [None]],
    ),
    "a dictionary": (
        pa.array(["a", None, "a"]).dictionary_encode(),
        [["a"], [], ["a"]],
        [[None], [], [None]],
    ),
    "nothing": (pa.nulls(2), [[], []], [[], []]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_texts_and_starts_of_every_shape_are_found(shape: str) -> None:
    column, texts, starts = SHAPES[shape]
    gold = read_gold(pa.chunked_array([column.slice(0, 1), column.slice(1)]), "answers")
    assert gold.texts.to_pylist() == texts
    assert gold.starts.to_pylist() == starts


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1998]), "of type int64, not gold answers"),
        (pa.array([[1]]), "of type list<item: int64>"),
        (pa.array(["{'text': ['a']}"]), "Python's notation"),
    ],
)
def test_what_is_no_gold_answers_is_refused_with_its_type(column: pa.Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_gold(column, "file: column 'answers'")


def test_the_column_is_the_one_named_or_the_usual_one() -> None:
    assert gold_column(["id", "answer", "answers"]) == "answers"
    assert gold_column(["id", "answer"]) == "answer"
    assert gold_column(["id"], "gold") == "gold"
    assert gold_column(["id"]) is None
