"""`--by`: columns, numbers cut into ranges, and groups worked out from the texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from batchqa.cli.entry import main
from batchqa.errors import InputError, SettingsError
from batchqa.evaluation import evaluate
from tests.evaluation.making import Row, simulated, table_of, write


def groups(file: Path, by: str) -> dict[str, int]:
    """Rows by group, in the table's order; a group's figures are checked elsewhere."""
    return {group.name: group.figures.all.total for group in evaluate(file, by=[by]).groups[0].groups}


def with_column(path: Path, values: pa.Array) -> Path:
    rows = [Row(gold=("Paris",) if at % 2 else ()) for at in range(len(values))]
    return write(path, table_of(rows).append_column("what", values))


def test_each_group_has_the_figures_of_its_rows(tmp_path: Path) -> None:
    rows = [Row(title="b"), Row(title="a", span="Rome"), Row(title="b", gold=(), silent=True, odds=2.0)]
    found = evaluate(write(tmp_path / "a.parquet", rows), by=["title"]).to_dict()["by"]["title"]
    assert [(group["group"], group["total"], group["exact"]) for group in found] == [
        ("a", 1, 0.0),
        ("b", 2, 100.0),
    ]
    assert "NoAns_exact" not in found[0]
    assert found[1]["NoAns_exact"] == 100.0


def test_groups_together_have_all_rows_and_the_whole_figure(tmp_path: Path) -> None:
    found = evaluate(write(tmp_path / "a.parquet", simulated(500)), by=["title"])
    parts = [group.figures.all for group in found.groups[0].groups]
    assert sum(part.total for part in parts) == 500
    assert sum(part.f1 * part.total for part in parts) / 500 == pytest.approx(found.figures.all.f1)


def test_null_is_a_group_of_its_own_and_the_last(tmp_path: Path) -> None:
    file = with_column(tmp_path / "a.parquet", pa.array(["x", None, "a", None]))
    assert groups(file, "what") == {"a": 1, "x": 1, "(none)": 2}


@pytest.mark.parametrize("values", [[True, False, True], [3, 1, 3]], ids=["bool", "int"])
def test_few_values_of_any_type_are_groups_in_their_order(tmp_path: Path, values: list[int]) -> None:
    assert list(groups(with_column(tmp_path / "a.parquet", pa.array(values)), "what").values()) == [1, 2]


def test_many_numbers_are_cut_into_ranges_of_like_size(tmp_path: Path) -> None:
    values = np.append(np.arange(100) / 10, np.nan)
    found = groups(with_column(tmp_path / "a.parquet", pa.array(values)), "what")
    assert next(iter(found)).startswith("under ")
    assert list(found)[-2].endswith("and more")
    assert (found.pop("(none)"), len(found)) == (1, 5)
    assert all(15 <= rows <= 25 for rows in found.values())


def test_a_dotted_path_groups_by_a_field_of_a_struct(tmp_path: Path) -> None:
    file = with_column(tmp_path / "a.parquet", pa.array([{"kind": {"name": "x"}}, {"kind": {"name": "y"}}]))
    assert groups(file, "what.kind.name") == {"x": 1, "y": 1}
    with pytest.raises(InputError, match="column 'what' has no field 'size'"):
        groups(file, "what.size")


def test_a_column_with_a_value_per_row_is_no_grouping(tmp_path: Path) -> None:
    file = with_column(tmp_path / "a.parquet", pa.array([f"v{at}" for at in range(1001)]))
    with pytest.raises(SettingsError, match="1,001 different values"):
        groups(file, "what")


def test_a_column_of_lists_is_no_grouping(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="name a column of single values"):
        groups(with_column(tmp_path / "a.parquet", pa.array([[1], [2]])), "what")


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'where'; it has: id, title"):
        groups(write(tmp_path / "a.parquet", [Row()]), "where")


def test_lengths_of_contexts_are_counted_in_characters(tmp_path: Path) -> None:
    contexts = ["é" * 249, "x" * 250, "x" * 9000]
    rows = [Row(context=context, span=context[:3], gold=(context[:3],)) for context in contexts]
    assert groups(write(tmp_path / "a.parquet", rows), "context_length") == {
        "under 250 characters": 1,
        "250 to 499 characters": 1,
        "8000 and more characters": 1,
    }


def test_the_question_word_is_the_first_that_occurs_in_english_or_spanish(tmp_path: Path) -> None:
    questions = [
        "In what year did who win?",
        "How many people?",
        "HOW did it end?",
        "Whose house?",
        "Name the whatever",
        "¿En qué año?",
        "¿Por qué?",
        "¿Cuántas casas?",
    ]
    rows = [Row(question=question) for question in questions]
    found = groups(write(tmp_path / "a.parquet", rows), "question_word")
    assert found == {
        "how many": 1, "who": 1, "what": 1, "how": 1, "por qué": 1, "qué": 1, "cuánto": 1, "(other)": 1,
    }  # fmt: skip


def test_a_column_wins_over_what_could_be_worked_out(tmp_path: Path) -> None:
    table = table_of([Row()]).append_column("question_word", pa.array(["mine"]))
    assert groups(write(tmp_path / "a.parquet", table), "question_word") == {"mine": 1}


def test_groups_of_several_columns_make_several_tables(tmp_path: Path) -> None:
    found = evaluate(write(tmp_path / "a.parquet", [Row()]), by=["title", "question_word"])
    assert [grouping.by for grouping in found.groups] == ["title", "question_word"]


def test_a_terminal_is_not_obeyed_whatever_groups_and_ids_are_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[2J\x1b]0;pwned\x07\u202eabc\x9b31m"
    rows = [Row(id=f"{number}{evil}", title=evil, error="oom" if number else None) for number in range(3)]
    file = write(tmp_path / "a.parquet", rows)
    assert main(["evaluate", str(file), "--by", "title", "--resamples", "10"]) == 0
    text = capsys.readouterr().out
    assert "pwned" in text
    assert not set(text) & set("\x1b\x07\x9b\u202e")
