"""Chunk -> windows.

::

    tokenizer.py    tokenizer.json -> the library's tokenizer; how it joins question and context
    contexts.py     where a context's tokens stand in its text
    plain.py        texts that need no normalizer, in half the time
    encoder.py      texts -> tokens, each by the quickest road
    remembering.py  what is tokenized and windowed once
    windower.py     where the windows are
"""

from .encoder import TextEncoder
from .remembering import CACHED_BYTES, PAIR_BYTES, REMEMBERED_PAIRS
from .tokenizer import learn_layout, open_tokenizer
from .windower import Windower

__all__ = [
    "CACHED_BYTES",
    "PAIR_BYTES",
    "REMEMBERED_PAIRS",
    "TextEncoder",
    "Windower",
    "learn_layout",
    "open_tokenizer",
]
