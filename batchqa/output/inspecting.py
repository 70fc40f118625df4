"""What can be seen of an output without its lock: unfinished jobs, finished outputs, and who wrote them."""

from __future__ import annotations

from dataclasses import dataclass

from batchqa.errors import TryAgainError
from batchqa.output.finished import Found, find
from batchqa.output.manifest import JobRecord
from batchqa.output.staging import check_not_late, leftover, read_job, root_of
from batchqa.output.target import Target
from batchqa.store import files, layout


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What can be seen of an unfinished job without its lock, its inputs or its options.

    `where` names its folder. `fingerprint` is None where no job has begun, `plan` where it has no shards.
    `parts` are there by their names; whether they are good only `Commit` finds out. `found` is what is at the
    target itself.
    """

    where: str
    fingerprint: str | None
    plan: bytes | None
    parts: frozenset[int]
    found: Found | None

    @classmethod
    def at(cls, target: Target) -> Unfinished:
        """Look at a target."""
        store = target.store
        with files.translated(f"checking {target.shown}"):
            root = root_of(target)
            plan = store.read(f"{root}/{layout.PLAN}")
            numbers = map(layout.part_number, layout.part_names(store.list(root)))
            job = read_job(store, root)
            if job and plan is None:
                check_not_late(store, root, layout.PLAN)
            return cls(
                store.show(root),
                job.fingerprint if job else None,
                plan,
                frozenset(number for number in numbers if number is not None),
                find(target),
            )


def tidied(target: Target) -> JobRecord:
    """The record of a published output, after removing what is left of its staging."""
    with files.translated(f"checking {target.shown}"):
        found = find(target)
        if found is None or found.record is None:
            raise TryAgainError(f"{target.shown} was removed meanwhile")
        left = leftover(target, found.record.fingerprint)
        if left:
            left.remove()
        return found.record


def earlier_job(target: Target, *, finished: bool = True) -> JobRecord | None:
    """The job that is unfinished at this target, else the one whose finished output stands there, if any.

    For what must be known before the fingerprint can be made: which engine and variant `auto` meant then.
    Read without the lock, nothing is changed.
    """
    if target.kind == "stdout":
        return None
    with files.translated(f"checking {target.shown}"):
        unfinished = read_job(target.store, root_of(target))
        if unfinished:
            return unfinished
        found = find(target) if finished else None
        return found.record if found else None


def written_by(target: Target) -> Found | None:
    """What stands at a target, finished, else the job that is unfinished there, if any.

    For what reads an output: a job that is to replace it and was stopped is not the one that wrote it.
    """
    if target.kind == "stdout":
        return None
    with files.translated(f"checking {target.shown}"):
        found = find(target)
        if found is None or found.record is None:
            unfinished = read_job(target.store, root_of(target))
            return Found(unfinished) if unfinished else found
        return found
