"""Annotator: a loaded bundle and the road, for Python users and for map functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from batchqa.bundle import Bundle, Calibration, open_bundle
from batchqa.cache import cache_note
from batchqa.choosing import Chosen, before_any_row, choose
from batchqa.errors import DeviceError, ModelError, SettingsError
from batchqa.machine import cpu_quota
from batchqa.pipeline import Road
from batchqa.records import AnsweredChunk, Bool, Chunk, Cursor, Float64, Rows
from batchqa.settings import DEFAULT_MAX_LENGTH, MachineSettings, RunSettings
from batchqa.steps.chunking import chunks
from batchqa.steps.decoding import DecodingRules
from batchqa.steps.inference import Arithmetic, ChildScorer, Crew, SpanScorer, cuda_devices, has_cuda_device
from batchqa.steps.reading import ColumnPlan, pieces
from batchqa.steps.windowing import Windower, open_tokenizer
from batchqa.steps.writing import output_batch, output_schema

BUNDLED = Path(__file__).parent / "bundled"
"""The model that comes with the package: what `--model default` means."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the machine decided: settled once per job, written to job.json and used again on a resume."""

    device: str
    engine: str
    variant: str
    threads: int
    batch_tokens: int
    arithmetic: Arithmetic | None = None
    workers: int = 1

    def to_dict(self) -> dict[str, Any]:
        """As it stands in job.json."""
        return asdict(self)

    def pin(self, machine: MachineSettings) -> MachineSettings:
        """`machine` with what can change an answer as it was resolved before, where nothing is asked for now.

        Threads and workers change none: they are those of the machine at hand.
        """
        engine = self.engine if machine.engine == "auto" else machine.engine
        arithmetic = machine.arithmetic
        if engine == self.engine and arithmetic == "auto":
            arithmetic = self.arithmetic or "auto"
        return replace(
            machine,
            engine=engine,  # type: ignore[arg-type]  # it was one of these when it was written
            variant=machine.variant or self.variant,
            batch_tokens=machine.batch_tokens or self.batch_tokens,
            arithmetic=arithmetic,
        )


class Annotator:
    """A bundle's model, loaded on a device, ready to answer tables and streams.

    Options are those of the command line (`top_k=3`, `no_answer="off"`, `batch_tokens=768`). One annotator
    serves one stream at a time. The model runs in child processes (see `steps/inference/child.py`), which
    end with the annotator: by `close`, at the end of a `with` block, or when it is no longer used.
    """

    def __init__(
        self,
        model: str | Path | Bundle = "default",
        device: str = "auto",
        *,
        settings: RunSettings | None = None,
        **options: Any,
    ) -> None:
        """Load and verify `model`: "default" (the package's own), a bundle's folder, or an opened bundle.

        `settings` stands for device and options together. Raises ModelError or DeviceError (exit code 5).
        """
        if settings is None:
            settings = RunSettings.from_options({"device": device, **options})
        self.settings = settings
        self.bundle = model if isinstance(model, Bundle) else open_model(model)
        windower = _windower(self.bundle, settings)
        threads = settings.machine.threads or cpu_quota()
        chosen, self.fallback = _load(self.bundle, settings.machine, threads)
        self.variant, self.scorer = chosen.candidate.variant, chosen.scorer
        self._uses_cache = chosen.uses_cache
        self.speeds, self.measuring_seconds = chosen.speeds, chosen.measuring_seconds
        with before_any_row(self.scorer.device):
            _check_vocabulary(windower.encoder.highest_id, self.scorer, self.bundle)
        self.resolved = Resolved(
            self.scorer.device,
            self.scorer.engine,
            self.variant.precision,
            threads,
            chosen.batch_tokens,
            chosen.candidate.arithmetic,
            chosen.workers,
        )
        rules = _rules(self.bundle, settings, windower.max_length)
        self.road = Road(windower, self.scorer, rules, chosen.batch_tokens)

    @property
    def notes(self) -> list[str]:
        """What a user should know of how the model was loaded; where the cache is, is said once."""
        fallback = f"the CPU is used, not a GPU: {self.fallback}" if self.fallback else None
        return [text for text in (fallback, cache_note() if self._uses_cache else None) if text]

    def close(self) -> None:
        """End the child processes, if there are any."""
        if isinstance(self.scorer, (ChildScorer, Crew)):
            self.scorer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def decides_by(self) -> dict[str, Any]:
        """The model and what its decisions depend on, for the output's record."""
        rules = self.road.rules
        return {
            "model": self.bundle.manifest.name,
            "abstains": rules.abstains,
            "threshold": rules.threshold if rules.abstains else None,
        }

    def answer(
        self, cut: Iterable[Chunk], on_scored: Callable[[Chunk, float], None] | None = None
    ) -> Iterator[AnsweredChunk]:
        """The road itself: chunks in, answered chunks out, in order. What jobs call."""
        return self.road.answer(cut, on_scored)

    def stream(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Annotate record batches as they come, in order and in bounded memory.

        The batches must share one schema. The output's rows are the input's in order, in batches of its own
        size. Memory holds a few thousand rows at a time.
        """
        stream = iter(batches)
        first = next(stream, None)
        if first is None:
            return
        plan = self._plan(first.schema)
        schema = self._output_schema(plan)
        # one part as long as the stream: duplicates are remembered, within the windower's bounds
        rows = chunks(_rows(plan, chain([first], stream)), part_rows=2**63 - 1)
        for answered in self.answer(rows):
            yield output_batch(answered, schema)

    def annotate(self, table: pa.Table) -> pa.Table:
        """The table with the answer columns added; a row that cannot be judged has its code in `qa_error`."""
        schema = self._output_schema(self._plan(table.schema))
        return pa.Table.from_batches(self.stream(table.to_batches()), schema=schema)

    def _plan(self, schema: pa.Schema) -> ColumnPlan:
        return ColumnPlan.of(schema, self.settings.reading, "the table")

    def _output_schema(self, plan: ColumnPlan) -> pa.Schema:
        return output_schema(plan.schema, self.settings.reading.output_prefix, self.settings.decoding.top_k)


def _rows(plan: ColumnPlan, batches: Iterable[pa.RecordBatch]) -> Iterator[Rows]:
    """The batches as reading hands rows over, in bounded pieces."""
    first_record = 0
    for batch in batches:
        for piece in pieces(batch):
            yield plan.rows(piece, _locator(first_record), first_record, Cursor(row=first_record))
            first_record += len(piece)


def _locator(first_row: int) -> Callable[[int], str]:
    return lambda row: f"row {first_row + row + 1}"


def open_model(model: str | Path) -> Bundle:
    """Open "default" or a bundle's folder. Raises ModelError, saying what to do, where there is none."""
    if str(model) == "default":
        if not BUNDLED.is_dir():
            raise ModelError("this installation has no model in the package; name one with --model BUNDLE")
        return open_bundle(BUNDLED)
    path = Path(model)
    if not path.exists():
        raise ModelError(
            f"there is no model at {path}; name a bundle's folder, or make one with `batchqa export`"
        )
    return open_bundle(path)


def _load(bundle: Bundle, machine: MachineSettings, threads: int) -> tuple[Chosen, str | None]:
    """The model on the device asked for; `auto` and --allow-cpu-fallback may take the CPU instead.

    The text says why they did, where there is a GPU or one was asked for.
    """
    devices = _devices(machine)
    if devices == ["cpu"] or not (machine.allow_cpu_fallback or machine.device == "auto"):
        return choose(bundle, machine, devices, threads), None
    try:
        return choose(bundle, machine, devices, threads), None
    except DeviceError as error:
        return choose(bundle, machine, ["cpu"], threads), str(error)


def _devices(machine: MachineSettings) -> list[str]:
    """The devices that `--device` means, one by one; a GPU that is there counts, whether it works or not."""
    kind, _, numbers = machine.device.partition(":")
    if kind == "auto":
        return ["cuda:0"] if machine.engine != "openvino" and has_cuda_device() else ["cpu"]
    if kind == "all":
        return cuda_devices()
    return ["cpu"] if kind == "cpu" else [f"cuda:{number}" for number in (numbers or "0").split(",")]


def _check_vocabulary(highest: int, scorer: SpanScorer, bundle: Bundle) -> None:
    """Raise ModelError where the model has no embedding for the tokenizer's highest id."""
    ids = np.full((1, 1), highest, dtype=np.int64)
    try:
        scorer.score(ids, np.ones_like(ids), np.zeros_like(ids))
    except ModelError as error:
        raise ModelError(
            f"bundle {bundle.manifest.name!r} cannot read token {highest} of its own tokenizer ({error}); "
            "its tokenizer belongs to another model: export it again"
        ) from error


def _windower(bundle: Bundle, settings: RunSettings) -> Windower:
    manifest = bundle.manifest
    wanted = settings.windows.max_length
    if wanted is not None and wanted > manifest.max_length:
        raise SettingsError(
            f"--max-length {wanted} is more than the {manifest.max_length} tokens that {manifest.name} takes"
        )
    max_length = wanted or min(DEFAULT_MAX_LENGTH, manifest.max_length)
    if max_length <= manifest.layout.special_tokens + 1:
        raise SettingsError(f"--max-length {max_length} leaves no room for a question and its context")
    return Windower(open_tokenizer(bundle.tokenizer), manifest.layout, settings.windows, max_length)


def _rules(bundle: Bundle, settings: RunSettings, longest: int) -> DecodingRules:
    manifest, decoding = bundle.manifest, settings.decoding
    # no span is longer than the window that it is in, and decoding makes room for the longest allowed
    decoding = replace(decoding, max_answer_length=min(decoding.max_answer_length, longest))
    return DecodingRules.join(
        decoding,
        manifest.abstains.value,
        manifest.threshold.value,
        _calibrator(manifest.calibration) if manifest.calibration else None,
    )


def _calibrator(calibration: Calibration) -> Any:
    """The map from raw score to probability of being right, each kind of decision by its own curve."""

    def calibrate(score: Float64, silent: Bool) -> Float64:
        answered = np.interp(score, calibration.raw, calibration.probability)
        refused = np.interp(score, calibration.raw_no_answer, calibration.probability_no_answer)
        return np.where(silent, refused, answered)

    return calibrate
