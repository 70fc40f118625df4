"""--reuse: a table of which most rows were answered yesterday costs what its new rows cost."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchqa
from batchqa import job
from batchqa.cli.entry import main
from batchqa.errors import InputError, SettingsError
from tests.models import MARKER, SENTENCES

OPTIONS: dict[str, Any] = {
    "device": "cpu",
    "engine": "onnxruntime",
    "threads": 1,
    "batch_tokens": 256,
    "in_process": True,
    "top_k": 2,
    "answers": "all",
    "max_errors": "100%",
}
FLOATS = ("qa_score", "qa_null_odds")
LISTS = ("qa_candidates", "qa_answers")


def _row(number: int) -> dict[str, Any]:
    context = f"\u00dcber {SENTENCES[number % len(SENTENCES)]} It was house {number}. " * (1 + number % 3)
    return {"n": number, "context": context, "question": f"Which house is {number}?"}


OLD = [_row(number) for number in range(40)]
UNJUDGED = [{"n": 100, "context": None, "question": "Who?"}, {"n": 101, "context": " ", "question": "Who?"}]
NEW = [_row(number) for number in (50, 51, 52)]


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    schema = pa.schema({"n": pa.int64(), "context": pa.string(), "question": pa.string()})
    return pa.Table.from_pylist(rows, schema)


def _write(path: Path, rows: list[dict[str, Any]], **renamed: str) -> Path:
    table = _table(rows).rename_columns([renamed.get(name, name) for name in ("n", "context", "question")])
    pq.write_table(table, path)
    return path


def _today() -> list[dict[str, Any]]:
    rows = [*OLD[:38], *UNJUDGED, *NEW, OLD[3], NEW[0]]
    random.Random(5).shuffle(rows)
    return rows


def _scores(column: pa.ChunkedArray) -> list[float]:
    return [candidate["score"] for candidates in column.to_pylist() for candidate in candidates or ()]


def _spans(column: pa.ChunkedArray) -> list[Any]:
    return [
        [(c["answer"], c["start"], c["end"]) for c in candidates or ()] for candidates in column.to_pylist()
    ]


def _assert_equal(found: Path, expected: Path) -> None:
    """Equal as docs/contract.md (Equality) has it: floats within 1e-4, all else the same."""
    one, other = pq.read_table(found), pq.read_table(expected)
    inexact = [*FLOATS, *LISTS]
    assert one.drop(inexact) == other.drop(inexact)
    for name in FLOATS:
        np.testing.assert_allclose(one[name].to_numpy(), other[name].to_numpy(), atol=1e-4)
    for name in LISTS:
        assert _spans(one[name]) == _spans(other[name])
        np.testing.assert_allclose(_scores(one[name]), _scores(other[name]), atol=1e-4)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with yesterday's table, today's, and what scoring all of today's gives."""
    folder = tmp_path_factory.mktemp("reuse")
    _write(folder / "old.parquet", OLD)
    _write(folder / "today.parquet", _today())
    return folder


@pytest.fixture(scope="module")
def full(work: Path, tiny_bundle: Path) -> Path:
    """Today's table, all of it scored."""
    batchqa.run(work / "today.parquet", work / "full.parquet", model=tiny_bundle, **OPTIONS)
    return work / "full.parquet"


@pytest.fixture(scope="module")
def yesterday(work: Path, tiny_bundle: Path) -> Path:
    """Yesterday's output."""
    batchqa.run(work / "old.parquet", work / "yesterday.parquet", model=tiny_bundle, **OPTIONS)
    return work / "yesterday.parquet"


@pytest.mark.parametrize("name", ["yesterday.parquet", "yesterday/", "yesterday.jsonl", "lines.jsonl/"])
def test_rows_of_an_earlier_output_are_copied_and_equal_what_scoring_gives(
    name: str, work: Path, full: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    earlier = f"{tmp_path}/{name}"
    batchqa.run(work / "old.parquet", earlier, model=tiny_bundle, **OPTIONS)
    done = batchqa.run(
        work / "today.parquet", tmp_path / "out.parquet", model=tiny_bundle, reuse=earlier, **OPTIONS
    )
    assert done.reused_rows == 39
    assert done.windows == 3  # of the new rows, each with a short context or none at all
    _assert_equal(tmp_path / "out.parquet", full)


def test_what_decides_nothing_about_an_answer_may_differ(
    work: Path, full: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    other = _write(tmp_path / "other.parquet", OLD[::-1], n="number", context="text", question="asked")
    earlier = tmp_path / "earlier.parquet"
    names: dict[str, Any] = {
        "context": "text",
        "question": "asked",
        "output_prefix": "a_",
        "drop": ("number",),
    }
    batchqa.run(other, earlier, model=tiny_bundle, part_rows=7, compression="none", **names, **OPTIONS)
    out = tmp_path / "out.parquet"
    done = batchqa.run(
        work / "today.parquet", out, model=tiny_bundle, reuse=[earlier], part_rows=9, **OPTIONS
    )
    assert done.reused_rows == 39
    _assert_equal(out, full)


@pytest.mark.parametrize(
    ("option", "value"),
    [("top_k", 1), ("no_answer_threshold", 3.5), ("max_length", 64), ("no_answer", "off"), ("stride", 16)],
)
def test_another_option_reuses_nothing_and_the_note_names_it(
    option: str, value: Any, work: Path, yesterday: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    done = batchqa.run(
        work / "today.parquet",
        tmp_path / "out.parquet",
        model=tiny_bundle,
        reuse=yesterday,
        on_note=notes.append,
        **{**OPTIONS, option: value},
    )
    assert done.reused_rows == 0
    (note,) = [note for note in notes if "reused" in note]
    assert f"nothing is reused from {yesterday}" in note
    assert f".{option}: " in note


def test_another_model_reuses_nothing_and_the_note_says_so(
    work: Path, yesterday: Path, bundles: Callable[..., Path], tmp_path: Path
) -> None:
    notes: list[str] = []
    output, other = tmp_path / "out.parquet", bundles(poisoned=True)
    done = batchqa.run(
        work / "today.parquet", output, model=other, reuse=yesterday, on_note=notes.append, **OPTIONS
    )
    assert done.reused_rows == 0
    assert any("bundle: " in note for note in notes)


def test_a_row_error_is_tried_again(bundles: Callable[..., Path], tmp_path: Path) -> None:
    rows = [OLD[0], {"n": 1, "context": f"a {MARKER} bridge", "question": "Who?"}, OLD[1]]
    source, model = _write(tmp_path / "in.parquet", rows), bundles(poisoned=True)
    first = batchqa.run(source, tmp_path / "first.parquet", model=model, **OPTIONS)
    again = batchqa.run(
        source, tmp_path / "again.parquet", model=model, reuse=tmp_path / "first.parquet", **OPTIONS
    )
    assert first.errors == again.errors == {"non_finite": 1}
    assert (again.reused_rows, again.windows) == (2, 1)


def test_several_outputs_and_one_that_was_made_by_reuse_are_reused(
    work: Path, yesterday: Path, full: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    others = _write(tmp_path / "new.parquet", [*NEW, *OLD[:2]])
    run = {"model": tiny_bundle, **OPTIONS}
    second = batchqa.run(others, tmp_path / "second.parquet", reuse=yesterday, **run)
    assert second.reused_rows == 2
    out = tmp_path / "out.parquet"
    both = batchqa.run(work / "today.parquet", out, reuse=[yesterday, tmp_path / "second.parquet"], **run)
    assert (both.reused_rows, both.windows) == (43, 0)
    _assert_equal(out, full)


@pytest.mark.parametrize("name", ["yesterday.parquet", "yesterday/", "yesterday.jsonl"])
def test_the_link_to_the_latest_output_is_followed(
    name: str, work: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    run = {"model": tiny_bundle, **OPTIONS}
    batchqa.run(work / "old.parquet", f"{tmp_path}/{name}", **run)
    (tmp_path / "latest").symlink_to(name)
    done = batchqa.run(work / "today.parquet", tmp_path / "out.parquet", reuse=tmp_path / "latest", **run)
    assert done.reused_rows == 39
    with pytest.raises(SettingsError, match="is the output itself"):
        batchqa.run(
            work / "today.parquet", f"{tmp_path}/{name}", reuse=tmp_path / "latest", overwrite=True, **run
        )


def test_of_a_job_that_asks_its_own_questions_only_the_new_ones_are_scored(
    work: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    questions = tmp_path / "questions.jsonl"

    def ask(name: str, lines: list[dict[str, Any]], **options: Any) -> batchqa.Summary:
        questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
        run = {"model": tiny_bundle, "questions": str(questions), **options, **OPTIONS}
        return batchqa.run(work / "old.parquet", tmp_path / name, **run)

    same = {"name": "same", "question": "Which house is it?"}
    own = {"name": "own", "question": "Which house is it?", "threshold": -1e6}
    other = {"name": "own", "question": "Which house is it?", "threshold": -1e5}
    new = {"name": "new", "question": "Whose house is {n}?"}
    ask("first.parquet", [own, same])
    expected = ask("expected.parquet", [new, same, own])
    earlier = tmp_path / "first.parquet"
    done = ask("out.parquet", [new, same, own], reuse=earlier)
    assert (expected.reused_rows, done.reused_rows) == (0, 80)
    _assert_equal(tmp_path / "out.parquet", tmp_path / "expected.parquet")
    assert ask("other.parquet", [other], reuse=earlier).reused_rows == 0
    wide = ask("wide.parquet", [same], layout="wide", reuse=earlier)
    assert wide.reused_rows == 40
    with pytest.raises(InputError, match="--layout wide"):
        ask("again.parquet", [same], reuse=tmp_path / "wide.parquet")


def test_a_stopped_job_resumes_with_the_same_answers(
    work: Path, yesterday: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    class Stop(Exception):  # noqa: N818 - no error
        pass

    def stop(progress: job.Progress) -> None:
        if progress.part == 2:
            raise Stop

    run = {"model": tiny_bundle, "reuse": yesterday, "part_rows": 10, **OPTIONS}
    whole, stopped = tmp_path / "whole.parquet", tmp_path / "stopped.parquet"
    expected = batchqa.run(work / "today.parquet", whole, **run)
    with pytest.raises(Stop):
        batchqa.run(work / "today.parquet", stopped, progress=stop, **run)
    done = batchqa.run(work / "today.parquet", stopped, **run)
    assert done.resumed_rows > 0
    assert done.reused_rows == expected.reused_rows == 39
    assert pq.read_table(stopped) == pq.read_table(whole)
    again = batchqa.run(work / "today.parquet", stopped, model=tiny_bundle, part_rows=10, **OPTIONS)
    assert again.already_done  # by which way the answers came makes no difference to the job


def test_what_cannot_be_reused_is_refused_before_anything_is_written(
    work: Path, yesterday: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    source, out, run = work / "today.parquet", tmp_path / "out.parquet", {"model": tiny_bundle, **OPTIONS}
    with pytest.raises(InputError, match=r"--reuse .*missing\.parquet: there is no output of `batchqa run`"):
        batchqa.run(source, out, reuse=tmp_path / "missing.parquet", **run)
    with pytest.raises(SettingsError, match="is the output itself"):
        batchqa.run(source, yesterday, reuse=yesterday, overwrite=True, **run)
    assert not list(tmp_path.iterdir())
    dropped = tmp_path / "dropped.parquet"
    batchqa.run(work / "old.parquet", dropped, drop=("question",), **run)
    with pytest.raises(InputError, match="has no column 'question'"):
        batchqa.run(source, out, reuse=dropped, **run)


def test_a_dry_run_counts_what_would_be_copied(
    work: Path, yesterday: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    source, run = work / "today.parquet", {"model": tiny_bundle, **OPTIONS}
    all_new = batchqa.job.dry_run(source, tmp_path / "out.parquet", **run)
    mostly_old = batchqa.job.dry_run(source, tmp_path / "out.parquet", reuse=yesterday, **run)
    assert (all_new.reused_rows, mostly_old.reused_rows) == (0, 39)
    assert mostly_old.windows < all_new.windows / 5


def test_the_command_takes_several_outputs_and_tells_how_many_rows_it_copied(
    work: Path, yesterday: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*("--model", str(tiny_bundle)), *("--device", "cpu"), *("--engine", "onnxruntime")]
    given += [
        *("--top-k", "2"),
        *("--threads", "1"),
        *("--batch-tokens", "256"),
        "--in-process",
        "--answers",
        "all",
    ]
    reuse = [*("--reuse", str(yesterday)), *("--reuse", str(yesterday))]
    out = tmp_path / "out.parquet"
    assert main(["run", str(work / "today.parquet"), "-o", str(out), *given, *reuse]) == 0
    assert json.loads(capsys.readouterr().out)["reused_rows"] == 39
