"""How far a job is: rows, counts and seconds, from the first row to the summary."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.answer_columns import QUESTION_CODES
from batchqa.output import PartRecord
from batchqa.records import AnsweredChunk, Asked, Chunk

PAUSE_SECONDS = 0.1
"""Between two reports on batches at least: those of a small model come by the hundred."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is; rows are input records, `total_rows` None where only reading would tell.

    `rows` counts the rows whose answers are decided (`judged_rows`) and the scored share of those in work;
    `judged_rows` None means all. Of the `judged_questions` that they were asked (None: one each) `answered`
    have an answer.
    """

    rows: int
    total_rows: int | None
    answered: int
    seconds: float
    rows_per_second: float
    part: int
    judged_rows: int | None = None
    judged_questions: int | None = None


class Clock:
    """The run's own clock, in seconds; `already` went by before it."""

    def __init__(self, already: float) -> None:
        self._start = time.monotonic() - already
        self.startup: float | None = None
        self.in_commit = 0.0
        self.resumed_rows: int | None = None

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def committing(self) -> _Stretch:
        """Counts the time spent in the block as time of the commit."""
        return _Stretch(self)


class _Stretch:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._clock.in_commit += time.monotonic() - self._began


@dataclass
class Tally:
    """What happened to the rows of a part, or of several.

    `counts` are of questions. `errors` are of rows: what is wrong with a row counts once, however many
    questions it is asked, and what is wrong with a question counts for each. `rows_out` are the rows written.
    """

    rows: int = 0
    rows_out: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, part: PartRecord) -> None:
        """Count a committed part."""
        self.rows += part.records_in
        self.rows_out += part.rows_out
        self.errors.update(part.errors)
        self.counts.update(part.counts)

    def count(self, piece: AnsweredChunk) -> None:
        """Count the rows of a chunk."""
        answers = piece.answers
        self.rows += len(piece.chunk.rows)
        self.counts["questions"] += len(answers)
        abstained = pc.sum(answers.column("no_answer")).as_py() or 0
        self.counts["no_answer"] += abstained
        self.counts["answered"] += len(answers) - answers.column("score").null_count - abstained
        self.counts["windows"] += piece.windows
        self.counts["questions_cut"] += piece.questions_cut
        if piece.reused_rows:  # a job without them is recorded as ever
            self.counts["reused_rows"] += piece.reused_rows
        errors = answers.column("error")
        for entry in pc.value_counts(errors.drop_null()).to_pylist():
            code = entry["values"]
            of_rows = piece.asked is not None and code not in QUESTION_CODES
            self.errors[code] += _rows_with(code, errors, piece.asked) if of_rows else entry["counts"]


def _rows_with(code: str, errors: pa.Array, asked: Asked | None) -> int:
    assert asked is not None
    return len(np.unique(asked.record[pc.indices_nonzero(pc.equal(errors, code)).to_numpy()]))


class Follower:
    """Follows a job and tells how far it is: at its start, as batches are scored, after each chunk.

    `committed` counts the parts that are committed, `part` the chunks of the one in work. Running totals:
    to sum all parts for each chunk would be quadratic.
    """

    def __init__(
        self,
        clock: Clock,
        committed: Iterable[PartRecord],
        total_rows: int | None,
        tell: Callable[[Progress], None],
    ) -> None:
        self.committed, self.part = Tally(), Tally()
        for part in committed:
            self.committed.add(part)
        clock.resumed_rows = self.committed.rows
        clock.startup = clock.seconds()
        self._clock = clock
        self._total_rows = total_rows
        self._tell = tell
        self._told = time.monotonic()

    def started(self) -> None:
        """The first row is at hand only now."""
        self._clock.startup = self._clock.seconds()

    def scored(self, chunk: Chunk, share: float) -> None:
        """A batch is scored; with it, this share of its chunk's tokens."""
        if time.monotonic() - self._told >= PAUSE_SECONDS:
            self.tell(chunk.part, round(share * len(chunk.rows)))

    def part_committed(self, record: PartRecord) -> None:
        """The part in work is committed."""
        self.committed.add(record)
        self.part = Tally()

    def committing(self) -> _Stretch:
        """Counts the time spent in the block as time of the commit."""
        return self._clock.committing()

    def tell(self, part: int, rows_in_work: int = 0) -> None:
        """Tell how far the job is; `rows_in_work` are scored, but not yet decided."""
        self._told = time.monotonic()
        judged = self.committed.rows + self.part.rows
        rows, seconds = judged + rows_in_work, self._clock.seconds()
        working = max(seconds - (self._clock.startup or 0.0), 1e-9)
        self._tell(
            Progress(
                rows=rows,
                total_rows=self._total_rows,
                answered=self.committed.counts["answered"] + self.part.counts["answered"],
                seconds=seconds,
                rows_per_second=(rows - (self._clock.resumed_rows or 0)) / working,
                part=part,
                judged_rows=judged,
                judged_questions=self.committed.counts["questions"] + self.part.counts["questions"],
            )
        )
