"""select(): a bundle and what was asked for -> one loaded `Engine`.

Which device, library, variant, workers and token budget: what was not asked for is measured, in about two
seconds, and remembered in the user's cache folder (`BATCHQA_CACHE`): one small file per machine, bundle,
threads, versions and question. So `auto` means the same engine in every run until one of those changes; a
job writes what it took to job.json besides, and its resume measures nothing. Deleting the folder `measured`
makes batchqa measure anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from batchqa.bundle import Bundle, Variant
from batchqa.errors import DeviceError, ModelError
from batchqa.machine import cpu_quota, memory_limit
from batchqa.settings import ComputeDtype, MachineSettings
from batchqa.steps.scoring import CrashedError, SpanScorer
from batchqa.user_cache import cache_note

from .devices import devices_of, int8_warning
from .loading import ENGINES, ModelSpec, library, load
from .measuring import fastest, measure_budget
from .remembering import Measured, Memory
from .worker_pool import WorkerPool
from .worker_process import WorkerProcess

MEASURED_TOKENS = 160
"""Length of the windows with which engines and budgets are measured: that of an ordinary paragraph."""

WORKER_BYTES, WORKER_COPIES = 200 * 2**20, 2
"""What a worker takes: Python, the engine and its buffers; the model's file, and its form in the engine."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What was settled: once per job, written to job.json and used again on a resume."""

    device: str
    engine: str
    variant: str
    threads: int
    batch_tokens: int
    compute_dtype: ComputeDtype | None = None
    workers: int = 1

    def to_dict(self) -> dict[str, Any]:
        """As it is written to job.json, where the compute dtype has the name of its option."""
        record = asdict(self)
        return {"arithmetic" if key == "compute_dtype" else key: value for key, value in record.items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Resolved:
        """What `to_dict` gave. Raises TypeError where it is another version's."""
        return cls(
            **{"compute_dtype" if key == "arithmetic" else key: value for key, value in record.items()}
        )

    def pin(self, machine: MachineSettings) -> MachineSettings:
        """`machine` with what can change an answer as it was resolved before, where nothing is asked for now.

        Threads and workers change none: they are those of the machine at hand.
        """
        engine = self.engine if machine.engine == "auto" else machine.engine
        compute_dtype = machine.arithmetic
        if engine == self.engine and compute_dtype == "auto":
            compute_dtype = self.compute_dtype or "auto"
        return replace(
            machine,
            engine=engine,  # type: ignore[arg-type]  # it was one of these when it was written
            variant=machine.variant or self.variant,
            batch_tokens=machine.batch_tokens or self.batch_tokens,
            arithmetic=compute_dtype,
        )


@dataclass(frozen=True, slots=True)
class Engine:
    """A bundle's model, loaded.

    `resolved` is what was settled, `cpu_because` why the CPU was taken where there is a GPU or one was asked
    for. `speeds` are of all that were compared, in tokens per second, by name. `measuring_seconds` went into
    what the next start will remember; `uses_cache` says whether anything is looked up or kept there.
    """

    scorer: SpanScorer
    resolved: Resolved
    variant: Variant
    cpu_because: str | None
    speeds: Mapping[str, float]
    measuring_seconds: float
    uses_cache: bool

    @property
    def warning(self) -> str | None:
        """What could make this variant's answers worse on this CPU."""
        return int8_warning(self.variant) if self.resolved.device == "cpu" else None

    @property
    def notes(self) -> list[str]:
        """What a user should know of how the model was loaded; where the cache is, is said once."""
        fallback = f"the CPU is used, not a GPU: {self.cpu_because}" if self.cpu_because else None
        cache = cache_note() if self.uses_cache else None
        return [text for text in (fallback, self.warning, cache) if text]

    def close(self) -> None:
        """End its worker processes, if there are any; what is asked afterwards starts others."""
        self.scorer.close()


@dataclass(frozen=True, slots=True)
class EngineOption:
    """A way to run the model: the engine, the variant, and what the engine computes in if it can choose."""

    engine: str
    variant: Variant
    compute_dtype: ComputeDtype | None

    @property
    def name(self) -> str:
        """For people and for the cache: `openvino fp32 bf16`."""
        return " ".join(filter(None, (self.engine, self.variant.precision, self.compute_dtype)))


def select(bundle: Bundle, machine: MachineSettings) -> Engine:
    """Load the bundle's model as `machine` asks; `auto` and --allow-cpu-fallback may take the CPU instead.

    Raises DeviceError where a device, an engine or a variant that was asked for cannot be had, ModelError
    where the model cannot be loaded.
    """
    devices = devices_of(machine)
    try:
        return _selected(bundle, machine, devices)
    except DeviceError as error:
        if devices == ["cpu"] or not (machine.allow_cpu_fallback or machine.device == "auto"):
            raise
        return replace(_selected(bundle, machine, ["cpu"]), cpu_because=str(error))


def _selected(bundle: Bundle, machine: MachineSettings, devices: Sequence[str]) -> Engine:
    """The engine on these devices (["cpu"], ["cuda:0", "cuda:1"]); one worker measures what is open."""
    device, threads = devices[0], machine.threads or cpu_quota()
    found = candidates(bundle, machine, device)
    if device == "cpu":
        devices = ["cpu"] * (machine.workers or workers_for(bundle, found, threads))
    own_threads = max(threads // len(devices), 1) if device == "cpu" else threads

    def start(candidate: EngineOption, device: str) -> SpanScorer:
        way = (candidate.variant, candidate.engine, device, own_threads, candidate.compute_dtype)
        spec = ModelSpec.of(bundle, *way)
        return load(spec) if machine.in_process else WorkerProcess(spec)

    # GPUs are many and jobs on them long: there it is measured every time
    uses_cache = device == "cpu" and (len(found) > 1 or machine.batch_tokens is None)
    memory = None
    if uses_cache:
        names = [candidate.name for candidate in found]
        memory = Memory.of(bundle.digest, names, own_threads, in_process=machine.in_process)
    known = memory.recall() if memory else None
    if known is not None:
        found = [candidate for candidate in found if candidate.name == known.name]
    scorers = _loaded(found, lambda candidate: start(candidate, device))
    began = time.monotonic()
    first, speeds = 0, dict(known.speeds) if known else {}
    remembered = known.batch_tokens if known else None
    with before_any_row(device):
        if len(scorers) > 1:
            first, measured = fastest([scorer for _, scorer in scorers], MEASURED_TOKENS)
            speeds = {
                candidate.name: round(speed) for (candidate, _), speed in zip(scorers, measured, strict=True)
            }
        candidate, scorer = scorers[first]
        for _, other in scorers:
            if other is not scorer:
                other.close()
        budget = machine.batch_tokens or remembered or measure_budget(scorer, MEASURED_TOKENS)
    measuring = time.monotonic() - began if uses_cache else 0.0
    new = Measured(candidate.name, remembered if machine.batch_tokens else budget, speeds)
    if memory and new != known:
        memory.keep(new)
    workers = [scorer]
    if len(devices) > 1:
        with ThreadPoolExecutor(len(devices)) as pool:  # they load at the same time
            workers += pool.map(lambda device: start(candidate, device), devices[1:])
    for worker in workers:
        worker.budget = budget
    scorer = WorkerPool(workers) if len(workers) > 1 else scorer
    resolved = Resolved(
        scorer.device,
        candidate.engine,
        candidate.variant.precision,
        threads,
        budget,
        candidate.compute_dtype,
        len(workers),
    )
    return Engine(scorer, resolved, candidate.variant, None, speeds, measuring, uses_cache)


def candidates(bundle: Bundle, machine: MachineSettings, device: str) -> list[EngineOption]:
    """The ways that come into question, the preferred one first. Raises DeviceError where there is none."""
    kind = device.partition(":")[0]
    engines = [machine.engine] if machine.engine != "auto" else _usable(kind)
    found = [
        EngineOption(engine, variant, compute_dtype)
        for engine in engines
        for variant, compute_dtype in library(engine).ways(
            bundle, bundle.choices(kind, engine, machine.variant), machine
        )
    ]
    if not found:
        bundle.choose(kind, engines[0], machine.variant)  # says what the bundle has
    return found


def _usable(kind: str) -> list[str]:
    """The engines that are installed and run on a kind of device; the first comes with the package."""
    others = [name for name in ENGINES[1:] if kind in library(name).devices and library(name).is_installed()]
    return [ENGINES[0], *others]


def workers_for(bundle: Bundle, found: Sequence[EngineOption], threads: int) -> int:
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


def _loaded(
    found: Sequence[EngineOption], start: Callable[[EngineOption], SpanScorer]
) -> list[tuple[EngineOption, SpanScorer]]:
    """The candidates that can be loaded, with their scorers; the last one's error where none can."""
    scorers = []
    for candidate in found:
        try:
            scorers.append((candidate, start(candidate)))
        except ModelError:
            if not scorers and candidate is found[-1]:
                raise
    return scorers
