"""Annotator: a loaded bundle and the road, for Python users and for map functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batchqa.bundle import Bundle, Calibration, Variant, open_bundle
from batchqa.errors import DeviceError, ModelError, SettingsError
from batchqa.machine import cpu_quota
from batchqa.pipeline import Road
from batchqa.records import AnsweredChunk, Bool, Chunk, Float64, Rows
from batchqa.settings import DEFAULT_MAX_LENGTH, MachineSettings, ReadingSettings, RunSettings
from batchqa.steps.chunking import chunks
from batchqa.steps.decoding import DecodingRules
from batchqa.steps.inference import OnnxScorer, SpanScorer, cuda_is_available, measure_budget
from batchqa.steps.reading import pass_through_schema, rows_of_batch
from batchqa.steps.windowing import Windower, open_tokenizer
from batchqa.steps.writing import output_batch, output_schema

BUNDLED = Path(__file__).parent / "bundled"
"""The model that comes with the package: what `--model default` means."""

MEASURED_TOKENS = 160
"""Length of the windows with which the token budget is measured: that of an ordinary paragraph."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the machine decided: settled once per job, written to job.json and used again on a resume."""

    device: str
    engine: str
    variant: str
    threads: int
    batch_tokens: int

    def to_dict(self) -> dict[str, Any]:
        """As it stands in job.json."""
        return asdict(self)

    def pin(self, machine: MachineSettings) -> MachineSettings:
        """`machine` with everything but the device as it was resolved before."""
        return replace(
            machine,
            engine=self.engine,
            variant=self.variant,
            threads=self.threads,
            batch_tokens=self.batch_tokens,
        )


class Annotator:
    """A bundle's model, loaded on a device, ready to answer tables and streams.

    Options are those of the command line (`top_k=3`, `no_answer="off"`, `batch_tokens=768`). One annotator
    serves one stream at a time.
    """

    def __init__(
        self,
        model: str | Path = "default",
        device: str = "auto",
        *,
        settings: RunSettings | None = None,
        **options: Any,
    ) -> None:
        """Load and verify `model`: "default" (the one in the package) or a bundle's folder.

        `settings` stands for device and options together. Raises ModelError or DeviceError (exit code 5).
        """
        if settings is None:
            settings = RunSettings.from_options({"device": device, **options})
        self.settings = settings
        self.bundle = open_model(model)
        self.variant, self.scorer, threads = _load(self.bundle, settings.machine)
        budget = settings.machine.batch_tokens or measure_budget(self.scorer, MEASURED_TOKENS)
        self.resolved = Resolved(
            self.scorer.device, self.scorer.engine, self.variant.precision, threads, budget
        )
        self._road = _build_road(self.bundle, self.scorer, settings, budget)

    def answer(self, pieces: Iterable[Chunk]) -> Iterator[AnsweredChunk]:
        """The road itself: chunks in, answered chunks out, in order. What jobs call."""
        return self._road.answer(pieces)

    def stream(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Annotate record batches as they come, in order and in bounded memory.

        The batches must share one schema. The output's rows are the input's in order, in batches of its own
        size. Memory holds a few thousand rows at a time.
        """
        reading = self.settings.reading
        schema: pa.Schema | None = None

        def rows() -> Iterator[Rows]:
            nonlocal schema
            first_record = 0
            for batch in batches:
                if schema is None:
                    schema = self._schema(batch.schema)
                yield rows_of_batch(batch, reading, first_record)
                first_record += len(batch)

        # one part as long as the stream: duplicates are remembered, within the windower's bounds
        for answered in self.answer(chunks(rows(), part_rows=2**31 - 1)):
            assert schema is not None
            yield output_batch(answered, schema)

    def annotate(self, table: pa.Table) -> pa.Table:
        """The table with the answer columns added; rows that cannot be judged carry their code in `qa_error`."""
        return pa.Table.from_batches(self.stream(table.to_batches()), schema=self._schema(table.schema))

    def _schema(self, columns: pa.Schema) -> pa.Schema:
        reading: ReadingSettings = self.settings.reading
        kept = pass_through_schema(columns, reading)
        return output_schema(kept, reading.output_prefix, self.settings.decoding.top_k)


def open_model(model: str | Path) -> Bundle:
    """Open "default" or a bundle's folder. Raises ModelError, saying what to do, where there is none."""
    if str(model) == "default":
        if not BUNDLED.is_dir():
            raise ModelError("this installation has no model in the package; name one with --model BUNDLE")
        return open_bundle(BUNDLED)
    path = Path(model)
    if not path.exists():
        raise ModelError(f"there is no model at {path}; name a bundle's folder, or make one with `batchqa export`")
    return open_bundle(path)


def _load(bundle: Bundle, machine: MachineSettings) -> tuple[Variant, SpanScorer, int]:
    """The scorer for the device that was asked for; `auto` and --allow-cpu-fallback may take the CPU instead."""
    threads = machine.threads or cpu_quota()
    engine = "onnxruntime" if machine.engine == "auto" else machine.engine
    if engine != "onnxruntime":
        raise DeviceError(f"this version of batchqa cannot run models on {engine}; take --engine onnxruntime")
    manifest = bundle.manifest

    def scorer_on(device: str) -> tuple[Variant, SpanScorer, int]:
        variant = bundle.choose(device.partition(":")[0], engine, machine.variant)
        scorer = OnnxScorer(bundle.model(variant), manifest.inputs, manifest.outputs, device, threads)
        return variant, scorer, threads

    device = "cuda:0" if machine.device in ("cuda", "all") else machine.device
    if device == "auto":
        device = "cuda:0" if cuda_is_available() else "cpu"
    if device != "cpu" and (machine.allow_cpu_fallback or machine.device == "auto"):
        try:
            return scorer_on(device)
        except DeviceError:
            device = "cpu"
    return scorer_on(device)


def _build_road(bundle: Bundle, scorer: SpanScorer, settings: RunSettings, budget: int) -> Road:
    manifest = bundle.manifest
    wanted = settings.windows.max_length
    if wanted is not None and wanted > manifest.max_length:
        raise SettingsError(
            f"--max-length {wanted} is more than the {manifest.max_length} tokens that {manifest.name} takes"
        )
    max_length = wanted or min(DEFAULT_MAX_LENGTH, manifest.max_length)
    if max_length <= manifest.layout.special_tokens + 1:
        raise SettingsError(f"--max-length {max_length} leaves no room for a question and its context")
    rules = DecodingRules.join(
        settings.decoding,
        manifest.abstains.value,
        manifest.threshold.value,
        _calibrator(manifest.calibration) if manifest.calibration else None,
    )
    windower = Windower(open_tokenizer(bundle.tokenizer), manifest.layout, settings.windows, max_length)
    return Road(windower, scorer, rules, budget)


def _calibrator(calibration: Calibration) -> Any:
    """The map from raw score to probability of being right, each kind of decision by its own curve."""

    def calibrate(score: Float64, silent: Bool) -> Float64:
        answered = np.interp(score, calibration.raw, calibration.probability)
        refused = np.interp(score, calibration.raw_no_answer, calibration.probability_no_answer)
        return np.where(silent, refused, answered)

    return calibrate
