"""Predictions and gold answers as other programs write them, and files in an object store."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchqa import evaluation
from batchqa.errors import InputError, SettingsError
from batchqa.evaluation import Evaluation, evaluate
from tests.evaluation.making import Row, as_struct, table_of, write, write_squad

GOLD = [Row(gold=("Paris",)), Row(gold=("Rome",)), Row(gold=())]


def _json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def _exact(found: Evaluation) -> float:
    return round(found.figures.all.exact, 2)


def test_null_by_id_says_no_answer(tmp_path: Path) -> None:
    gold = write_squad(tmp_path / "gold.json", GOLD)
    found = evaluate(_json(tmp_path / "p.json", {"q0": "Paris", "q1": None, "q2": None}), gold=gold)
    assert _exact(found) == 66.67
    assert found.missing.count == 0


NBEST = {
    "q0": [{"text": "Paris", "probability": 0.7, "start_logit": 5.0, "end_logit": 4.0}],
    "q1": [
        {"text": "", "probability": 0.6, "start_logit": 2.0, "end_logit": 2.0},
        {"text": "Rome", "probability": 0.3, "start_logit": 1.0, "end_logit": 2.5},
    ],
    "q2": [
        {"text": "", "probability": 0.9, "start_logit": 4.0, "end_logit": 4.0},
        {"text": "Paris", "probability": 0.1, "start_logit": 1.0, "end_logit": 1.0},
    ],
}


def test_an_n_best_file_gives_its_first_entry_its_probability_and_its_null_odds(tmp_path: Path) -> None:
    nbest = {**NBEST, "q0": [*NBEST["q0"], {"text": "", "start_logit": 0.0, "end_logit": 0.0}]}
    found = evaluate(_json(tmp_path / "n.json", nbest), gold=write_squad(tmp_path / "gold.json", GOLD))
    assert _exact(found) == 66.67
    assert found.examples.predictions.score.tolist() == [0.7, 0.6, 0.9]
    assert found.best is not None
    assert (found.best.exact, found.best.exact_threshold) == (
        100.0,
        0.5,
    )  # q1's null score less its best span's


def test_the_pipelines_answers_by_id_are_read_too(tmp_path: Path) -> None:
    answers = {"q0": {"answer": "Paris", "score": 0.5, "start": 0, "end": 5}, "q1": [], "q2": {"answer": ""}}
    found = evaluate(_json(tmp_path / "n.json", answers), gold=write_squad(tmp_path / "gold.json", GOLD))
    assert _exact(found) == 66.67


def _references() -> list[dict[str, Any]]:
    return [{"id": f"q{at}", "answers": as_struct(row.gold, row.context)} for at, row in enumerate(GOLD)]


def _predictions() -> list[dict[str, Any]]:
    texts, odds = ("Paris", "Rome", "Rome"), (0.1, 0.2, 0.9)
    return [
        {"id": f"q{at}", "prediction_text": text, "no_answer_probability": odd}
        for at, (text, odd) in enumerate(zip(texts, odds, strict=True))
    ]


@pytest.mark.parametrize("form", ["two lists", "lines", "one object"])
def test_the_lists_that_the_evaluate_library_takes_are_read_in_every_form(tmp_path: Path, form: str) -> None:
    references, predictions = _references(), _predictions()
    gold: Path | None = None
    if form == "one object":
        file = _json(tmp_path / "both.json", {"predictions": predictions, "references": references})
    elif form == "two lists":
        file, gold = _json(tmp_path / "p.json", predictions), _json(tmp_path / "g.json", references)
    else:
        file, gold = tmp_path / "p.jsonl", tmp_path / "g.jsonl"
        for path, records in ((file, predictions), (gold, references)):
            path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    found = evaluate(file, gold=gold)
    assert _exact(found) == 66.67
    assert found.best is not None
    assert (found.best.exact, found.best.exact_threshold) == (100.0, 0.2)


def test_a_reference_without_a_prediction_is_missing_and_not_no_answer(tmp_path: Path) -> None:
    both = {"predictions": _predictions()[:2], "references": _references()}
    assert evaluate(_json(tmp_path / "both.json", both)).missing.ids == ("q2",)


@pytest.mark.parametrize("ids", [[7, 8, 9], [7, "8", 9]])
def test_ids_that_are_numbers_in_a_squad_file_are_compared_as_text(tmp_path: Path, ids: list[Any]) -> None:
    gold = json.loads(write_squad(tmp_path / "gold.json", GOLD).read_text(encoding="utf-8"))
    for article, number in zip(gold["data"], ids, strict=True):
        article["paragraphs"][0]["qas"][0]["id"] = number
    answers = _json(tmp_path / "p.json", {"7": "Paris", "8": "Rome", "9": ""})
    assert _exact(evaluate(answers, gold=_json(tmp_path / "gold.json", gold))) == 100.0


def test_a_jsonl_file_whose_ids_are_numbers_in_some_rows_and_texts_in_others_is_joined(
    tmp_path: Path,
) -> None:
    gold = tmp_path / "g.jsonl"
    lines = [{"id": 7, "answers": ["Paris"]}, {"id": "b", "answers": ["Rome"]}]
    gold.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert _exact(evaluate(_json(tmp_path / "p.json", {"7": "Paris", "b": "Rome"}), gold=gold)) == 100.0


def test_questions_of_a_squad_file_may_lack_answers_where_they_are_impossible(tmp_path: Path) -> None:
    gold = json.loads(write_squad(tmp_path / "gold.json", GOLD).read_text(encoding="utf-8"))
    gold["data"][2]["paragraphs"][0]["qas"][0]["answers"] = None
    gold["data"][1]["title"] = None
    answers = _json(tmp_path / "p.json", {"q0": "Paris", "q1": "Rome", "q2": ""})
    assert _exact(evaluate(answers, gold=_json(tmp_path / "gold.json", gold))) == 100.0


@pytest.mark.parametrize("text", ["{}", "[]"])
def test_a_file_of_two_bytes_is_a_file_without_predictions(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"is an empty JSON (object|array): neither"):
        evaluate(tmp_path / "p.json", gold=write_squad(tmp_path / "gold.json", GOLD))


def _question(number: int, answers: Any) -> dict[str, Any]:
    return {"context": "Paris \ud800", "qas": [{"id": f"q{number}", "question": "Q?", "answers": answers}]}


@pytest.mark.parametrize(
    "answers",
    [
        "Paris",
        ["Paris"],
        {"text": "Paris"},
        {"text": ["Paris"], "answer_start": [1e300]},
        [{"text": "Paris", "answer_start": float("nan")}],
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_gold_file_may_have_every_form_that_a_run_reads(tmp_path: Path, answers: Any, whole: bool) -> None:
    articles = [{"title": "t"}, {"paragraphs": [{"context": "c"}, _question(0, answers), _question(1, [])]}]
    gold = _json(tmp_path / "gold.json", {"data": articles} if whole else articles)
    assert _exact(evaluate(_json(tmp_path / "p.json", {"q0": "Paris", "q1": ""}), gold=gold)) == 100


def test_a_report_never_replaces_what_is_evaluated(tmp_path: Path) -> None:
    gold = write_squad(tmp_path / "gold.json", GOLD)
    before = gold.read_bytes()
    with pytest.raises(SettingsError, match="input or output"):
        evaluate(_json(tmp_path / "p.json", {"q0": "Paris"}), gold=gold, report=gold)
    assert gold.read_bytes() == before


def test_predictions_alone_ask_for_the_gold_answers(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="give the gold answers with --gold"):
        evaluate(_json(tmp_path / "p.json", _predictions()))


@pytest.mark.parametrize("own_file", [True, False])
def test_gold_answers_are_looked_at_before_a_row_is_annotated(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, own_file: bool
) -> None:
    """A run took minutes before it was found out that they are none."""
    monkeypatch.setattr(evaluation.evaluating, "run", lambda *_, **__: pytest.fail("annotated first"))
    rows = pa.table({"id": ["1"], "context": ["It is Paris."], "question": ["What?"], "answers": [[1998]]})
    file = write(tmp_path / "rows.parquet", rows)
    if own_file:
        with pytest.raises(InputError, match="not gold answers"):
            evaluate(file, model=tiny_bundle)
    else:
        with pytest.raises(InputError, match="no id in common"):
            evaluate(file, gold=write_squad(tmp_path / "gold.json", GOLD), model=tiny_bundle)


def test_outputs_of_an_evaluation_in_a_store_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="must be a local path"):
        evaluate(write(tmp_path / "a.parquet", [Row()]), report="s3://key:secret@bucket/r.html")


def test_a_gzipped_file_is_known_by_its_content(tmp_path: Path) -> None:
    gold = tmp_path / "gold"
    gold.write_bytes(gzip.compress(write_squad(tmp_path / "plain.json", GOLD).read_bytes()))
    assert (
        _exact(evaluate(_json(tmp_path / "p.json", {"q0": "Paris", "q1": "Rome", "q2": ""}), gold=gold))
        == 100
    )


def test_parts_whose_ids_are_of_two_types_are_one_column(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    table = table_of([Row(), Row(span="Rome")])
    for number, ids in enumerate((pa.array([1, 2]), pa.array(["a", "b"]))):
        pq.write_table(table.set_column(0, "id", ids), folder / f"part-{number}.parquet")
    assert evaluate(folder).figures.all.exact == 50.0


_CSV = "id,context,question,answer,qa_answer,qa_score,qa_no_answer,qa_null_odds,qa_error,qa_candidates\r\n"


@pytest.mark.parametrize("as_json", [True, False])
def test_a_table_as_text_is_evaluated_with_its_gold_answers_as_json_or_as_plain_text(
    tmp_path: Path, as_json: bool
) -> None:
    golds = ['["Paris"]', '["Rome", "Roma"]', "[]"] if as_json else ["Paris", "Rome", ""]
    predicted = [
        ("Paris", "0.9", "false", "-1.5", "", '[{"answer": "Paris", "score": 0.9}]'),
        ("", "0.6", "true", "2.5", "", '[{"answer": "Rome", "score": 0.4}]'),
        ("", "0.8", "True", "3", "", '[{"answer": "It", "score": 0.1}]'),
    ]
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        file.write(_CSV)
        rows = csv.writer(file)
        for number, (gold, values) in enumerate(zip(golds, predicted, strict=True)):
            rows.writerow([number, "It is Paris.\nOr Rome.", "Which, where?", gold, *values])
    found = evaluate(tmp_path / "a.csv")
    assert _exact(found) == 66.67
    assert found.examples.answers.to_pylist()[0] == ["Paris"]
    assert found.examples.predictions.null_odds.tolist() == [-1.5, 2.5, 3.0]
    assert found.missing.count == 0
    assert found.best is not None
    assert (found.best.exact, found.best.exact_threshold) == (100.0, 2.5)


def test_gold_answers_in_a_table_as_text_are_joined_by_id(tmp_path: Path) -> None:
    gold = tmp_path / "gold.tsv"
    gold.write_text("id\tanswer\nq1\tRome\nq0\tParis\nq2\t\n", encoding="utf-8")
    predictions = _json(tmp_path / "p.json", {"q0": "Paris", "q1": "Rome", "q2": ""})
    assert _exact(evaluate(predictions, gold=gold)) == 100.0


def test_a_glob_of_compressed_lines_is_evaluated_as_one_file(tmp_path: Path) -> None:
    for number, record in enumerate(_references()):
        lines = (json.dumps(record) + "\n").encode()
        (tmp_path / f"gold-{number}.jsonl.gz").write_bytes(gzip.compress(lines))
    predictions = _json(tmp_path / "p.json", {"q0": "Paris", "q1": "Rome", "q2": ""})
    assert _exact(evaluate(predictions, gold=tmp_path / "gold-*.jsonl.gz")) == 100.0


@pytest.mark.parametrize("indent", [None, 1])
def test_predictions_longer_than_the_first_look_at_a_file_are_read(
    tmp_path: Path, indent: int | None
) -> None:
    texts = {"q0": "Paris", "q1": "Rome", "q2": ""} | {f"more {n}": "x" * 100 for n in range(15_000)}
    file = tmp_path / "p.json"
    file.write_text(json.dumps(texts, indent=indent), encoding="utf-8")
    assert file.stat().st_size > 3 * 2**19
    found = evaluate(file, gold=write_squad(tmp_path / "gold.json", GOLD))
    assert (_exact(found), found.extra) == (100.0, 15_000)
