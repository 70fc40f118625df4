"""What an input is, from its content; the name is asked only where the content leaves a choice."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePath

import orjson

from batchqa.errors import InputError, NoInputError
from batchqa.store.locations import read_at

from .input_files import MIB, Compression, Format, Place, translated
from .other_formats import foreign, unknown
from .streams import BOM, ArrayCutter, TextStream
from .table_text import looks_like_table

_SQUAD = re.compile(rb'"data"\s*:\s*\[')
_JSON = re.compile(rb'\s*(\{\s*"|\[\s*\{)')
"""How JSON begins that holds rows, also in a file that is named .txt."""

_QAS = re.compile(rb'"qas"\s*:\s*\[')


class JsonDocumentError(InputError):
    """The file is one JSON value that holds no rows, as some programs write their predictions."""


@dataclass(frozen=True, slots=True)
class FileFormat:
    """What an input is."""

    format: Format
    compression: Compression


def format_of(place: Place, max_window: int) -> FileFormat:
    """The format and the compression of an input. Raises InputError where it is none that can be read."""
    with translated(place.shown), place.open() as raw:
        magic = raw.read(8) if place.tape is not None else read_at(raw, 0, 8)
    if magic.startswith((b"PAR1", b"PARE")):
        if place.tape is not None:
            raise InputError(
                f"{place.shown} is Parquet, which cannot be read from a pipe; give the path of the file"
            )
        return FileFormat("parquet", "none")
    compression = _compression(magic)
    head = _head(place, compression, max_window)
    if head.startswith(b"PAR1"):
        raise InputError(f"{place.shown} is Parquet inside {compression}; decompress it first")
    document = _named_as_text(place)
    if what := foreign(head, document=document):
        inside = "" if compression == "none" else f"{compression} around "
        raise InputError(f"{place.shown} is {inside}{what}")
    head = head.removeprefix(BOM)
    if document and not _JSON.match(head):
        return FileFormat("text", compression)
    if not head.strip():
        return FileFormat("empty", compression)
    return FileFormat(_text_format(place, head), compression)


def refuse_empty(place: Place) -> None:
    """Raise NoInputError for a file of nothing that may have been meant to be anything but JSONL."""
    if place.tape is None and not named(place, ".jsonl", ".ndjson"):
        raise NoInputError(f"{place.shown} is empty (0 bytes); create it again, or leave it out")


def _named_as_text(place: Place) -> bool:
    """Whether the file's name says that it is a text: the content of a text can be like anything."""
    name = PurePath(place.path).name.lower()
    return place.tape is None and name.removesuffix(".gz").removesuffix(".zst").endswith(".txt")


def named(place: Place, *suffixes: str) -> bool:
    """Whether the file's name has one of these suffixes, behind which that of a compression may stand."""
    return any(suffix.lower() in suffixes for suffix in PurePath(place.path).suffixes[-2:])


def compression_of(place: Place) -> Compression:
    """How an input is compressed, from its first bytes."""
    with translated(place.shown), place.open() as raw:
        return _compression(read_at(raw, 0, 8))


def _compression(magic: bytes) -> Compression:
    if magic.startswith(b"\x1f\x8b"):
        return "gzip"
    # a zstd file may begin with a skippable frame (RFC 8878, 3.1.2)
    skippable = magic[1:4] == b"\x2a\x4d\x18" and magic[0] & 0xF0 == 0x50
    if magic.startswith(b"\x28\xb5\x2f\xfd") or skippable:
        return "zstd"
    return "none"


def _head(place: Place, compression: Compression, max_window: int) -> bytes:
    """The first MiB of the content."""
    with TextStream(place, compression, max_window) as stream:
        pieces = [stream.read(MIB)]
        while pieces[-1] and sum(map(len, pieces)) < MIB:
            pieces.append(stream.read(MIB))
    return b"".join(pieces)[:MIB]


def _text_format(place: Place, head: bytes) -> Format:
    lines = [line for line in head.split(b"\n") if line.strip()]
    whole_lines = lines if head.endswith(b"\n") or len(head) < MIB else lines[:-1]
    first = _json(whole_lines[0]) if whole_lines else None
    if isinstance(first, dict):
        return "squad" if _is_squad(first) and len(lines) == 1 else "jsonl"
    if isinstance(first, list) and any(isinstance(_json(line), dict) for line in whole_lines[1:]):
        return "jsonl"  # an array is no record, but the lines behind it are
    if head.lstrip().startswith(b"{") and _SQUAD.search(head) and b'"paragraphs"' in head:
        return "squad"
    whole = _json(head) if len(lines) > 1 else None
    if isinstance(whole, dict) and _is_squad(whole):
        return "squad"
    if b"\r" in head and b"\n" not in head and not lines[0].lstrip().startswith((b"{", b"[")):
        raise InputError(f"{place.shown} ends its lines with CR alone; convert it: tr '\\r' '\\n'")
    if re.match(rb"\s*\[\s*[{\]]", head):
        return "squad" if _has_paragraphs(head) else "json"
    if any(isinstance(_json(line), (dict, list)) for line in whole_lines) or _is_lines_of_other_json(head):
        return "jsonl"
    if head.lstrip().startswith(b"{") and (why := _document(head)):
        raise JsonDocumentError(f"{place.shown} is {why}")
    begins_like_json = any(line.lstrip().startswith((b"{", b"[")) for line in lines)
    if begins_like_json and (not whole_lines or named(place, ".jsonl", ".ndjson") or place.tape is not None):
        return "jsonl"
    if begins_like_json and _json(head) is not None:
        raise JsonDocumentError(
            f"{place.shown} is one JSON document, but not SQuAD; write one record per line (jq -c '.[]')"
        )
    if looks_like_table(head, named=named(place, ".csv", ".tsv", ".tab")):
        return "csv"
    raise _refused(place, head)


def _refused(place: Place, head: bytes) -> InputError:
    """The error for text that is nothing known; `head` may be the beginning of one long JSON object."""
    if head.lstrip().startswith(b"{"):
        return JsonDocumentError(
            f"{place.shown} is JSON with objects that are not one to a line; write one a line (jq -c .)"
        )
    return InputError(f"{place.shown} is {unknown(head)}")


def _is_squad(record: dict[str, object]) -> bool:
    data = record.get("data")
    if data == []:
        return "version" in record
    return isinstance(data, list) and any(isinstance(a, dict) and "paragraphs" in a for a in data)


def _has_paragraphs(head: bytes) -> bool:
    """Whether an array's items are SQuAD's articles or paragraphs (simpletransformers' layout), not rows."""
    for text in ArrayCutter().cut(head).split(b"\n"):
        item = _json(text)
        if not isinstance(item, dict) and _QAS.search(text):
            return True  # the head may end inside the item
        if isinstance(item, dict) and any(isinstance(item.get(name), list) for name in ("qas", "paragraphs")):
            return True
        if isinstance(item, dict) and "question" in item:
            return False
    return False


def _is_lines_of_other_json(head: bytes) -> bool:
    """Whether there is an object to a line that only Python takes for JSON.

    With NaN, a number beyond float64 or half of a surrogate pair each row is at fault, and not the file.
    """
    first, _, _ = head.lstrip().partition(b"\n")
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _document(head: bytes) -> str | None:
    """What objects are that take several lines each, None where the head is no such text."""
    text = head.decode("utf-8", "replace").lstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if not text[end:].strip():
        return "one JSON document, but not SQuAD; write one record per line (jq -c .)"
    return "JSON whose objects are not on lines of their own; write one object per line (jq -c .)"


def _json(text: bytes) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
