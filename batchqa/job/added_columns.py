"""Which columns of an output its run added. Their names alone do not tell.

An input may have columns of the same names, those of an earlier run for example, so the record that the run
left decides where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchqa.answer_columns import ASKED_FIELDS
from batchqa.errors import SettingsError
from batchqa.output import JobRecord, Target, written_by

DEFAULT_PREFIX = "qa_"


def record_of(given: str) -> JobRecord | None:
    """The record of the run that wrote an output; None where there is none."""
    try:
        found = written_by(Target.to_read(given))
    except SettingsError:  # a name that no output of a run has
        return None
    return found.record if found else None


def prefix_of(record: JobRecord | None) -> str | None:
    """The prefix of the added columns; None where no record says."""
    return None if record is None else str(record.fields["options"]["reading"]["output_prefix"])


@dataclass(frozen=True, slots=True)
class Asked:
    """The columns that say which question a row asks, where a record has a row for each of several.

    `question` is None where the file has the names alone.
    """

    name: str
    question: str | None


def asked_columns(names: Sequence[str], prefix: str, record: JobRecord | None) -> Asked | None:
    """Those of an output with the columns `names`; None where its rows bring their own questions."""
    name, question = (prefix + field.name for field in ASKED_FIELDS)
    if name not in names or not may_be_asked(prefix, record):
        return None
    return Asked(name, question if question in names else None)


def may_be_asked(prefix: str, record: JobRecord | None) -> bool:
    """Whether columns with the names of `Asked` may be a run's; not where its record says that it added none.

    In the wide layout they are the answers to questions of these names. Of an output that is read under
    another prefix than its own, the record says nothing.
    """
    if record is None or prefix_of(record) != prefix:
        return True
    asked = record.fields.get("asked")
    return asked is not None and asked["layout"] != "wide"
