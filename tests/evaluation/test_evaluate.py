"""`evaluate` on files: what is scored, what is counted, and what is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from batchqa.errors import InputError, LimitError, SettingsError
from batchqa.evaluation import Evaluation, evaluate
from tests.evaluation.making import Row, as_struct, simulated, table_of, write, write_jsonl, write_squad

RIGHT = Row()
HALF = Row(span="Paris is")
WRONG = Row(span="Rome")
SILENT = Row(silent=True, odds=3.0)
RIGHTLY_SILENT = Row(gold=(), silent=True, odds=5.0)
WRONGLY_SAID = Row(gold=(), odds=-1.0)


def test_the_peers_predictions_give_the_official_figures_from_the_files_themselves(data_dir: Path) -> None:
    found = evaluate(
        data_dir / "peer-predictions" / "squad-v2.0-dev.bert-single.json",
        gold=data_dir / "squad-v2.0-dev.json",
        resamples=10,
    ).to_dict()
    official = {
        "exact": 78.74168280973637,
        "f1": 81.77528052374723,
        "total": 11873,
        "HasAns_exact": 74.10593792172739,
        "HasAns_f1": 80.18183293833508,
        "HasAns_total": 5928,
        "NoAns_exact": 83.36417157275021,
        "NoAns_f1": 83.36417157275021,
        "NoAns_total": 5945,
    }
    assert {name: found[name] for name in official} == pytest.approx(official, abs=1e-9)
    assert found["missing"]["count"] == found["extra"] == 0


def test_figures_of_an_annotated_file_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", [RIGHT, HALF, WRONG, SILENT, RIGHTLY_SILENT, WRONGLY_SAID])
    found = evaluate(file).to_dict()
    assert found["exact"] == pytest.approx(100 * 2 / 6)
    assert found["f1"] == pytest.approx(100 * (1 + 2 / 3 + 1) / 6)
    assert (found["HasAns_total"], found["NoAns_total"]) == (4, 2)
    assert found["HasAns_exact"] == pytest.approx(25)
    assert found["NoAns_f1"] == pytest.approx(50)
    assert found["rules"] == "SQuAD 2.0"


def test_json_keys_begin_with_the_official_scripts_names_in_its_order(tmp_path: Path) -> None:
    found = evaluate(write(tmp_path / "a.parquet", [RIGHT, RIGHTLY_SILENT])).to_dict()
    assert list(found)[:13] == [
        "exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total", "NoAns_exact", "NoAns_f1",
        "NoAns_total", "best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh",
    ]  # fmt: skip
    json.dumps(found, allow_nan=False)


def test_best_thresholds_come_from_the_best_span_even_where_the_row_says_no_answer(tmp_path: Path) -> None:
    # the silent row's best span is right: a threshold of 3 would answer it
    rows = [RIGHT, SILENT, RIGHTLY_SILENT]
    found = evaluate(write(tmp_path / "a.parquet", rows)).to_dict()
    assert found["exact"] == pytest.approx(100 * 2 / 3)
    assert (found["best_exact"], found["best_exact_thresh"]) == (100.0, 3.0)


def test_without_the_best_span_of_silent_rows_no_best_threshold_is_made_up(tmp_path: Path) -> None:
    found = evaluate(write(tmp_path / "a.parquet", [RIGHT, SILENT, RIGHTLY_SILENT], top_k=0))
    assert found.best is None
    assert "best_f1" not in found.to_dict()
    assert any("--top-k 1" in note for note in found.notes)


def test_a_model_that_does_not_abstain_has_no_best_threshold(tmp_path: Path) -> None:
    found = evaluate(write(tmp_path / "a.parquet", [Row(odds=None, silent=None)] * 2))
    assert found.best is None
    assert found.figures.all.exact == 100


def test_null_odds_of_a_json_file_give_the_official_best_thresholds(tmp_path: Path) -> None:
    gold = write_squad(tmp_path / "gold.json", [RIGHT, RIGHT, WRONGLY_SAID])
    predictions, odds = tmp_path / "p.json", tmp_path / "odds.json"
    predictions.write_text(json.dumps({"q0": "Paris", "q1": "Rome", "q2": "Paris"}))
    odds.write_text(json.dumps({"q0": -2.0, "q1": 1.0, "q2": 4.0}))
    found = evaluate(predictions, gold=gold, null_odds=odds).to_dict()
    assert found["exact"] == pytest.approx(100 / 3)
    assert found["best_exact"] == pytest.approx(200 / 3)
    assert found["best_exact_thresh"] == -2.0


def test_where_every_question_has_an_answer_squad_1_1_rules_and_names_apply(tmp_path: Path) -> None:
    found = evaluate(write(tmp_path / "a.parquet", [RIGHT, WRONG])).to_dict()
    assert found["rules"] == "SQuAD 1.1"
    assert found["exact_match"] == found["exact"] == 50.0
    assert "NoAns_exact" not in found


def test_squad_1_1_rules_refuse_a_question_without_an_answer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row 2 has no gold answer.*--rules squad2"):
        evaluate(write(tmp_path / "a.parquet", [RIGHT, RIGHTLY_SILENT]), rules="squad1")


def test_missing_predictions_score_zero_and_are_named_beside_the_figure_without_them(tmp_path: Path) -> None:
    gold = write_squad(tmp_path / "gold.json", [RIGHT, RIGHTLY_SILENT, RIGHT, RIGHT])
    predictions = tmp_path / "p.json"
    predictions.write_text(json.dumps({"q0": "Paris", "q3": "Rome", "other": "x", "more": ""}))
    found = evaluate(predictions, gold=gold)
    record = found.to_dict()
    assert (record["total"], record["exact"]) == (4, 25.0)
    assert record["missing"]["count"] == 2
    assert record["missing"]["ids"] == ["q1", "q2"]
    assert record["missing"]["without"]["exact"] == 50.0
    assert record["extra"] == 2
    assert "q1, q2" in found.table()


def test_rows_that_could_not_be_judged_are_missing_by_their_code(tmp_path: Path) -> None:
    rows = [RIGHT, Row(gold=(), error="empty_context"), Row(error="oom"), Row(error="oom")]
    found = evaluate(write(tmp_path / "a.parquet", rows)).to_dict()
    assert found["exact"] == 25.0  # an unjudged row is not right by saying nothing
    assert found["missing"]["codes"] == {"empty_context": 1, "oom": 2}


def test_gold_answers_of_another_file_are_joined_by_id_whatever_the_order(tmp_path: Path) -> None:
    rows = [Row(span="Rome", id="b"), Row(span="Paris", id="a")]
    predictions = write(tmp_path / "p.parquet", rows, gold=False)
    gold = write_squad(tmp_path / "gold.json", [Row(gold=["Paris"], id="a"), Row(gold=["Rome"], id="b")])
    assert evaluate(predictions, gold=gold).figures.all.exact == 100.0


def test_ids_that_are_numbers_on_one_side_join_with_their_digits_on_the_other(tmp_path: Path) -> None:
    table = table_of([RIGHT, WRONG], gold=False)
    numbered = table.set_column(0, "id", pa.array([7, 8]))
    gold = write_squad(tmp_path / "gold.json", [Row(id="7"), Row(id="8")])
    assert evaluate(write(tmp_path / "p.parquet", numbered), gold=gold).figures.all.exact == 50.0


@pytest.mark.parametrize(
    "column",
    [
        pa.array([["Paris"], []], pa.list_(pa.string())),
        pa.array(["Paris", None]),
        pa.array(["Paris", ""], pa.large_string()),
        pa.array([[{"text": "Paris", "answer_start": 0}], None]),
        pa.array([{"text": ["Rome", "Paris"]}, {"text": []}]),
        pa.array([{"text": "Paris"}, {"text": None}]),
    ],
    ids=["texts", "text and null", "text and empty", "list of structs", "struct of texts", "struct of text"],
)
def test_gold_answers_come_in_every_shape_that_data_sets_have(tmp_path: Path, column: pa.Array) -> None:
    table = table_of([RIGHT, RIGHTLY_SILENT], gold=False).append_column("answers", column)
    found = evaluate(write(tmp_path / "a.parquet", table)).figures
    assert (found.all.exact, found.has_answer and found.has_answer.total) == (100.0, 1)


def test_the_gold_column_can_have_any_name_and_depth(tmp_path: Path) -> None:
    truth = pa.array([{"gold": ["Paris"]}, {"gold": []}])
    table = table_of([RIGHT, RIGHTLY_SILENT], gold=False).append_column("truth", truth)
    file = write(tmp_path / "a.parquet", table)
    assert evaluate(file, gold_column="truth.gold").figures.all.exact == 100.0


def test_jsonl_scores_as_parquet_does(tmp_path: Path) -> None:
    rows = simulated(300)
    one = evaluate(write(tmp_path / "a.parquet", rows), by=["title"]).to_dict()
    other = evaluate(write_jsonl(tmp_path / "a.jsonl", rows), by=["title"]).to_dict()
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    third = evaluate(packed, by=["title"]).to_dict()
    for found in (one, other, third):
        del found["predictions"], found["gold"]
    # a float32 goes another way through JSON, so scores and thresholds may differ in the last digits
    assert other == third
    assert json.dumps(_rounded(one)) == json.dumps(_rounded(other))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value


def test_a_folder_of_parts_scores_as_the_one_file(tmp_path: Path) -> None:
    rows = simulated(300)
    table = table_of(rows)
    folder = tmp_path / "out"
    (folder / "_batchqa").mkdir(parents=True)
    (folder / "_SUCCESS").write_text("{}")
    for part in range(3):
        pq.write_table(table.slice(part * 100, 100), folder / f"part-0000{part}.parquet", row_group_size=30)
    one, other = evaluate(write(tmp_path / "a.parquet", table)), evaluate(folder)
    assert one.to_dict() == other.to_dict() | {"predictions": "a.parquet", "gold": "a.parquet"}


def test_another_prefix_of_the_answer_columns_is_found_by_name(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", [RIGHT, WRONG], prefix="ml_")
    assert evaluate(file, output_prefix="ml_").figures.all.exact == 50.0
    with pytest.raises(InputError, match="another prefix: give --output-prefix"):
        evaluate(file)


def test_language_takes_mlqas_normalization_for_all_rows_or_by_a_column(tmp_path: Path) -> None:
    context = "El niño vive en Madrid. 北京大学在北京。"
    rows = [
        Row(span="niño", gold=["El niño"], context=context),
        Row(span="北京", gold=["北京大学"], context=context),
    ]
    table = table_of(rows).append_column("lang", pa.array(["es", "zh-CN"]))
    file = write(tmp_path / "a.parquet", table)
    assert evaluate(file).figures.all.exact == 0.0
    assert evaluate(file, language="es").figures.all.f1 == 50.0
    by_column = evaluate(file, language="lang", by=["lang"])
    assert by_column.figures.all.exact == 50.0
    # two of the four characters, both right
    assert by_column.figures.all.f1 == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert [group.name for group in by_column.groups[0].groups] == ["es", "zh-CN"]


def test_a_language_that_mlqa_does_not_know_is_scored_by_the_general_rule_and_said(tmp_path: Path) -> None:
    row = Row(span="мир", gold=["«мир»"], context="«мир»")
    found = evaluate(write(tmp_path / "a.parquet", [row]), language="ru")
    assert found.figures.all.exact == 100.0
    assert any("no rules for ru" in note for note in found.notes)


def test_a_language_that_is_neither_a_column_nor_a_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'Titel' is neither a column nor a language's code"):
        evaluate(write(tmp_path / "a.parquet", [RIGHT]), language="Titel")


def test_intervals_are_the_same_for_the_same_seed_and_hold_the_figure(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", simulated(500))
    first, again, other = evaluate(file), evaluate(file), evaluate(file, seed=1)
    assert first.to_dict() == again.to_dict()
    assert first.intervals.figures != other.intervals.figures
    for name, between in first.intervals.figures.items():
        assert between.low < first.to_dict()[name] < between.high
    assert first.to_dict()["intervals"]["unit"] == "article"


def test_f1_below_the_users_limit_is_a_limit_error(tmp_path: Path) -> None:
    found = evaluate(write(tmp_path / "a.parquet", [RIGHT, WRONG]))
    found.require_f1(50.0)
    with pytest.raises(LimitError, match=r"F1 is 50\.0000, below --min-f1 50\.5") as caught:
        found.require_f1(50.5)
    assert caught.value.exit_code == 3


def test_a_comparison_is_paired_and_names_the_rows_that_changed_both_ways(tmp_path: Path) -> None:
    here = write(tmp_path / "here.parquet", [RIGHT, RIGHT, WRONG, SILENT])
    there = write(tmp_path / "there.parquet", [WRONG, RIGHT, RIGHT, SILENT][::1])
    found = evaluate(here, compare=there).to_dict()["compare"]
    assert (found["gained_ids"], found["lost_ids"]) == (["q0"], ["q2"])
    assert (found["changed"], found["exact_difference"]) == (2, 0.0)
    low, high = found["exact_difference_interval"]
    assert low < 0 < high


def test_a_comparison_finds_the_other_rows_by_id(tmp_path: Path) -> None:
    here = write(tmp_path / "here.parquet", [RIGHT, WRONG])
    table = table_of([RIGHT, RIGHT, RIGHT], gold=False)
    there = write(tmp_path / "there.parquet", table.take([2, 1, 0]))
    found = evaluate(here, compare=there)
    assert found.comparison is not None
    assert (found.comparison.other.all.exact, found.comparison.exact.value) == (100.0, -50.0)


def test_a_comparison_with_itself_is_certainly_no_difference(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", simulated(200))
    found = evaluate(file, compare=file).to_dict()["compare"]
    assert found["f1_difference_interval"] == [0.0, 0.0]
    assert found["changed"] == 0


def test_coverage_goes_from_the_surest_rows_to_all(tmp_path: Path) -> None:
    rows = [Row(odds=-3.0, score=0.9), Row(odds=-2.0, score=0.5), Row(span="Rome", odds=-1.0, score=0.7)]
    rows.append(Row(gold=(), silent=True, odds=2.0, score=0.8))
    found = evaluate(write(tmp_path / "a.parquet", rows)).coverage
    assert found.answers is not None
    assert found.decisions is not None
    assert [(p.coverage, round(p.exact), p.at) for p in found.answers] == [
        (25, 100, -3), (50, 100, -2), (75, 67, -1), (100, 50, 2),
    ]  # fmt: skip
    assert [(p.coverage, round(p.exact)) for p in found.decisions] == [
        (25, 100),
        (50, 100),
        (75, 67),
        (100, 75),
    ]


def test_the_table_prints_what_model_cards_print(tmp_path: Path) -> None:
    table = evaluate(write(tmp_path / "a.parquet", [RIGHT, WRONG, RIGHTLY_SILENT]), by=["title"]).table()
    for needed in (" EM |", "HasAns", "NoAns", "best F1", "66.67", "title"):
        assert needed in table


def test_names_in_tables_cannot_break_them(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", [Row(title="one|two\nthree"), Row(title="x")])
    lines = evaluate(file, by=["title"]).table().splitlines()
    assert any(r"one\|two three" in line for line in lines)


def bad(tmp_path: Path, text: str, name: str = "bad.json") -> Path:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data": 3}', "not a SQuAD file: data is not an array"),
        ('{"data": [{"title": "t"}]}', r"not a SQuAD file: data\[0\]\.paragraphs is missing"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', "has no questions|0 ids"),
        ('{"data": [{"paragraphs": [{"context": "c"}]}]}', r"data\[0\]\.paragraphs\[0\]\.qas is missing"),
        (
            '{"data": [{"paragraphs": [{"context": "c", "qas": [{"answers": []}]}]}]}',
            r"row 1 has no id",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "q0"}]}]}]}',
            r"question 1: data\[0\]\.paragraphs\[0\]\.qas\[0\] has no list `answers`",
        ),
        (
            '[{"paragraphs": [{"context": "c", "qas": [{"id": "q0", "answers": [{"text": []}]}]}]}]',
            r"question 1: \[0\]\.paragraphs\[0\]\.qas\[0\]\.answers: an answer's text is not a string",
        ),
        ('{"data": []}', "has no questions|0 ids"),
        ('{"a": 1, "b": []}', "first value, 'a', is a number: neither"),
        ('{"a": "text"}', "predictions, not gold answers"),
        ("[1, 2]", r"bad\.json:1, byte 0: the line is an array, not an object"),
        ('[{"id": "q0"}, 2]', r"record 2, byte 14: the line is a number, not an object"),
        ('{"data": [', "not valid JSON"),
        ("", "is empty"),
        ('{\n "a": 1\n}', "apparently null odds; give them with --null-odds"),
        ('{\n "a": [1],\n "b": "c"\n}', r"neither a SQuAD file .*predictions .*n-best"),
        ("PK\x03\x04", "a ZIP archive; unpack it"),
        ("id,context\nq0,x\n", "no gold answers: there is no column 'answers' or 'answer'"),
    ],
)  # fmt: skip
def test_a_gold_file_of_a_wrong_shape_is_refused_with_the_place(
    tmp_path: Path, text: str, message: str
) -> None:
    predictions = bad(tmp_path, '{"q0": "Paris"}', "p.json")
    with pytest.raises(InputError, match=message) as caught:
        evaluate(predictions, gold=bad(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_file_that_run_did_not_write_is_refused(tmp_path: Path) -> None:
    plain = table_of([RIGHT]).select(["id", "context", "question", "answers"]).replace_schema_metadata(None)
    with pytest.raises(InputError, match=r"'qa_answer'.*`batchqa run` did not write it.*--model"):
        evaluate(write(tmp_path / "a.parquet", plain))
    with pytest.raises(InputError, match="did not write it"):
        evaluate(write_squad(tmp_path / "gold.json", [RIGHT]))


def test_a_file_without_gold_answers_is_refused_with_its_columns(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no column 'answers' or 'answer' .*title.*--gold-column"):
        evaluate(write(tmp_path / "a.parquet", [RIGHT], gold=False))


def test_gold_answers_of_a_type_that_cannot_be_one_are_refused(tmp_path: Path) -> None:
    table = table_of([RIGHT], gold=False).append_column("answers", pa.array([5]))
    with pytest.raises(InputError, match="column 'answers' is of type int64, not gold answers"):
        evaluate(write(tmp_path / "a.parquet", table))


def test_files_without_a_common_id_are_refused(tmp_path: Path) -> None:
    gold = write_squad(tmp_path / "gold.json", [RIGHT])
    with pytest.raises(InputError, match="no id in common"):
        evaluate(bad(tmp_path, '{"x": "Paris"}'), gold=gold)


def test_ids_that_stand_twice_cannot_be_joined_and_are_named(tmp_path: Path) -> None:
    gold = write_squad(tmp_path / "gold.json", [Row(id="a"), Row(id="a"), Row(id="b")])
    with pytest.raises(InputError, match=r"1 ids occur more than once.*: a"):
        evaluate(bad(tmp_path, '{"a": "Paris"}'), gold=gold)


def test_ids_that_stand_twice_do_not_matter_where_gold_stands_in_the_row(tmp_path: Path) -> None:
    assert evaluate(write(tmp_path / "a.parquet", [Row(id="a"), Row(id="a")])).figures.all.total == 2


def test_texts_by_id_need_a_gold_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--gold"):
        evaluate(bad(tmp_path, '{"x": "Paris"}'))


def test_a_damaged_line_is_refused_with_its_number(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [RIGHT, WRONG])
    file.write_text(file.read_text() + '{"id": \n')
    with pytest.raises(InputError, match=r"a\.jsonl:3, byte \d+: "):
        evaluate(file)


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", [RIGHT])
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a complete Parquet file"):
        evaluate(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resamples": 0}, "--resamples"),
        ({"confidence": 95}, "--confidence"),
        ({"tune": "new"}, "--tune makes a copy of .* --model"),
        ({"top_k": 3}, "top_k: these options need --model"),
        ({"null_odds": "x.json"}, "null odds in a column"),
        ({"by": ["windows"]}, "--by windows needs .* --model"),
        ({"report": "nowhere/report.html"}, "no folder nowhere"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        evaluate(write(tmp_path / "a.parquet", [RIGHT]), **options)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        evaluate(tmp_path / "none.parquet")


def squad_rows() -> list[Row]:
    """Questions that the tiny model can be asked, in more than ten articles."""
    names = ("Paris", "Rome", "Berlin", "Madrid")
    return [
        Row(
            gold=(name,) if at % 3 else (),
            context=f"{name} is the capital of a country, and number {at} is its house. " * (1 + at % 4),
            question=f"What is the capital number {at}?",
            title=f"article {at % 12}",
        )
        for at in range(120)
        for name in (names[at % 4],)
    ]


def test_a_file_without_answers_is_annotated_first_and_a_second_call_finds_it_done(
    tmp_path: Path, bundles: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gold = write_squad(tmp_path / "gold.json", squad_rows())
    bundle = bundles(name="tiny one")

    def judge() -> Evaluation:
        return evaluate(gold, model=bundle, by=["windows"], threads=1, batch_tokens=512)

    first = judge()
    assert first.model is not None
    assert first.model.annotated is not None
    output = Path(first.model.annotated)
    assert output.name.startswith("gold.tiny-one-")
    written = output.stat().st_mtime_ns
    assert judge().to_dict() == first.to_dict()
    assert output.stat().st_mtime_ns == written
    table = pq.read_table(output)
    assert (pc.list_value_length(table["qa_candidates"]).to_numpy() == 1).all()
    assert first.best is not None
    assert first.figures.all.total == 120
    assert first.model.megabytes is not None


def test_windows_are_counted_as_the_road_makes_them(tmp_path: Path, bundles: Callable[..., Path]) -> None:
    gold = write_squad(tmp_path / "gold.json", squad_rows())
    options = {"max_length": 48, "stride": 8, "max_question_length": 16, "threads": 1, "batch_tokens": 512}
    found = evaluate(gold, model=bundles(), annotated=tmp_path / "out.parquet", by=["windows"], **options)
    counts = {group.name: group.figures.all.total for group in found.groups[0].groups}
    assert sum(counts.values()) == 120
    assert len(counts) > 1
    assert set(counts) <= {"1", "2", "3", "4 to 7", "8 to 15", "16 and more"}


def test_groups_and_report_find_texts_in_columns_of_other_names(tmp_path: Path) -> None:
    table = table_of([RIGHT, HALF, WRONG])
    renamed = table.rename_columns(
        [
            "passage" if name == "context" else "asked" if name == "question" else name
            for name in table.schema.names
        ]
    )
    report = tmp_path / "report.html"
    by = ["context_length", "question_word"]
    found = evaluate(
        write(tmp_path / "a.parquet", renamed), by=by, report=report, context="passage", question="asked"
    )
    usual = evaluate(write(tmp_path / "b.parquet", table), by=by)
    assert found.to_dict()["by"] == usual.to_dict()["by"]
    shown = report.read_text(encoding="utf-8")
    assert WRONG.question in shown
    assert " is the capital of France, and " in shown


def test_answers_that_are_there_are_not_made_again(tmp_path: Path, bundles: Callable[..., Path]) -> None:
    file = write(tmp_path / "a.parquet", [RIGHT])
    found = evaluate(file, model=bundles())
    assert found.model is not None
    assert found.model.annotated is None
    with pytest.raises(SettingsError, match=r"already has answers.*top_k"):
        evaluate(file, model=bundles(), top_k=3)


def test_as_struct_places_answers_in_the_context() -> None:
    assert as_struct(["Rome"], "In Rome") == {"text": ["Rome"], "answer_start": [3]}


def test_scores_and_examples_stand_in_the_files_order(tmp_path: Path) -> None:
    found = evaluate(write(tmp_path / "a.parquet", [RIGHT, WRONG, HALF]))
    assert np.array_equal(found.scores.exact, [1, 0, 0])
    assert found.examples.ids.to_pylist() == ["q0", "q1", "q2"]
