"""Annotator: a loaded bundle and the pipeline, for Python users and for map functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from batchqa.bundle import Bundle, open_model
from batchqa.engines import Engine, Resolved, before_any_row, select
from batchqa.errors import ModelError, SettingsError
from batchqa.languages import profile_of
from batchqa.one_question import as_asked, as_pairs
from batchqa.pipeline import Pipeline
from batchqa.records import Cursor, Rows
from batchqa.settings import DEFAULT_MAX_LENGTH, AskingSettings, OutputLayout, RunSettings
from batchqa.steps.asking import Questions
from batchqa.steps.chunking import chunks
from batchqa.steps.decoding import DecodingRules
from batchqa.steps.reading import ColumnPlan, pieces
from batchqa.steps.scoring import SpanScorer
from batchqa.steps.windowing import Windower, open_tokenizer
from batchqa.steps.writing import output_batches, output_schema
from batchqa.table_kinds import ROW, annotated_as_given, check_batch, of_one_schema


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The model as one process has loaded it."""

    process: int
    engine: Engine
    pipeline: Pipeline


_LEFT: list[_Loaded] = []
"""What a fork inherited. Their threads are not in this process, and to destroy them could hang."""

STREAM_PART_ROWS = 100_000
"""Rows of a stream after which what was remembered of them is dropped: as many as a job's part has."""


class Annotator:
    """A bundle's model, loaded on a device, ready to answer tables and streams.

    Options are those of the command line (`top_k=3`, `no_answer="off"`, `batch_tokens=768`). One annotator
    serves one stream at a time. The model runs in worker processes (see `engines/worker_process.py`), which
    end with the annotator: by `close`, at the end of a `with` block, or when it is no longer used.

    After a fork each process has an engine of its own, loaded when it is first used there. Pickled, an
    annotator is its recipe: the model's name, the settings, and the engine, variant and batch size that were
    found; so the answers are the same wherever it is used.
    """

    def __init__(
        self,
        model: str | Path | Bundle = "default",
        device: str = "auto",
        *,
        settings: RunSettings | None = None,
        load: bool = True,
        **options: Any,
    ) -> None:
        """Load and verify `model`: "default" (the package's own), a bundle's folder, or an opened bundle.

        `settings` stands for device and options together. Without `load` the model is loaded where the
        annotator is first used: in another process, on a machine with a GPU. Raises ModelError or DeviceError
        (exit code 5).
        """
        if settings is None:
            settings = RunSettings.from_options({"device": device, **options})
        self.settings = settings
        self._model = model
        self._digest: str | None = None
        self._loaded: _Loaded | None = None
        if load:
            self._here()

    def __reduce__(self) -> tuple[Any, ...]:
        machine = self.settings.machine
        if self._loaded:
            machine = self._loaded.engine.resolved.pin(machine)
        model = self._model if self._model == "default" else self.bundle.path.absolute()
        settings = replace(self.settings, machine=machine)
        return _unpickled, (model, self.bundle.digest, settings, self._own_questions)

    @cached_property
    def bundle(self) -> Bundle:
        """The model's bundle, opened and verified."""
        bundle = self._model if isinstance(self._model, Bundle) else open_model(self._model)
        if self._digest not in (None, bundle.digest):
            raise ModelError(
                f"{bundle.path} is not the bundle that this annotator was pickled with; copy that one here"
            )
        return bundle

    @cached_property
    def _windower(self) -> Windower:
        return _windower(self.bundle, self.settings)

    def _here(self) -> _Loaded:
        """This process's engine; it is loaded where there is none yet, or only that of another process."""
        before = self._loaded
        if before is not None and before.process == os.getpid():
            return before
        machine = self.settings.machine
        if before is not None:
            _LEFT.append(before)
            machine = before.engine.resolved.pin(machine)
        windower = self._windower
        engine = select(self.bundle, machine)
        with before_any_row(engine.scorer.device):
            _check_vocabulary(windower.encoder.highest_id, engine.scorer, self.bundle)
        pipeline = Pipeline(windower, engine.scorer, _rules(self.bundle, self.settings, windower.max_length))
        self._loaded = _Loaded(os.getpid(), engine, pipeline)
        return self._loaded

    @property
    def engine(self) -> Engine:
        """What runs the model in this process, what was resolved, and why."""
        return self._here().engine

    @property
    def resolved(self) -> Resolved:
        """What the machine decided."""
        return self.engine.resolved

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline with this model."""
        return self._here().pipeline

    def close(self) -> None:
        """End this process's workers, if there are any; what is asked afterwards starts others."""
        loaded = self._loaded
        if loaded is not None and loaded.process == os.getpid():
            loaded.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def decides_by(self) -> dict[str, Any]:
        """The model and what its decisions depend on, for the output's record."""
        rules = self.pipeline.rules
        return {
            "model": self.bundle.manifest.name,
            "abstains": rules.abstains,
            "threshold": rules.threshold if rules.abstains else None,
        }

    def unlike_verified(self, texts: Iterable[str]) -> str:
        """A note where texts do not look like those that the bundle was verified on, else ""."""
        manifest, encoder = self.bundle.manifest, self.pipeline.windower.encoder
        if manifest.texts is None:
            return ""
        found = profile_of(texts, encoder.tokenizer, encoder.unknown).differs_from(manifest.texts)
        if not found:
            return ""
        languages = f" ({', '.join(manifest.languages)})" if manifest.languages else ""
        return (
            f"the texts do not look like those that {manifest.name} was verified on{languages}: "
            f"{found}. Its answers may be poor; choose a model for these texts with --model"
        )

    def stream(
        self,
        batches: Iterable[pa.RecordBatch],
        questions: Mapping[str, Any] | None = None,
        layout: OutputLayout | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Annotate record batches as they come, in order and in bounded memory.

        The batches must share one schema, that of the first: columns may be in another order, and of types
        that become its types without loss; others raise InputError. The output's rows are the input's in
        order, in batches of its own size. Memory holds a few thousand rows at a time, and the answers of up
        to STREAM_PART_ROWS.
        `questions` and `layout` as for `annotate`.
        """
        asks = self._asks(questions, layout)
        stream = iter(batches)
        first = next(stream, None)
        if first is None:
            return
        check_batch(first)
        plan = self._plan(first.schema, asks)
        schema = self._output_schema(plan, asks)
        each = len(asks) if asks else 1
        alike = of_one_schema(chain([first], stream))
        rows = chunks(_rows(plan, alike), STREAM_PART_ROWS, questions=each)
        for answered in self.pipeline.answer(rows, questions=asks):
            yield from output_batches(answered, schema, wide=asks is not None and asks.wide)

    def annotate(
        self,
        table: Any,
        questions: Mapping[str, Any] | None = None,
        layout: OutputLayout | None = None,
    ) -> Any:
        """The table with the answer columns added; a row that cannot be judged has its code in `qa_error`.

        Takes pyarrow, polars and pandas tables, lists of dicts, and anything with `__arrow_c_stream__`, and
        returns the same kind (of the last, a pyarrow table).

        Every row is asked `questions` if they are given: {"brand": "What brand is it?"}, or in the place of
        a text {"question": text, "threshold": number}. `layout` "long" gives a row for each question, "wide"
        a column; None as the annotator was made, or "long". The rows of data frames and lists come back as
        they are, with their index, once for each question in the long layout.
        """
        return annotated_as_given(
            table,
            lambda batches: self.stream(batches, questions, layout),
            lambda schema: self.schema(schema, questions, layout),
        )

    def schema(
        self,
        input_schema: pa.Schema,
        questions: Mapping[str, Any] | None = None,
        layout: OutputLayout | None = None,
    ) -> pa.Schema:
        """The schema of the output for tables of `input_schema`. Raises InputError where columns lack."""
        if not isinstance(input_schema, pa.Schema):
            raise TypeError(f"expected a pyarrow.Schema, not {type(input_schema).__qualname__}")
        asks = self._asks(questions, layout)
        return self._output_schema(self._plan(input_schema, asks), asks)

    def ask(
        self,
        question: str | Sequence[str],
        context: str | Sequence[str],
        *,
        top_k: int = 1,
        handle_impossible_answer: bool | None = None,
    ) -> Any:
        """The answer to a question about a context: {"answer", "start", "end", "score", "no_answer"}.

        Of lists, a list; a single text goes with each of it. With `top_k` above 1 each answer is a list,
        best first. `handle_impossible_answer`: whether "no answer" may be said (None: as the annotator does);
        answer, start and end are None then. Where a text cannot be judged, its code is in "error".
        """
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {top_k}")
        decoding = replace(self.settings.decoding, top_k=top_k if top_k > 1 else 0)
        if handle_impossible_answer is not None:
            decoding = replace(decoding, no_answer="on" if handle_impossible_answer else "off")
        settings = RunSettings(windows=self.settings.windows, decoding=decoding)
        rules = _rules(self.bundle, settings, self._windower.max_length)
        pairs = as_pairs(question, context)
        plan = ColumnPlan.of(pairs.schema, settings.reading, "ask")
        schema = output_schema(plan.schema, settings.reading.output_prefix, decoding.top_k)
        pipeline = replace(self.pipeline, rules=rules)
        answered = pipeline.answer(chunks(_rows(plan, pairs.to_batches()), STREAM_PART_ROWS))
        rows = [
            row for each in answered for batch in output_batches(each, schema) for row in batch.to_pylist()
        ]
        return as_asked(rows, top_k, single=isinstance(question, str) and isinstance(context, str))

    @cached_property
    def _own_questions(self) -> Questions | None:
        """The questions of the settings: the options `ask` and `questions`."""
        return Questions.of(self.settings.asking)

    def _asks(self, questions: Mapping[str, Any] | None, layout: OutputLayout | None) -> Questions | None:
        if questions is not None:
            asks: Questions | None = Questions.given(questions, "long" if layout is None else layout)
        elif layout is None:
            asks = self._own_questions
        else:
            AskingSettings(layout=layout)
            if layout == "wide" and self._own_questions is None:
                raise SettingsError(
                    "layout 'wide' makes a column for each question; give `questions`, or leave it out"
                )
            asks = self._own_questions and replace(self._own_questions, layout=layout)
        if asks is None:
            return None
        asks, decoding = asks.with_limits(self.settings.decoding)
        if decoding != self.settings.decoding:
            raise SettingsError(
                f"a question lists up to {decoding.max_answers} answers; make the annotator with "
                f"answers='all', max_answers={decoding.max_answers}"
            )
        return asks

    def _plan(self, schema: pa.Schema, asks: Questions | None) -> ColumnPlan:
        reading = self.settings.reading
        if reading.keep is not None and ROW in schema.names:
            reading = replace(reading, keep=(*reading.keep, ROW))
        if asks is None:
            return ColumnPlan.of(schema, reading, "the table")
        with asks.explaining():
            return ColumnPlan.of(schema, asks.reading(reading), "the table")

    def _output_schema(self, plan: ColumnPlan, asks: Questions | None) -> pa.Schema:
        return output_schema(
            plan.schema,
            self.settings.reading.output_prefix,
            self.settings.decoding.top_k,
            self.settings.decoding.most_answers,
            wide=asks.wide_names if asks else None,
            asked=asks is not None or plan.lists,
        )


def _unpickled(
    model: str | Path, digest: str, settings: RunSettings, questions: Questions | None
) -> Annotator:
    """An annotator that loads nothing before it is used."""
    annotator = Annotator.__new__(Annotator)
    annotator.settings = settings
    annotator._own_questions = questions  # noqa: SLF001
    annotator._model, annotator._digest, annotator._loaded = model, digest, None  # noqa: SLF001
    return annotator


def _rows(plan: ColumnPlan, batches: Iterable[pa.RecordBatch]) -> Iterator[Rows]:
    """The batches as reading hands rows over, in bounded pieces."""
    first_record = 0
    for batch in batches:
        for piece in pieces(batch):
            yield plan.rows(piece, _locator(first_record), first_record, Cursor(row=first_record))
            first_record += len(piece)


def _locator(first_row: int) -> Callable[[int], str]:
    return lambda row: f"row {first_row + row + 1}"


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
        manifest.calibration.apply if manifest.calibration else None,
    )
