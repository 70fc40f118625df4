"""`--engine auto`: measured once, remembered per machine and bundle, and never another in the same job."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

import batchqa
from batchqa.annotator import Annotator
from batchqa.bundle import open_bundle, write_manifest
from batchqa.engines import Resolved, library, selecting
from batchqa.engines.loading import Library
from batchqa.engines.measuring import fastest
from batchqa.engines.openvino import best_compute_dtype
from batchqa.engines.selecting import candidates
from batchqa.errors import DeviceError, PreconditionError, SettingsError
from batchqa.settings import MachineSettings
from tests.models import SENTENCES, write_tiny_bundle

needs_openvino = pytest.mark.skipif(
    not library("openvino").is_installed(), reason="needs the extra `openvino`"
)
BOTH = ("onnxruntime", "openvino")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own, empty."""
    monkeypatch.setenv("BATCHQA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "measured"


@pytest.fixture
def both(bundles: Callable[..., Path]) -> Path:
    """A tiny bundle that both engines run."""
    return bundles(engines=BOTH)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """An input file."""
    import pyarrow.parquet as pq

    path = tmp_path / "in.parquet"
    table = pa.table({"context": list(SENTENCES), "question": ["who?"] * len(SENTENCES)})
    pq.write_table(table, path)
    return path


def only(cache: Path) -> Path:
    """The one file that is remembered."""
    (file,) = cache.iterdir()
    return file


def change_answer(file: Path, **answer: Any) -> None:
    """Have the cache remember something else."""
    record = orjson.loads(file.read_bytes())
    record["answer"] |= answer
    file.write_bytes(orjson.dumps(record))


def resolved(model: Path, **options: Any) -> Resolved:
    return Annotator(model, device="cpu", in_process=True, **options).resolved


class Paced:
    """A scorer that says how long it takes: the clock of the test goes on by that much."""

    engine, device = "none", "cpu"

    def __init__(self, seconds: float, clock: list[float]) -> None:
        self.seconds, self.clock = seconds, clock

    def score(self, ids: Any, *_: Any) -> tuple[Any, Any]:
        self.clock[0] += self.seconds
        return ids, ids


@pytest.mark.parametrize(
    ("seconds", "winner"), [((1.0, 0.9), 1), ((1.0, 0.98), 0), ((0.5, 1.0), 0), ((1.0, 0.9, 0.5), 2)]
)
def test_the_fastest_is_taken_and_the_first_where_none_is_clearly_faster(
    seconds: tuple[float, ...], winner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("batchqa.engines.measuring.time.monotonic", lambda: clock[0])
    first, speeds = fastest([Paced(each, clock) for each in seconds], tokens=100, seconds=3.0)
    assert first == winner
    assert speeds == pytest.approx([1000 / each for each in seconds])


@needs_openvino
def test_what_was_measured_is_remembered_and_used_without_measuring(
    both: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = resolved(both)
    assert orjson.loads(only(cache).read_bytes())["answer"]["batch_tokens"] == first.batch_tokens

    def never(*_: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(selecting, "fastest", never)
    monkeypatch.setattr(selecting, "measure_budget", never)
    assert resolved(both) == first
    for name, engine in (
        ("openvino fp32 f32", "openvino"),
        ("onnxruntime fp32", "onnxruntime"),
    ):
        change_answer(only(cache), name=name, batch_tokens=640)
        again = resolved(both)
        assert (again.engine, again.batch_tokens) == (engine, 640)


@needs_openvino
def test_other_threads_another_bundle_and_another_question_are_measured_by_themselves(
    both: Path, bundles: Callable[..., Path], cache: Path
) -> None:
    resolved(both, threads=1)
    resolved(both, threads=2, workers=1)
    resolved(bundles("roberta", engines=BOTH), threads=1)
    resolved(both, threads=1, engine="onnxruntime")
    assert len(list(cache.iterdir())) == 4
    resolved(both, threads=1, engine="onnxruntime", batch_tokens=512)  # nothing is left to be measured
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"answer": {}}', b'{"answer": {"name": 3}}'])
def test_a_damaged_memory_is_measured_anew(tiny_bundle: Path, cache: Path, content: bytes) -> None:
    first = resolved(tiny_bundle)
    file = only(cache)
    whole = orjson.loads(file.read_bytes())["question"]
    file.write_bytes(content)
    assert resolved(tiny_bundle).engine == first.engine
    assert orjson.loads(file.read_bytes())["question"] == whole


def test_a_cache_that_cannot_be_written_costs_time_only(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv("BATCHQA_CACHE", str(tmp_path / "file"))
    assert resolved(tiny_bundle).engine == "onnxruntime"


def test_without_openvino_auto_is_onnxruntime_and_asking_for_openvino_says_what_to_install(
    both: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Library, "is_installed", lambda self: self.module != "openvino")
    names = [found.name for found in selecting.candidates(open_bundle(both), MachineSettings(), "cpu")]
    assert names == ["onnxruntime fp32"]
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(DeviceError, match=r"pip install 'batchqa\[openvino\]', or use --engine onnx"):
        resolved(both, engine="openvino")


@needs_openvino
def test_auto_takes_onnxruntime_where_openvino_cannot_load_the_model(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, both: Path
) -> None:
    def refuse(spec: Any) -> Any:
        if spec.engine == "openvino":
            raise DeviceError("not here")
        return load(spec)

    load = selecting.load
    monkeypatch.setattr(selecting, "load", refuse)
    assert resolved(both).engine == "onnxruntime"


@needs_openvino
def test_a_job_goes_on_with_the_engine_that_it_began_with_whatever_is_remembered_since(
    both: Path, rows: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, loaded = selecting.load, []

    def noted(spec: Any) -> Any:
        loaded.append(spec.engine)
        return load(spec)

    def stop(at: Any) -> None:
        if at.part:  # the part before it is committed
            raise KeyboardInterrupt

    output = tmp_path / "out.parquet"
    options: dict[str, Any] = {"model": both, "device": "cpu", "in_process": True, "part_rows": 5}
    with pytest.raises(KeyboardInterrupt):
        batchqa.run(rows, output, progress=stop, **options)
    names = {"onnxruntime": "onnxruntime fp32", "openvino": "openvino fp32 f32"}
    began = orjson.loads(only(cache).read_bytes())["answer"]["name"].partition(" ")[0]
    (other,) = set(names) - {began}
    change_answer(only(cache), name=names[other])
    monkeypatch.setattr(selecting, "load", noted)
    resumed = batchqa.run(rows, output, **options)
    assert (resumed.engine, set(loaded)) == (began, {began})
    assert 0 < resumed.resumed_rows < resumed.rows
    done = batchqa.run(rows, output, **options)
    assert (done.engine, done.fingerprint) == (began, resumed.fingerprint)
    assert batchqa.run(rows, tmp_path / "new.parquet", **options).engine == other


@needs_openvino
def test_another_engine_or_arithmetic_is_another_job(
    both: Path, rows: Path, tmp_path: Path, cache: Path
) -> None:
    output = tmp_path / "out.parquet"
    options: dict[str, Any] = {"model": both, "device": "cpu", "in_process": True, "batch_tokens": 512}
    batchqa.run(rows, output, engine="openvino", arithmetic="f32", **options)
    batchqa.run(rows, output, engine="openvino", arithmetic="f32", **options)
    with pytest.raises(PreconditionError, match="arithmetic"):
        batchqa.run(rows, output, engine="openvino", arithmetic="bf16", **options)
    with pytest.raises(PreconditionError, match="engine"):
        batchqa.run(rows, output, engine="onnxruntime", **options)


def test_bfloat16_on_onnxruntime_is_a_usage_error() -> None:
    with pytest.raises(SettingsError, match="--arithmetic bf16 is for --engine openvino"):
        MachineSettings(engine="onnxruntime", arithmetic="bf16")


def test_what_was_resolved_is_pinned_unless_another_engine_is_asked_for() -> None:
    before = Resolved("cpu", "openvino", "fp32", 2, 768, "bf16")
    pinned = before.pin(MachineSettings())
    assert (pinned.engine, pinned.arithmetic, pinned.batch_tokens) == ("openvino", "bf16", 768)
    assert before.pin(MachineSettings(engine="onnxruntime")).arithmetic == "auto"
    assert before.pin(MachineSettings(arithmetic="f32")).arithmetic == "f32"


@needs_openvino
def test_auto_computes_in_no_less_than_it_would_without_openvino(tmp_path: Path) -> None:
    def arithmetic(bundle: Path, **machine: Any) -> dict[str, str | None]:
        found = candidates(open_bundle(bundle), MachineSettings(device="cpu", **machine), "cpu")
        return {candidate.engine: candidate.compute_dtype for candidate in found}

    best = best_compute_dtype()
    float_only = write_tiny_bundle(tmp_path / "float", engines=BOTH)
    assert arithmetic(float_only) == {"onnxruntime": None, "openvino": "f32"}
    assert arithmetic(float_only, engine="openvino") == {"openvino": best}
    assert arithmetic(float_only, engine="openvino", variant="fp32") == {"openvino": "f32"}
    assert arithmetic(float_only, engine="openvino", arithmetic="f32") == {"openvino": "f32"}

    manifest = open_bundle(float_only).manifest
    int8 = replace(manifest.variants[0], precision="int8", file="model.int8.onnx", engines=("onnxruntime",))
    shutil.copy(float_only / "model.fp32.onnx", float_only / "model.int8.onnx")
    write_manifest(float_only, replace(manifest, variants=(*manifest.variants, int8)))
    assert arithmetic(float_only) == {"onnxruntime": None, "openvino": best}


@needs_openvino
def test_openvino_is_tried_in_int8_and_in_float_unless_one_of_them_is_asked_for(tmp_path: Path) -> None:
    def names(**machine: Any) -> list[str]:
        settings = MachineSettings(device="cpu", **machine)
        return [found.name for found in candidates(open_bundle(path), settings, "cpu")]

    best = best_compute_dtype()
    path = write_tiny_bundle(tmp_path / "b", engines=BOTH)
    manifest = open_bundle(path).manifest
    here = replace(manifest.variants[0], precision="int8", file="model.int8.onnx", engines=("onnxruntime",))
    there = replace(
        here,
        file="model.int8.openvino.onnx",
        engines=("openvino",),
        weight_bits=8,
        verification={"arithmetic": best},
    )
    for variant in (here, there):
        shutil.copy(path / "model.fp32.onnx", path / variant.file)
    write_manifest(path, replace(manifest, variants=(here, there, *manifest.variants)))

    in_int8, in_float = f"openvino int8 {best}", f"openvino fp32 {best}"
    assert names() == ["onnxruntime int8", in_int8, in_float]
    assert names(engine="openvino") == [in_int8, in_float]
    assert names(engine="openvino", variant="int8") == [in_int8]
    assert names(engine="openvino", arithmetic="f32") == ["openvino fp32 f32"]
    assert names(engine="openvino", variant="int8", arithmetic="f32") == ["openvino int8 f32"]
    assert names(variant="int8") == ["onnxruntime int8", in_int8]
