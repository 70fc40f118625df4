"""The questions of a job: files of every kind, templates, and what is said of a mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchqa.errors import SettingsError
from batchqa.settings import AskingSettings
from batchqa.steps.asking import Questions

TABLES = """
# two questions
[[questions]]
name = "brand"
question = "What brand is {item}?"
threshold = -1.5

[[questions]]
name = "price"
question = "What does it cost?"
"""
NAMED = """
price = "What does it cost?"
[brand]
question = "What brand is {item}?"
threshold = -1.5
"""
LINES = (
    '{"name": "brand", "question": "What brand is {item}?", "threshold": -1.5}\n\n'
    '{"name": "price", "question": "What does it cost?"}\n'
)
SEMICOLONS = "question;name;threshold\r\nWhat brand is {item}?;brand;-1.5\r\nWhat does it cost?;price;\r\n"
TABS = "name\tquestion\tthreshold\nbrand\tWhat brand is {item}?\t-1.5\nprice\tWhat does it cost?\t\n"


def _read(path: Path) -> dict[str, tuple[str, float | None]]:
    questions = Questions.of(AskingSettings(questions=str(path)))
    assert questions is not None
    return {item.name: (item.text, item.threshold) for item in questions.items}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.toml", TABLES),
        ("n.toml", NAMED),
        ("q.jsonl", LINES),
        ("q.json", "[" + LINES.strip().replace("\n\n", ",\n") + "]"),
        ("q.csv", "\ufeff" + SEMICOLONS),
        ("excel.csv", "\ufeffsep=;\r\n" + SEMICOLONS),
        ("blank.csv", "\n\n" + SEMICOLONS),
        ("upper.csv", SEMICOLONS.replace("question;name;threshold", "Question;NAME;Threshold")),
        ("wide.csv", SEMICOLONS.replace("\r\n", ";;\r\n")),
        ("q.tsv", TABS),
    ],
)
def test_a_file_of_every_kind_gives_the_same_questions(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert _read(path) == {"brand": ("What brand is {item}?", -1.5), "price": ("What does it cost?", None)}


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0b", "\x0c"])
def test_lines_of_a_question_file_end_at_newlines_only(tmp_path: Path, mark: str) -> None:
    text = f"What is{mark}it?"
    (tmp_path / "q.jsonl").write_text(json.dumps({"name": "a", "question": text}, ensure_ascii=mark < " "))
    (tmp_path / "q.csv").write_text(f"name,question\na,{text}\n")
    assert _read(tmp_path / "q.jsonl") == _read(tmp_path / "q.csv") == {"a": (text, None)}


def test_a_parquet_file_gives_questions(tmp_path: Path) -> None:
    path = tmp_path / "questions"
    pq.write_table(pa.table({"name": ["a", "b"], "question": ["A?", "B?"], "threshold": [None, 2.0]}), path)
    assert _read(path) == {"a": ("A?", None), "b": ("B?", 2.0)}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("q.jsonl", '{"name": "a", "question": "A?"}\n{"name": "a"', r"q\.jsonl:2: this is not JSON"),
        ("q.jsonl", '\n["a"]', r"q\.jsonl:2: this is not an object"),
        (
            "q.jsonl",
            '{"name": "a", "queston": "A?"}',
            r"q\.jsonl:1: unknown key 'queston'; did you mean question",
        ),
        (
            "q.jsonl",
            '{"name": "a b", "question": "A?"}',
            r"q\.jsonl:1: a question is named 'a b'; name it with .*, such as a_b",
        ),
        ("q.jsonl", '{"question": "A?"}', r"q\.jsonl:1: a question has no name"),
        ("q.jsonl", '{"name": "a", "question": " "}', r"q\.jsonl:1: question 'a' has no text"),
        (
            "q.jsonl",
            '{"name": "a", "question": "A?", "threshold": "x"}',
            r"q\.jsonl:1: the threshold must be",
        ),
        *(
            (
                "q.jsonl",
                f'{{"name": "a", "question": "A?", "answers": {wrong}}}',
                r"q\.jsonl:1: answers must be best",
            )
            for wrong in ("0", "-1", "1001", "1.5", "true", '"any"', "[2]")
        ),
        (
            "q.jsonl",
            '{"name": "a", "question": "{b"}',
            r"q\.jsonl:1: question 'a' has \{ without \}; write \{\{",
        ),
        (
            "q.jsonl",
            '{"name": "a", "question": "{ }"}',
            r"q\.jsonl:1: question 'a' has \{\} without a column",
        ),
        ("q.csv", "name,question\na,A?\nb,B?\na,C?\n", r"q\.csv:4: the name 'a' is taken .*q\.csv:2;"),
        ("q.csv", "name,question\na,A?,b\n", r"q\.csv:2: 3 fields, and the header has 2"),
        ("q.csv", "name,question,question\na,A?,B?\n", r"q\.csv:1: two columns are named 'question'"),
        ("q.csv", "id,text\na,A?\n", r"q\.csv:1: the header must have .*; it has: id, text"),
        ("q.csv", 'name,question\na,"A?\n', r"q\.csv:2: this is not CSV"),
        (
            "q.toml",
            '[[questions]]\nname = "a"\nquestion = "A?"\n\n[[questions]]\nname = "b"\n',
            r"q\.toml:5: .*'b'",
        ),
        ("q.toml", 'a = "A?"\na = "B?"\n', r"q\.toml is not valid TOML: .*line 2"),
        ("q.toml", 'a = "A?"\n"b c" = "B?"\n', r"q\.toml:2: a question is named 'b c'"),
        ("q.toml", "", r"q\.toml has no questions"),
        ("q.xlsx", "a", r"not a file of questions: .*, as \.csv, \.tsv"),
    ],
)
def test_a_mistake_in_a_file_is_said_with_its_line_and_the_way_out(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SettingsError, match=said):
        _read(path)


def test_bytes_that_are_not_utf8_are_said_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_bytes(b"name,question\na,A?\nb,caf\xe9?\n")
    with pytest.raises(SettingsError, match=r"q\.csv:3: this is not UTF-8"):
        _read(path)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        _read(tmp_path / "none.toml")


def test_questions_of_a_file_come_before_those_of_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"name": "a", "question": "A?"}))
    questions = Questions.of(AskingSettings(ask=("b=B = C?",), questions=str(path)))
    assert questions is not None
    assert [(item.name, item.text) for item in questions.items] == [("a", "A?"), ("b", "B = C?")]


def test_a_question_without_a_name_on_the_command_line_is_refused() -> None:
    with pytest.raises(SettingsError, match="NAME=QUESTION"):
        Questions.of(AskingSettings(ask=("What is it?",)))
