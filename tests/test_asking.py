"""Many questions of every record: the same answers as row by row, in both layouts, and nothing lost."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchqa
from batchqa import Annotator, InputError, LimitError, PreconditionError, SettingsError
from batchqa.cli.describe import describe
from batchqa.cli.rendering import render, render_facts
from batchqa.job import dry_run
from tests.models import SENTENCES

ASKED = {
    "closed": "Why was {thing} closed?",
    "cost": "How much did it cost in {year}?",
    "who": "Who repaired the bridge?",
    "brace": "What is {{this}}?",
}
PARTS = ("answer", "start", "end", "no_answer", "null_odds", "score")


def _document(number: int, sentences: int) -> dict[str, Any]:
    text = " ".join(SENTENCES[(number + at) % len(SENTENCES)] for at in range(sentences))
    return {"id": f"d{number}", "context": text, "thing": f"bridge {number}", "year": 1980 + number}


DOCUMENTS = [_document(number, sentences) for number, sentences in enumerate((1, 40, 3, 40, 90, 2))]
"""One window each, and many."""


def _question(name: str, row: dict[str, Any]) -> str:
    return ASKED[name].format(**row) if name != "brace" else "What is {this}?"


def _crossed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a user without `--ask` would make: a row for each record and question."""
    return [{**row, "name": name, "question": _question(name, row)} for row in rows for name in ASKED]


@pytest.fixture(scope="module")
def annotator(tiny_bundle: Path) -> Iterator[Annotator]:
    with Annotator(tiny_bundle, device="cpu", in_process=True, top_k=2, max_length=128, stride=32) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def row_by_row(annotator: Annotator) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = annotator.annotate(pa.Table.from_pylist(_crossed(DOCUMENTS))).to_pylist()
    return answers


def _same(answers: list[dict[str, Any]], expected: list[dict[str, Any]], prefix: str = "qa_") -> None:
    assert len(answers) == len(expected)
    for own, other in zip(answers, expected, strict=True):
        for part in PARTS[:4]:
            assert own[prefix + part] == other[f"qa_{part}"]
        for part in PARTS[4:]:
            assert own[prefix + part] == pytest.approx(other[f"qa_{part}"], abs=1e-5)
        spans = [(c["start"], c["end"]) for c in own[f"{prefix}candidates"]]
        assert spans == [(c["start"], c["end"]) for c in other["qa_candidates"]]


def test_the_long_layout_equals_the_rows_crossed_by_hand(
    annotator: Annotator, row_by_row: list[dict[str, Any]]
) -> None:
    long = annotator.annotate(pa.Table.from_pylist(DOCUMENTS), ASKED).to_pylist()
    _same(long, row_by_row)
    for own, other in zip(long, row_by_row, strict=True):
        assert (own["qa_name"], own["qa_question"]) == (other["name"], other["question"])
        assert {key: own[key] for key in DOCUMENTS[0]} == {key: other[key] for key in DOCUMENTS[0]}


def test_the_wide_layout_equals_the_rows_crossed_by_hand(
    annotator: Annotator, row_by_row: list[dict[str, Any]]
) -> None:
    wide = annotator.annotate(pa.Table.from_pylist(DOCUMENTS), ASKED, layout="wide").to_pylist()
    assert [{key: row[key] for key in DOCUMENTS[0]} for row in wide] == DOCUMENTS
    _same([row[f"qa_{name}"] for row in wide for name in ASKED], row_by_row, prefix="")


@pytest.mark.parametrize("as_structs", [True, False], ids=["structs", "texts"])
def test_a_column_of_lists_equals_the_rows_crossed_by_hand(
    annotator: Annotator, row_by_row: list[dict[str, Any]], as_structs: bool
) -> None:
    rows = [
        {
            **row,
            "question": [
                {"name": name, "question": _question(name, row)} if as_structs else _question(name, row)
                for name in ASKED
            ],
        }
        for row in DOCUMENTS
    ]
    asked = annotator.annotate(pa.Table.from_pylist(rows)).to_pylist()
    _same(asked, row_by_row)
    assert [row["qa_name"] for row in asked] == [row["name"] if as_structs else None for row in row_by_row]
    assert [row["qa_question"] for row in asked] == [row["question"] for row in row_by_row]


def _written(path: Path, rows: list[dict[str, Any]], kind: str) -> Path:
    file = path / f"documents.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif kind == "csv":
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _run(inputs: Path, output: Path, bundle: Path, **options: Any) -> batchqa.job.Summary:
    defaults = {
        "ask": ASKED,
        "in_process": True,
        "device": "cpu",
        "max_length": 128,
        "stride": 32,
        "top_k": 2,
    }
    return batchqa.run(inputs, output, model=bundle, **{**defaults, **options})


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_a_job_asks_its_questions_of_rows_of_every_format(
    tmp_path: Path, tiny_bundle: Path, row_by_row: list[dict[str, Any]], kind: str
) -> None:
    inputs = _written(tmp_path, DOCUMENTS, kind)
    summary = _run(inputs, tmp_path / "long.parquet", tiny_bundle, part_rows=4)
    table = pq.read_table(tmp_path / "long.parquet")
    assert table.column_names[:7] == [*DOCUMENTS[0], "qa_name", "qa_question", "qa_answer"]
    _same(table.to_pylist(), row_by_row)
    assert (summary.rows, summary.questions) == (6, 24)
    assert summary.answered + summary.no_answer == 24
    _run(inputs, tmp_path / "wide.parquet", tiny_bundle, part_rows=4, layout="wide")
    table = pq.read_table(tmp_path / "wide.parquet")
    assert table.column_names == [*DOCUMENTS[0], *(f"qa_{name}" for name in ASKED)]
    _same([row[f"qa_{name}"] for row in table.to_pylist() for name in ASKED], row_by_row, prefix="")


@pytest.mark.parametrize("layout", ["long", "wide"])
def test_json_lines_keep_the_original_line_beside_the_answers(
    tmp_path: Path, tiny_bundle: Path, layout: str
) -> None:
    inputs = tmp_path / "in.jsonl"
    inputs.write_text('{"context": "It rained.",  "n":1.50}\n')
    asks = {"a": "Did it rain?", "b": "When?"}
    _run(inputs, tmp_path / "out.jsonl", tiny_bundle, ask=asks, layout=layout)
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert len(lines) == (2 if layout == "long" else 1)
    assert all(line.startswith('{"context": "It rained.",  "n":1.50,"qa_') for line in lines)


def test_a_job_that_was_stopped_is_resumed_to_the_same_bytes(tmp_path: Path, tiny_bundle: Path) -> None:
    inputs = _written(tmp_path, DOCUMENTS, "parquet")

    def stop(progress: batchqa.job.Progress) -> None:
        if progress.rows > 2:  # the first part is committed, for it is told before its commit
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(inputs, tmp_path / "out.parquet", tiny_bundle, part_rows=2, progress=stop)
    assert _run(inputs, tmp_path / "out.parquet", tiny_bundle, part_rows=2).resumed_rows >= 2
    _run(inputs, tmp_path / "whole.parquet", tiny_bundle, part_rows=2)
    assert pq.read_table(tmp_path / "out.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))


def test_other_questions_thresholds_and_layouts_are_another_job(tmp_path: Path, tiny_bundle: Path) -> None:
    inputs, output = _written(tmp_path, DOCUMENTS[:1], "jsonl"), tmp_path / "out.parquet"
    _run(inputs, output, tiny_bundle, ask={"a": "Why?"})
    file = tmp_path / "questions.jsonl"
    file.write_text('{"name": "a", "question": "Why?"}\n')
    assert _run(inputs, output, tiny_bundle, ask={}, questions=str(file)).already_done
    for change in ({"ask": {"a": "How?"}}, {"ask": {"b": "Why?"}}, {"layout": "wide"}):
        with pytest.raises(PreconditionError):
            _run(inputs, output, tiny_bundle, **{"ask": {"a": "Why?"}, **change})
    file.write_text('{"name": "a", "question": "Why?", "threshold": 1}\n')
    with pytest.raises(PreconditionError):
        _run(inputs, output, tiny_bundle, ask={}, questions=str(file))


BAD = ('{"context": "One.", "x": "a"}\n', "{bad\n", '{"context": null, "x": "a"}\n', '{"context": "Two."}\n')


@pytest.mark.parametrize("layout", ["long", "wide"])
def test_a_bad_row_counts_once_and_a_bad_question_for_itself(
    tmp_path: Path, tiny_bundle: Path, layout: str
) -> None:
    inputs = tmp_path / "in.jsonl"
    inputs.write_text("".join(BAD))
    asks = {"plain": "Who?", "held": "Who was {x}?", "other": "When?"}
    options = {"ask": asks, "layout": layout, "max_errors": 1}
    summary = _run(inputs, tmp_path / "out.parquet", tiny_bundle, **options)
    assert summary.errors == {"bad_json": 1}
    assert summary.statuses == {"null_context": 1, "null_question": 1}
    assert (summary.rows, summary.questions, summary.answered + summary.no_answer) == (4, 12, 5)
    with pytest.raises(LimitError, match=r"1 of 4 rows are errors"):
        _run(inputs, tmp_path / "none.parquet", tiny_bundle, **{**options, "max_errors": 0})
    if layout == "long":
        rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
        assert [row["qa_error"] for row in rows] == [
            *[None] * 3,
            *["bad_json"] * 3,
            *["null_context"] * 3,
            *(None, "null_question", None),
        ]
        assert "question 'held'" in rows[10]["qa_error_detail"]
        assert "x, which is null" in rows[10]["qa_error_detail"]


@pytest.mark.parametrize(("layout", "rows"), [("long", 9), ("wide", 3)])
def test_a_rejected_record_is_in_the_rejects_once_and_nowhere_else(
    tmp_path: Path, tiny_bundle: Path, layout: str, rows: int
) -> None:
    inputs = tmp_path / "in.jsonl"
    inputs.write_text("".join(BAD))
    asks = {"plain": "Who?", "held": "Who was {x}?", "other": "When?"}
    options = {"ask": asks, "layout": layout, "on_error": "reject", "max_errors": 1, "part_rows": 2}
    summary = _run(inputs, tmp_path / "out.parquet", tiny_bundle, **options)
    assert summary.rejected == 1
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == rows
    (line,) = (tmp_path / "out.parquet.rejects.jsonl").read_text().splitlines()
    assert json.loads(line)["record"] == 1
    assert json.loads(line)["error"] == "bad_json"


def test_a_record_without_any_question_has_a_row_that_says_so(annotator: Annotator) -> None:
    lists = pa.array([["Who?"], [], None, [None, "When?"]], pa.list_(pa.string()))
    rows = annotator.annotate(pa.table({"n": range(4), "context": ["It rained."] * 4, "question": lists}))
    assert rows["n"].to_pylist() == [0, 1, 2, 3, 3]
    assert rows["qa_question"].to_pylist() == ["Who?", None, None, None, "When?"]
    assert rows["qa_error"].to_pylist() == [None, "null_question", "null_question", "null_question", None]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_lists_of_questions_are_read_from_files(tmp_path: Path, tiny_bundle: Path, kind: str) -> None:
    rows = [
        {"context": "It rained.", "meta": {"asks": [{"name": "a", "question": "Did it?"}]}},
        {
            "context": "It was dry.",
            "meta": {"asks": [{"name": "b", "question": q} for q in ("Why?", "When?")]},
        },
    ]
    inputs = _written(tmp_path, rows, kind)
    options = {"ask": {}, "question": "meta.asks", "drop": ["meta"]}
    _run(inputs, tmp_path / "out.parquet", tiny_bundle, **options)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names[:3] == ["context", "qa_name", "qa_question"]
    assert table["qa_name"].to_pylist() == ["a", "b", "b"]
    assert table["qa_question"].to_pylist() == ["Did it?", "Why?", "When?"]


def test_what_is_no_question_in_a_json_list_is_a_fault_of_its_row(tmp_path: Path, tiny_bundle: Path) -> None:
    inputs = tmp_path / "in.jsonl"
    questions = (["Who?"], ["When?"], [3], {"a": 1}, 5, None)
    inputs.write_text("".join(json.dumps({"context": "So.", "question": q}) + "\n" for q in questions))
    _run(inputs, tmp_path / "out.jsonl", tiny_bundle, ask={}, max_errors=9)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["qa_error"] for row in rows[:5]] == [
        None,
        None,
        "type_question",
        "null_question",
        "type_question",
    ]
    assert rows[5]["qa_error"] == "null_question"


def test_templates_take_numbers_dates_and_nested_values_and_no_blanks(annotator: Annotator) -> None:
    table = pa.table(
        {
            "context": ["It rained."] * 3,
            "n": pa.array([7, None, 8]),
            "day": pa.array([0, 1, 2], pa.date32()),
            "of": [{"name": "Ann"}, {"name": "  "}, {"name": "Bo"}],
        }
    )
    asked = annotator.annotate(table, {"q": "{of.name} has { n } on {day}}}?", "only": "{n}"})
    assert asked["qa_question"].to_pylist() == [
        *("Ann has 7 on 1970-01-01}?", "7"),
        *(None, None),
        *("Bo has 8 on 1970-01-03}?", "8"),
    ]
    assert asked["qa_error"].to_pylist() == [None, None, "null_question", "null_question", None, None]


def test_contexts_and_questions_that_come_again_have_the_same_answers(annotator: Annotator) -> None:
    table = pa.Table.from_pylist([DOCUMENTS[2], DOCUMENTS[1], DOCUMENTS[2]])
    asked = annotator.annotate(table, {"a": "Why?", "b": "Why?"}).to_pylist()
    answers = [tuple(row[f"qa_{part}"] for part in PARTS) for row in asked]
    assert answers[0] == answers[1] == answers[4] == answers[5]
    assert answers[2] == answers[3] != answers[0]


def test_the_limit_and_a_dry_run_count_rows_and_questions(tmp_path: Path, tiny_bundle: Path) -> None:
    inputs = _written(tmp_path, DOCUMENTS, "jsonl")
    summary = _run(inputs, tmp_path / "out.parquet", tiny_bundle, limit=2, part_rows=1)
    assert (summary.rows, summary.questions) == (2, 8)
    options = {"ask": ASKED, "in_process": True, "device": "cpu", "max_length": 128, "stride": 32}
    found = dry_run(inputs, tmp_path / "no.parquet", model=tiny_bundle, limit=2, **options)
    assert (found.rows, found.questions, found.windows) == (2, 8, summary.windows)


def test_the_shares_that_a_person_reads_are_of_the_questions(tmp_path: Path, tiny_bundle: Path) -> None:
    output = tmp_path / "out.parquet"
    summary = _run(_written(tmp_path, DOCUMENTS, "parquet"), output, tiny_bundle)
    said = render(summary)
    assert f"{output}: 6 rows, 24 questions" in said
    known = render_facts(describe(str(output)))
    assert "24; 6 rows read, 24 questions" in known
    for text in (said, known):
        shares = [int(share) for share in re.findall(r"(?:answered|no answer) .*\((\d+)%\)", text)]
        assert len(shares) == 2
        assert 99 <= sum(shares) <= 101


def test_questions_on_standard_input_and_output(tmp_path: Path, tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "batchqa", "run", "-", "-o", "-", "--quiet", "--in-process"]
    done = subprocess.run(
        [*command, "--model", str(tiny_bundle), "--ask", "a = Why, or how?", "--ask", "b=When?"],
        input='{"context": "It rained."}\n{"context": "It was dry."}\n',
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["qa_question"] for row in rows] == ["Why, or how?", "When?"] * 2


def test_the_summary_says_where_a_column_that_a_question_holds_is_missing(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    inputs = _written(tmp_path, DOCUMENTS, "jsonl")
    file = tmp_path / "questions.toml"
    file.write_text(
        '[[questions]]\nname = "who"\nquestion = "Who?"\n\n[[questions]]\nname = "t"\nquestion = "{thng}?"\n'
    )
    with pytest.raises(InputError, match=r"questions\.toml:5: .*\{thng\}.* did you mean 'thing'"):
        _run(inputs, tmp_path / "out.parquet", tiny_bundle, ask={}, questions=str(file))
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_missing_column_of_a_question_is_named_in_every_format(
    tmp_path: Path, tiny_bundle: Path, kind: str
) -> None:
    inputs = _written(tmp_path, DOCUMENTS, kind)
    with pytest.raises(InputError, match=r"--ask q: .*\{yaer\}.* did you mean 'year'"):
        _run(inputs, tmp_path / "out.parquet", tiny_bundle, ask={"q": "What of {yaer}?"})


def test_a_question_cannot_hold_a_list(annotator: Annotator) -> None:
    with pytest.raises(InputError, match=r"tags.*not a single text"):
        annotator.annotate(pa.table({"context": ["a"], "tags": [["b"]]}), {"q": "Is it {tags}?"})


def test_columns_that_the_answers_would_hide_are_refused(annotator: Annotator) -> None:
    table = pa.table({"context": ["a"], "qa_q": ["b"], "qa_name": ["c"]})
    with pytest.raises(InputError, match="'qa_q'"):
        annotator.annotate(table, {"q": "Why?"}, layout="wide")
    with pytest.raises(InputError, match="'qa_name'"):
        annotator.annotate(table, {"q": "Why?"})


def test_options_that_contradict_each_other_are_refused(tmp_path: Path, tiny_bundle: Path) -> None:
    inputs = _written(tmp_path, DOCUMENTS, "jsonl")
    with pytest.raises(SettingsError, match="--layout wide"):
        _run(inputs, tmp_path / "out.parquet", tiny_bundle, ask={}, layout="wide", question="thing")
    with pytest.raises(SettingsError, match="--question"):
        _run(inputs, tmp_path / "out.parquet", tiny_bundle, question="thing")


def test_what_is_no_question_is_refused_however_python_gives_it(
    tmp_path: Path, tiny_bundle: Path, annotator: Annotator
) -> None:
    data = tmp_path / "in.jsonl"
    data.write_text('{"context": "It was built in 1894."}\n')
    for wrong in (None, 5, {"question": "When?", "threshold": 1.0}):
        with pytest.raises(SettingsError, match=r"ask\['year'\] must be the question's text"):
            batchqa.run(data, tmp_path / "out.parquet", model=tiny_bundle, ask={"year": wrong})
    with pytest.raises(TypeError, match="questions are a dict"):
        annotator.annotate([{"context": "a"}], questions=["When?"])  # type: ignore[arg-type]


def test_an_annotator_keeps_its_questions_when_it_is_pickled(tmp_path: Path, tiny_bundle: Path) -> None:
    import pickle

    file = tmp_path / "questions.csv"
    file.write_text("name,question\na,Why?\n")
    with Annotator(tiny_bundle, device="cpu", in_process=True, questions=str(file)) as own:
        sent = pickle.dumps(own)
    file.unlink()
    with pickle.loads(sent) as copy:
        assert copy.annotate(pa.table({"context": ["It rained."]}))["qa_name"].to_pylist() == ["a"]


def test_each_question_has_its_own_threshold_and_the_others_the_models(annotator: Annotator) -> None:
    table = pa.Table.from_pylist(DOCUMENTS)
    odds = annotator.annotate(table, {"a": "Why?"})["qa_null_odds"].to_pylist()
    asked = annotator.annotate(
        table,
        {
            "never": {"question": "Why?", "threshold": -1000},
            "usual": "Why?",
            "always": {"question": "Why?", "threshold": 1000},
            "again": {"question": "Why?", "threshold": -1000},
        },
        layout="wide",
    ).to_pylist()
    for row, own in zip(asked, odds, strict=True):
        flags = [row[f"qa_{name}"]["no_answer"] for name in ("never", "usual", "always", "again")]
        assert flags == [True, own > 0, False, True]


@pytest.mark.parametrize("no_answer", ["on", "off"])
def test_an_answer_below_the_least_score_is_no_answer_but_stays_a_candidate(
    tiny_bundle: Path, no_answer: str
) -> None:
    table = pa.Table.from_pylist(_crossed(DOCUMENTS))
    options = {"device": "cpu", "in_process": True, "top_k": 1, "no_answer": no_answer}
    with Annotator(tiny_bundle, **options) as plain:
        before = plain.annotate(table).to_pylist()
    least = sorted(row["qa_score"] for row in before)[len(before) // 2]
    with Annotator(tiny_bundle, min_score=least, **options) as strict:
        after = strict.annotate(table).to_pylist()
    assert any(row["qa_error"] for row in after)
    for own, other in zip(after, before, strict=True):
        low = not other["qa_no_answer"] and other["qa_score"] < least
        assert own["qa_error"] == ("low_score" if low else None)
        assert own["qa_no_answer"] == (low or bool(other["qa_no_answer"]))
        assert own["qa_answer"] == (None if low else other["qa_answer"])
        assert own["qa_score"] == other["qa_score"]
        assert own["qa_candidates"] == other["qa_candidates"]


def test_all_answers_go_by_each_questions_own_threshold(tiny_bundle: Path) -> None:
    options = {"device": "cpu", "in_process": True, "answers": "all"}
    asks = {
        "never": {"question": "Why?", "threshold": -1000},
        "always": {"question": "Why?", "threshold": 1000},
    }
    table = pa.Table.from_pylist(DOCUMENTS)
    with Annotator(tiny_bundle, **options) as every:
        rows = every.annotate(table, asks, layout="wide").to_pylist()
    with Annotator(tiny_bundle, min_score=1.0, **options) as none:
        low = none.annotate(table, asks, layout="wide").to_pylist()
    for row, other in zip(rows, low, strict=True):
        assert row["qa_never"]["answers"] == []
        assert row["qa_always"]["answers"][0]["answer"] == row["qa_always"]["answer"]
        assert other["qa_always"]["error"] == "low_score"
        assert other["qa_always"]["answers"] == []


def test_a_folder_of_text_files_is_asked(tmp_path: Path, tiny_bundle: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    for name, text in (("b.txt", "It rained."), ("a.txt", "It was dry.\n")):
        (folder / name).write_text(text)
    _run(folder, tmp_path / "out.parquet", tiny_bundle, ask={"what": "What is in {path}?", "when": "When?"})
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["context"] for row in rows] == ["It was dry.\n"] * 2 + ["It rained."] * 2
    assert rows[0]["qa_question"] == f"What is in {folder / 'a.txt'}?"
    assert [row["qa_error"] for row in rows] == [None] * 4


def test_answers_of_an_earlier_job_are_reused_where_text_and_threshold_of_a_question_are_the_same(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    def job(rows: int, output: str, threshold: str, **options: Any) -> batchqa.job.Summary:
        questions = tmp_path / "questions.jsonl"
        questions.write_text(
            f'{{"name": "a", "question": "Why?"{threshold}}}\n{{"name": "b", "question": "When?"}}\n'
        )
        inputs = _written(tmp_path, DOCUMENTS[:rows], "jsonl")
        options = {"ask": {}, "questions": str(questions), "top_k": 0, **options}
        return _run(inputs, tmp_path / output, tiny_bundle, **options)

    job(3, "first.parquet", "")
    assert job(5, "second.parquet", "", reuse=tmp_path / "first.parquet").reused_rows == 6
    job(5, "whole.parquet", "")
    first, second = (
        pq.read_table(tmp_path / name).to_pylist() for name in ("second.parquet", "whole.parquet")
    )
    assert [row["qa_answer"] for row in first] == [row["qa_answer"] for row in second]
    job(3, "own.parquet", ', "threshold": 3')
    assert job(5, "same.parquet", ', "threshold": 3', reuse=tmp_path / "own.parquet").reused_rows == 6
    assert job(5, "other.parquet", ', "threshold": 4', reuse=tmp_path / "own.parquet").reused_rows == 3


def test_each_question_lists_as_many_answers_as_it_says(tmp_path: Path, tiny_bundle: Path) -> None:
    source, file = tmp_path / "in.jsonl", tmp_path / "questions.csv"
    source.write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS))
    texts = {"usual": "Why?", "best": "Why?", "two": "Why?", "all": "Who repaired it?"}
    options: dict[str, Any] = {"model": tiny_bundle, "device": "cpu", "no_answer": "off", "in_process": True}

    def answers(name: str, said: dict[str, str], **more: Any) -> dict[str, list[list[dict[str, Any]]]]:
        lines = [f"{name},{text},{said.get(name, '')}" for name, text in texts.items()]
        file.write_text("name,question,answers\n" + "\n".join(lines) + "\n")
        output = tmp_path / f"{name}.parquet"
        batchqa.run(source, output, questions=file, **options, **more)
        table = pq.read_table(output)
        named = zip(table["qa_name"].to_pylist(), table["qa_answers"].to_pylist(), strict=True)
        lists: dict[str, list[list[dict[str, Any]]]] = {question: [] for question in texts}
        for question, listed in named:
            lists[question].append(listed)
        return lists

    everything = answers("everything", {}, answers="all", max_answers=7)
    assert any(len(listed) == 7 for listed in everything["all"])
    assert everything["usual"] == everything["two"]
    said = {"best": "best", "two": "2", "all": "all"}
    own = answers("own", said, max_answers=7)
    assert own["all"] == everything["all"]
    assert own["usual"] == own["best"] == [listed[:1] for listed in everything["best"]]
    assert own["two"] == [listed[:2] for listed in everything["two"]]
    usual_is_all = answers("usual", said, answers="all", max_answers=7)
    assert usual_is_all == own | {"usual": everything["usual"]}
    assert answers("again", said, max_answers=7, processes=2, part_rows=2) == own


def test_lists_of_other_lengths_are_another_job_and_are_not_reused(tmp_path: Path, tiny_bundle: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS[:3]))

    def job(output: str, answers: int, **options: Any) -> batchqa.job.Summary:
        file = tmp_path / "questions.jsonl"
        file.write_text(
            f'{{"name": "a", "question": "Why?", "answers": {answers}}}\n'
            '{"name": "b", "question": "Who?", "answers": 9}\n'
        )
        return batchqa.run(
            source,
            tmp_path / output,
            model=tiny_bundle,
            device="cpu",
            in_process=True,
            questions=file,
            **options,
        )

    job("two.parquet", 2)
    with pytest.raises(PreconditionError):
        job("two.parquet", 3)
    assert job("same.parquet", 2, reuse=tmp_path / "two.parquet").reused_rows == 6
    assert job("other.parquet", 3, reuse=tmp_path / "two.parquet").reused_rows == 0


def test_an_annotator_lists_as_many_answers_as_it_was_made_for(
    tiny_bundle: Path, annotator: Annotator
) -> None:
    asks = {"one": "Why?", "more": {"question": "Why?", "answers": 3}}
    with pytest.raises(SettingsError, match="answers='all', max_answers=3"):
        annotator.annotate(DOCUMENTS, asks)
    with Annotator(
        tiny_bundle, device="cpu", in_process=True, no_answer="off", answers="all", max_answers=4
    ) as able:
        counts = [len(row["qa_answers"]) for row in able.annotate(DOCUMENTS[1:2], asks)]
        assert counts == [4, 3]
