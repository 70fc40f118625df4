"""`evaluate`: from two files to figures, read top to bottom."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.bundle import Bundle, open_model
from batchqa.domains import Folds, InsideShare, Resamples, Seed, checked
from batchqa.errors import InputError, SettingsError
from batchqa.evaluation.answer_lists import AnswerLists, score_lists
from batchqa.evaluation.calibration import reliability
from batchqa.evaluation.comparing import Comparison, Side, compare_sides
from batchqa.evaluation.files import (
    File,
    Predictions,
    answers_column,
    read_answers,
    read_predictions,
    read_texts,
)
from batchqa.evaluation.fitting import Aim, Objective
from batchqa.evaluation.grouping import labels_of, units_of
from batchqa.evaluation.intervals import LEAST_UNITS, Bootstrap
from batchqa.evaluation.joining import Examples, align, check_join, join, null_odds_of, same_rows
from batchqa.evaluation.metrics import (
    best_of,
    coverage_of,
    figures_by,
    figures_of,
    intervals_of,
    score,
)
from batchqa.evaluation.predictions import PREDICTION, open_rows, read_numbers
from batchqa.evaluation.result import NAMED_IDS, Evaluation, Missing, names_of_rows
from batchqa.evaluation.row_languages import Languages, languages_of
from batchqa.evaluation.selective import selective
from batchqa.evaluation.tables import ModelFacts
from batchqa.evaluation.tuning import check_target, tune_bundle
from batchqa.gold import gold_column
from batchqa.job import Progress, run
from batchqa.records import Int64
from batchqa.settings import WindowSettings
from batchqa.squad import RowScores, Rules, normalize
from batchqa.steps.reading import Dataset, open_dataset
from batchqa.store.locations import local_output, public

TEXTS = frozenset({"context", "question"})
"""Options that name the columns of the texts: groups and report need them as a run does."""


@dataclass(frozen=True, slots=True)
class _Options:
    """What both files of a comparison are read with."""

    prefix: str | None
    id: str | None
    gold_column: str | None
    texts: Mapping[str, str]

    def file(self, rows: Dataset) -> File:
        """An opened file, read with these."""
        return File.of(rows, self.prefix, self.id)


@checked
def evaluate(
    predictions: str | Path,
    *,
    gold: str | Path | None = None,
    model: str | Path | None = None,
    by: Sequence[str] = (),
    language: str | None = None,
    rules: Literal["auto", "squad1", "squad2"] = "auto",
    compare: str | Path | None = None,
    null_odds: str | Path | None = None,
    tune: str | Path | None = None,
    objective: Objective = "f1",
    target_precision: InsideShare | None = None,
    prior: InsideShare | None = None,
    folds: Folds = 5,
    report: str | Path | None = None,
    seed: Seed = 0,
    resamples: Resamples = 2000,
    confidence: InsideShare = 0.95,
    id: str | None = None,  # noqa: A002 - the option's name
    gold_column: str | None = None,
    output_prefix: str | None = None,
    annotated: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    on_status: Callable[[str], None] | None = None,
    **run_options: Any,
) -> Evaluation:
    """Score predictions by the field's own rules.

    predictions: a file that `run` wrote, here or in an object store, or with `model` one to annotate first.
        Also what other programs write: `{id: text}` JSON ("" or null for no answer), an n-best file, or the
        lists that the `evaluate` library takes; then `gold` is needed, and `null_odds` may name the official
        script's `{id: number}` file.
    gold: where the gold answers are, joined by `id`; else they are in the predictions' own `gold_column`
        (`answers` or `answer`): SQuAD's struct, a list of texts, or one text. Read before any other work.
    model: "default" or a bundle's folder. Annotates where `predictions` has no answers yet, into `annotated`
        (resumable; default: a name made from the file's and the bundle's, in the working folder), with the
        best span kept; `run_options`, `progress`, `on_note` and `on_status` are those of `run`. Also what
        `tune` and `by="windows"` need. Of `run_options`, `context` and `question` are used without a model
        too: they name the columns of the texts for groups and report.
    by: columns to group by, or `context_length`, `windows`, `question_word`.
    language: a column that names each row's language, or one language for all: MLQA's normalization.
    rules: "auto" takes SQuAD 1.1's where every question has an answer, else SQuAD 2.0's.
    compare: other predictions for the same questions.
    tune: a folder to be made: a copy of the bundle with the threshold that is best for `objective` and with
        calibrated scores, judged on `folds` held-out folds. `target_precision` instead of an objective: the
        threshold that gives the most answers of which such a share is right. `prior`: the share of
        unanswerable questions that is expected, to which the rows are reweighted.
    report: an HTML file to be written (needs the extra `report`).

    Raises SettingsError or InputError (exit code 2) where the files do not fit, PreconditionError (4) where
    `tune` exists, ModelError (5). `Evaluation.require_f1` is the gate of `--min-f1`.
    """
    texts = {name: run_options[name] for name in TEXTS if name in run_options}
    options = _Options(output_prefix, id, gold_column, texts)
    _check(by, tune, model)
    tune = None if tune is None else local_output("-o, where --tune writes,", tune)
    report = None if report is None else local_output("--report", report)
    aim = _aim(objective, target_precision, prior, tune)
    bundle = open_model(model) if model is not None else None
    if tune is not None and bundle is not None:
        check_target(bundle, tune)
    if report is not None:
        from batchqa.evaluation.report import check_report

        read = (predictions, gold, compare, null_odds, annotated)
        check_report(report, [str(file) for file in read if file is not None])

    opened = open_rows(str(predictions))
    references = opened.references if gold is None else open_rows(str(gold)).rows
    source, truth = options.file(opened.rows), None if references is None else options.file(references)
    if bundle is not None and not source.holds_predictions:
        _look_at_gold(source, truth, options)
    facts = None
    if bundle is not None:
        source, facts = _annotated(
            source,
            bundle,
            annotated,
            options,
            run_options,
            progress=progress,
            on_note=on_note,
            on_status=on_status,
        )
    elif unused := run_options.keys() - TEXTS:
        raise SettingsError(f"{', '.join(sorted(unused))}: these options need --model, which annotates FILE")

    examples = _examples(source, truth, null_odds, options)
    data = (references or opened.rows).name
    scored = _score(examples, language, rules)
    unit_name, unit = units_of(examples)
    units = len(examples) if unit is None else int(unit.max()) + 1
    if units < LEAST_UNITS:
        unit_name, unit, units = "row", None, len(examples)
    bootstrap = Bootstrap(unit_name, units, resamples, confidence, seed)
    has_answer = examples.has_answer
    here = Side(source.rows.name, source.record, examples, scored.rows, scored.spans)
    comparison = None if compare is None else _compare(here, scored, compare, unit, bootstrap, options)
    windows = WindowSettings(
        **{f.name: run_options[f.name] for f in fields(WindowSettings) if f.name in run_options}
    )
    groups = tuple(
        figures_by(labels_of(name, examples, bundle, windows), scored.rows, has_answer, unit, bootstrap)
        for name in by
    )
    tuned = (
        None
        if tune is None or bundle is None
        else tune_bundle(
            examples,
            scored.rows,
            scored.spans,
            bundle=bundle,
            target=tune,
            data=data,
            unit=units_of(examples, or_contexts=True),
            aim=aim,
            folds=folds,
            seed=seed,
        )
    )
    best = best_of(examples, scored.spans)
    judged = ~examples.missing & ~np.isnan(examples.predictions.score)
    evaluation = Evaluation(
        predictions=source.rows.name,
        gold=data,
        rules=scored.rules,
        language=scored.language,
        figures=figures_of(scored.rows, has_answer),
        best=best,
        intervals=intervals_of(scored.rows, has_answer, unit, bootstrap),
        missing=_missing(examples, scored.rows),
        extra=examples.extra,
        reliability=reliability(examples.predictions.score[judged], scored.rows.exact[judged]),
        coverage=coverage_of(examples, scored.rows, scored.spans),
        selective=selective(examples.predictions.score[judged], scored.rows.exact[judged]),
        groups=groups,
        comparison=comparison,
        tuned=tuned,
        lists=_answer_lists(examples, source.prefix),
        model=facts,
        notes=(*scored.notes, *_notes(examples, best is not None)),
        examples=examples,
        scores=scored.rows,
    )
    if report is not None:
        from batchqa.evaluation.report import write_report

        write_report(evaluation, report, source)
    return evaluation


def _check(by: Sequence[str], tune: str | Path | None, model: str | Path | None) -> None:
    if isinstance(by, str):
        raise TypeError("`by` is a list of names")
    if tune is not None and model is None:
        raise SettingsError("--tune makes a copy of a bundle: give that bundle with --model")


def _look_at_gold(source: File, truth: File | None, options: _Options) -> None:
    """Read the gold answers before the rows are annotated, which takes long. Raises InputError."""
    holder = (truth or source).rows
    read_answers(holder, answers_column(holder, options.gold_column))
    if truth is not None:
        check_join(truth.rows, truth.ids(), source.rows, source.ids())


def _aim(objective: Objective, precision: float | None, prior: float | None, tune: str | Path | None) -> Aim:
    """What the tuning is for. Raises SettingsError where there is none, or for two aims."""
    if tune is None and (precision is not None or prior is not None):
        raise SettingsError(
            f"{'--prior' if precision is None else '--target-precision'} says what --tune is for: "
            "give --tune -o NEW_BUNDLE too"
        )
    if precision is not None and objective != "f1":
        raise SettingsError("--target-precision and --objective cannot be combined; give one of them")
    return Aim(objective, precision, prior)


def _annotated(
    source: File,
    bundle: Bundle,
    annotated: str | Path | None,
    options: _Options,
    run_options: Mapping[str, Any],
    **reporting: Any,
) -> tuple[File, ModelFacts]:
    """The file itself where it has answers; else what a run makes of it, which a second call finds done."""
    variant, output = None, None
    if not source.holds_predictions:
        name = re.sub(r"[^\w.-]+", "-", bundle.manifest.name)
        output = str(
            annotated or f"{PurePosixPath(source.rows.path).stem}.{name}-{bundle.digest[:8]}.parquet"
        )
        keep_best = max(1, int(run_options.get("top_k", 0)))
        named = {"output_prefix": source.prefix, "id": options.id, "top_k": keep_best}
        summary = run(source.rows.given, output, model=bundle.path, **{**run_options, **named}, **reporting)
        variant = summary.variant
        source = options.file(open_dataset(output))
    elif unused := run_options.keys() - TEXTS - {f.name for f in fields(WindowSettings)}:
        raise SettingsError(
            f"{source.rows.path} already has answers, so it is not annotated again: leave out "
            f"{', '.join(sorted(unused))}"
        )
    sizes = {v.precision: bundle.size(v) / 1e6 for v in reversed(bundle.manifest.variants)}
    if variant is None and len(sizes) == 1:
        variant = next(iter(sizes))
    megabytes = None if variant is None else sizes.get(variant)
    return source, ModelFacts(bundle.manifest.name, bundle.digest, variant, megabytes, output)


def _examples(source: File, truth: File | None, null_odds: str | Path | None, options: _Options) -> Examples:
    predictions, ids = _predictions(source, null_odds)
    if truth is None:
        rows = source.rows
        if gold_column(rows.names, options.gold_column) is None and PREDICTION in rows.names:
            raise SettingsError(f"{rows.path} has predictions only: give the gold answers with --gold")
        examples = same_rows(rows, answers_column(rows, options.gold_column), ids, predictions)
    else:
        rows = truth.rows
        if truth.holds_predictions and gold_column(rows.names, options.gold_column) is None:
            raise InputError(
                f"{rows.path} has predictions, not gold answers: give a SQuAD file, Parquet or JSONL"
            )
        column = answers_column(rows, options.gold_column)
        examples = join(rows, column, truth.ids(), source.rows, ids, predictions)
    if not len(examples):
        raise InputError(f"{examples.gold.path} has no questions")
    asked = source.asked()
    own = {"question": asked.question} if asked and asked.question else {}
    return replace(examples, texts={**own, **options.texts})


def _predictions(source: File, null_odds: str | Path | None) -> tuple[Predictions, pa.Array | None]:
    source.check_rows()
    rows, ids = source.rows, source.ids()
    if source.prefix + "answer" not in rows.names and PREDICTION in rows.names:
        odds = None
        if null_odds is not None:
            odds = null_odds_of(rows, ids, *read_numbers(str(null_odds)), public(str(null_odds)))
        return read_texts(rows, odds), ids
    if null_odds is not None:
        raise SettingsError(f"{rows.path} has null odds in a column of its own: leave out --null-odds")
    return read_predictions(rows, source.prefix), ids


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """Scores of the decisions (`rows`) and of the best spans whatever the decision (`spans`)."""

    rows: RowScores
    spans: RowScores
    rules: Rules
    languages: Languages
    language: str | None
    notes: tuple[str, ...]


def _score(examples: Examples, language: str | None, rules: Literal["auto", "squad1", "squad2"]) -> _Scored:
    languages, notes = languages_of(examples, language)
    all_answerable = bool(examples.has_answer.all())
    if rules == "squad1" and not all_answerable:
        row = int(np.flatnonzero(~examples.has_answer)[0])
        raise InputError(
            f"{examples.gold.path}: row {row + 1} has no gold answer, which SQuAD 1.1's rules do not allow; "
            "use --rules squad2"
        )
    chosen: Rules = ("squad1" if all_answerable else "squad2") if rules == "auto" else rules
    predictions = examples.predictions
    rows = score(predictions.text, examples.answers, chosen, languages)
    spans = score(predictions.span, examples.answers, chosen, languages)
    return _Scored(rows, spans, chosen, languages, language, notes)


def _compare(
    here: Side,
    scored: _Scored,
    given: str | Path,
    unit: Int64 | None,
    bootstrap: Bootstrap,
    options: _Options,
) -> Comparison:
    other = options.file(open_rows(str(given)).rows)
    predictions = align(here.examples, other.rows, *reversed(_predictions(other, None)))
    there = replace(here.examples, predictions=predictions)
    rows, spans = (
        score(texts, there.answers, scored.rules, scored.languages)
        for texts in (predictions.text, predictions.span)
    )
    return compare_sides(here, Side(other.rows.name, other.record, there, rows, spans), unit, bootstrap)


def _answer_lists(examples: Examples, prefix: str) -> AnswerLists | None:
    """The figures of all answers, where the predictions have them."""
    given = examples.answer_lists(prefix)
    return None if given is None else score_lists(examples.answers.to_pylist(), given, normalize)


def _missing(examples: Examples, scores: RowScores) -> Missing:
    missing = examples.missing
    rows = np.flatnonzero(missing)
    faults = pc.value_counts(examples.predictions.fault.drop_null()).to_pylist()
    codes = {fault["values"]: fault["counts"] for fault in sorted(faults, key=lambda fault: fault["values"])}
    some = 0 < len(rows) < len(examples)
    without = figures_of(scores, examples.has_answer, ~missing) if some else None
    return Missing(len(rows), tuple(names_of_rows(examples, rows[:NAMED_IDS])), codes, without)


def _notes(examples: Examples, has_best: bool) -> tuple[str, ...]:
    """Why something that one might look for is not there."""
    predictions = examples.predictions
    judged = ~examples.missing
    if has_best or not judged.any():
        return ()
    if np.isnan(predictions.null_odds[judged]).all():
        why = "the predictions have no null odds (a model that does not abstain, or plain texts)"
    else:
        why = 'the best span of rows decided as "no answer" is not in the file; --top-k 1 keeps it'
    return (f"no best thresholds: {why}",)
