"""A stream as an input that planning can look into before it is read."""

from __future__ import annotations

import io
from typing import Any, BinaryIO


class Tape(io.RawIOBase):
    """A stream that can be read once, of which what planning reads is kept to be read again.

    It can be rewound until `keep_no_more`, and once after that; then the kept bytes go as they are read.
    A stream that is `owned` is closed at its end.
    """

    def __init__(self, stream: BinaryIO, *, owned: bool) -> None:
        super().__init__()
        self._stream = stream
        self._owned = owned
        self._kept = bytearray()
        self._at = 0
        self._keeping = True
        self._spent = False

    def keep_no_more(self) -> None:
        """Planning is over: the next reading is the last."""
        self._keeping = False

    def rewind(self) -> None:
        """Go back to the first byte. Raises ValueError in or after the last reading."""
        if self._spent:
            raise ValueError("a stream can be read only once")
        self._at = 0
        self._spent = not self._keeping

    def readable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The bytes read since the start."""
        return self._at

    def close(self) -> None:
        """Stay open: whoever closes one reading of the tape has not finished with the stream."""

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from what is kept, else from the stream; 0 at the end."""
        data = bytes(self._kept[self._at : self._at + len(buffer)])
        if not data and not self._stream.closed:
            data = self._stream.read(len(buffer)) or b""
            if self._keeping:
                self._kept += data
            else:
                self._kept.clear()
                if not data and self._owned:
                    self._stream.close()
        self._at += len(data)
        buffer[: len(data)] = data
        return len(data)
