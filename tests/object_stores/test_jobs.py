"""Jobs from and to an object store: a real S3 API on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchqa import InputError, LimitError, PreconditionError, SettingsError
from batchqa.cli.describe import describe
from batchqa.output import Target, check_target
from batchqa.settings import ReadingSettings
from batchqa.steps.reading import open_source
from batchqa.store.locations import public
from tests.fault_proxy import FaultProxy
from tests.object_stores.stores import (
    OUTPUTS,
    ROWS,
    WRITING,
    Run,
    jsonl,
    local,
    parquet,
    rows_of,
    small,
    undisturbed,
)
from tests.s3 import Bucket


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_in_a_store_has_the_bytes_of_a_local_one_and_leaves_no_staging(
    bucket: Bucket, tmp_path: Path, output: str
) -> None:
    small(bucket.uri(f"some/folder/{output}"))
    assert bucket.contents("some/folder/") == undisturbed(tmp_path / "local", output)
    assert bucket.unfinished_uploads() == 0


@pytest.mark.parametrize(
    ("suffix", "output"), [("parquet", "out.jsonl"), ("jsonl", "out.parquet"), ("jsonl", "out/")]
)
def test_a_job_from_a_store_to_a_store_answers_as_a_local_one(
    run: Run, bucket: Bucket, tmp_path: Path, suffix: str, output: str
) -> None:
    data = parquet(ROWS) if suffix == "parquet" else jsonl(ROWS)
    bucket.put(f"in.{suffix}", data)
    (tmp_path / f"in.{suffix}").write_bytes(data)
    (tmp_path / "local").mkdir()
    remote = run(bucket.uri(f"in.{suffix}"), bucket.uri(f"x/{output}"))
    here = run(tmp_path / f"in.{suffix}", f"{tmp_path}/local/{output}")
    assert remote.rows == here.rows == len(ROWS)
    assert remote.output == f"s3://{bucket.name}/x/{output.rstrip('/')}"
    assert rows_of(bucket.contents("x/")) == rows_of(local(tmp_path / "local"))


def test_inputs_and_outputs_may_be_local_and_remote_in_any_mixture(
    run: Run, bucket: Bucket, source: str, tmp_path: Path
) -> None:
    (tmp_path / "more.parquet").write_bytes(parquet(ROWS[:5]))
    assert run([source, tmp_path / "more.parquet"], tmp_path / "out.parquet").rows == 35
    assert run(tmp_path / "more.parquet", bucket.uri("x/out.parquet")).rows == 5
    assert len(rows_of(bucket.contents("x/"))) == 5


def test_an_unfinished_output_in_a_store_is_no_input(run: Run, bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes(jsonl(ROWS[:4]) + b"{bad\n")
    with pytest.raises(LimitError):
        run(tmp_path / "bad.jsonl", bucket.uri("days/monday/"), part_rows=2)
    for given in ("days/monday", "days/", "days/*/*.parquet"):
        with pytest.raises(InputError, match="monday is the output of a job that is not finished"):
            run(bucket.uri(given), tmp_path / "second.parquet", output_prefix="b_")
    run(tmp_path / "bad.jsonl", bucket.uri("days/monday/"), part_rows=2, max_errors=1)
    assert run(bucket.uri("days"), tmp_path / "second.parquet", output_prefix="b_", max_errors=1).rows == 5


def test_globs_and_folders_are_read_as_locally_in_the_order_of_their_bytes(bucket: Bucket) -> None:
    names = ["in/b.jsonl", "in/a 1.jsonl", "in/a%20.jsonl", "in/sub/c.jsonl", "in/_no.jsonl", "in/.no.jsonl"]
    for name in names:
        bucket.put(name, jsonl(ROWS[:1]))
    bucket.put("in/sub/", b"")  # what consoles create for a folder

    def found(pattern: str) -> list[str]:
        files = open_source([bucket.uri(pattern)], ReadingSettings()).files
        return [file.uri.removeprefix(f"s3://{bucket.name}/") for file in files]

    assert found("in/") == found("in") == sorted(names[:4], key=str.encode)
    assert found("in/*.jsonl") == sorted(names[:3], key=str.encode)
    assert found("in/**/c.jsonl") == ["in/sub/c.jsonl"]
    assert found("in/?.jsonl") == ["in/b.jsonl"]
    assert found("in/a[ x]1.jsonl") == ["in/a 1.jsonl"]
    assert found("in/a%20.jsonl") == ["in/a%20.jsonl"]


@pytest.mark.parametrize(
    "mark", ["_delta_log/0.json", "metadata/v1.metadata.json", ".hoodie/hoodie.properties"]
)
@pytest.mark.parametrize("argument", ["in/", "in/table", "in/table/x=1/", "in/table/*/*.jsonl"])
def test_a_table_in_a_store_is_no_plain_folder(bucket: Bucket, mark: str, argument: str) -> None:
    bucket.put("in/table/x=1/a.jsonl", jsonl(ROWS[:1]))
    bucket.put(f"in/table/{mark}", b"{}")
    with pytest.raises(InputError, match=r"in/table is an? (Delta|Iceberg|Hudi) table"):
        open_source([bucket.uri(argument)], ReadingSettings())
    source = open_source([bucket.uri("in/table/x=1/a.jsonl")], ReadingSettings(partition_columns=True))
    assert source.schema.names[-1] == "x"


def test_the_endpoint_can_stand_in_the_environment(
    bucket: Bucket, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{proxy.endpoint}")
    small(f"s3://{bucket.name}/out.parquet")
    assert "out.parquet" in bucket.listing()


def test_an_output_that_is_done_is_left_untouched(run: Run, bucket: Bucket, source: str) -> None:
    first = run(source, bucket.uri("x/out/"))
    before = bucket.listing()
    bucket.proxy.reset()
    again = run(source, bucket.uri("x/out/"))
    assert bucket.listing() == before
    assert not [request for request in bucket.proxy.log if request.operation in WRITING]
    assert (again.rows, again.resumed_rows, again.fingerprint) == (30, 30, first.fingerprint)


def test_the_same_content_uploaded_again_is_the_same_input(run: Run, bucket: Bucket, source: str) -> None:
    run(source, bucket.uri("x/out.parquet"))
    before = bucket.listing("x/")
    bucket.put("in.parquet", parquet(ROWS))
    run(source, bucket.uri("x/out.parquet"))
    assert bucket.listing("x/") == before


@pytest.mark.parametrize("output", OUTPUTS)
def test_another_output_in_the_place_is_refused_and_replaced_only_when_asked(
    bucket: Bucket, tmp_path: Path, output: str
) -> None:
    uri = bucket.uri(f"x/{output}")
    small(uri, records=5, part_rows=1)
    before = bucket.listing("x/")
    with pytest.raises(PreconditionError, match="part_rows: 1 -> 3"):
        small(uri)
    assert bucket.listing("x/") == before
    small(uri, overwrite=True)
    expected = undisturbed(tmp_path / "local", output)
    found = bucket.contents("x/")
    assert rows_of(found) == rows_of(expected)
    assert found.keys() == expected.keys()


def test_an_object_that_is_not_of_batchqa_is_never_taken_for_an_output_or_removed(bucket: Bucket) -> None:
    bucket.put("x/out.parquet", parquet(ROWS[:2]))
    with pytest.raises(
        PreconditionError, match=r"x/out\.parquet already exists and is not an output of batchqa"
    ):
        small(bucket.uri("x/out.parquet"))
    bucket.put("y/out/notes.txt", b"mine")
    for overwrite in (False, True):
        with pytest.raises(PreconditionError, match=r"not written by batchqa|not an output of batchqa"):
            small(bucket.uri("y/out/"), overwrite=overwrite)
    bucket.put("z/out.jsonl.batchqa/notes.txt", b"mine")
    with pytest.raises(PreconditionError, match="this was not written by batchqa"):
        small(bucket.uri("z/out.jsonl"))
    assert len(bucket.listing()) == 3


def test_marks_of_folders_are_no_inputs(bucket: Bucket) -> None:
    for name in ("in", "in/", "in/sub/", "in/sub", "in/day=1_$folder$"):
        bucket.put(name, b"")
    for name in ("in/a.jsonl", "in/sub/b.jsonl"):
        bucket.put(name, jsonl(ROWS[:1]))
    source = open_source([bucket.uri("in")], ReadingSettings())
    assert [file.path.rpartition("in/")[2] for file in source.files] == ["a.jsonl", "sub/b.jsonl"]
    bucket.put("alone", b"")
    with pytest.raises(InputError, match="alone is empty"):
        open_source([bucket.uri("alone")], ReadingSettings())


def test_keys_with_an_empty_part_are_refused_by_their_name_as_input_and_output(bucket: Bucket) -> None:
    bucket.put("in/a.jsonl", jsonl(ROWS[:1]))
    bucket.put("in//b.jsonl", jsonl(ROWS[:1]))
    for name in ("in/", "in//b.jsonl", "in/**/*.jsonl", "/in/a.jsonl"):
        with pytest.raises(
            (InputError, SettingsError), match=r"an empty part \(//\).*copy the object"
        ) as caught:
            open_source([bucket.uri(name)], ReadingSettings())
        assert caught.value.exit_code == 2
    with pytest.raises(SettingsError, match=r"x//out\.parquet: a key with an empty part"):
        small(bucket.uri("x//out.parquet"))
    assert len(open_source([bucket.uri("in/a.jsonl")], ReadingSettings()).files) == 1


def test_an_output_that_is_or_would_become_an_input_is_refused(bucket: Bucket) -> None:
    def check(output: str, source: str) -> None:
        with pytest.raises(SettingsError, match="input"):
            check_target(Target.parse(bucket.uri(output)), [bucket.uri(source)], overwrite=True)

    check("in.parquet", "in.parquet")
    check("in.parquet", "in.parquet.rejects.jsonl")
    check("in/out.parquet", "in/")
    check("in/out/", "in")
    check("out/", "out/in.jsonl")
    check("in/out.jsonl", "in/*.jsonl")
    check("in/out/", "in/**/*.parquet")
    check_target(Target.parse(bucket.uri("in/out.parquet")), [bucket.uri("in/*.jsonl"), "-"], overwrite=True)
    bucket.put("data.parquet/part-0.parquet", b"")
    with pytest.raises(SettingsError, match="this is a folder"):
        check_target(Target.parse(bucket.uri("data.parquet")), [], overwrite=True)


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_in_a_store_is_described_as_a_local_one(
    run: Run, bucket: Bucket, tmp_path: Path, source: str, output: str
) -> None:
    run(source, f"{tmp_path}/{output}")
    run(source, bucket.uri(f"x/{output}"))
    own, there = describe(f"{tmp_path}/{output}"), describe(bucket.uri(f"x/{output}"))
    assert there.pop("path") == public(bucket.uri(f"x/{output}")).rstrip("/")
    assert own.pop("path") == f"{tmp_path}/{output}".rstrip("/")
    assert there.keys() == own.keys()
    assert [there.get(name) for name in ("kind", "rows", "parts")] == [
        own.get(name) for name in ("kind", "rows", "parts")
    ]


def test_what_is_not_in_a_store_is_described_in_one_line_without_credentials(bucket: Bucket) -> None:
    with pytest.raises(InputError) as raised:
        describe(bucket.uri("nothing.parquet"))
    assert str(raised.value).startswith(f"{public(bucket.uri('nothing.parquet'))} does not exist")
