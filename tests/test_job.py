"""Whole jobs, from files to files, with the tiny bundle."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchqa import InputError, LimitError, PreconditionError, SettingsError, job
from batchqa.bundle import open_bundle, write_manifest
from batchqa.job import Progress, Summary, dry_run
from batchqa.output import Commit
from batchqa.steps.reading.input_files import Place
from tests.models import MARKER, SENTENCES, write_tiny_bundle

Run = Callable[..., Summary]
ROWS = [
    {
        "context": SENTENCES[i % len(SENTENCES)] + f" This was row {i}.",
        "question": f"What is number {i}?",
        "n": i,
    }
    for i in range(40)
]


@pytest.fixture
def run(tiny_bundle: Path) -> Run:
    options = {"device": "cpu", "threads": 1, "batch_tokens": 512, "in_process": True}
    return partial(job.run, model=tiny_bundle, **options)


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def _jsonl(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    text = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("".join(line + "\n" for line in text), encoding="utf-8")
    return path


def _table(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_every_row_comes_back_in_order_with_its_columns_and_an_answer_that_stands_in_it(
    run: Run, parquet: Path, tmp_path: Path
) -> None:
    summary = run(parquet, tmp_path / "out.parquet", part_rows=7)
    rows = _table(tmp_path / "out.parquet")
    assert [{name: row[name] for name in ROWS[0]} for row in rows] == ROWS
    for row in rows:
        if row["qa_no_answer"]:
            assert row["qa_answer"] is None
        else:
            assert row["context"][row["qa_start"] : row["qa_end"]] == row["qa_answer"]
    silent = sum(row["qa_no_answer"] for row in rows)
    assert (summary.rows, summary.no_answer, summary.answered) == (40, silent, 40 - silent)
    assert 0 < silent < 40
    assert summary.windows == 40
    assert not list(tmp_path.glob("*.batchqa")), "the staging was left behind"


def test_the_output_depends_on_the_parts_in_nothing(run: Run, parquet: Path, tmp_path: Path) -> None:
    tables = []
    for part_rows in (3, 40, 100_000):
        out = tmp_path / f"out{part_rows}.parquet"
        run(parquet, out, part_rows=part_rows)
        tables.append(pq.read_table(out).drop("qa_score").drop("qa_null_odds"))
    assert tables[0].equals(tables[1])
    assert tables[1].equals(tables[2])


def test_a_job_that_is_done_is_left_untouched(run: Run, parquet: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    first = run(parquet, out)
    before = (out.stat().st_mtime_ns, out.stat().st_ino, out.read_bytes())
    again = run(parquet, out)
    assert (out.stat().st_mtime_ns, out.stat().st_ino, out.read_bytes()) == before
    assert (again.rows, again.resumed_rows, again.answered) == (40, 40, first.answered)
    assert again.fingerprint == first.fingerprint


def test_an_output_of_other_options_is_not_overwritten_unless_asked(
    run: Run, parquet: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    run(parquet, out)
    before = out.read_bytes()
    with pytest.raises(PreconditionError, match="max_answer_length: 30 -> 5"):
        run(parquet, out, max_answer_length=5)
    assert out.read_bytes() == before
    run(parquet, out, max_answer_length=5, overwrite=True)
    assert out.read_bytes() != before


def test_a_job_that_was_stopped_goes_on_from_its_last_part_and_ends_with_the_same_bytes(
    run: Run, parquet: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    undisturbed = tmp_path / "whole.parquet"
    run(parquet, undisturbed, part_rows=8)
    out = tmp_path / "out.parquet"

    def stop(progress: Progress) -> None:
        if progress.rows == 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(parquet, out, part_rows=8, progress=stop)
    assert not out.exists()
    summary = job.run(parquet, out, model=tiny_bundle, device="cpu", threads=1, part_rows=8)
    assert summary.resumed_rows >= 16
    ours, theirs = pq.read_table(out), pq.read_table(undisturbed)
    assert ours.equals(theirs), "the resumed run did not keep the first run's batches"


def test_a_jsonl_job_goes_on_in_the_middle_of_its_file(run: Run, tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "in.jsonl", *ROWS[:10], "not json", *ROWS[10:], "")
    options = {"part_rows": 8, "max_errors": 1}
    run(source, tmp_path / "whole.parquet", **options)

    def stop(progress: Progress) -> None:
        if progress.rows == 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out.parquet", progress=stop, **options)
    assert run(source, tmp_path / "out.parquet", **options).resumed_rows >= 16
    assert pq.read_table(tmp_path / "out.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))


def test_an_input_that_changed_is_not_resumed(run: Run, parquet: Path, tmp_path: Path) -> None:
    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(parquet, tmp_path / "out.parquet", part_rows=8, progress=stop)
    pq.write_table(pa.Table.from_pylist(ROWS[:30]), parquet)
    with pytest.raises(PreconditionError, match="unfinished job"):
        run(parquet, tmp_path / "out.parquet", part_rows=8)
    assert run(parquet, tmp_path / "out.parquet", part_rows=8, restart=True).rows == 30


def test_an_input_that_changes_while_it_is_read_is_never_published(
    run: Run, parquet: Path, tmp_path: Path
) -> None:
    def change(progress: Progress) -> None:
        if progress.part == 0:
            pq.write_table(pa.Table.from_pylist(ROWS[:30]), parquet)

    with pytest.raises(PreconditionError, match=r"in\.parquet"):
        run(parquet, tmp_path / "out.parquet", part_rows=8, progress=change)
    assert not (tmp_path / "out.parquet").exists()


def test_bad_rows_are_kept_with_their_code_and_counted(run: Run, tmp_path: Path) -> None:
    source = _jsonl(
        tmp_path / "in.jsonl", ROWS[0], "{", {"context": 1, "question": "x"}, {"context": "a"}, ROWS[1]
    )
    summary = run(source, tmp_path / "out.parquet", max_errors=3)
    codes = [row["qa_error"] for row in _table(tmp_path / "out.parquet")]
    assert codes == [None, "bad_json", "type_context", "missing_question", None]
    assert summary.errors == {"bad_json": 1, "type_context": 1, "missing_question": 1}


def test_one_error_more_than_allowed_ends_the_job_and_a_higher_limit_finishes_it(
    run: Run, tmp_path: Path
) -> None:
    source = _jsonl(tmp_path / "in.jsonl", ROWS[0], "{", ROWS[1], "[]")
    out = tmp_path / "out.parquet"
    with pytest.raises(LimitError, match=r"2 of 4 rows.*allows 1.*bad_json at .*in\.jsonl:2, byte \d+"):
        run(source, out, max_errors=1, part_rows=2)
    assert not out.exists()
    assert run(source, out, max_errors=2, part_rows=2).resumed_rows == 4
    assert len(_table(out)) == 4


def test_a_share_of_errors_is_judged_at_the_end(run: Run, tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "in.jsonl", "{", *ROWS[:9])
    with pytest.raises(LimitError, match="allows 9%"):
        run(source, tmp_path / "out.parquet", max_errors="9%", part_rows=1)
    assert run(source, tmp_path / "out.parquet", max_errors="10%", part_rows=1).errors == {"bad_json": 1}


def test_statuses_count_as_errors_only_when_strict(run: Run, tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "in.jsonl", ROWS[0], {"context": " ", "question": "Who?"})
    assert run(source, tmp_path / "out.parquet").statuses == {"empty_context": 1}
    with pytest.raises(LimitError, match="empty_context"):
        run(source, tmp_path / "strict.parquet", strict=True)


def test_rejected_rows_stand_in_a_file_of_their_own_and_nothing_is_lost(run: Run, tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "in.jsonl", ROWS[0], "{", ROWS[1], {"context": "a", "n": 5}, ROWS[2])
    summary = run(source, tmp_path / "out.parquet", on_error="reject", max_errors="100%", part_rows=2)
    assert [row["n"] for row in _table(tmp_path / "out.parquet")] == [0, 1, 2]
    rejects = (tmp_path / "out.parquet.rejects.jsonl").read_text().splitlines()
    assert [(line["record"], line["error"]) for line in map(json.loads, rejects)] == [
        (1, "bad_json"),
        (3, "missing_question"),
    ]
    assert json.loads(rejects[1])["row"]["n"] == 5
    assert (summary.rows, summary.rejected) == (5, 2)


BROKEN = ['{"a": 1} {"b": 2}', '{"n": NaN}', "{no: JSON}", '{"context": "\\ud800"}', "[1]"]


@pytest.mark.parametrize("on_error", ["annotate", "reject"])
def test_every_line_of_json_lines_output_is_json_whatever_the_input_s_lines_were(
    run: Run, tmp_path: Path, on_error: str
) -> None:
    source = _jsonl(tmp_path / "in.jsonl", *BROKEN, {"context": 5, "n": 2**70}, ROWS[0])
    output = tmp_path / "out.jsonl"
    run(source, output, on_error=on_error, max_errors="100%")
    if on_error == "annotate":
        found = [orjson.loads(line) for line in output.read_bytes().splitlines()]
        assert found.pop()["n"] == ROWS[0]["n"]
    else:
        rejects = Path(f"{output}.rejects.jsonl").read_bytes().splitlines()
        found = [orjson.loads(line)["row"] for line in rejects]
    assert [row["_record"] for row in found[:-1]] == BROKEN
    assert found[-1]["context"] == 5


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        ("in.jsonl", "is an input or output"),
        ("link.jsonl", "is an input or output"),
        ("out.jsonl", "is an input or output"),
        ("out.jsonl.batchqa.json", "is an input or output"),
        ("missing/x.json", "there is no folder"),
        (".", "is a folder"),
    ],
)
def test_a_summary_that_cannot_be_or_would_cost_a_file_is_refused_before_the_work(
    run: Run, tmp_path: Path, summary: str, said: str
) -> None:
    source = _jsonl(tmp_path / "in.jsonl", ROWS[0])
    before = source.read_bytes()
    (tmp_path / "link.jsonl").hardlink_to(source)
    with pytest.raises(SettingsError, match=said):
        run(source, tmp_path / "out.jsonl", summary=tmp_path / summary)
    assert source.read_bytes() == before
    assert not (tmp_path / "out.jsonl").exists()


# the pipe of a job that is refused is closed by whatever collects it
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_an_earlier_stream_left_is_never_taken_for_this_one_s(run: Run, tmp_path: Path) -> None:
    pipe, out = tmp_path / "pipe", tmp_path / "out.jsonl"
    os.mkfifo(pipe)

    def feed(*contexts: str) -> None:
        lines = (json.dumps({"context": text, "question": "What?"}) if text else "{" for text in contexts)
        text = "".join(f"{line}\n" for line in lines)
        threading.Thread(target=pipe.write_text, args=(text,), daemon=True).start()

    def contexts() -> list[str]:
        return [json.loads(line)["context"] for line in out.read_text().splitlines()]

    feed("one", "")
    with pytest.raises(LimitError):  # its first part is committed
        run(pipe, out, part_rows=1)
    feed("two", "three")
    run(pipe, out, part_rows=1)
    assert contexts() == ["two", "three"]
    feed("four")
    with pytest.raises(PreconditionError, match=r"made from other inputs .*stream"):
        run(pipe, out, part_rows=1)
    assert contexts() == ["two", "three"]
    feed("four")
    run(pipe, out, part_rows=1, overwrite=True)
    assert contexts() == ["four"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "-"])
def test_fields_of_one_name_are_refused_before_the_work_where_json_cannot_hold_them(
    run: Run, tmp_path: Path, name: str
) -> None:
    twice = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    column = pa.ListArray.from_arrays([0, 1], twice)
    table = pa.table({"context": ["It rained."], "question": ["What?"], "more": column})
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(InputError, match="'more' has structs with two fields of one name"):
        run(tmp_path / "in.parquet", name if name == "-" else tmp_path / name)
    run(tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert (
        pq.read_table(tmp_path / "out.parquet")["more"]
        .combine_chunks()
        .equals(table["more"].combine_chunks())
    )


def test_a_summary_replaces_an_earlier_one_and_nothing_else(run: Run, tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "in.jsonl", ROWS[0])
    notes = tmp_path / "notes.json"
    notes.write_text('{"mine": 1}')
    with pytest.raises(SettingsError, match="already exists"):
        run(source, tmp_path / "out.jsonl", summary=notes)
    assert notes.read_text() == '{"mine": 1}'
    for name in ("a.jsonl", "b.jsonl"):
        run(source, tmp_path / name, summary=tmp_path / "summary.json")
    assert json.loads((tmp_path / "summary.json").read_bytes())["output"].endswith("b.jsonl")


def test_a_summary_never_becomes_input_and_may_stand_in_the_output_s_folder(run: Run, tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "in" / "in.jsonl", ROWS[0])
    with pytest.raises(SettingsError, match="would become an input"):
        run(source.parent, tmp_path / "out.parquet", summary=source.parent / "summary.json")
    run(source.parent, f"{tmp_path}/out/", summary=tmp_path / "out" / "_summary.json")
    assert json.loads((tmp_path / "out" / "_summary.json").read_bytes())["rows"] == 1


def test_on_error_fail_stops_at_the_first_bad_row(run: Run, tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "in.jsonl", ROWS[0], "{")
    with pytest.raises(LimitError, match=r"on-error fail.*in\.jsonl:2"):
        run(source, tmp_path / "out.parquet", on_error="fail", max_errors="100%")


def test_logits_that_are_not_numbers_are_a_row_error_and_never_a_score(
    bundles: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [ROWS[0], {"context": f"A {MARKER} bridge.", "question": "What?", "n": 1}, ROWS[2]]
    source = _jsonl(tmp_path / "in.jsonl", *rows)
    summary = job.run(
        source,
        tmp_path / "out.parquet",
        model=bundles(poisoned=True),
        device="cpu",
        batch_tokens=512,
        max_errors=1,
    )
    first, poisoned, last = _table(tmp_path / "out.parquet")
    assert summary.errors == {"non_finite": 1}
    assert (poisoned["qa_error"], poisoned["qa_score"]) == ("non_finite", None)
    assert first["qa_score"] is not None
    assert last["qa_score"] is not None


def test_jsonl_to_jsonl_keeps_the_original_values(run: Run, tmp_path: Path) -> None:
    line = '{"question": "Who?", "context": "The bridge.", "big": 123456789012345678901234567890, "x": 1.10}'
    run(_jsonl(tmp_path / "in.jsonl", line), tmp_path / "out.jsonl")
    out = (tmp_path / "out.jsonl").read_text(encoding="utf-8").strip()
    assert out.startswith(line[:-1])
    assert "qa_score" in json.loads(out)


def test_several_inputs_are_read_in_the_order_given(run: Run, tmp_path: Path) -> None:
    for name, rows in (("b", ROWS[:3]), ("a", ROWS[3:5])):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    run([tmp_path / "b.parquet", tmp_path / "a.parquet"], tmp_path / "out" / "all.parquet")
    assert [row["n"] for row in _table(tmp_path / "out" / "all.parquet")] == [0, 1, 2, 3, 4]


def test_a_folder_output_holds_its_parts_and_a_marker(run: Run, parquet: Path, tmp_path: Path) -> None:
    run(parquet, f"{tmp_path / 'out'}/", part_rows=15)
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    assert [path.name for path in parts] == [
        "part-0000000.parquet",
        "part-0000001.parquet",
        "part-0000002.parquet",
    ]
    assert [row["n"] for path in parts for row in _table(path)] == list(range(40))
    assert json.loads((tmp_path / "out" / "_SUCCESS").read_text())


@pytest.mark.parametrize("limit", [0, 5, 8, 39, 40, 100])
def test_limit_annotates_the_first_rows_only(run: Run, parquet: Path, tmp_path: Path, limit: int) -> None:
    summary = run(parquet, tmp_path / "out.parquet", limit=limit, part_rows=8)
    assert [row["n"] for row in _table(tmp_path / "out.parquet")] == list(range(min(limit, 40)))
    assert summary.rows == min(limit, 40)


def test_an_input_without_rows_gives_an_output_with_the_columns(run: Run, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS).slice(0, 0), tmp_path / "in.parquet")
    assert run(tmp_path / "in.parquet", tmp_path / "out.parquet").rows == 0
    assert "qa_answer" in pq.read_schema(tmp_path / "out.parquet").names


def test_candidates_hold_the_best_span_also_where_there_is_no_answer(
    run: Run, parquet: Path, tmp_path: Path
) -> None:
    run(parquet, tmp_path / "out.parquet", top_k=2)
    for row in _table(tmp_path / "out.parquet"):
        best = row["qa_candidates"][0]
        assert row["context"][best["start"] : best["end"]] == best["answer"]
        assert row["qa_no_answer"] or best["answer"] == row["qa_answer"]
        assert len(row["qa_candidates"]) == 2


def test_progress_ends_with_all_rows_and_the_summary_is_written(
    run: Run, parquet: Path, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    summary = run(parquet, tmp_path / "out.parquet", progress=seen.append, summary=tmp_path / "s.json")
    assert (seen[-1].rows, seen[-1].total_rows, seen[-1].answered) == (40, 40, summary.answered)
    assert json.loads((tmp_path / "s.json").read_text()) == summary.to_dict()


def test_a_dry_run_counts_all_rows_and_writes_nothing(tiny_bundle: Path, tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "in.jsonl", *ROWS, "{", {"context": "", "question": "x"})
    options = {"model": tiny_bundle, "device": "cpu", "batch_tokens": 512}
    estimate = dry_run(source, tmp_path / "new" / "out.parquet", **options)  # type: ignore[arg-type]
    assert (estimate.rows, estimate.windows) == (42, 40)
    assert estimate.errors == {"bad_json": 1}
    assert estimate.statuses == {"empty_context": 1}
    assert estimate.rows_per_second > 0
    assert not (tmp_path / "new").exists()


def test_options_given_twice_are_a_mistake_and_rejects_need_a_file(run: Run, parquet: Path) -> None:
    from batchqa.settings import RunSettings

    with pytest.raises(TypeError, match="twice"):
        run(parquet, "-", settings=RunSettings())
    with pytest.raises(SettingsError, match="reject"):
        run(parquet, "-", on_error="reject")


def test_a_job_of_bad_rows_alone_is_done_where_that_is_allowed(run: Run, tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "in.jsonl", {"context": None, "question": "Who?"}, "broken", "[]", "{}")
    summary = run(source, tmp_path / "out.parquet", max_errors="100%")
    assert summary.rows == 4
    assert summary.answered == summary.no_answer == 0
    assert all(row["qa_error"] for row in _table(tmp_path / "out.parquet"))


def test_a_job_is_not_resumed_with_another_variant(parquet: Path, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    manifest = open_bundle(bundle).manifest
    shutil.copy(bundle / "model.fp32.onnx", bundle / "model.int8.onnx")
    other = replace(manifest.variants[0], precision="int8", file="model.int8.onnx")
    write_manifest(bundle, replace(manifest, variants=(*manifest.variants, other)))
    out = tmp_path / "out.parquet"
    given = {"model": bundle, "device": "cpu", "threads": 1, "batch_tokens": 512, "part_rows": 5}

    def stop(state: Progress) -> None:
        if state.part == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.run(parquet, out, variant="fp32", progress=stop, **given)
    with pytest.raises(PreconditionError, match="variant"):
        job.run(parquet, out, variant="int8", **given)
    assert job.run(parquet, out, **given).variant == "fp32"


def test_what_a_part_and_a_chunk_cost_does_not_grow_with_the_files_and_parts_of_the_job(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, row in enumerate(ROWS):
        _jsonl(tmp_path / "in" / f"{number:02d}.jsonl", row)
    looked_at, listed = [], []
    check, committed = Place.check, Commit.committed.fget
    assert committed is not None
    monkeypatch.setattr(Place, "check", lambda place, known: looked_at.append(place) or check(place, known))
    monkeypatch.setattr(Commit, "committed", property(lambda commit: listed.append(1) or committed(commit)))
    summary = run(tmp_path / "in", tmp_path / "out.parquet", part_rows=2)
    assert summary.rows == len(ROWS)
    # when it was planned, read, committed and published; a part's end is also its neighbour's
    assert len(looked_at) <= 5 * len(ROWS)
    assert len(listed) < 10
