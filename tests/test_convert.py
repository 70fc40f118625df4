"""`batchqa convert`: other tools get what the output says, and labels come back as gold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from batchqa.cli.entry import main
from batchqa.evaluation import evaluate
from batchqa.job import run
from tests.review.making import CONTEXT, failed, said, write_rows, write_wide

EMOJI = "\U0001f600 The kettle \U0001f680 is made of steel. "


def rows() -> list[dict[str, Any]]:
    asked = [
        ("k1", EMOJI, "What is it made of?", said(EMOJI, "steel", 0.95)),
        ("k2", CONTEXT, "Who sold it?", said(CONTEXT, "Hale & Sons", 0.31)),
        ("k3", CONTEXT, "What does it cost?", said(CONTEXT, None, 0.8)),
        ("k4", CONTEXT, "Where was it sold?", failed("crashed")),
    ]
    names = ("id", "context", "question", "said")
    return [dict(zip(names, row, strict=True)) for row in asked]


@pytest.fixture
def annotated(tmp_path: Path) -> str:
    return str(write_rows(tmp_path / "out.parquet", rows()))


def converted(annotated: str, path: Path, form: str, *arguments: str) -> Any:
    assert main(["convert", annotated, "-o", str(path), "--to", form, *arguments]) == 0
    return json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else path


def labelled(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Label Studio's JSON export: somebody accepted all predictions, and skipped the last task."""
    exported = []
    for number, task in enumerate(tasks, 1):
        result = task["predictions"][0]["result"] if task["predictions"] else []
        annotation = {
            "id": number,
            "result": result,
            "was_cancelled": number == len(tasks),
            "completed_by": 1,
        }
        exported.append({"id": number, "data": task["data"], "annotations": [annotation], "predictions": []})
    return exported


def test_label_studio_gets_a_task_for_each_row_and_the_interface_they_are_for(
    annotated: str, tmp_path: Path
) -> None:
    tasks = converted(annotated, tmp_path / "tasks.json", "label-studio")
    assert [task["data"]["question"] for task in tasks] == [row["question"] for row in rows()]
    assert [len(task["predictions"]) for task in tasks] == [1, 1, 1, 0]
    value = tasks[0]["predictions"][0]["result"][0]["value"]
    assert EMOJI[value["start"] : value["end"]] == value["text"] == "steel"
    assert tasks[2]["predictions"][0]["result"] == []
    config = (tmp_path / "tasks.config.xml").read_text()
    assert all(f'"${name}"' in config for name in ("context", "question"))


@pytest.mark.parametrize("units", ["code points", "UTF-16"])
def test_labels_come_back_as_gold_that_evaluate_scores(annotated: str, tmp_path: Path, units: str) -> None:
    exported = labelled(converted(annotated, tmp_path / "tasks.json", "label-studio"))
    if units == "UTF-16":  # as some versions of the frontend count
        value = exported[0]["annotations"][0]["result"][0]["value"]
        value["start"], value["end"] = value["start"] + 2, value["end"] + 2
    (tmp_path / "export.json").write_text(json.dumps(exported))
    gold = converted(str(tmp_path / "export.json"), tmp_path / "gold.jsonl", "gold")
    first, second, third = map(json.loads, gold.read_text(encoding="utf-8").splitlines())
    assert first["answers"] == {"text": ["steel"], "answer_start": [EMOJI.index("steel")]}
    assert (second["id"], third["answers"]) == ("k2", {"text": [], "answer_start": []})
    found = evaluate(annotated, gold=gold)
    assert (found.figures.all.total, found.figures.all.exact) == (3, 100.0)


def test_labels_of_several_questions_of_a_document_come_back_as_gold_too(tmp_path: Path) -> None:
    documents = [{"id": f"d{n}", "context": CONTEXT} for n in range(3)]
    asked = [("of", said(CONTEXT, "steel")), ("by", said(CONTEXT, "Hale & Sons"))]
    long = [document | {"qa_name": name, "said": each} for document in documents for name, each in asked]
    output = str(write_rows(tmp_path / "long.parquet", long))
    exported = labelled(converted(output, tmp_path / "tasks.json", "label-studio"))
    (tmp_path / "export.json").write_text(json.dumps(exported))
    gold = converted(str(tmp_path / "export.json"), tmp_path / "gold.jsonl", "gold")
    predictions = tmp_path / "predictions.json"
    converted(output, predictions, "squad")
    for file in (output, predictions):
        found = evaluate(file, gold=gold)
        assert (found.figures.all.total, found.figures.all.exact) == (5, 100.0)


def test_what_label_studios_own_converter_makes_of_the_labels_is_gold_as_it_is(
    annotated: str, tmp_path: Path, tiny_bundle: Path
) -> None:
    converter = pytest.importorskip("label_studio_sdk.converter", reason="needs the extra `exchange`")
    exported = labelled(converted(annotated, tmp_path / "tasks.json", "label-studio"))
    (tmp_path / "export.json").write_text(json.dumps(exported[:3]))
    own = converter.Converter((tmp_path / "tasks.config.xml").read_text(), project_dir=None)
    own.convert_to_json_min(str(tmp_path / "export.json"), str(tmp_path / "min"), is_dir=False)
    made = tmp_path / "min" / "result.json"
    first = json.loads(made.read_text())[0]["answers"][0]
    assert EMOJI[first["start"] : first["end"]] == "steel"
    found = evaluate(made, model=tiny_bundle, annotated=tmp_path / "a.parquet")  # nothing in between
    assert found.figures.has_answer is not None
    assert (found.figures.all.total, found.figures.has_answer.total) == (3, 2)
    gold = converted(str(made), tmp_path / "gold.jsonl", "gold")
    assert evaluate(annotated, gold=gold).figures.all.exact == 100.0


@pytest.mark.parametrize("layout", ["long", "wide"])
@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_an_output_without_rows_is_shown_and_converted_like_any_other(
    kind: str, layout: str, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text('{"context": 5}\n')  # a run that rejects all rows
    output, other = tmp_path / f"out.{kind}", "long" if layout == "wide" else "wide"
    kept: dict[str, Any] = {"on_error": "reject", "max_errors": 1, "device": "cpu", "in_process": True}
    asked: dict[str, Any] = {"ask": {"why": "Why?"}, "layout": layout}
    run(tmp_path / "in.jsonl", output, model=tiny_bundle, **asked, **kept)

    assert main(["show", str(output)]) == 0
    assert "0 rows" in capsys.readouterr().out
    assert main(["show", str(output), "--html", str(tmp_path / "page.html")]) == 0
    for form in ("label-studio", "argilla", "spacy"):
        assert converted(str(output), tmp_path / f"{form}.json", form) == []
    assert converted(str(output), tmp_path / "squad.json", "squad") == {}
    for name in ("other.parquet", "other.jsonl", "other.csv"):
        converted(str(output), tmp_path / name, other)
    assert len(pq.read_table(tmp_path / "other.parquet")) == 0


def test_argilla_gets_records_with_spans_as_suggestions(annotated: str, tmp_path: Path) -> None:
    records = converted(annotated, tmp_path / "records.json", "argilla")
    suggestion = records[0]["suggestions"]["answers"]
    span = suggestion["value"][0]
    assert records[0]["fields"] == {"context": EMOJI, "question": "What is it made of?"}
    assert EMOJI[span["start"] : span["end"]] == "steel"
    assert suggestion["score"] == pytest.approx([0.95])
    assert records[2]["suggestions"] == {}
    assert len({record["id"] for record in records}) == 4


def test_argillas_own_records_take_the_suggestions(annotated: str, tmp_path: Path) -> None:
    argilla = pytest.importorskip("argilla", reason="needs argilla, which no extra installs")
    records = converted(annotated, tmp_path / "records.json", "argilla")
    first, *_, last = [argilla.Record.from_dict(record) for record in records]
    (suggestion,) = first.suggestions
    assert (suggestion.question_name, suggestion.score) == ("answers", [pytest.approx(0.95)])
    assert (first.fields["context"], first.metadata["id"]) == (EMOJI, "k1")
    assert not list(last.suggestions)


def test_spacy_gets_one_document_for_the_questions_of_a_context(annotated: str, tmp_path: Path) -> None:
    lines = converted(annotated, tmp_path / "documents.jsonl", "spacy").read_text(encoding="utf-8")
    first, second = map(json.loads, lines.splitlines())
    assert [EMOJI[span["start"] : span["end"]] for span in first["spans"]] == ["steel"]
    assert [CONTEXT[span["start"] : span["end"]] for span in second["spans"]] == ["Hale & Sons"]


def test_spacy_reads_the_docbin(annotated: str, tmp_path: Path) -> None:
    spacy = pytest.importorskip("spacy", reason="needs the extra `exchange`")
    from spacy.tokens import DocBin

    file = converted(annotated, tmp_path / "documents.spacy", "spacy")
    documents = list(DocBin().from_disk(file).get_docs(spacy.blank("xx").vocab))
    assert [document.text for document in documents] == [EMOJI, CONTEXT]
    assert [span.text for span in documents[0].spans["answers"]] == ["steel"]


def test_squad_gets_texts_and_null_odds_by_id(annotated: str, tmp_path: Path) -> None:
    texts = converted(annotated, tmp_path / "p.json", "squad")
    assert texts == {"k1": "steel", "k2": "Hale & Sons", "k3": ""}
    assert json.loads((tmp_path / "p.null-odds.json").read_text()) == {"k1": -3.0, "k2": -3.0, "k3": 2.0}


def test_wide_becomes_long_and_wide_again_without_loss(tmp_path: Path) -> None:
    answers = [
        {"seller": said(CONTEXT, "Hale & Sons"), "price": said(CONTEXT, None)},
        {"seller": failed("crashed"), "price": said(CONTEXT, "steel")},
    ]
    records = [{"id": at, "context": CONTEXT, **each} for at, each in enumerate(answers)]
    wide = write_wide(tmp_path / "wide.parquet", records, ["seller", "price"])
    long = converted(str(wide), tmp_path / "long.parquet", "long")
    table = pq.read_table(long)
    assert table["qa_name"].to_pylist() == ["seller", "price"] * 2
    assert table["id"].to_pylist() == [0, 0, 1, 1]
    assert table["qa_answer"].to_pylist() == ["Hale & Sons", None, None, "steel"]
    again = converted(str(long), tmp_path / "again.parquet", "wide")
    assert pq.read_table(again).to_pylist() == pq.read_table(wide).to_pylist()


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_layouts_become_each_other_as_text_too(tmp_path: Path, kind: str) -> None:
    answers = {"seller": said(CONTEXT, "Hale & Sons"), "price": said(CONTEXT, None)}
    records = [{"id": str(at), "context": CONTEXT, **answers} for at in range(2)]
    wide = write_wide(tmp_path / "wide.parquet", records, ["seller", "price"])
    expected = pq.read_table(wide).to_pylist()
    long = converted(str(wide), tmp_path / f"long.{kind}", "long")
    assert len(long.read_text(encoding="utf-8").splitlines()) == 5
    again = converted(str(long), tmp_path / f"wide.{kind}", "wide")
    back = converted(str(again), tmp_path / "back.parquet", "long")
    whole = converted(str(back), tmp_path / "whole.parquet", "wide")
    assert pq.read_table(whole).to_pylist() == expected


@pytest.mark.parametrize(
    ("form", "name", "message"),
    [
        ("long", "a.parquet", "is long already"),
        ("wide", "a.parquet", "it has no column 'qa_name'"),
        ("gold", "a.jsonl", "is not an export of Label Studio"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_exit_code_2(
    annotated: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, name: str, message: str
) -> None:
    assert main(["convert", annotated, "-o", str(tmp_path / name), "--to", form]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert len(error.splitlines()) == 1
    assert not (tmp_path / name).exists()


def test_a_long_file_whose_questions_differ_between_records_cannot_be_wide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a", "b", "a", "c"]
    long = [{"qa_name": name, "context": CONTEXT, "said": said(CONTEXT, "steel")} for name in names]
    file = write_rows(tmp_path / "long.parquet", long)
    assert main(["convert", str(file), "-o", str(tmp_path / "w.parquet"), "--to", "wide"]) == 2
    assert "row 4: question 'c' is out of order" in capsys.readouterr().err


def test_ids_that_repeat_cannot_be_squads_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = [{**row, "id": "same"} for row in rows()]
    file = write_rows(tmp_path / "a.parquet", twice)
    assert main(["convert", str(file), "-o", str(tmp_path / "p.json"), "--to", "squad"]) == 2
    assert "row 2: another row has the same id" in capsys.readouterr().err


def test_a_file_that_is_there_is_replaced_only_if_that_is_asked_for(annotated: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text("mine")
    assert main(["convert", annotated, "-o", str(path), "--to", "squad"]) == 4
    assert path.read_text() == "mine"
    assert "k1" in converted(annotated, path, "squad", "--overwrite")


def test_both_layouts_of_a_run_become_each_other(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    products = [
        {"id": at, "product": name, "context": CONTEXT} for at, name in enumerate(["kettle", "{pot}"])
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(each) + "\n" for each in products))
    files = {layout: str(tmp_path / f"{layout}.parquet") for layout in ("wide", "long")}
    questions = ["--ask", "stuff=What is the {product} made of?", "--ask", "seller=Who sold it?"]
    for layout, file in files.items():
        run = ["run", str(tmp_path / "in.jsonl"), "-o", file, "--model", str(tiny_bundle), "--quiet"]
        assert main([*run, *questions, "--layout", layout, "--top-k", "2", "--batch-tokens", "512"]) == 0
    long = converted(files["wide"], tmp_path / "l.parquet", "long")
    assert pq.read_table(long).to_pylist() == pq.read_table(files["long"]).to_pylist()
    wide = converted(files["long"], tmp_path / "w.parquet", "wide")
    assert pq.read_table(wide).to_pylist() == pq.read_table(files["wide"]).to_pylist()
    capsys.readouterr()
    for layout in files.values():
        assert main(["show", layout, "--question", "stuff"]) == 0
        assert "What is the {pot} made of?" in capsys.readouterr().out
