"""What an input is that batchqa does not read, from its first bytes, and the way out for a message."""

from __future__ import annotations

import re

_CONVERT = "convert it to Parquet, JSONL or CSV"
_UNPACK = "unpack it and name the files in it"
_DECOMPRESS = "decompress it first, or compress it with gzip or zstd"
_UTF8 = "convert it to UTF-8 (iconv -f {0} -t UTF-8)"

_MAGIC = (
    (b"BZh", f"a bzip2 file; {_DECOMPRESS}"),
    (b"\xfd7zXZ\0", f"an xz file; {_DECOMPRESS}"),
    (b"\x04\x22\x4d\x18", f"an lz4 file; {_DECOMPRESS}"),
    (b"\x02\x21\x4c\x18", f"an lz4 file; {_DECOMPRESS}"),
    (b"\xff\x06\0\0sNaPpY", f"a snappy file; {_DECOMPRESS}"),
    (b"\x1f\x9d", f"a file of `compress`; {_DECOMPRESS}"),
    (b"LZIP", f"an lzip file; {_DECOMPRESS}"),
    (b"\x89LZO\0", f"an lzop file; {_DECOMPRESS}"),
    (b"\x5d\0\0", f"an lzma file; {_DECOMPRESS}"),
    (b"7z\xbc\xaf\x27\x1c", f"a 7z archive; {_UNPACK}"),
    (b"Rar!\x1a\x07", f"a RAR archive; {_UNPACK}"),
    (b"ARROW1\0\0", f"an Arrow IPC (Feather) file; {_CONVERT} (pyarrow.feather.read_table)"),
    (b"FEA1", f"a Feather file; {_CONVERT} (pyarrow.feather.read_table)"),
    (b"\xff\xff\xff\xff", f"an Arrow IPC stream; {_CONVERT} (pyarrow.ipc.open_stream)"),
    (b"ORC", f"an ORC file; {_CONVERT} (pyarrow.orc.read_table)"),
    (b"Obj\x01", f"an Avro file; {_CONVERT}"),
    (b"SEQ", f"a Hadoop sequence file; {_CONVERT}"),
    (b"SQLite format 3\0", "an SQLite database; export the table to Parquet, JSONL or CSV"),
    (b"\x89HDF\r\n\x1a\n", f"an HDF5 file; {_CONVERT}"),
    (b"\x93NUMPY", f"a NumPy array; {_CONVERT}"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel or Office file; save the sheet as CSV (UTF-8)"),
    (b"%PDF-", "a PDF document; extract its text first"),
    (b"{\\rtf", "an RTF document; save it as text"),
    (b"%!PS", "a PostScript document; extract its text first"),
    (b"\x7fELF", "a program"),
    (b"\x89PNG\r\n", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF8", "an image"),
    (b"GGUF", "a model's file"),
    (b"$FL2", f"an SPSS file; {_CONVERT}"),
    (b"<stata_dta>", f"a Stata file; {_CONVERT}"),
    (b"RDX", f"an R data file; {_CONVERT}"),
    (b"version https://git-lfs.github.com/", "a Git LFS pointer, not the data; fetch it with `git lfs pull`"),
    (b"/annex/objects/", "a git-annex pointer, not the data; fetch it with `git annex get`"),
    (b"-----BEGIN PGP", "an encrypted PGP message; decrypt it first"),
    (b"\x1e", "a JSON text sequence; write one record per line, without the separators (jq -c --seq .)"),
)
_LETTERS = frozenset(range(0x20, 0x7F))
"""Magic of such bytes alone could also be the beginning of a text, so the bytes behind it are looked at."""

_OFFICE = (
    (b"xl/", "an Excel workbook; save the sheet as CSV (UTF-8)"),
    (b"word/", "a Word document; save it as text"),
    (b"opendocument.spreadsheet", "a spreadsheet; save it as CSV (UTF-8)"),
    (b"opendocument", "an OpenDocument file; save it as text"),
    (b"epub+zip", "an EPUB book; extract its text first"),
    (b".npy", f"a NumPy archive; {_CONVERT}"),
    (b"data.pkl", "a PyTorch file; it holds no table"),
)


def foreign(head: bytes, *, document: bool = False) -> str | None:
    """What a file is that begins with `head`, with its article and the way out; None for what may be text.

    A `document` may be a text of any kind.
    """
    if not head.strip(b"\0"):
        return "nothing but zero bytes: it was never fully written; create it again" if head else None
    return _text_encoding(head) or _binary(head) or (None if document else _markup(head))


def unknown(head: bytes) -> str:
    """What is to be said of content that is nothing known."""
    if b"\0" in head[:4096]:
        return f"binary data of a format that batchqa does not know; {_CONVERT}"
    return "in no format that batchqa reads (Parquet, JSONL, a JSON array of objects, CSV, TSV, SQuAD JSON)"


def _binary(head: bytes) -> str | None:
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        office = next((what for name, what in _OFFICE if name in head), None)
        return office or f"a ZIP archive; {_UNPACK} (unzip)"
    if head[257:262] == b"ustar":
        return f"a tar archive; {_UNPACK} (tar -xf)"
    if head[8:12] == b"DUCK":
        return "a DuckDB database; export the table to Parquet (COPY ... TO)"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle, which can run code and is not read; write the table as Parquet or JSONL"
    for magic, what in _MAGIC:
        if head.startswith(magic) and not (_LETTERS.issuperset(magic) and _is_text(head, len(magic))):
            return what
    return None


def _is_text(head: bytes, size: int) -> bool:
    """Whether what begins with a magic of plain letters goes on as a text that may be an input does."""
    line = head[: head.find(b"\n") + 1 or 200]
    whole_line = line.startswith((b"%", b"version ", b"/annex", b"-----", b"{\\rtf", b"<stata"))
    return not whole_line and not any(byte < 9 or byte in (14, 26) for byte in head[size : size + 64])


def _text_encoding(head: bytes) -> str | None:
    """UTF-16 and UTF-32, by their byte order marks or by where the zero bytes of plain letters are."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return f"UTF-32 text; {_UTF8.format('UTF-32')}"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return f"UTF-16 text; {_UTF8.format('UTF-16')}"
    start = head[:256]
    zeros = [start[place::4].count(0) * 4 / max(len(start), 1) for place in range(4)]
    if min(zeros[1:]) > 0.9 > zeros[0] or min(zeros[:3]) > 0.9 > zeros[3]:
        return f"UTF-32 text; {_UTF8.format('UTF-32LE' if zeros[3] > 0.9 else 'UTF-32BE')}"
    even, odd = (zeros[0] + zeros[2]) / 2, (zeros[1] + zeros[3]) / 2
    if (odd > 0.4 and even < 0.02) or (even > 0.4 and odd < 0.02):
        return f"UTF-16 text; {_UTF8.format('UTF-16LE' if odd > even else 'UTF-16BE')}"
    return None


def _markup(head: bytes) -> str | None:
    """Texts that are neither JSON nor a table."""
    start = head.lstrip()[:512].lower()
    if start.startswith((b"<!doctype html", b"<html")) or (b"<html" in start and start.startswith(b"<")):
        return "an HTML page, perhaps from a failed download; download it again"
    if start.startswith(b"<?xml") or re.match(rb"<[a-z!][^>]*>", start):
        return f"an XML document; {_CONVERT}"
    if re.match(rb"---[ \t]*\r?\n|%yaml|-[ \t]+[\w\"']+:([ \t]|\r?\n)", start):
        return f"a YAML document; {_CONVERT} (yq -o json)"
    if start.startswith((b"{'", b"[{'")):
        return "Python's notation (single quotes), not JSON; write it with json.dumps"
    return None
