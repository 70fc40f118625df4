"""One job's output from its opening to its publication: `Commit`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self

from batchqa.errors import PreconditionError, StorageError, TryAgainError
from batchqa.output.finished import Found, check_companions, check_replaceable, find
from batchqa.output.manifest import JobRecord, PartRecord, canonical, differences, fingerprint, summed
from batchqa.output.merging import DamagedPartError, MissingPartError
from batchqa.output.part_writer import Parts, PartWriter
from batchqa.output.publisher import publish
from batchqa.output.staging import Staging, leftover, root_of
from batchqa.output.table import OutputTable
from batchqa.output.target import Target
from batchqa.records import Cursor
from batchqa.store import files, layout

_OPEN_TRIES = 50
_OPEN_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class PartRange:
    """Consecutive parts that are still to be done.

    Begin with part `first_part`, whose first record is `first_record` and stands at `cursor`; stop before
    part `stop_part`, or go on to the end of the input where that is None. `ends` has where these parts end,
    if there is a plan that says so.
    """

    first_part: int
    first_record: int
    cursor: Cursor
    stop_part: int | None
    ends: Sequence[Cursor] = ()


class Commit:
    """The output of one job. Open it with `open`, use it as a context: it holds the lock.

    `state` is what was found at the opening: nothing ("fresh"), an unfinished run of the same job
    ("resumed"), or its finished output ("done": there is nothing to do). `notes` are sentences for the user,
    `table` is what the output's rows are.
    """

    def __init__(
        self,
        target: Target,
        job: JobRecord,
        table: OutputTable,
        part_rows: int,
        compression: str,
        overwrite: bool,
    ) -> None:
        self.target = target
        self.notes: list[str] = []
        self.state: Literal["fresh", "resumed", "done"] = "fresh"
        self._overwrite = overwrite
        self._job = job
        self.table = table
        self._part_rows = part_rows
        self._compression = compression
        self._staging: Staging | None = None
        self._begun = False
        self._published = False
        self._parts: dict[int, PartRecord] = {}
        self._shared: tuple[range, Sequence[Cursor]] | None = None

    @classmethod
    def open(
        cls,
        target: Target,
        *,
        fields: Mapping[str, Any],
        table: OutputTable,
        part_rows: int,
        compression: str,
        overwrite: bool = False,
        restart: bool = False,
        shared: bool = False,
    ) -> Commit:
        """Lock the output's staging and find out what is done already.

        `shared` takes no lock: other processes do other parts of the job (`share`).

        `fields` is everything that can change the output; the fingerprint is made of it, of R and of the
        target's form. Raises PreconditionError (the output exists, or the staging is another job's),
        TryAgainError (another run holds it), StorageError, or InputError for columns that cannot be written.
        """
        own = json.loads(
            canonical({**fields, "part_rows": part_rows, "output": f"{target.kind} {target.format}"})
        )
        commit = cls(target, JobRecord(fingerprint(own), own, {}), table, part_rows, compression, overwrite)
        table.check(compression)
        with files.translated(f"opening {target.shown}"):
            try:
                commit._open(restart, shared)
            except BaseException:
                commit.close()
                raise
        return commit

    def _open(self, restart: bool, shared: bool) -> None:
        if self._is_done():
            self.state = "done"
            self._finish_interrupted_cleanup()
            return
        self._staging = staging = self._open_staging(alone=not shared)
        if staging.note:
            self.notes.append(staging.note)
        if self._is_done():
            # Another run published between the first look and the lock.
            self.state = "done"
            self._remove_staging()
            return
        staging.check_strangers()
        if restart:
            staging.discard_job()
        self._compare_jobs(staging, shared)
        staging.remove_unfinished()
        if self.state == "resumed" and not shared:
            parts = staging.committed(self.fingerprint, self._part_rows, self.table.schema)
            self._parts = {part.part: part for part in parts}

    def _is_done(self) -> bool:
        """Whether the output is there already; PreconditionError where something else is, and may stay."""
        found = find(self.target)
        if found is None:
            return False
        if found.record and not found.trouble and found.record.fingerprint == self.fingerprint:
            self._published = True
            self._job = found.record
            return True
        if not self._overwrite:
            raise PreconditionError(
                f"{self.target.shown} {self._why_not_ours(found)}; {self._way_out(found)}"
            )
        check_replaceable(self.target, found)
        return False

    def _why_not_ours(self, found: Found) -> str:
        if found.record is None:
            return "already exists and is not an output of batchqa"
        if found.record.fingerprint == self.fingerprint:
            return f"already exists but is damaged: {found.trouble}"
        what = "; ".join(differences(found.record.fields, self._job.fields))
        return f"already exists and was made from other inputs or with other options: {what}"

    def _way_out(self, found: Found) -> str:
        """What to do about an output that is there: --overwrite is advised only where it would work."""
        try:
            check_replaceable(self.target, found)
        except PreconditionError:
            return "choose another output, or move it away"
        return "give --overwrite to replace it"

    def _open_staging(self, *, alone: bool) -> Staging:
        for _ in range(_OPEN_TRIES):
            try:
                return Staging(self.target, root_of(self.target), alone=alone)
            except FileNotFoundError:
                # Another run is just removing it after publishing.
                time.sleep(_OPEN_PAUSE_SECONDS)
        raise TryAgainError(
            f"{self.target}: another run keeps creating and removing its staging folder; try again later"
        )

    def _compare_jobs(self, staging: Staging, shared: bool) -> None:
        earlier = staging.job()
        if earlier is None:
            if staging.has_parts():
                staging.check_not_late(layout.JOB)
                raise PreconditionError(
                    f"{staging.where}: there are parts here but no job.json; {staging.way_out(shared)}"
                )
            if not self._overwrite:
                check_companions(self.target)
            return
        if earlier.fingerprint != self.fingerprint:
            what = "; ".join(differences(earlier.fields, self._job.fields))
            raise PreconditionError(
                f"{staging.where}: there is an unfinished job here that differs from this one: {what};"
                f" resume it with its own command; or, if it is not wanted, {staging.way_out(shared)}"
            )
        self.state = "resumed"
        self._job = earlier
        self._begun = True

    @property
    def fingerprint(self) -> str:
        """The job's fingerprint, 64 hex digits."""
        return self._job.fingerprint

    @property
    def fields(self) -> Mapping[str, Any]:
        """What the fingerprint is made of."""
        return self._job.fields

    @property
    def resolved(self) -> Mapping[str, Any]:
        """The settings that the first run of the job resolved; empty before `begin` of a fresh job."""
        return self._job.resolved

    @property
    def committed(self) -> tuple[PartRecord, ...]:
        """The committed parts, in order."""
        return tuple(self._parts[part] for part in sorted(self._parts))

    def begin(self, resolved: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin the work; returns the resolved settings that hold: a resumed job's own, else these."""
        if not self._begun:
            staging = self._locked()
            self._job = JobRecord(self._job.fingerprint, self._job.fields, json.loads(canonical(resolved)))
            with files.translated(f"beginning {self.target.shown}"):
                self._job = staging.write_job(self._job)
            self._begun = True
        return self._job.resolved

    def show(self, name: str) -> str:
        """A file of the staging (`layout`), for messages."""
        return self._locked().show(name)

    def read(self, name: str) -> bytes | None:
        """A small file of the staging, None where there is none."""
        with files.translated(f"checking {self.target.shown}"):
            return self._locked().read(name)

    def write_once(self, name: str, data: bytes) -> bytes:
        """Create a file of the staging (`layout`) if no other process has; returns what is in it then."""
        with files.translated(f"beginning {self.target.shown}"):
            return self._locked().write_once(name, data)

    def share(self, parts: range, ends: Sequence[Cursor]) -> None:
        """Work on these parts alone; `ends` has where each part of the job ends."""
        with files.translated(f"checking {self.target.shown}"):
            done = self._locked().committed(self.fingerprint, self._part_rows, self.table.schema, parts)
        self._parts = {record.part: record for record in done}
        self._shared = parts, ends

    def todo(self) -> Iterator[PartRange]:
        """The parts that are missing, as runs of consecutive ones, in order."""
        if self._shared is not None:
            yield from self._todo_of_share(*self._shared)
            return
        cursor, expected = Cursor(), 0
        done = self.committed
        for record in done:
            if record.part > expected:
                yield PartRange(expected, expected * self._part_rows, cursor, record.part)
            cursor, expected = record.cursor, record.part + 1
        if not done or done[-1].records_in == self._part_rows:
            yield PartRange(expected, expected * self._part_rows, cursor, None)

    def _todo_of_share(self, parts: range, ends: Sequence[Cursor]) -> Iterator[PartRange]:
        missing = {part for part in parts if part not in self._parts}
        for first in sorted(part for part in missing if part - 1 not in missing):
            stop = first
            while stop in missing:
                stop += 1
            begin = ends[first - 1] if first else Cursor()
            # behind the last part of all nothing may follow, which only reading on shows
            to = None if stop == len(ends) else stop
            yield PartRange(first, first * self._part_rows, begin, to, ends[first:stop])

    def part(self, k: int) -> PartWriter:
        """Write part k: input records [k * R, (k + 1) * R)."""
        if not self._begun:
            raise ValueError("begin() comes before the first part")
        if k in self._parts:
            raise ValueError(f"part {k} is committed already")
        staging, rows = self._locked(), self._part_rows
        return Parts(staging, rows, self.table, self._compression, self.fingerprint, self.accept).part(k)

    def accept(self, record: PartRecord) -> None:
        """Count a part as committed: one of this process, or of another that shares the work."""
        self._parts[record.part] = record

    def publish(self, totals: Mapping[str, Any]) -> None:
        """Make the output of the committed parts, which must be all, and remove the staging.

        `totals` goes into the output's own record. It must not hold clock times: the same job gives the
        same bytes, interrupted or not.
        """
        staging = self._locked()
        if not self._parts:
            self._write_empty_part()
        self._check_complete()
        outcome = {**summed(self.committed), "totals": json.loads(canonical(totals))}
        record = JobRecord(self._job.fingerprint, self._job.fields, self._job.resolved, outcome)
        with files.translated(f"publishing {self.target.shown}"):
            # Where there are no locks, another run may have published meanwhile, or do so just now.
            if not self._is_done() and self._made(staging, record):
                self._job = record
                self._published = True
        self._remove_staging()

    def _made(self, staging: Staging, record: JobRecord) -> bool:
        """Make the output; False where another run did, and took the parts away."""
        try:
            publish(self.target, staging, self.table, self.committed, record)
        except StorageError:
            if self._is_done():
                return False
            raise
        except DamagedPartError as error:
            if self._is_done():
                return False
            where = f"{staging.where}/{layout.part_name(error.part)}"
            if isinstance(error, MissingPartError):
                # what a store does not have for a moment must not be removed
                raise TryAgainError(
                    f"{where}: {error.why}; nothing is published: run the same command again"
                ) from error
            sharded = staging.read(layout.PLAN) is not None
            staging.remove_part(error.part)
            again = "finalize tells which shard writes it" if sharded else "the same command writes it"
            raise StorageError(f"{where}: {error.why}; it was removed; {again} again") from error
        return True

    def _write_empty_part(self) -> None:
        """An input without records still gives an output with its columns."""
        with self.part(0) as part:
            part.commit(0, Cursor(), errors={}, counts={}, versions={}, device="")

    def _check_complete(self) -> None:
        if any(missing.first_part <= self.committed[-1].part for missing in self.todo()):
            raise ValueError("publish() before all parts are committed")

    def progress(self) -> Mapping[str, Any]:
        """The sums of the parts that are committed so far, as `done_record` has those of all."""
        return summed(self.committed)

    @property
    def record(self) -> JobRecord:
        """What the job, or its published output, says of itself."""
        return self._job

    def is_published(self) -> bool:
        """Whether another process has published this output; what this one left in the staging then goes."""
        with files.translated(f"checking {self.target.shown}"), suppress(PreconditionError):
            if self._published or not self._is_done():
                return self._published
            self.close()
            self._finish_interrupted_cleanup()
        return self._published

    @property
    def published(self) -> bool:
        """Whether the output is there."""
        return self._published

    def done_record(self) -> Mapping[str, Any]:
        """What a published output says of how it came out: counts, errors, and the totals of `publish`."""
        if not self._published:
            raise ValueError("the output is not published yet")
        return self._job.outcome

    def _remove_staging(self) -> None:
        """Remove the staging of a published output; what cannot be removed is worth a note, not a failure."""
        staging = self._locked()
        try:
            if not staging.remove():
                self.notes.append(
                    f"{staging.where}: something in it was not written by batchqa and was left in place"
                )
        except OSError as error:
            reason = error.strerror
            self.notes.append(f"{staging.where}: could not be removed ({reason}); the next run tries again")
        self.close()

    def _finish_interrupted_cleanup(self) -> None:
        """Remove the staging of this job that a run left which was stopped after publishing."""
        self._staging = leftover(self.target, self.fingerprint)
        if self._staging:
            self._remove_staging()

    def _locked(self) -> Staging:
        if self._staging is None:
            raise ValueError("this output is done or closed")
        return self._staging

    def close(self) -> None:
        """Give the lock back; committed parts stay."""
        if self._staging is not None:
            self._staging.close()
            self._staging = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
