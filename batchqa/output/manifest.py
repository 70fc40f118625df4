"""What is written down about a job and its parts, and how two jobs are told apart.

Three records, all JSON: a part's (in the part's own Parquet footer), the job's (job.json, while it runs),
and the output's (in its footer, its sidecar or `_SUCCESS`, once it is published).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from batchqa.records import Cursor

FINGERPRINT_KEY = "batchqa.fingerprint"
RECORD_KEY = "batchqa.record"
FORMAT = 1
"""Version of the three records; another one is not understood and not touched."""

_MOST_DIFFERENCES = 5
_MOST_CHARACTERS = 60


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, no white space, ASCII only; anything that JSON cannot hold is a TypeError."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii")


def fingerprint(fields: Mapping[str, Any]) -> str:
    """The sha256, as hex, of everything that can change a job's output."""
    return hashlib.sha256(canonical(fields)).hexdigest()


def differences(earlier: Any, now: Any) -> list[str]:
    """What differs between the fields of two jobs, as `name: earlier value -> value now`, at most six."""
    found = list(_differences("", earlier, json.loads(canonical(now))))
    if len(found) > _MOST_DIFFERENCES:
        found[_MOST_DIFFERENCES:] = [f"and {len(found) - _MOST_DIFFERENCES} more"]
    return found


def _differences(name: str, earlier: Any, now: Any) -> Iterator[str]:
    if isinstance(earlier, dict) and isinstance(now, dict):
        if earlier.get("uri") != now.get("uri"):  # another file: size and hash differ too, and say no more
            yield f"{name}: {_end(earlier.get('uri'))} -> {_end(now.get('uri'))}"
            return
        for key in sorted({*earlier, *now}):
            yield from _differences(f"{name}.{key}" if name else key, earlier.get(key), now.get(key))
    elif isinstance(earlier, list) and isinstance(now, list) and len(earlier) == len(now):
        for index, (one, other) in enumerate(zip(earlier, now, strict=True)):
            yield from _differences(f"{name}[{index}]", one, other)
    elif earlier != now:
        yield f"{name}: {_short(earlier)} -> {_short(now)}"


def _end(uri: Any) -> str:
    text = str(uri)
    return text if len(text) <= _MOST_CHARACTERS else "..." + text[3 - _MOST_CHARACTERS :]


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} of them"
    text = json.dumps(value)
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 3] + "..."


@dataclass(frozen=True, slots=True)
class PartRecord:
    """What a committed part says of itself.

    `records_in` input records from `first_record` on became `rows_out` rows and `rejects` rejected lines
    (whose file has this sha256, empty without rejects); `cursor` is where the next part begins to read.
    `errors`, `counts`, `versions` and `device` are the caller's and only kept. The last two fields are the
    bytes before the Parquet footer and their zlib.crc32.
    """

    fingerprint: str
    part: int
    first_record: int
    records_in: int
    rows_out: int
    rejects: int
    rejects_sha256: str
    cursor: Cursor
    errors: Mapping[str, int]
    counts: Mapping[str, int]
    versions: Mapping[str, str]
    device: str
    data_bytes: int
    data_crc32: int

    def to_json(self) -> str:
        """The record as it stands in the part's footer."""
        return canonical({"format": FORMAT, **asdict(self)}).decode("ascii")

    @classmethod
    def from_json(cls, text: str | bytes) -> PartRecord | None:
        """Read a footer's record; None where it is not one of this version."""
        try:
            known = json.loads(text)
            if known.pop("format") != FORMAT:
                return None
            return cls(**{**known, "cursor": Cursor(**known["cursor"])})
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What a job, or a published output, says of itself; `outcome` is empty until the output is published."""

    fingerprint: str
    fields: Mapping[str, Any]
    resolved: Mapping[str, Any]
    outcome: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The record as it stands in job.json, a sidecar, `_SUCCESS` or a footer."""
        # asdict would copy the fields, which name every input file
        return canonical({"format": FORMAT} | {name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def from_json(cls, text: str | bytes) -> JobRecord | None:
        """Read a record; None where it is not one of this version, or its fields are not its own."""
        try:
            known = json.loads(text)
            if known.pop("format") != FORMAT or fingerprint(known["fields"]) != known["fingerprint"]:
                return None
            return cls(**known)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


def summed(parts: Iterable[PartRecord]) -> dict[str, Any]:
    """The counts of all parts together."""
    numbers: Counter[str] = Counter(parts=0, records_in=0, rows_out=0, rejects=0)
    errors: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for part in parts:
        numbers["parts"] += 1
        numbers["records_in"] += part.records_in
        numbers["rows_out"] += part.rows_out
        numbers["rejects"] += part.rejects
        errors.update(part.errors)
        counts.update(part.counts)
    return {**numbers, "errors": dict(errors), "counts": dict(counts)}
