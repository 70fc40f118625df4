"""Shards and finalize on an object store that are killed, at once, or whose store fails at any request."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from batchqa.errors import BatchqaError
from batchqa.output import Target, find
from tests import shard_job
from tests.fault_proxy import NOTHING_LISTED, Request
from tests.forking import forks_of
from tests.kill_sweep import contents
from tests.object_stores.stores import FOREVER, OUTPUTS, killing_at
from tests.s3 import Bucket

RECORDS = 11  # four parts, two of which have rejects
STEPS = {"first": ("0/2", ()), "last": ("0/2", ("1/2",)), "finalize": ("finalize", shard_job.SHARDS)}
"""What is disturbed, and which shards are done before it."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    """What one run writes locally."""
    made: dict[str, dict[str, bytes]] = {}

    def get(output: str) -> dict[str, bytes]:
        if output not in made:
            folder = tmp_path_factory.mktemp("local")
            shard_job.whole(f"{folder}/{output}", records=RECORDS)
            made[output] = contents(folder)
        return made[output]

    return get


def before(uri: str, step: str) -> None:
    for shard in STEPS[step][1]:
        shard_job.shard(uri, shard, records=RECORDS)


def check(bucket: Bucket, folder: str, output: str, expected: dict[str, bytes], place: object) -> None:
    """Nothing partial is to be seen, and the shards and finalize, run again, give the output of one run."""
    bucket.proxy.reset()
    uri = bucket.uri(f"{folder}/{output}")
    found = find(Target.parse(uri))
    assert found is None or (found.record is not None and found.trouble is None), place
    shard_job.finish(uri, records=RECORDS)
    assert bucket.contents(f"{folder}/") == expected, place


def kill(bucket: Bucket, output: str, step: str, number: int, expected: dict[str, bytes]) -> bool:
    """Kill a program at its Nth request, done or not, and run it again; whether it was killed."""
    folder = f"{step}{number}"
    uri = bucket.uri(f"{folder}/{output}")
    before(uri, step)
    bucket.proxy.reset()
    program = forks_of(shard_job.__name__).fork(uri, STEPS[step][0], "--short")
    bucket.proxy.fault = killing_at(bucket, number, program.kill)
    program.begin()
    code, said = program.end()
    assert code in (0, -signal.SIGKILL), said
    check(bucket, folder, output, expected, (step, number))
    return code != 0


@pytest.mark.parametrize(
    ("output", "step", "number"),
    [
        pytest.param("out.parquet", "first", 9, marks=pytest.mark.slow),
        ("out.jsonl", "finalize", 31),
        pytest.param("out/", "last", 8, marks=pytest.mark.slow),
    ],
)
def test_a_shard_or_finalize_killed_at_a_request_is_finished_by_the_same_command(
    bucket: Bucket, output: str, step: str, number: int, expected: Callable[[str], dict[str, bytes]]
) -> None:
    assert kill(bucket, output, step, number, expected(output))


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_shard_or_finalize_killed_at_any_request_is_finished_by_the_same_command(
    bucket: Bucket,
    output: str,
    step: str,
    expected: Callable[[str], dict[str, bytes]],
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    fired = 0
    while kill(bucket, output, step, fired + 1, expected(output)):
        fired += 1
    record_testsuite_property(f"kills of {step}, {output} in a bucket", fired)
    assert fired > 8


def fail(bucket: Bucket, output: str, step: str, expected: dict[str, bytes], number: int, fault: str) -> bool:
    """Disturb the Nth of the requests that this can happen to, run again; whether it came to that."""
    folder = f"{step}{number}{fault}"
    uri = bucket.uri(f"{folder}/{output}")
    before(uri, step)
    bucket.proxy.reset()
    operations, times = DISTURBANCES[fault]
    asked: list[Request] = []

    def answer(request: Request) -> str | None:
        if operations and request.operation not in operations:
            return None
        asked.append(request)
        late = len(asked) > number and request.key != asked[number - 1].key
        return fault if number <= len(asked) < number + times and not late else None

    bucket.proxy.fault = answer
    code = 0
    try:
        if step == "finalize":
            shard_job.finish(uri, (), records=RECORDS)
        else:
            shard_job.shard(uri, STEPS[step][0], records=RECORDS)
    except BatchqaError as error:
        code, said = error.exit_code, str(error)
    place = (step, fault, number, *asked[number - 1 : number], code and said)
    assert code in (0, 75), place
    check(bucket, folder, output, expected, place)
    return len(asked) >= number


DISTURBANCES = {
    "SlowDown": ((), FOREVER),
    # a reader that is late sees an object for a moment as if it had not been written yet
    "NoSuchKey": (("GetObject", "HeadObject"), 2),
    NOTHING_LISTED: (("ListObjectsV2",), 1),
}
"""Which requests are answered so, and how many of them one after the other."""


@pytest.mark.parametrize("fault", DISTURBANCES)
@pytest.mark.parametrize(
    ("output", "step", "number"),
    [pytest.param("out.parquet", "last", 3, marks=pytest.mark.slow), ("out/", "finalize", 3)],
)
def test_a_store_that_fails_or_is_late_during_a_shard_or_finalize_is_75_at_most(
    bucket: Bucket,
    output: str,
    step: str,
    number: int,
    fault: str,
    expected: Callable[[str], dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert fail(bucket, output, step, expected(output), number, fault)


def test_a_listing_that_is_late_while_finalize_clears_up_leaves_nothing_behind(
    bucket: Bucket, expected: Callable[[str], dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    number = 17  # what is listed before it is in the sweep below
    while fail(bucket, "out.jsonl/", "finalize", expected("out.jsonl/"), number, NOTHING_LISTED):
        number += 1
    assert number > 18


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", DISTURBANCES)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_store_that_fails_or_is_late_at_any_request_of_a_shard_or_finalize_is_75_at_most(
    bucket: Bucket,
    output: str,
    step: str,
    fault: str,
    expected: Callable[[str], dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fired = 0
    while fail(bucket, output, step, expected(output), fired + 1, fault):
        fired += 1
    record_testsuite_property(f"{fault} during {step}, {output}", fired)
    assert fired > 2


@pytest.mark.parametrize("output", ["out.parquet", pytest.param("out/", marks=pytest.mark.slow)])
def test_shards_and_finalizes_at_once_in_a_store_end_with_one_right_output(
    bucket: Bucket, output: str, expected: Callable[[str], dict[str, bytes]]
) -> None:
    uri = bucket.uri(f"x/{output}")
    forks = forks_of(shard_job.__name__)
    for which in (("0/2", "0/2", "1/2"), ("finalize", "finalize", "0/2")):
        runs = [forks.fork(uri, each, "--short") for each in which]
        for run in runs:
            run.begin()
        found = [run.end() for run in runs]
        assert {code for code, _ in found} <= {0, 75}, found
    check(bucket, "x", output, expected(output), which)


@pytest.fixture
def two_plans(bucket: Bucket) -> Callable[..., bool]:
    """Whether of shards that believe in two and in three shards, begun at once, both kinds went on."""

    def begun(name: str, *options: str) -> bool:
        forks = forks_of(shard_job.__name__)
        uri = bucket.uri(f"{name}/out.parquet")
        runs = [forks.fork(uri, each, "--short", *options) for each in ("0/2", "0/3", "1/2", "1/3")]
        for run in runs:
            run.begin()
        codes = [run.end()[0] for run in runs]
        assert set(codes) <= {0, 4}
        return codes not in ([0, 4, 0, 4], [4, 0, 4, 0])

    return begun


def test_one_plan_wins_in_a_store_and_without_conditional_writes_two_do(
    two_plans: Callable[..., bool],
) -> None:
    assert not two_plans("0")
    assert any(two_plans(f"broken{n}", "--broken") for n in range(10))


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_one_plan_wins_in_a_store_in_every_race(two_plans: Callable[..., bool]) -> None:
    assert not any(two_plans(str(n)) for n in range(20))
