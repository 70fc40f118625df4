"""JSON documents that are read as a whole, also as other programs write them."""

from __future__ import annotations

import json
from typing import Any

import orjson


def load(text: bytes) -> Any:
    """The document's value. Raises orjson.JSONDecodeError, with the place, where it is not JSON.

    NaN, infinities and halves of surrogate pairs, which Python's json writes although JSON has no such thing,
    are taken: one such value in a file of many rows is for the reader of that row to judge.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise error from None
