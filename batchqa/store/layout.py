"""Every name of an output on disk: what is beside it, and what is in the folder of its unfinished work.

Who writes outputs goes by them, and who reads inputs, so as not to take one for the other. Names are relative
to the store that holds the output, with slashes::

    OUT.rejects.jsonl, OUT.batchqa.json        rejected lines; the record of a file of text
    ROOT/part-0000000.parquet                  a committed part; its footer is its commit record
    ROOT/_batchqa/job.json                     what this job is; written once, before the first part
    ROOT/_batchqa/plan.json                    of a job of several shards: its parts; written once
    ROOT/_batchqa/lock                         held while a run works here (local file systems)
    ROOT/_batchqa/*.tmp                        unfinished files (local file systems)
    ROOT/_batchqa/rejects-00000.jsonl          a part's rejected lines; committed before the part
    ROOT/new-*, ROOT/old-*                     a folder that is to be the output, and the one that was
    OUT/_SUCCESS                               last: the folder is complete

ROOT is `OUT.batchqa`; for a folder of Parquet parts, which are committed where they stay, it is OUT itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

REJECTS_SUFFIX = ".rejects.jsonl"
SIDECAR_SUFFIX = ".batchqa.json"
STAGING_SUFFIX = ".batchqa"
LONGEST_SUFFIX = REJECTS_SUFFIX

CONTROL = "_batchqa"
JOB = f"{CONTROL}/job.json"
PLAN = f"{CONTROL}/plan.json"
LOCK = f"{CONTROL}/lock"
SUCCESS = "_SUCCESS"

_PART = re.compile(r"part-(\d{5,})\.(parquet|jsonl|csv|tsv)")
_REJECTS = re.compile(r"rejects-\d{5,}\.jsonl")
_FOLDER = re.compile(r"(new|old)-[0-9a-f]{8}")


def part_name(part: int, suffix: str = "parquet") -> str:
    """The name of a part: seven digits, so that ten million parts sorted by name are in order."""
    return f"part-{part:07d}.{suffix}"


def rejects_name(part: int) -> str:
    """The name of a part's rejected lines, from the root on."""
    return f"{CONTROL}/rejects-{part:05d}.jsonl"


def part_names(names: Iterable[str]) -> list[str]:
    """Those names that are parts', also as earlier versions wrote them; sorted."""
    return sorted(name for name in names if _PART.fullmatch(name))


def part_number(name: str) -> int | None:
    """The number of a part by its name; None where an earlier version, with fewer digits, gave it."""
    number = int(name.removeprefix("part-").partition(".")[0])
    return number if name == part_name(number, name.rpartition(".")[2]) else None


def visible(names: Iterable[str]) -> list[str]:
    """The names that are not hidden, and in no hidden folder; sorted."""
    return sorted(name for name in names if not name.startswith(".") and "/." not in name)


def is_output(name: str) -> bool:
    """Whether a file of this name in an output folder, or at the top of a staging, may be batchqa's."""
    return name == SUCCESS or _PART.fullmatch(name) is not None


def is_control(name: str) -> bool:
    """Whether a file of this name from the root on belongs to an unfinished job."""
    folder, _, inner = name.rpartition("/")
    known = not inner or name in (JOB, PLAN, LOCK) or inner.endswith(".tmp")
    return folder == CONTROL and (known or _REJECTS.fullmatch(inner) is not None)


def is_replacing(name: str) -> bool:
    """Whether a file is in a folder that is to become the output, or was replaced by it."""
    folder, _, inner = name.partition("/")
    return _FOLDER.fullmatch(folder) is not None and (not inner or is_output(inner) or is_control(inner))


def is_staged(name: str, *, private: bool) -> bool:
    """Whether a file below the root may be batchqa's; `private`: the root is not the output itself."""
    return is_output(name) or is_control(name) or (private and is_replacing(name))


def strangers(sizes: Mapping[str, int], *, private: bool) -> list[str]:
    """Of the files below a root with their bytes, what is not batchqa's; hidden ones are passed over."""
    return [
        name
        for name in visible(sizes)
        if not is_staged(name, private=private) or (sizes[name] < 0 and not name.endswith("/"))
    ]


def in_order_of_removal(names: Iterable[str]) -> list[str]:
    """Names below a root in an order of removal that shows, if it is stopped, what is still to be removed.

    job.json goes last but for the lock, `_SUCCESS` first: what is half removed is not taken for a whole one.
    """
    last = {PLAN: 1, JOB: 2, LOCK: 3}
    return sorted(names, key=lambda name: (last.get(name, 0), not name.endswith(SUCCESS), name))
