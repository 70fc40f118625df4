"""SQuAD documents as columns."""

from __future__ import annotations

import copy
import gzip
import json
import math
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from batchqa.errors import InputError
from batchqa.settings import ReadingSettings
from batchqa.steps.reading import Source, open_source

DOCUMENT: dict[str, Any] = {
    "version": "v2.0",
    "data": [
        {
            "title": "Bread",
            "paragraphs": [
                {
                    "context": "Bread is made of flour 🍞.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "What is bread made of?",
                            "answers": [
                                {"text": "flour", "answer_start": 17},
                                {"text": "of flour", "answer_start": 14},
                            ],
                            "is_impossible": False,
                        },
                        {
                            "id": "2",
                            "question": "Who ate it?",
                            "answers": [],
                            "plausible_answers": [{"text": "Bread", "answer_start": 0}],
                            "is_impossible": True,
                        },
                    ],
                },
                {"context": "No question.", "qas": []},
            ],
        },
        {
            "paragraphs": [
                {
                    "context": "Second.",
                    "qas": [
                        {"id": "3", "question": "Which?", "answers": [{"text": "Second", "answer_start": 0}]}
                    ],
                }
            ]
        },
    ],
}


def opened(path: Path, document: Any, *, pretty: bool = False) -> Source:
    path.write_text(json.dumps(document, indent=2 if pretty else None))  # writes NaN and half surrogate pairs
    return open_source([str(path)], ReadingSettings())


@pytest.mark.parametrize("pretty", [False, True])
def test_a_squad_document_becomes_its_columns_also_pretty_printed(tmp_path: Path, pretty: bool) -> None:
    source = opened(tmp_path / "x.json", DOCUMENT, pretty=pretty)
    [rows] = source.read()
    assert (source.files[0].format, source.rows, source.files[0].rows) == ("squad", 3, 3)
    assert source.schema == rows.columns.schema
    answers = pa.struct({"text": pa.list_(pa.string()), "answer_start": pa.list_(pa.int32())})
    assert source.schema == pa.schema(
        {
            "id": pa.string(),
            "title": pa.string(),
            "context": pa.string(),
            "question": pa.string(),
            "answers": answers,
            "is_impossible": pa.bool_(),
        }
    )
    assert rows.columns.to_pydict() == {
        "id": ["1", "2", "3"],
        "title": ["Bread", "Bread", None],
        "context": ["Bread is made of flour 🍞.", "Bread is made of flour 🍞.", "Second."],
        "question": ["What is bread made of?", "Who ate it?", "Which?"],
        "answers": [
            {"text": ["flour", "of flour"], "answer_start": [17, 14]},
            {"text": [], "answer_start": []},
            {"text": ["Second"], "answer_start": [0]},
        ],
        "is_impossible": [False, True, False],
    }
    assert rows.context.to_pylist() == rows.columns.column("context").to_pylist()
    assert not rows.faults


def test_a_compressed_document_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + orjson.dumps(DOCUMENT)))
    assert open_source([str(tmp_path)], ReadingSettings()).rows == 3


def test_a_document_larger_than_the_first_look_is_recognized(tmp_path: Path) -> None:
    document = copy.deepcopy(DOCUMENT)
    document["data"][0]["paragraphs"][0]["context"] = "long " * 500_000
    assert opened(tmp_path / "x.json", document).rows == 3


def test_jsonl_records_that_have_a_key_data_are_not_squad(tmp_path: Path) -> None:
    record = orjson.dumps({"context": "c", "question": "q", "data": [1]})
    (tmp_path / "x.jsonl").write_bytes(record + b"\n")
    assert open_source([str(tmp_path)], ReadingSettings()).files[0].format == "jsonl"


def test_batches_are_bounded_and_resume_at_any_question(tmp_path: Path) -> None:
    document = copy.deepcopy(DOCUMENT)
    paragraph = document["data"][0]["paragraphs"][0]
    paragraph["context"] = "x" * 100_000
    paragraph["qas"] = [{"id": str(i), "question": "q", "answers": []} for i in range(1_000)]
    source = opened(tmp_path / "x.json", document)
    batches = list(source.read())
    assert all(rows.columns.nbytes < 10 * 2**20 for rows in batches)
    names = [name for rows in batches for name in rows.columns.column("id").to_pylist()]
    assert names == [*map(str, range(1_000)), "3"]
    done = len(batches[0])
    rest = [
        n
        for rows in source.read(batches[0].cursor_after(done), done)
        for n in rows.columns.column("id").to_pylist()
    ]
    assert rest == names[done:]


def test_whether_a_question_without_answers_is_impossible_stays_unknown_where_it_is_not_said(
    tmp_path: Path,
) -> None:
    document = copy.deepcopy(DOCUMENT)
    del document["data"][0]["paragraphs"][0]["qas"][1]["is_impossible"]
    [rows] = opened(tmp_path / "x.json", document).read()
    assert rows.columns.column("is_impossible").to_pylist() == [False, None, False]


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (["data", 0, "paragraphs", 1, "qas"], {}, "data[0].paragraphs[1].qas is not an array"),
        (["data", 1, "paragraphs"], 1, "data[1].paragraphs is not an array"),
        (["data", 1], [], "data[1] is not an object"),
        (["data", 0, "paragraphs", 0], "flour", "data[0].paragraphs[0] is not an object"),
    ],
)
def test_a_malformed_document_is_refused_with_the_path_inside_it(
    tmp_path: Path, where: list[Any], value: Any, said: str
) -> None:
    with pytest.raises(InputError) as caught:
        opened(tmp_path / "x.json", _changed(where, value))
    assert said in str(caught.value)
    assert "x.json" in str(caught.value)
    assert "flour" not in str(caught.value)


_DELETED = object()


def _changed(where: list[Any], value: Any) -> Any:
    document = copy.deepcopy(DOCUMENT)
    parent: Any = document
    for step in where[:-1]:
        parent = parent[step]
    if value is _DELETED:
        del parent[where[-1]]
    else:
        parent[where[-1]] = value
    return document


_FIRST = ["data", 0, "paragraphs", 0]
_QUESTION = [*_FIRST, "qas", 0]


@pytest.mark.parametrize(
    ("where", "value", "column", "expected"),
    [
        ([*_QUESTION, "id"], 17, "id", "17"),
        ([*_QUESTION, "id"], _DELETED, "id", None),
        ([*_QUESTION, "id"], None, "id", None),
        (["data", 0, "title"], None, "title", None),
        (["data", 0, "title"], 5, "title", "5"),
        (["data", 0, "title"], _DELETED, "title", None),
        ([*_QUESTION, "is_impossible"], None, "is_impossible", False),
        ([*_QUESTION, "answers"], None, "answers", {"text": [], "answer_start": []}),
        ([*_QUESTION, "answers"], [], "answers", {"text": [], "answer_start": []}),
        ([*_QUESTION, "answers"], [{"text": "x"}], "answers", {"text": ["x"], "answer_start": [None]}),
        ([*_QUESTION, "answers"], ["x"], "answers", {"text": ["x"], "answer_start": [None]}),
        ([*_QUESTION, "answers"], "x", "answers", {"text": ["x"], "answer_start": [None]}),
        ([*_QUESTION, "answers"], [{"text": 1987}], "answers", {"text": ["1987"], "answer_start": [None]}),
        ([*_QUESTION, "is_impossible"], 0, "is_impossible", False),
        ([*_QUESTION, "is_impossible"], 1, "is_impossible", True),
        ([*_QUESTION, "answers", 0, "answer_start"], 20.0, "answers", None),
        (
            [*_QUESTION, "answers"],
            {"text": "x", "answer_start": 2},
            "answers",
            {"text": ["x"], "answer_start": [2]},
        ),
        (
            [*_QUESTION, "answers"],
            {"text": ["x", "y"], "answer_start": [2, 3.0]},
            "answers",
            {"text": ["x", "y"], "answer_start": [2, 3]},
        ),
    ],
)
def test_what_a_run_does_not_need_may_be_missing_or_written_in_other_ways(
    tmp_path: Path, where: list[Any], value: Any, column: str, expected: Any
) -> None:
    [rows] = opened(tmp_path / "x.json", _changed(where, value)).read()
    assert not rows.faults
    found = rows.columns.column(column)[0].as_py()
    assert (found["answer_start"][0] if value == 20.0 else found) == (20 if value == 20.0 else expected)


@pytest.mark.parametrize(
    ("where", "value", "code", "said"),
    [
        ([*_QUESTION, "question"], None, "null_question", "the question is null"),
        ([*_QUESTION, "question"], _DELETED, "missing_question", "paragraphs[0].qas[0].question is missing"),
        ([*_QUESTION, "question"], 5, "type_question", "qas[0].question is not a string"),
        (_QUESTION, "flour", "not_an_object", "qas[0] is not an object"),
        ([*_QUESTION, "id"], ["flour"], "type_field", "qas[0].id is not a string"),
        ([*_QUESTION, "is_impossible"], "flour", "type_field", "is_impossible is not true or false"),
        ([*_QUESTION, "answers"], 5, "type_field", "answers is not an array"),
        ([*_QUESTION, "answers"], [5], "type_field", "holds something that is not an object"),
        ([*_QUESTION, "answers"], [{"text": None}], "type_field", "an answer without a text"),
        ([*_QUESTION, "answers"], [{"text": []}], "type_field", "text is not a string"),
        ([*_QUESTION, "question"], "half \ud800", "bad_utf8", "surrogate pair"),
        ([*_QUESTION, "id"], "half \ud800", "type_field", "surrogate pair"),
        ([*_QUESTION, "answers", 0, "answer_start"], math.nan, "type_field", "not a 32-bit integer"),
        ([*_QUESTION, "answers", 0, "answer_start"], 1.5, "type_field", "not a 32-bit integer"),
        ([*_QUESTION, "answers", 0, "answer_start"], 2**31, "type_field", "not a 32-bit integer"),
        ([*_QUESTION, "answers"], {"text": ["x"], "answer_start": [1, 2]}, "type_field", "not as long as"),
    ],
)
def test_a_bad_question_is_the_fault_of_its_row_and_all_others_are_read(
    tmp_path: Path, where: list[Any], value: Any, code: str, said: str
) -> None:
    [good] = opened(tmp_path / "x.json", DOCUMENT).read()
    [rows] = opened(tmp_path / "x.json", _changed(where, value)).read()
    assert [(row, fault.code) for row, fault in rows.faults.items()] == [(0, code)]
    assert said in rows.faults[0].detail
    assert "flour" not in rows.faults[0].detail
    assert rows.question.to_pylist()[1:] == good.question.to_pylist()[1:]


@pytest.mark.parametrize(
    ("value", "code"), [(None, "null_context"), (_DELETED, "missing_context"), (5, "type_context")]
)
def test_a_bad_context_is_a_fault_of_its_own_questions_only(tmp_path: Path, value: Any, code: str) -> None:
    [rows] = opened(tmp_path / "x.json", _changed([*_FIRST, "context"], value)).read()
    of_first = len(DOCUMENT["data"][0]["paragraphs"][0]["qas"])
    assert {fault.code for fault in rows.faults.values()} == {code}
    assert sorted(rows.faults) == list(range(of_first))


def test_a_list_of_paragraphs_is_read_as_simpletransformers_does(tmp_path: Path) -> None:
    paragraphs = [paragraph for article in DOCUMENT["data"] for paragraph in article["paragraphs"]]
    [whole] = opened(tmp_path / "x.json", DOCUMENT).read()
    [rows] = opened(tmp_path / "x.json", paragraphs).read()
    assert rows.columns.drop_columns(["title"]).equals(whole.columns.drop_columns(["title"]))


def test_a_schema_that_is_not_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(DOCUMENT))
    source = open_source([str(tmp_path / "x.json")], ReadingSettings(schema="id:int64"))
    assert any("--schema applies to JSON and CSV" in note for note in source.notes)


def test_a_list_of_articles_is_read_like_the_document_that_holds_it(tmp_path: Path) -> None:
    [whole] = opened(tmp_path / "x.json", DOCUMENT).read()
    [rows] = opened(tmp_path / "x.json", DOCUMENT["data"]).read()
    assert rows.columns.equals(whole.columns)


@pytest.mark.parametrize("value", [None, _DELETED])
def test_an_article_or_a_paragraph_without_its_list_has_no_questions(tmp_path: Path, value: Any) -> None:
    without_qas = opened(tmp_path / "x.json", _changed([*_FIRST, "qas"], value))
    assert [row["id"] for rows in without_qas.read() for row in rows.columns.to_pylist()] == ["3"]
    without_paragraphs = opened(tmp_path / "x.json", _changed(["data", 0, "paragraphs"], value))
    assert without_paragraphs.rows == 1
    paragraphs = [{"context": "No question."}, *DOCUMENT["data"][1]["paragraphs"]]
    assert opened(tmp_path / "x.json", paragraphs).rows == 1


@pytest.mark.parametrize("pretty", [False, True])
def test_a_document_without_articles_has_no_rows(tmp_path: Path, pretty: bool) -> None:
    assert opened(tmp_path / "x.json", {"version": "v2.0", "data": []}, pretty=pretty).rows == 0


def test_a_cut_document_is_refused_with_the_place_of_the_cut(tmp_path: Path) -> None:
    whole = orjson.dumps(DOCUMENT, option=orjson.OPT_INDENT_2)
    (tmp_path / "x.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"x\.json is not a valid JSON document: .*, line \d+"):
        open_source([str(tmp_path)], ReadingSettings())
