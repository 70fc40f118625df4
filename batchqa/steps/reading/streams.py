"""Bytes of text, whatever an input is stored as: compression looked through, JSON arrays cut into lines."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import zstandard

from batchqa.errors import InputError, PreconditionError, StorageError

from .input_files import MIB, Compression, Place

BOM = b"\xef\xbb\xbf"
_FEED = {"gzip": 16 * 1024, "zstd": 2 * 1024}
"""Bytes that a decoder is given at once, which bounds what it gives back: to 16 MiB, and 64 MiB.

Deflate makes at most 1,032 bytes of one; a zstd block of 4 bytes can stand for 128 KiB.
"""

_WINDOW_TOO_LARGE = "Frame requires too much memory"
"""What libzstd says of a frame whose window is larger than is allowed."""


class Readable(Protocol):
    """Bytes of text, from first to last."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; b"" at the end."""


class _Decoder(Protocol):
    """Decodes one gzip member or zstd frame."""

    @property
    def eof(self) -> bool:
        """Whether its end was met."""

    @property
    def unused_data(self) -> bytes:
        """What followed the end."""

    def decompress(self, data: memoryview, /) -> bytes:
        """The text of the next bytes."""


class TextStream:
    """The bytes of an input with its compression looked through: all members and frames, in order.

    `max_window` is what a zstd frame may ask for, bytes.
    """

    def __init__(self, place: Place, compression: Compression, max_window: int) -> None:
        self._place = place
        self._compression = compression
        self._raw = place.open()
        self._largest = 0  # window of a zstd frame so far
        self._stream: Any = self._raw
        if compression == "gzip":
            self._stream = _Members(self._raw, _FEED["gzip"], lambda _: zlib.decompressobj(wbits=31))
        elif compression == "zstd":
            library = zstandard.ZstdDecompressor(max_window_size=max_window)

            def frame(header: memoryview) -> Any:
                with suppress(zstandard.ZstdError):  # a skippable frame, or a header that is cut
                    self._largest = max(
                        self._largest, zstandard.get_frame_parameters(header[:18]).window_size
                    )
                return library.decompressobj()

            self._stream = _Members(self._raw, _FEED["zstd"], frame)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        # Closing a damaged stream raises its error again; it has been reported.
        with suppress(OSError, pa.ArrowException):
            self._raw.close()

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes of text; b"" at the end. Raises StorageError where the data is damaged."""
        try:
            data: bytes = self._stream.read(size)
        except zstandard.ZstdError as error:
            if _WINDOW_TOO_LARGE in str(error):
                raise self._window_too_large() from error
            raise self._damaged(error) from error
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            raise self._damaged(error) from error
        return data

    def skip(self, size: int) -> None:
        """Go on `size` bytes of text; a compressed stream is read up to there."""
        if self._compression == "none" and self._place.tape is None:
            self._raw.seek(size)
            return
        while size > 0:
            data = self.read(min(size, MIB))
            if not data:
                raise PreconditionError(
                    f"{self._place.shown} is shorter than it was; start over with --restart"
                )
            size -= len(data)

    def _damaged(self, error: Exception) -> Exception:
        where = f"{self._place.shown}, byte {self._raw.tell()}"
        if self._compression == "none":
            return self._place.failure(error, f"{where}: cannot be read")
        return self._place.failure(error, f"{where} of the {self._compression} file: truncated or damaged")

    def _window_too_large(self) -> InputError:
        size = self._largest or 2**31  # a header that could not be read yet
        return InputError(
            f"{self._place.shown}: zstd needs a window of {size // MIB} MiB (zstd --long); allow it with "
            f"--max-zstd-window {size}, or compress it again without --long"
        )


def read_whole(place: Place, compression: Compression, max_window: int, most: int) -> bytes | None:
    """All of an input's text without its byte order mark; None where it is more than `most` bytes."""
    pieces: list[bytes] = []
    size = 0
    with TextStream(place, compression, max_window) as stream:
        while piece := stream.read(MIB):
            pieces.append(piece)
            size += len(piece)
            if size > most:
                return None
    return b"".join(pieces).removeprefix(BOM)


class _Members:
    """The text of all members or frames of a stream; zeros between and behind them are passed over.

    Tapes and disks fill their last block up with zeros. A stream that ends inside a member is an EOFError.
    """

    def __init__(self, raw: pa.NativeFile, feed: int, new: Callable[[memoryview], _Decoder]) -> None:
        self._raw = raw
        self._feed = feed
        self._new = new
        self._decoder: _Decoder | None = None
        self._data = self._text = memoryview(b"")
        self._error: Exception | None = None

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, less only at the end; an error is raised when what came before it is read."""
        pieces: list[memoryview] = []
        while size > 0 and self._error is None:
            if not self._text:
                try:
                    self._text = memoryview(self._decoded())
                except (OSError, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException) as error:
                    self._error = error
                if not self._text:
                    break
            pieces.append(self._text[:size])
            self._text = self._text[size:]
            size -= len(pieces[-1])
        if self._error is not None and not pieces:
            raise self._error
        return b"".join(pieces)

    def _decoded(self) -> bytes:
        """The next text, b"" at the end."""
        text = b""
        while not text:
            if not self._data:
                self._data = memoryview(self._raw.read(MIB))
                if not self._data and self._decoder is None:
                    return b""
                if not self._data:
                    raise EOFError("the stream ends in the middle")
            if self._decoder is None:
                if self._data[0] == 0:
                    self._data = memoryview(bytes(self._data).lstrip(b"\0"))
                    continue
                self._decoder = self._new(self._data)
            piece = self._data[: self._feed]
            text = self._decoder.decompress(piece)
            used = len(piece)
            if self._decoder.eof:
                used -= len(self._decoder.unused_data)
                self._decoder = None
            self._data = self._data[used:]
        return text


class ArrayLines:
    """A JSON array as lines; see `ArrayCutter`."""

    def __init__(self, stream: TextStream, shown: str) -> None:
        self._stream = stream
        self._shown = shown
        self._cutter = ArrayCutter()

    def skip(self, size: int) -> None:
        """Go on to the item that begins at byte `size`, or to the end behind the last one."""
        self._stream.skip(size - 1)
        self._cutter.depth = int(self._stream.read(1) == b",")

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes. Raises StorageError where the array does not end."""
        data = self._stream.read(size)
        if not data and self._cutter.inside:
            raise StorageError(f"{self._shown}: the JSON array is not closed: the file is truncated")
        return self._cutter.cut(data)


class ArrayCutter:
    """Makes lines of a JSON array: the same bytes, but each item is on a line of its own.

    The commas between items become line ends, and line ends inside an item become spaces, so every byte keeps
    its place, and an item is parsed, counted and found again like a line of JSONL. Arrays that follow one
    another are read as one.
    """

    def __init__(self) -> None:
        self.depth = 0
        self._in_string = False
        self._escaped = False

    @property
    def inside(self) -> bool:
        """Whether the array is not closed yet."""
        return self.depth > 0 or self._in_string

    def cut(self, data: bytes) -> bytes:
        """The next bytes of the array, as lines."""
        if not data:
            return data
        # escapes are blanked out, so that every quotation mark left begins or ends a string
        plain = b"_" + data[1:] if self._escaped else data
        plain = re.sub(rb"\\.", b"__", plain, flags=re.DOTALL)
        self._escaped = plain.endswith(b"\\")
        text = np.frombuffer(plain, np.uint8)
        marks = np.cumsum(text == ord('"')) + self._in_string
        outside = marks % 2 == 0
        self._in_string = not outside[-1]
        lower = text | 0x20  # [ and {, ] and } differ in this bit
        opening, closing = (lower == ord("{")) & outside, (lower == ord("}")) & outside
        depth = self.depth + np.cumsum(opening.astype(np.int64) - closing)
        self.depth = int(depth[-1])
        lines = np.frombuffer(bytearray(data), np.uint8)
        ends = (text == ord("\n")) | (text == ord("\r"))
        lines[ends & outside | (text == ord("[")) & opening & (depth == 1)] = ord(" ")
        lines[ends & ~outside] = ord("\r")  # stays invalid, as it is inside a string, but ends no line
        lines[closing & (depth == 0) | (text == ord(",")) & outside & (depth == 1)] = ord("\n")
        return lines.tobytes()
