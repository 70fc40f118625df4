"""What an input is, from its content; the name is asked only where the file is empty or has no good line."""

from __future__ import annotations

import re
from pathlib import PurePath

import orjson

from batchqa.errors import InputError
from batchqa.storage import read_at

from .files import MIB, Compression, Format, Place, TextStream, translated

BOM = b"\xef\xbb\xbf"
_SQUAD = re.compile(rb'"data"\s*:\s*\[')


def recognise(place: Place) -> tuple[Format, Compression]:
    """The format and the compression of an input. Raises InputError where it is none that can be read."""
    with translated(place.shown), place.open() as raw:
        magic = raw.read(8) if place.tape is not None else read_at(raw, 0, 8)
    if magic.startswith((b"PAR1", b"PARE")):
        if place.tape is not None:
            raise InputError(
                f"{place.shown} is Parquet, which is read from its end and cannot come through a pipe; "
                "name the file"
            )
        return "parquet", "none"
    compression = _compression(magic)
    head = _head(place, compression)
    if head.startswith(b"PAR1"):
        raise InputError(f"{place.shown} is Parquet inside {compression}; decompress it first")
    if not head.strip():
        if place.tape is not None or _named_jsonl(place):
            return "jsonl", compression
        raise InputError(f"{place.shown} is empty (no Parquet file, and not named .jsonl)")
    return _text_format(place, head), compression


def _compression(magic: bytes) -> Compression:
    if magic.startswith(b"\x1f\x8b"):
        return "gzip"
    # a zstd file may begin with a skippable frame (RFC 8878, 3.1.2)
    skippable = magic[1:4] == b"\x2a\x4d\x18" and magic[0] & 0xF0 == 0x50
    if magic.startswith(b"\x28\xb5\x2f\xfd") or skippable:
        return "zstd"
    return "none"


def _head(place: Place, compression: Compression) -> bytes:
    """The first MiB of the text, without a byte order mark."""
    with TextStream(place, compression) as stream:
        pieces = [stream.read(MIB)]
        while pieces[-1] and sum(map(len, pieces)) < MIB:
            pieces.append(stream.read(MIB))
    return b"".join(pieces).removeprefix(BOM)[:MIB]


def _named_jsonl(place: Place) -> bool:
    suffixes = [s.lower() for s in PurePath(place.path).suffixes[-2:]]
    return any(s in (".jsonl", ".ndjson") for s in suffixes)


def _text_format(place: Place, head: bytes) -> Format:
    lines = [line for line in head.split(b"\n") if line.strip()]
    whole_lines = lines if head.endswith(b"\n") or len(head) < MIB else lines[:-1]
    first = _json(whole_lines[0]) if whole_lines else None
    if isinstance(first, dict):
        return "squad" if _is_squad(first) and len(lines) == 1 else "jsonl"
    if head.lstrip().startswith(b"{") and _SQUAD.search(head) and b'"paragraphs"' in head:
        return "squad"
    if any(isinstance(_json(line), (dict, list)) for line in whole_lines):
        return "jsonl"
    begins_like_json = any(line.lstrip().startswith((b"{", b"[")) for line in lines)
    if begins_like_json and (not whole_lines or _named_jsonl(place) or place.tape is not None):
        return "jsonl"
    if begins_like_json and _json(head) is not None:
        raise InputError(
            f"{place.shown} is one JSON document and no SQuAD file; write one record a line (jq -c '.[]')"
        )
    raise InputError(f"{place.shown} is none of Parquet, JSONL (plain, gzip, zstd) and SQuAD JSON")


def _is_squad(record: dict[str, object]) -> bool:
    data = record.get("data")
    if data == []:
        return "version" in record
    return isinstance(data, list) and any(isinstance(a, dict) and "paragraphs" in a for a in data)


def _json(text: bytes) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
