"""A job's parts: from the rows of each missing part to its commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np
import orjson
import pyarrow as pa

from batchqa.annotator import Annotator
from batchqa.answer_columns import ROW_ERRORS
from batchqa.errors import LimitError
from batchqa.job.fingerprint import versions_of
from batchqa.job.first_texts import FirstTexts
from batchqa.job.following import Follower, Tally
from batchqa.job.ranges import RangeReader, as_planned, up_to
from batchqa.output import (
    Commit,
    PartRange,
    PartRecord,
    Parts,
    PartWriter,
    StreamCommit,
    StreamPart,
    jsonlines,
)
from batchqa.records import AnsweredChunk, Chunk, Rows
from batchqa.settings import RunSettings
from batchqa.steps.asking import Questions
from batchqa.steps.chunking import chunks
from batchqa.steps.pairing import EarlierAnswers
from batchqa.steps.reading import Source
from batchqa.steps.writing import output_batches
from batchqa.version import VERSION

NAMED_ERRORS = 5
"""How many row errors a message names."""


class Job:
    """The loop of a job: from each missing part's rows to its commit."""

    def __init__(
        self,
        source: Source,
        annotator: Annotator,
        settings: RunSettings,
        questions: Questions | None,
        commit: Commit | StreamCommit | Parts,
        schema: pa.Schema,
        follower: Follower,
        note: Callable[[str], None],
        earlier: EarlierAnswers,
        is_shard: bool,
    ) -> None:
        self.source = source
        self._reader = RangeReader(source)
        self.annotator = annotator
        self.settings = settings
        self.questions = questions
        self._wide = questions is not None and questions.wide
        self.commit = commit
        self.schema = schema
        self.follower = follower
        self.named: list[str] = []
        self.note = note
        self._earlier = earlier
        texts = questions.texts if questions else ()
        # of a job of several shards its plan has looked
        looks = annotator.bundle.manifest.texts and not is_shard
        self._first = FirstTexts(texts) if looks else None
        self.unlike = ""
        self._versions = {"batchqa": VERSION, **versions_of(annotator.resolved.engine)}

    def annotate(self, missing: Iterable[PartRange]) -> None:
        """Do these parts. Raises LimitError after the part that has one error too many."""
        self.follower.tell(part=0)
        answered = self.annotator.pipeline.answer(
            self._chunks(missing), self.follower.scored, self._earlier, self.questions
        )
        with closing(answered):  # type: ignore[type-var]
            self._write_parts(answered)

    def _chunks(self, missing: Iterable[PartRange]) -> Iterator[Chunk]:
        """The rows of missing parts in chunks; this runs in the thread of windowing, ahead of the others."""
        part_rows, asked = self.settings.output.part_rows, len(self.questions) if self.questions else 1
        for each in missing:
            rows = self._looked_at(each, self._rows(each))
            yield from as_planned(chunks(rows, part_rows, each.first_part, questions=asked), each)

    def _looked_at(self, missing: PartRange, rows: Iterator[Rows]) -> Iterator[Rows]:
        """The same rows; the job's first texts are gathered from them, or by a look at the input's beginning.

        A job that was stopped looks at the same texts as one that was not, so that its output is the same.
        """
        first = self._first
        if first is None or first.complete:
            return rows
        if missing.first_record == 0 and missing.stop_part is None:
            return first.passing(rows)
        self._look_at_the_beginning(first)
        return rows

    def _look_at_the_beginning(self, first: FirstTexts) -> None:
        with closing(up_to(self.source.read(), self.settings.output.limit)) as beginning:  # type: ignore[type-var]
            first.gather(beginning)

    def say_what_is_unlike(self, *, at_the_end: bool = False) -> None:
        """Say once that the texts are not such as the bundle was verified on, as soon as it is known."""
        if self._first is not None and at_the_end and not self._first.complete:
            self._look_at_the_beginning(self._first)  # all parts were there already
        if self._first is not None and self._first.complete:
            self.unlike = self.annotator.unlike_verified(self._first.texts)
            self._first = None
            if self.unlike:
                self.note(self.unlike)

    def _rows(self, missing: PartRange) -> Iterator[Rows]:
        """The rows of consecutive missing parts, up to --limit."""
        ends = [self.settings.output.limit]
        if missing.stop_part is not None:
            ends.append(missing.stop_part * self.settings.output.part_rows)
        end = min((end for end in ends if end is not None), default=None)
        return self._reader.rows(missing.cursor, missing.first_record, end)

    def _write_parts(self, answered: Iterator[AnsweredChunk]) -> None:
        writer: PartWriter | StreamPart | None = None
        first_file, follower = 0, self.follower
        follower.part = Tally()
        try:
            for piece in answered:
                self.say_what_is_unlike()
                with follower.committing():
                    if writer is None:
                        writer = self.commit.part(piece.chunk.part)
                        first_file = piece.chunk.rows.cursor_after(0).file
                    self._write(piece, writer)
                    follower.part.count(piece)
                    if piece.chunk.last_of_part:
                        self._commit_part(piece, writer, first_file)
                        writer = None
                follower.tell(piece.chunk.part)
                if writer is None:
                    self._check_number_of_errors()
        finally:
            if writer is not None:
                writer.discard()

    def _write(self, piece: AnsweredChunk, writer: PartWriter | StreamPart) -> None:
        """Write a chunk's rows, and those to be rejected to the rejects."""
        bad = self._bad_rows(piece)
        rejected = bad if self.settings.errors.on_error == "reject" else {}
        for row, at in rejected.items():
            writer.reject(_reject_line(piece, row, at, lines=self.source.lines))
        for batch in output_batches(piece, self.schema, wide=self._wide, without=rejected):
            writer.write(batch)
        if piece.asked is None or self._wide:
            self.follower.part.rows_out += len(piece.chunk.rows) - len(rejected)
        else:
            self.follower.part.rows_out += int((~np.isin(piece.asked.record, list(rejected))).sum())

    def _bad_rows(self, piece: AnsweredChunk) -> dict[int, int]:
        """Rows that count as errors, and for each its first answer that does, both by position.

        With --on-error fail the first one ends the run.
        """
        errors = piece.answers.column("error")
        if errors.null_count == len(errors):
            return {}
        details = piece.answers.column("error_detail")
        bad: dict[int, int] = {}
        for at, code in enumerate(errors.to_pylist()):
            if code is None or not self._counts_as_error(code):
                continue
            bad.setdefault(at if piece.asked is None else int(piece.asked.record[at]), at)
            named = f"{code} at {details[at].as_py()}"
            if len(self.named) < NAMED_ERRORS and named not in self.named:
                self.named.append(named)
            if self.settings.errors.on_error == "fail":
                raise LimitError(
                    f"--on-error fail: {self.named[0]}; correct the row, or choose annotate or reject"
                )
        return bad

    def _counts_as_error(self, code: str) -> bool:
        return self.settings.errors.strict or code in ROW_ERRORS

    def _commit_part(self, piece: AnsweredChunk, writer: PartWriter | StreamPart, first_file: int) -> None:
        rows, tally = piece.chunk.rows, self.follower.part
        end = rows.cursor_after(len(rows))
        self.source.check_unchanged(first_file, end.file + 1)
        record = writer.commit(
            tally.rows,
            end,
            errors=tally.errors,
            counts=tally.counts,
            versions=self._versions,
            device=self.annotator.resolved.device,
            rows_out=tally.rows_out,
        )
        self.follower.part_committed(record)

    def committed_elsewhere(self, record: PartRecord, named: Sequence[str]) -> None:
        """Count a part that another process has committed, and judge the errors so far."""
        assert isinstance(self.commit, Commit)
        self.commit.accept(record)
        self.follower.part_committed(record)
        new = [text for text in named if text not in self.named]
        self.named += new[: NAMED_ERRORS - len(self.named)]
        self._check_number_of_errors()

    def _check_number_of_errors(self) -> None:
        if not self.settings.errors.max_errors.percent:
            self.check_errors()

    def check_errors(self) -> None:
        """Judge --max-errors by the rows so far; a share of them needs all rows."""
        done = self.follower.committed
        errors = sum(n for code, n in done.errors.items() if self._counts_as_error(code))
        rows, limit = done.rows, self.settings.errors.max_errors
        if not limit.exceeded(errors, rows):
            return
        named = "; ".join(self.named) or "they were found by an earlier run"
        more = f"; and {errors - len(self.named)} more" if errors > len(self.named) > 0 else ""
        raise LimitError(
            f"{errors} of {rows} rows are errors, but --max-errors allows {limit}: {named}{more}. Finished "
            f"parts are kept: the same command with a higher limit resumes the job"
        )


def _reject_line(piece: AnsweredChunk, row: int, at: int, *, lines: bool) -> bytes:
    """A rejected row as JSON: which record, why (answer `at`), and its columns or line as they were read."""
    rows, answers = piece.chunk.rows, piece.answers
    (as_read,) = jsonlines.lines(rows.columns.slice(row, 1), originals=lines)
    record = {
        "record": rows.first_record + row,
        "error": answers.column("error")[at].as_py(),
        "error_detail": answers.column("error_detail")[at].as_py(),
        "row": orjson.Fragment(as_read.strip()),
    }
    return orjson.dumps(record)
