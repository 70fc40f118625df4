"""`--reuse`: the answers of earlier outputs, where the same model with the same options gave them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from batchqa.answer_columns import pair_schema
from batchqa.errors import InputError, SettingsError
from batchqa.gold import decoded_json
from batchqa.job.added_columns import asked_columns
from batchqa.output import JobRecord, Target, differences, written_by
from batchqa.steps.decoding import DecodingRules
from batchqa.steps.pairing import EarlierAnswers
from batchqa.steps.reading import Dataset, column_at, open_dataset, root_of

_OF_THE_FILES = ("inputs", "output", "part_rows", "asked")
_OPTIONS_OF_THE_FILES = ("reading", "errors", "limit", "compression")
"""What is in a job's fingerprint and changes no pair's answer; a question is its text and its threshold."""


@dataclass(frozen=True, slots=True)
class EarlierOutput:
    """A finished output of `batchqa run`, as it was named, and what it says of itself."""

    name: str
    record: JobRecord


def find_earlier(name: str, target: Target) -> EarlierOutput:
    """An output that --reuse names, for a job that writes to `target`.

    Raises InputError where there is none, SettingsError where it would be replaced.
    """
    place = Target.to_read(name)
    if place == target:
        raise SettingsError(f"--reuse {name} is the output itself; write to another file or folder")
    there = written_by(place)
    record = there.record if there else None
    if record is None or not record.outcome:
        what = "no output" if record is None else "no finished output"
        raise InputError(
            f"--reuse {name}: there is {what} of `batchqa run` there; give the path of a finished one"
        )
    if there is not None and there.trouble:
        raise InputError(
            f"--reuse {name}: it was changed after its run ({there.trouble}); give another output"
        )
    return EarlierOutput(name, record)


def earlier_answers(
    outputs: Sequence[EarlierOutput],
    fields: Mapping[str, Any],
    rules: DecodingRules,
    note: Callable[[str], None] = lambda _: None,
    status: Callable[[str], None] = lambda _: None,
) -> EarlierAnswers:
    """The answers that a job with these `fields` can take over; `note` is told of each output that has none.

    An answer is the same whatever the row's other columns, its file and its part are, so only what decides
    about a pair must be the same. Raises InputError where an output has not kept the texts.
    """
    answers = EarlierAnswers(rules.top_k, rules.most_answers)
    for output in outputs:
        status(f"reading the answers of {output.name}")
        made = output.record.fields
        if differing := differences(_deciding(made), _deciding(fields)):
            note(f"nothing is reused from {output.name}, because these differ: {'; '.join(differing)}")
        else:
            _add(answers, output, pair_schema(rules.top_k, rules.most_answers).names)
    answers.settle()
    return answers


def _deciding(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a job's fields that decide about the answer to a pair."""
    options = {name: value for name, value in fields["options"].items() if name not in _OPTIONS_OF_THE_FILES}
    deciding = {name: value for name, value in fields.items() if name not in _OF_THE_FILES}
    questions = fields.get("asked", {}).get("questions", ())
    answers = {each["name"]: each["answers"] for each in questions if "answers" in each}
    return deciding | {"options": options} | ({"answers": answers} if answers else {})


def _add(answers: EarlierAnswers, output: EarlierOutput, names: Sequence[str]) -> None:
    """Remember the rows of an output: their texts, and the columns that answers have."""
    earlier, reading = open_dataset(output.name, of_a_run=True), output.record.fields["options"]["reading"]
    if not earlier.names:  # JSON lines without a row
        return
    prefix = reading["output_prefix"]
    asks = output.record.fields.get("asked", {})
    if prefix + "error" not in earlier.names or asks.get("layout") == "wide":
        raise InputError(
            f"--reuse {output.name}: its answers are in a column for each question (--layout wide); give an "
            "output that has a row for each"
        )
    asked = asked_columns(earlier.names, prefix, output.record)
    question = asked.question if asked and asked.question else reading["question"]
    texts = [_place(earlier, "context", reading["context"]), _place(earlier, "question", question)]
    questions = asks.get("questions", ())
    thresholds = {each["name"]: each["threshold"] for each in questions if "threshold" in each}
    added = [*(prefix + name for name in names), *([asked.name] if asked else [])]
    roots = [root_of(dotted, earlier.names) or dotted for dotted in texts]
    for table in earlier.batches([*roots, *added]):
        for batch in table.to_batches():
            context, question = (_at(batch, dotted) for dotted in texts)
            own = None
            if asked and thresholds:
                listed = batch.column(asked.name).to_pylist()
                own = np.array([thresholds.get(name, np.nan) for name in listed])
            columns = {name: _answers(batch.column(prefix + name), name) for name in names}
            answers.add(context, question, columns, own)


def _place(earlier: Dataset, option: str, name: str) -> str:
    """Where a text is, a dotted path. Raises InputError where it was left out."""
    if root_of(name, earlier.names) is not None:
        return name
    raise InputError(
        f"--reuse {earlier.path}: it has no column {name!r} (its --{option}), by which rows are recognized; "
        "name an output that keeps it"
    )


def _answers(column: pa.Array, name: str) -> pa.Array:
    """A column that answers have; tables as text have lists as JSON, and null where all are empty."""
    if name not in ("candidates", "answers"):
        return column
    lists = decoded_json(column)
    return lists if pa.types.is_list(lists.type) or lists.null_count < len(lists) else pa.nulls(len(lists))


def _at(batch: pa.RecordBatch, dotted: str) -> pa.Array:
    """The texts at a path, plain or as a dictionary array; null where a value is no text."""
    if dotted in batch.schema.names:
        column = batch.column(dotted)
    elif (found := column_at(pa.Table.from_batches([batch]), dotted)) is not None:
        column = found
    else:
        column = pa.nulls(len(batch), pa.large_string())
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column
    return column.cast(pa.large_string())
