"""Outputs that are not finished, have no row or not all columns, and what is written from outputs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batchqa import LimitError, evaluate, job
from batchqa.cli.entry import main
from batchqa.convert.converting import convert
from batchqa.errors import InputError
from batchqa.job import Summary
from batchqa.review import open_output

Run = Callable[..., Summary]
OUTPUTS = ["out/", "out.parquet", "out.jsonl", "out.csv", "out.jsonl/"]


@pytest.fixture
def run(tiny_bundle: Path) -> Run:
    return partial(job.run, model=tiny_bundle, device="cpu", threads=1, batch_tokens=512, in_process=True)


def row(number: int) -> str:
    text = f"It was built in {1800 + number}."
    return json.dumps({"id": number, "context": text, "question": "When?", "answers": [str(1800 + number)]})


@pytest.fixture
def stopped(run: Run, tmp_path: Path) -> Callable[[str], str]:
    """Makes an output of two parts whose third has a bad row."""

    def make(name: str) -> str:
        (tmp_path / "in.jsonl").write_text("\n".join([*map(row, range(5)), "{bad"]) + "\n")
        with pytest.raises(LimitError):
            run(tmp_path / "in.jsonl", f"{tmp_path}/{name}", part_rows=2)
        return f"{tmp_path}/{name}"

    return make


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_unfinished_output_is_no_input_of_another_job_and_no_figure_is_made_of_it(
    stopped: Callable[[str], str], run: Run, tmp_path: Path, name: str
) -> None:
    output = stopped(name)
    with pytest.raises(InputError, match="not finished"):
        run(output, tmp_path / "second.parquet", output_prefix="b_", if_no_input="skip")
    with pytest.raises(InputError, match="not finished"):
        evaluate(output)
    with pytest.raises(InputError, match="not finished"):
        convert(output, tmp_path / "predictions.json", "squad")
    assert not list(tmp_path.glob("second*"))
    run(tmp_path / "in.jsonl", output, part_rows=2, max_errors=1)
    run(output, tmp_path / "second.parquet", output_prefix="b_", max_errors=1)


def test_an_unfinished_output_anywhere_below_an_input_folder_is_noticed(
    stopped: Callable[[str], str], run: Run, tmp_path: Path
) -> None:
    (tmp_path / "days").mkdir()
    stopped("days/monday/")
    for inputs in (tmp_path / "days", f"{tmp_path}/d*", f"file://{tmp_path}/days"):
        with pytest.raises(InputError, match="monday is the output of a job that is not finished"):
            run(inputs, tmp_path / "second.parquet", output_prefix="b_")


@pytest.mark.parametrize("name", OUTPUTS)
def test_show_says_that_an_output_is_not_finished(
    stopped: Callable[[str], str], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["show", stopped(name)]) == 0
    said = capsys.readouterr()
    assert "is not finished: these are the rows so far" in said.err
    assert "answers are shown alone" not in said.err
    assert said.out.startswith("row 1")


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_without_a_row_is_one_that_a_run_wrote(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "none.jsonl").write_text("")
    output = f"{tmp_path}/{name}"
    run(tmp_path / "none.jsonl", output)
    assert main(["show", output]) == 0
    said = capsys.readouterr()
    assert ("0 rows" in said.out, said.err) == (True, "")
    assert list(open_output(output).rows()) == []
    assert "0 predictions" in convert(output, tmp_path / "predictions.json", "squad")
    (tmp_path / "today.jsonl").write_text(row(1) + "\n")
    reused = run(tmp_path / "today.jsonl", tmp_path / "today.parquet", reuse=[output])
    assert (reused.rows, reused.reused_rows) == (1, 0)
    with pytest.raises(InputError, match=r"has no rows|no gold answers"):
        evaluate(output)


@pytest.fixture
def finished(run: Run, tmp_path: Path) -> str:
    (tmp_path / "in.jsonl").write_text(row(1) + "\n")
    run(tmp_path / "in.jsonl", tmp_path / "out.parquet")
    return f"{tmp_path}/out.parquet"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_regular_file_is_not_replaced(
    finished: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    place = tmp_path / "place"
    if kind == "link":
        place.symlink_to(os.devnull)
    else:
        os.mkfifo(place)
    for command in (
        ["show", finished, "--html", str(place)],
        ["evaluate", finished, "--report", str(place), "--resamples", "9"],
        ["convert", finished, "--to", "squad", "-o", str(place), "--overwrite"],
    ):
        assert main(command) == 2, command
        assert "is a link, a device or a pipe" in capsys.readouterr().err
    assert place.is_symlink() if kind == "link" else place.is_fifo()


def test_an_answer_s_column_that_was_left_out_is_named(finished: str) -> None:
    pq.write_table(pq.read_table(finished).drop_columns(["qa_score"]), finished)
    with pytest.raises(InputError, match=r"has no column 'qa_score'; the run left it out"):
        evaluate(finished)
