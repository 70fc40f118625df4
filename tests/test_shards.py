"""A job in several shards, and the finalize that publishes them, with the tiny bundle."""

from __future__ import annotations

import gzip
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchqa
from batchqa import LimitError, PreconditionError, SettingsError, TryAgainError, job
from batchqa.bundle import open_bundle, write_manifest
from batchqa.job import Progress, Summary, shard_plan
from batchqa.output import Target, find
from batchqa.runners.shards import share_of_job
from batchqa.settings import Shard
from batchqa.steps.reading import Source
from batchqa.steps.reading.cursors import Parts
from batchqa.store.lock import Lock
from tests.models import SENTENCES
from tests.output.looking import contents, snapshot

Run = Callable[..., Summary]
ROWS = [
    {"context": f"{SENTENCES[i % 6]} This was row {i}.", "question": f"What is number {i}?", "n": i}
    for i in range(40)
]


@pytest.fixture
def run(tiny_bundle: Path) -> Run:
    options = {"device": "cpu", "threads": 1, "batch_tokens": 512, "part_rows": 5, "in_process": True}
    return partial(job.run, model=tiny_bundle, **options)


def lines_of(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_parquet(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "in.parquet", row_group_size=7)
    return folder / "in.parquet"


def as_files(folder: Path) -> Path:
    (folder / "in").mkdir()
    for number, start in enumerate(range(0, 40, 13)):
        pq.write_table(pa.Table.from_pylist(ROWS[start : start + 13]), folder / "in" / f"{number}.parquet")
    return folder / "in"


def as_jsonl(folder: Path) -> Path:
    (folder / "in.jsonl").write_bytes(lines_of(ROWS))
    return folder / "in.jsonl"


def as_gzip(folder: Path) -> Path:
    (folder / "in.jsonl.gz").write_bytes(gzip.compress(lines_of(ROWS)))
    return folder / "in.jsonl.gz"


def as_squad(folder: Path) -> Path:
    texts = [
        (row["context"], {"id": str(row["n"]), "question": row["question"], "answers": []}) for row in ROWS
    ]
    paragraphs = [{"context": context, "qas": [question]} for context, question in texts]
    path = folder / "in.json"
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return path


def slurm(**values: str) -> dict[str, str]:
    return {f"SLURM_ARRAY_TASK_{name}": value for name, value in values.items()}


def finish(run: Run, source: Path, output: str, count: int, **options: Any) -> Summary:
    """All shards, the last first, and then finalize."""
    for index in reversed(range(count)):
        run(source, output, shard=Shard(index, count), **options)
    return job.finalize(output)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (as_parquet, "out/"),
        (as_files, "out.parquet"),
        (as_jsonl, "out.jsonl"),
        (as_jsonl, "out.jsonl/"),
        (as_gzip, "out.parquet"),
        (as_squad, "out/"),
    ],
)
def test_shards_give_the_bytes_of_one_run(
    run: Run, tmp_path: Path, write: Callable[[Path], Path], name: str
) -> None:
    source = write(tmp_path)
    one = run(source, f"{tmp_path}/one/{name}")
    summary = finish(run, source, f"{tmp_path}/four/{name}", 4)
    assert contents(tmp_path / "four") == contents(tmp_path / "one")
    assert (summary.rows, summary.answered, summary.fingerprint) == (40, one.answered, one.fingerprint)


@pytest.mark.parametrize("count", [1, 16])
def test_any_number_of_shards_gives_the_bytes_of_one_run_with_rejects(
    run: Run, tmp_path: Path, count: int
) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines_of([*ROWS[:9], {"context": 5}, *ROWS[9:30], [], *ROWS[30:]]))
    options: dict[str, Any] = {"on_error": "reject", "max_errors": 2}
    run(tmp_path / "in.jsonl", f"{tmp_path}/one/out.parquet", **options)
    summary = finish(run, tmp_path / "in.jsonl", f"{tmp_path}/many/out.parquet", count, **options)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert len((tmp_path / "many" / "out.parquet.rejects.jsonl").read_bytes().splitlines()) == 2
    assert summary.rejected == 2


class StoppedEarlyError(Exception):
    """A shard's end before it is done."""


def stop_after(rows: int) -> Callable[[Progress], None]:
    def stop(progress: Progress) -> None:
        if progress.rows >= rows:
            raise StoppedEarlyError

    return stop


def once(action: Callable[[], object]) -> Callable[[Progress], None]:
    """Do something when the first report of progress comes."""
    waiting = [action]

    def act(_: Progress) -> None:
        if waiting:
            waiting.pop()()

    return act


@pytest.mark.parametrize("name", ["out.parquet", "out/"])
def test_a_shard_that_was_stopped_does_what_is_missing_and_nothing_twice(
    run: Run, tmp_path: Path, name: str
) -> None:
    source = as_parquet(tmp_path)
    run(source, f"{tmp_path}/one/{name}")
    with pytest.raises(StoppedEarlyError):
        run(source, f"{tmp_path}/two/{name}", shard="0/2", progress=stop_after(12))
    first = next((tmp_path / "two").rglob("part-0000000.parquet"))
    before = first.stat().st_mtime_ns
    again = run(source, f"{tmp_path}/two/{name}", shard="0/2")
    assert (again.rows, again.shard, again.already_done) == (20, "0/2", False)
    assert again.resumed_rows >= 5
    assert first.stat().st_mtime_ns == before
    run(source, f"{tmp_path}/two/{name}", shard="1/2")
    assert not find(Target.parse(f"{tmp_path}/two/{name}"))
    job.finalize(f"{tmp_path}/two/{name}")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.parametrize("name", ["out.jsonl", "out/"])
def test_a_shard_that_runs_twice_at_once_changes_nothing(run: Run, tmp_path: Path, name: str) -> None:
    source = as_jsonl(tmp_path)
    run(source, f"{tmp_path}/one/{name}")
    output = f"{tmp_path}/two/{name}"
    run(source, output, shard="0/2", progress=once(lambda: run(source, output, shard="0/2")))
    run(source, output, shard="1/2")
    job.finalize(output)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.parametrize("name", ["out.parquet", "out/"])
def test_a_shard_during_or_after_finalize_is_done_and_leaves_the_output_and_no_staging(
    run: Run, tmp_path: Path, name: str
) -> None:
    source, output = as_jsonl(tmp_path), f"{tmp_path}/out/{name}"
    seen: list[dict[str, tuple[bytes, int]]] = []

    def others() -> None:
        finish(run, source, output, 2)
        seen.append(snapshot(tmp_path))

    late = run(source, output, shard="0/2", progress=once(others))
    assert late.already_done
    assert snapshot(tmp_path) == seen[0]
    after = run(source, output, shard="1/2")
    assert (after.already_done, after.rows) == (True, 40)
    assert snapshot(tmp_path) == seen[0]
    assert not list(tmp_path.rglob("_batchqa"))


def test_a_shard_that_does_not_fit_the_plan_is_refused_with_the_difference(
    run: Run, tmp_path: Path, tiny_bundle: Path
) -> None:
    source, output = as_jsonl(tmp_path), tmp_path / "out.parquet"
    run(source, output, shard="0/2")
    before = snapshot(tmp_path / "out.parquet.batchqa")
    with pytest.raises(PreconditionError, match="number of shards: 2 -> 3") as refused:
        run(source, output, shard="1/3")
    assert refused.value.exit_code == 4
    with pytest.raises(PreconditionError, match="top_k: 0 -> 2"):
        run(source, output, shard="1/2", top_k=2)
    other = tmp_path / "other"
    shutil.copytree(tiny_bundle, other)
    bundle = open_bundle(other)
    write_manifest(other, replace(bundle.manifest, name="other"))
    with pytest.raises(PreconditionError, match="bundle: "):
        run(source, output, shard="1/2", model=other)
    source.write_bytes(lines_of(ROWS[:-1]))
    with pytest.raises(PreconditionError, match=r"inputs\[0\]\.size"):
        run(source, output, shard="1/2")
    assert snapshot(tmp_path / "out.parquet.batchqa") == before


def test_a_shard_that_meets_another_job_says_what_can_be_done_in_its_place(run: Run, tmp_path: Path) -> None:
    source = as_jsonl(tmp_path)
    for output, staging in (("out.parquet", "out.parquet.batchqa"), ("folder/", "folder")):
        run(source, f"{tmp_path}/{output}", shard="0/2")
        for other in ({"top_k": 2, "shard": "1/2"}, {"shard": "0/3"}):
            with pytest.raises(
                PreconditionError, match=rf"remove {tmp_path}/{staging} when no shard runs there$"
            ):
                run(source, f"{tmp_path}/{output}", **other)
        shutil.rmtree(tmp_path / staging)
        assert run(source, f"{tmp_path}/{output}", shard="0/3").shard == "0/3"


@pytest.mark.parametrize("wait", [float("nan"), -1])
def test_finalize_does_not_wait_for_a_time_that_is_none(tmp_path: Path, wait: float) -> None:
    with pytest.raises(SettingsError, match="--wait must be a number of seconds from 0 on"):
        job.finalize(tmp_path / "out.parquet", wait=wait)


def test_finalize_names_the_shards_to_run_again_or_waits_for_them(run: Run, tmp_path: Path) -> None:
    source, output = as_parquet(tmp_path), tmp_path / "out.parquet"
    with pytest.raises(TryAgainError, match="no shard has started"):
        job.finalize(output)
    run(source, output, shard="2/8")
    with pytest.raises(TryAgainError, match="run these of the 8 shards again: 0-1,3-7") as missing:
        job.finalize(output)
    assert missing.value.exit_code == 75
    for index in (0, 1, 3, 4, 5, 6):
        run(source, output, shard=Shard(index, 8))
    part = tmp_path / "out.parquet.batchqa" / "part-0000003.parquet"
    part.write_bytes(part.read_bytes()[:-60])  # it is there by its name only
    last = threading.Timer(1, lambda: run(source, output, shard="7/8"))
    last.start()
    with pytest.raises(TryAgainError, match=r"run these of the 8 shards again: 3$"):
        job.finalize(output, wait=60)
    last.join()
    run(source, output, shard="3/8")
    assert job.finalize(output).rows == 40
    run(source, tmp_path / "one.parquet")
    assert output.read_bytes() == (tmp_path / "one.parquet").read_bytes()


@pytest.mark.parametrize("name", ["out.jsonl", "out/"])
def test_finalize_again_leaves_the_output_untouched_and_two_at_once_publish_it_once(
    run: Run, tmp_path: Path, name: str
) -> None:
    source, output = as_jsonl(tmp_path), f"{tmp_path}/{name}"
    for index in (0, 1):
        run(source, output, shard=Shard(index, 2))
    lock = next(tmp_path.rglob("plan.json")).with_name("lock")
    other = Lock(lock, output)
    with pytest.raises(TryAgainError, match="another run is writing"):
        job.finalize(output)
    other.release()
    assert not job.finalize(output).already_done
    before = snapshot(tmp_path)
    again = job.finalize(output)
    assert (again.already_done, again.rows) == (True, 40)
    assert snapshot(tmp_path) == before


def test_finalize_judges_the_errors_of_all_shards_together(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines_of([{"context": 5}, *ROWS[1:39], []]))
    output = tmp_path / "out.parquet"
    for index in (0, 1):
        run(tmp_path / "in.jsonl", output, shard=Shard(index, 2), max_errors=1)
    with pytest.raises(LimitError, match="2 of 40 rows are errors, but --max-errors allows 1") as limit:
        job.finalize(output)
    assert limit.value.exit_code == 3
    assert job.finalize(output, max_errors="5%").errors == {"type_context": 1, "not_an_object": 1}


def test_a_run_without_shards_finishes_their_job_and_finalize_does_not_take_its_own(
    run: Run, tmp_path: Path
) -> None:
    source, output = as_parquet(tmp_path), tmp_path / "out.parquet"
    run(source, output, shard="1/2")
    assert run(source, output).resumed_rows == 20
    assert job.finalize(output).already_done
    with pytest.raises(StoppedEarlyError):
        run(source, tmp_path / "alone.parquet", progress=stop_after(12))
    with pytest.raises(PreconditionError, match="was started without --shard"):
        job.finalize(tmp_path / "alone.parquet")


def test_shards_are_of_one_size_by_bytes_and_the_last_ones_no_longer_than_their_share(
    run: Run, tmp_path: Path
) -> None:
    long = [{**row, "context": row["context"] * 20} for row in ROWS[:10]]
    (tmp_path / "in.jsonl").write_bytes(lines_of([*long, *ROWS[10:]]))
    rows = [
        run(tmp_path / "in.jsonl", f"{tmp_path}/out/", shard=Shard(i, 3), part_rows=2).rows for i in range(3)
    ]
    assert rows == [4, 4, 32]
    sizes = [5, 1, 1, 9, 2, 2, 3, 3, 1, 7, 1]
    edges = shard_plan.shared_out(sizes, 4)
    assert edges == [0, 3, 4, 8, 11]  # of 7, 9, 10, 9
    assert shard_plan.shared_out([1] * 10, 4) == [0, 3, 6, 8, 10]
    assert shard_plan.shared_out([1] * 3, 5) == [0, 1, 2, 3, 3, 3]
    assert shard_plan.shared_out([], 2) == [0, 0, 0]
    for shards in (1, 2, 5, 30):
        edges = shard_plan.shared_out(sizes, shards)
        assert (edges[0], edges[-1], len(edges)) == (0, len(sizes), shards + 1)
        assert edges == sorted(edges)


def test_rows_that_the_plan_does_not_know_are_not_lost(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, parts_of = as_jsonl(tmp_path), Source.parts

    def miscounted(self: Source, part_rows: int, limit: int | None = None) -> Parts:
        parts = parts_of(self, part_rows, limit)
        return replace(parts, ends=parts.ends[:-1], sizes=parts.sizes[:-1], records=35)

    monkeypatch.setattr(Source, "parts", miscounted)
    run(source, tmp_path / "out.parquet", shard="0/2")
    with pytest.raises(PreconditionError, match="part 6 of the input does not end where the job's plan says"):
        run(source, tmp_path / "out.parquet", shard="1/2")
    with pytest.raises(TryAgainError):
        job.finalize(tmp_path / "out.parquet")
    with pytest.raises(PreconditionError, match="does not end where the job's plan says"):
        batchqa.run(source, tmp_path / "two.parquet", model=run.keywords["model"], part_rows=5, processes=2)


def test_an_empty_folder_that_a_killed_finalize_left_goes_with_the_staging(run: Run, tmp_path: Path) -> None:
    source, output = as_jsonl(tmp_path), f"{tmp_path}/out.jsonl/"
    for index in (0, 1):
        run(source, output, shard=Shard(index, 2))
    (tmp_path / "out.jsonl.batchqa" / "new-0123abcd").mkdir()
    job.finalize(output)
    assert not (tmp_path / "out.jsonl.batchqa").exists()


def test_an_input_without_rows_gives_the_output_of_one_run(run: Run, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS).slice(0, 0), tmp_path / "in.parquet")
    run(tmp_path / "in.parquet", f"{tmp_path}/one/out.parquet")
    finish(run, tmp_path / "in.parquet", f"{tmp_path}/two/out.parquet", 2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_what_cannot_be_shared_out_is_refused(run: Run, tmp_path: Path) -> None:
    source = as_jsonl(tmp_path)
    for options in ({"output": "-"}, {"restart": True}, {"shard": "2/2"}, {"shard": "1"}):
        with pytest.raises(SettingsError, match=r"--shard|--restart"):
            run(source, **{"output": tmp_path / "out.parquet", "shard": "0/2", **options})
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("variables", "count", "shard"),
    [
        ({"JOB_COMPLETION_INDEX": "3"}, 8, Shard(3, 8)),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "0", "AWS_BATCH_JOB_ARRAY_SIZE": "2"}, None, Shard(0, 2)),
        ({"CLOUD_RUN_TASK_INDEX": "1", "CLOUD_RUN_TASK_COUNT": "2"}, None, Shard(1, 2)),
        ({"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "4"}, None, Shard(1, 4)),
        (
            {
                f"SLURM_ARRAY_TASK_{k}": v
                for k, v in {"ID": "4", "COUNT": "4", "MIN": "1", "MAX": "4"}.items()
            },
            None,
            Shard(3, 4),
        ),
        ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "2"}, 8, Shard(5, 8)),
        (slurm(ID="16", COUNT="16", MIN="1", MAX="16"), 16, Shard(15, 16)),  # the whole array, from 1
        (
            slurm(ID="3", COUNT="2", MIN="3", MAX="4"),
            16,
            Shard(3, 16),
        ),  # two of it again, as finalize names them
        (slurm(ID="3", COUNT="4", MIN="", MAX=""), None, Shard(3, 4)),
        ({"JOB_COMPLETION_INDEX": "1", "SKYPILOT_NODE_RANK": ""}, 2, Shard(1, 2)),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "1", "AWS_BATCH_JOB_ARRAY_SIZE": "2"}, 2, Shard(1, 2)),
    ],
)
def test_the_variables_of_a_scheduler_say_which_shard_this_is(
    variables: dict[str, str], count: int | None, shard: Shard
) -> None:
    assert share_of_job("auto", count, variables) == shard


@pytest.mark.parametrize(
    ("text", "count", "variables", "why"),
    [
        ("auto", None, {}, "no scheduler's variable is set"),
        ("auto", None, {"JOB_COMPLETION_INDEX": "3"}, "give --shards N"),
        (
            "auto",
            2,
            {"JOB_COMPLETION_INDEX": "3"},
            "JOB_COMPLETION_INDEX=3 is out of range: 2 tasks are numbered 0 to 1",
        ),
        ("auto", 2, {"JOB_COMPLETION_INDEX": "9" * 5000}, "is not a task number"),
        (
            "auto",
            8,
            {"CLOUD_RUN_TASK_INDEX": "1", "CLOUD_RUN_TASK_COUNT": "4"},
            "different numbers of shards",
        ),
        ("auto", None, {"CLOUD_RUN_TASK_INDEX": "0", "CLOUD_RUN_TASK_COUNT": ""}, "give --shards N"),
        ("auto", None, slurm(ID="0", COUNT="2", MIN="1", MAX="2"), "2 tasks are numbered 1 to 2"),
        ("auto", 2, {"JOB_COMPLETION_INDEX": "x"}, "is not a task number"),
        ("auto", 2, {"JOB_COMPLETION_INDEX": "0", "CLOUD_RUN_TASK_INDEX": "0"}, "both set"),
        (
            "auto",
            None,
            {
                f"SLURM_ARRAY_TASK_{k}": v
                for k, v in {"ID": "9", "COUNT": "3", "MIN": "1", "MAX": "9"}.items()
            },
            "number of shards is not known",
        ),
        ("1/4", 3, {}, "different numbers"),
        (None, 3, {}, "--shards N goes with --shard auto"),
    ],
)
def test_a_shard_that_is_not_known_is_refused(
    text: str | None, count: int | None, variables: dict[str, str], why: str
) -> None:
    with pytest.raises(SettingsError, match=why):
        share_of_job(text, count, variables)
