"""Which engine runs a bundle's model on this machine, which variant, how many workers, with which batches.

What was not asked for is measured, in about two seconds, and remembered in the user's cache folder
(`BATCHQA_CACHE`): one small file per machine, bundle, threads, versions and question. So `auto` means the
same engine in every run until one of those changes; a job writes what it took to job.json besides, and its
resume measures nothing. Deleting the folder `measured` makes batchqa measure anew.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile

import orjson

from batchqa.bundle import Bundle, Variant
from batchqa.cache import cache_folders
from batchqa.engines import (
    Arithmetic,
    ChildScorer,
    Crew,
    Recipe,
    best_arithmetic,
    fastest,
    load,
    measure_budget,
    openvino_is_installed,
)
from batchqa.errors import DeviceError, ModelError
from batchqa.machine import cpu_flags, cpu_model, memory_limit
from batchqa.settings import MachineSettings
from batchqa.steps.scoring import CrashedError, SpanScorer
from batchqa.version import VERSION

MEASURED_TOKENS = 160
"""Length of the windows with which engines and budgets are measured: that of an ordinary paragraph."""

WORKER_BYTES, WORKER_COPIES = 200 * 2**20, 2
"""What a worker takes: Python, the engine and its buffers; the model's file, and its form in the engine."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to run the model: the engine, the variant, and what the engine computes in if it can choose."""

    engine: str
    variant: Variant
    arithmetic: Arithmetic | None

    @property
    def name(self) -> str:
        """For people and for the cache: `openvino fp32 bf16`."""
        return " ".join(filter(None, (self.engine, self.variant.precision, self.arithmetic)))


@dataclass(frozen=True, slots=True)
class Chosen:
    """The candidate taken, loaded.

    `speeds` are of all that were compared, in tokens per second, by name. `measuring_seconds` went into what
    the next start will remember; `uses_cache` says whether anything is looked up or kept there.
    """

    candidate: Candidate
    scorer: SpanScorer
    workers: int
    batch_tokens: int
    speeds: Mapping[str, float]
    measuring_seconds: float
    uses_cache: bool


@dataclass(frozen=True, slots=True)
class _Measured:
    """What is remembered. `batch_tokens` None: it was given when the engines were compared."""

    name: str
    batch_tokens: int | None
    speeds: dict[str, float] = field(default_factory=dict)


def choose(bundle: Bundle, machine: MachineSettings, devices: Sequence[str], threads: int) -> Chosen:
    """Load the bundle's model for `devices` (["cpu"], ["cuda:0", "cuda:1"]) as `machine` asks.

    The rest is measured, with one worker. Raises DeviceError where an engine or a variant that was asked for
    cannot be had, ModelError where the model cannot be loaded.
    """
    device = devices[0]
    found = candidates(bundle, machine, device)
    if device == "cpu":
        devices = ["cpu"] * (machine.workers or workers_for(bundle, found, threads))
        threads = max(threads // len(devices), 1)
    memory = _Memory(bundle, machine, device, threads, found)
    known = memory.recall()
    if known is not None:
        found = [candidate for candidate in found if candidate.name == known.name]
    scorers = _loaded(bundle, machine, device, threads, found)
    first, speeds = 0, dict(known.speeds) if known else {}
    began = time.monotonic()
    if len(scorers) > 1:
        with before_any_row(device):
            first, measured = fastest([scorer for _, scorer in scorers], MEASURED_TOKENS)
        speeds = {
            candidate.name: round(speed) for (candidate, _), speed in zip(scorers, measured, strict=True)
        }
    candidate, scorer = scorers[first]
    for _, other in scorers:
        if other is not scorer and isinstance(other, ChildScorer):
            other.close()
    remembered = known.batch_tokens if known else None
    with before_any_row(device):
        budget = machine.batch_tokens or remembered or measure_budget(scorer, MEASURED_TOKENS)
    measuring = time.monotonic() - began if memory.used else 0.0
    new = _Measured(candidate.name, remembered if machine.batch_tokens else budget, speeds)
    if new != known:
        memory.keep(new)
    if len(devices) > 1:
        with ThreadPoolExecutor(len(devices)) as pool:  # they load at the same time
            others = pool.map(lambda d: _scorer(bundle, machine, d, threads, candidate), devices[1:])
            scorer = Crew([scorer, *others])
    return Chosen(candidate, scorer, len(devices), budget, speeds, measuring, memory.used)


def workers_for(bundle: Bundle, found: Sequence[Candidate], threads: int) -> int:
    """One worker for each thread, as far as they fit into half of the memory."""
    largest = max(bundle.size(candidate.variant) for candidate in found)
    room = (memory_limit() or 2**63) // 2 // (WORKER_BYTES + WORKER_COPIES * largest)
    return max(1, min(threads, room))


@contextmanager
def before_any_row(device: str) -> Iterator[None]:
    """An engine that crashes in the block cannot be had: there is no row that it could be due to."""
    try:
        yield
    except CrashedError as error:
        raise DeviceError(
            f"the engine crashed with {error} on {device} before any row; run `batchqa doctor`"
        ) from error


def candidates(bundle: Bundle, machine: MachineSettings, device: str) -> list[Candidate]:
    """The engines that come into question, the preferred one first, each with its best variant.

    openvino has two, if the bundle does: whether int8 or bfloat16 is faster depends on the processor.
    Raises DeviceError where there is none.
    """
    engines = ["onnxruntime", "openvino"] if machine.engine == "auto" else [machine.engine]
    if machine.engine == "auto" and (device != "cpu" or not openvino_is_installed()):
        engines = ["onnxruntime"]
    kind = device.partition(":")[0]
    found = []
    for engine in engines:
        for variant in _worth_trying(bundle.choices(kind, engine, machine.variant), engine, machine):
            arithmetic: Arithmetic | None = None
            if engine == "openvino":
                asked = machine.arithmetic
                arithmetic = _arithmetic(bundle, variant, machine) if asked == "auto" else asked
            found.append(Candidate(engine, variant, arithmetic))
    if not found:
        bundle.choose(kind, engines[0], machine.variant)  # says what the bundle has
    return found


def _worth_trying(choices: list[Variant], engine: str, machine: MachineSettings) -> list[Variant]:
    """The best one; two for openvino, unless a variant was named. Who names an arithmetic wants no int8."""
    if engine != "openvino" or machine.variant is not None:
        return choices[:1]
    if machine.arithmetic != "auto":
        choices = [variant for variant in choices if not variant.weight_bits] or choices
        return choices[:1]
    return choices[:2]


def _arithmetic(bundle: Bundle, variant: Variant, machine: MachineSettings) -> Arithmetic:
    """bf16 where the processor has it and the export found it good, but never behind the user's back.

    Who names a variant of floats means its precision; and `auto` does not compute in less than it would
    without OpenVINO: where that would be float32, so is this.
    """
    verified = variant.verification.get("openvino", variant.verification)
    if verified.get("arithmetic") != "bf16":
        return "f32"
    if machine.variant is not None and not variant.weight_bits:
        return "f32"
    if machine.engine == "auto":
        beside = bundle.choices("cpu", "onnxruntime", None)
        if beside and beside[0].precision == "fp32":
            return "f32"
    return best_arithmetic()


def _loaded(
    bundle: Bundle, machine: MachineSettings, device: str, threads: int, found: list[Candidate]
) -> list[tuple[Candidate, SpanScorer]]:
    """The candidates that can be loaded, with their scorers; the last one's error where none can."""
    scorers = []
    for candidate in found:
        try:
            scorers.append((candidate, _scorer(bundle, machine, device, threads, candidate)))
        except ModelError:
            if not scorers and candidate is found[-1]:
                raise
    return scorers


def _scorer(
    bundle: Bundle, machine: MachineSettings, device: str, threads: int, candidate: Candidate
) -> SpanScorer:
    recipe = Recipe(
        candidate.engine,
        str(bundle.model(candidate.variant)),
        bundle.manifest.inputs,
        bundle.manifest.outputs,
        device,
        threads,
        bundle.manifest.max_length,
        candidate.arithmetic or "f32",
        bundle.manifest.runs_unpadded,
    )
    return load(recipe) if machine.in_process else ChildScorer(recipe)


class _Memory:
    """The file in the cache folder that holds what was measured for one question."""

    def __init__(
        self, bundle: Bundle, machine: MachineSettings, device: str, threads: int, found: list[Candidate]
    ) -> None:
        # GPUs are many and jobs on them long: there it is measured every time
        settled = len(found) == 1 and machine.batch_tokens is not None
        self.used = device == "cpu" and not settled
        self._question = {
            "machine": [cpu_model(), sorted(cpu_flags())],
            "threads": threads,
            "in_process": machine.in_process,
            "bundle": bundle.digest,
            "candidates": [candidate.name for candidate in found],
            "versions": {"batchqa": VERSION, **engine_versions(*(candidate.engine for candidate in found))},
        }
        self._names = [candidate.name for candidate in found]

    def _file(self, cache: Path) -> Path:
        digest = hashlib.sha256(orjson.dumps(self._question, option=orjson.OPT_SORT_KEYS)).hexdigest()
        return cache / "measured" / f"{digest[:32]}.json"

    def recall(self) -> _Measured | None:
        """What was measured before; None where nothing was, or the file says nothing that can be used."""
        if not self.used:
            return None
        with suppress(OSError):
            for cache in cache_folders():
                if known := self._read(self._file(cache)):
                    return known
        return None

    def _read(self, file: Path) -> _Measured | None:
        try:
            answer = orjson.loads(file.read_bytes())["answer"]
            tokens = answer["batch_tokens"]
            known = _Measured(str(answer["name"]), tokens and int(tokens), dict(answer["speeds"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return known if known.name in self._names else None

    def keep(self, measured: _Measured) -> None:
        """Remember it; a cache that cannot be written costs two seconds at the next start, no more."""
        if not self.used:
            return
        with suppress(OSError):
            path = self._file(cache_folders()[0])
            path.parent.mkdir(parents=True, exist_ok=True)
            record = {"question": self._question, "answer": asdict(measured)}
            with NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
                file.write(orjson.dumps(record, option=orjson.OPT_INDENT_2))
            Path(file.name).replace(path)  # whole or not at all, whoever else writes it


def engine_versions(*engines: str) -> dict[str, str]:
    """The versions of these engines, as far as they are installed; none is imported."""
    versions: dict[str, str] = {}
    # both packages hold the module onnxruntime
    for engine, package in (
        ("onnxruntime", "onnxruntime"),
        ("onnxruntime", "onnxruntime-gpu"),
        ("openvino", "openvino"),
    ):
        if engine in engines:
            with suppress(importlib.metadata.PackageNotFoundError):
                versions[engine] = importlib.metadata.version(package)
    return versions
