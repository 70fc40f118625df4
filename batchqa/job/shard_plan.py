"""The plan of a job of several shards: which parts there are, where they begin, and which shard does them.

The first shard makes it and writes it to `_batchqa/plan.json`, if no other has; all others, and `finalize`,
go by it. It holds what the fingerprint is made of and what publishing needs, so that publishing needs neither
the inputs nor the model.
"""

from __future__ import annotations

import base64
import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa

from batchqa import thrift
from batchqa.errors import PreconditionError, SettingsError
from batchqa.output import Commit, OutputTable, Target, canonical, differences
from batchqa.records import Cursor
from batchqa.settings import RunSettings, Shard
from batchqa.store import layout

FORMAT = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """`fields` are the job's; `ends` has the place where each part ends, `rows` is how many there are.

    `edges` has the number of the first part of each shard, and behind it that of all parts. `totals` are for
    `publish`; `model` and `max_errors` are what the first shard was given.
    """

    fields: Mapping[str, Any]
    shards: int
    part_rows: int
    rows: int
    ends: Sequence[Cursor]
    edges: Sequence[int]
    table: OutputTable
    compression: str
    totals: Mapping[str, Any]
    model: str
    max_errors: str

    def to_json(self) -> bytes:
        """As it is in plan.json."""
        known = {name: getattr(self, name) for name in self.__slots__}
        return canonical(
            known
            | {
                "format": FORMAT,
                "ends": [[c.file, c.row, c.line, c.byte] for c in self.ends],
                "table": _table_to_json(self.table),
            }
        )

    @classmethod
    def from_json(cls, text: bytes, where: str) -> Plan:
        """Read plan.json; that of another version is refused."""
        try:
            known = json.loads(text)
            if known.pop("format") != FORMAT:
                raise ValueError("another format")
            known["ends"] = [Cursor(*place) for place in known["ends"]]
            known["table"] = _table_from_json(known["table"])
            return cls(**known)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PreconditionError(
                f"{where}: this is not a plan of this version of batchqa; run all shards with one version, "
                f"or, if this job is not wanted, {_discarded(where)}"
            ) from error

    def check(self, fields: Mapping[str, Any], shard: Shard, where: str) -> None:
        """Refuse a shard that is not one of this plan: PreconditionError names the difference."""
        what = differences(self.fields, fields)
        if shard.count != self.shards:
            what.append(f"number of shards: {self.shards} -> {shard.count}")
        if what:
            raise PreconditionError(
                f"{where}: shard {shard} differs from the plan that the first shard made: "
                f"{'; '.join(what)}; run it as that one was run, or, if that job is not wanted, "
                f"{_discarded(where)}"
            )

    def parts_of(self, shard: Shard) -> range:
        """The parts that are a shard's: consecutive ones."""
        return range(self.edges[shard.index], self.edges[shard.index + 1])

    def rows_in(self, shard: Shard) -> int:
        """How many input records a shard has."""
        return sum(map(self.rows_of, self.parts_of(shard)))

    def shards_of(self, parts: Iterable[int]) -> list[int]:
        """The shards that these parts belong to, in order."""
        wanted = set(parts)
        shards = (Shard(index, self.shards) for index in range(self.shards))
        return [shard.index for shard in shards if not wanted.isdisjoint(self.parts_of(shard))]

    def rows_of(self, part: int) -> int:
        """How many input records a part has."""
        return min(self.part_rows, self.rows - part * self.part_rows)


def shared_out(sizes: Sequence[int], shards: int) -> list[int]:
    """The edges of shards (`edges` of a plan) of which the largest is as small as it can be.

    Within that bound each shard takes its share of what is left, and the part with which it reaches it: so
    the last ones, for which everyone waits, are not longer than the rest.
    """
    reached = list(accumulate(sizes, initial=0))

    def latest_begins(most: int) -> list[int]:
        """For 0, 1, ... shards of at most this size, where they can begin to do all that follows."""
        begins = [len(sizes)]
        for _ in range(shards):
            begins.append(bisect_left(reached, reached[begins[-1]] - most))
        return begins

    possible = range(max(sizes, default=0), reached[-1] + 1)
    most = possible[bisect_left(possible, True, key=lambda size: latest_begins(size)[-1] == 0)]
    begins, edges = latest_begins(most), [0]
    for left in reversed(range(shards)):
        done = reached[edges[-1]]
        share = bisect_left(reached, done - (done - reached[-1]) // (left + 1))
        edges.append(max(begins[left], min(share, bisect_right(reached, done + most) - 1)))
    return edges


def join(commit: Commit, fields: Mapping[str, Any], shard: Shard, make: Callable[[], Plan]) -> Plan:
    """The plan that holds for all shards, made here if this is the first; the commit does this shard's parts.

    Raises PreconditionError for a shard that is not one of the plan.
    """
    text = commit.read(layout.PLAN) or commit.write_once(layout.PLAN, make().to_json())
    where = commit.show(layout.PLAN)
    plan = Plan.from_json(text, where)
    plan.check(fields, shard, where)
    commit.share(plan.parts_of(shard), plan.ends)
    return plan


def _discarded(where: str) -> str:
    """How to be rid of a plan's job: shards have no --restart, as others may be at work beside them."""
    return f"remove {where.removesuffix(f'/{layout.PLAN}')} when no shard runs there"


def _table_to_json(table: OutputTable) -> dict[str, Any]:
    columns = {
        name: [base64.b64encode(thrift.encode(element)).decode() for element in column]
        for name, column in table.parquet.items()
    }
    schema = base64.b64encode(table.schema.serialize().to_pybytes()).decode()
    return {"schema": schema, "parquet": columns, "lines": table.lines}


def _table_from_json(known: Mapping[str, Any]) -> OutputTable:
    columns = {
        name: tuple(thrift.decode(base64.b64decode(element)) for element in column)
        for name, column in known["parquet"].items()
    }
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(known["schema"])))
    return OutputTable(schema, columns, known["lines"])


def check_shard(shard: Shard | None, target: Target, names: Sequence[str], settings: RunSettings) -> None:
    """Refuse options with which a job cannot be shared out. Raises SettingsError."""
    if shard is None:
        return
    if target.kind == "stdout" or "-" in names:
        raise SettingsError("--shard needs files as input and output: - is a stream, which cannot be split")
    if settings.output.restart:
        raise SettingsError(
            "--restart would discard what other shards are doing; stop them and remove the unfinished output "
            f"({target}{layout.STAGING_SUFFIX} or {target}/{layout.CONTROL} and its parts) instead"
        )
