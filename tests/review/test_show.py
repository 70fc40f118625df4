"""`batchqa show`: which rows are shown, in every layout; a terminal is not obeyed and nothing is hidden."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchqa.cli.entry import main
from batchqa.output import delimited
from tests.review.making import CONTEXT, failed, said, write_rows, write_wide


def rows() -> list[dict[str, Any]]:
    asked = [
        ("What is it made of?", said(CONTEXT, "steel", 0.95)),
        ("Who sold it?", said(CONTEXT, "Hale & Sons", 0.31)),
        ("What does it cost?", said(CONTEXT, None, 0.8)),
        ("Where was it sold?", failed("crashed")),
    ]
    return [
        {"id": f"k{at}", "context": CONTEXT, "question": question, "said": answer}
        for at, (question, answer) in enumerate(asked)
    ]


@pytest.fixture
def annotated(tmp_path: Path) -> str:
    return str(write_rows(tmp_path / "out.parquet", rows()))


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = main(["show", *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


@pytest.mark.parametrize(
    ("filters", "questions"),
    [
        ([], ["made of", "Who", "cost", "Where"]),
        (["--where", "answered"], ["made of", "Who"]),
        (["--where", "no-answer"], ["cost"]),
        (["--where", "error"], ["Where"]),
        (["--where", "low-score"], ["Who"]),
        (["--where", "low-score", "--below", "0.9"], ["Who", "cost"]),
        (["--where", "error", "--where", "no-answer"], ["cost", "Where"]),
        (["--question", "Who sold it?"], ["Who"]),
        (["--search", "HALE &"], ["made of", "Who", "cost", "Where"]),
        (["--search", "WHAT", "--where", "answered"], ["made of"]),
        (["--search", "k3"], ["Where"]),
    ],
)
def test_filters_choose_the_rows(
    annotated: str, capsys: pytest.CaptureFixture[str], filters: list[str], questions: list[str]
) -> None:
    text = shown(capsys, annotated, *filters)
    assert [each for each in ("made of", "Who", "cost", "Where") if f" {each} " in f" {_asked(text)} "] == (
        questions
    )
    assert f"{len(questions)} " in text.splitlines()[-1]


def _asked(text: str) -> str:
    return " ".join(line.rstrip("?") for line in text.splitlines() if line.endswith("?")).replace(
        "What is it made of", "made of"
    )


def test_an_answer_is_marked_where_it_is_and_not_where_the_text_occurs_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = "York sold it. It was made in York by hand."
    answer = said(context, "York") | {"start": 29, "end": 33}
    file = write_rows(tmp_path / "a.parquet", [{"context": context, "question": "Where?", "said": answer}])
    assert "York sold it. It was made in [York] by hand." in shown(capsys, str(file))


def test_all_answers_of_a_row_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spans = [
        {"answer": text, "start": CONTEXT.index(text), "end": CONTEXT.index(text) + len(text), "score": score}
        for text, score in (("York", 0.6), ("Leeds", 0.3))
    ]
    answer = said(CONTEXT, "York", answers=spans)
    file = write_rows(tmp_path / "a.parquet", [{"context": CONTEXT, "question": "Where?", "said": answer}])
    text = shown(capsys, str(file))
    assert "sold in [Leeds] and in [York] by" in text
    assert text.index("York  0.600") < text.index("Leeds  0.300")


def test_a_long_context_is_cut_between_words_around_the_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = " ".join(f"word{number}" for number in range(500))
    context = f"{words} the kettle {words}"
    file = write_rows(
        tmp_path / "a.parquet",
        [{"context": context, "question": "What?", "said": said(context, "kettle")}],
    )
    line = next(line for line in shown(capsys, str(file)).splitlines() if "[kettle]" in line)
    assert line.startswith("… word4")
    assert line.rstrip(" …").split()[-1].removeprefix("word").isdigit()
    assert len(line) < 500


def as_csv(path: Path) -> Path:
    """An output as CSV, beside it."""
    batch = pq.read_table(path).combine_chunks().to_batches()[0]
    table = path.with_suffix(".csv")
    table.write_bytes(delimited.header(batch.schema.names, ",") + b"".join(delimited.lines(batch, ",")))
    return table


@pytest.mark.parametrize("layout", ["wide", "wide as text", "long"])
def test_every_layout_shows_the_same_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str
) -> None:
    answers = {"material": said(CONTEXT, "steel"), "seller": said(CONTEXT, None, 0.7)}
    if layout != "long":
        file = write_wide(tmp_path / "a.parquet", [{"context": CONTEXT, **answers}], list(answers))
        if layout == "wide as text":
            file = as_csv(file)
    else:
        long = [
            {"qa_name": name, "qa_question": f"What {name}?", "context": CONTEXT, "said": answer}
            for name, answer in answers.items()
        ]
        file = write_rows(tmp_path / "a.parquet", long)
    text = shown(capsys, str(file))
    assert text.index("row 1 · material") < text.index("[steel]") < text.index("seller")
    assert "no answer  0.700" in text
    assert "seller" not in shown(capsys, str(file), "--question", "material")


def test_parts_jsonl_and_csv_are_read_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for part, row in enumerate(rows()):
        write_rows(folder / f"part-{part:07}.parquet", [row])
    records = pq.read_table(folder).to_pylist()
    lines = tmp_path / "out.jsonl"
    lines.write_text("".join(json.dumps(record) + "\n" for record in records))
    paths = (folder, lines, as_csv(folder))
    first, *others = (shown(capsys, str(path)).replace(str(path), "OUT") for path in paths)
    assert others == [first, first]
    assert "4 rows" in first


def test_an_unfinished_output_shows_the_rows_so_far_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.parquet.batchqa").mkdir()
    write_rows(tmp_path / "out.parquet.batchqa" / "part-0000000.parquet", rows())
    assert main(["show", str(tmp_path / "out.parquet")]) == 0
    captured = capsys.readouterr()
    assert "is not finished" in captured.err
    assert "[steel]" in captured.out


def test_pages_follow_each_other_without_gap(annotated: str, capsys: pytest.CaptureFixture[str]) -> None:
    pages = [shown(capsys, annotated, "--limit", "3", "--page", page) for page in ("1", "2", "3")]
    assert "1 to 3 of 4 rows; more with --page 2" in pages[0]
    assert "row 4 · k3" in pages[1]
    assert "there is no page 3" in pages[2]


def test_control_characters_of_rows_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[2J\x1b]0;pwned\x07 \u202eabc\x9b31m [bold red]x[/bold red]"
    context = f"{evil} steel"
    row = {"id": evil, "context": context, "question": evil, "said": said(context, "steel")}
    text = shown(capsys, str(write_rows(tmp_path / "a.parquet", [row])))
    assert not set(text) & set("\x1b\x07\x9b\u202e")
    assert "[bold red]x[/bold red]" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--question", "Who sold it"], "did you mean 'Who sold it?'"),
        (["--context", "body"], "has no column 'body'"),
        (["--output-prefix", "x_"], "has no column 'x_answer': its answers have the prefix 'qa_'"),
        (["--html", "no/such/page.html"], "there is no folder no/such"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    annotated: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["show", annotated, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_file_that_no_run_wrote_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"context": ["a"], "question": ["b"]}), tmp_path / "in.parquet")
    assert main(["show", str(tmp_path / "in.parquet")]) == 2
    assert "`batchqa run` did not write it" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "gone.parquet")]) == 2


def test_a_page_does_not_replace_the_output_that_it_shows(
    annotated: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path(annotated).read_bytes()
    assert main(["show", annotated, "--html", annotated]) == 2
    assert Path(annotated).read_bytes() == before


def test_a_page_replaces_an_earlier_page_and_nothing_else(
    annotated: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "in.jsonl"
    data.write_text('{"context": "not to be lost"}\n')
    assert main(["show", annotated, "--html", str(data)]) == 2
    assert "already exists and was not written by this option" in capsys.readouterr().err
    assert data.read_text() == '{"context": "not to be lost"}\n'
    page = tmp_path / "page.html"
    assert [main(["show", annotated, "--html", str(page)]) for _ in range(2)] == [0, 0]


def test_columns_of_another_name_are_found_in_the_record_of_the_run(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(
        pa.table({"doc": [{"text": CONTEXT}], "ask": ["What is it made of?"]}), tmp_path / "in.parquet"
    )
    output = str(tmp_path / "out.parquet")
    run = ["run", str(tmp_path / "in.parquet"), "-o", output, "--model", str(tiny_bundle), "--quiet"]
    texts = ["--context", "doc.text", "--question", "ask", "--output-prefix", "x_"]
    assert main([*run, *texts, "--no-answer", "off"]) == 0
    capsys.readouterr()
    text = shown(capsys, output)
    assert "What is it made of?" in text
    assert "by Hale & Sons." in text


@pytest.mark.parametrize("asked", [[], ["--ask", "a=When?"], ["--ask", "a=When?", "--layout", "wide"]])
def test_rows_whose_texts_were_none_in_json_lines_are_shown_beside_the_others(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str], asked: list[str]
) -> None:
    texts: list[Any] = ["It was built in 1894.", 5, True, ["a"], {"b": 1}, None]
    rows = [{"context": text, "question": question} for text in texts for question in ("Who?", ["Why?"])]
    data, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = ["run", str(data), "-o", str(output), "--model", str(tiny_bundle), "--in-process", "--quiet"]
    assert main([*run, "--max-errors", "99%", *asked]) == 0
    capsys.readouterr()
    text = shown(capsys, str(output))
    assert f"{len(rows)} rows" in text
    assert "type_context" in text
    again = [*run[:3], str(tmp_path / "again.jsonl"), *run[4:], "--max-errors", "99%", *asked]
    if "wide" not in asked:
        assert main([*again, "--reuse", str(output)]) == 0
        reused = json.loads(capsys.readouterr().out)["reused_rows"]
        assert reused == (1 if not asked else 2)
