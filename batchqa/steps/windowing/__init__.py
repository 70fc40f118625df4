"""Pairs -> windows.

::

    tokenizer.py  tokenizer.json -> the library's tokenizer; how it joins question and context
    contexts.py   where a context's tokens are in its text
    plain.py      texts that need no normalizer, in half the time
    encoder.py    texts -> tokens, each in the quickest way; contexts that later chunks may ask again
    windower.py   where the windows are
"""

from .encoder import CACHED_BYTES, TextEncoder
from .tokenizer import learn_layout, open_tokenizer
from .windower import Windower

__all__ = [
    "CACHED_BYTES",
    "TextEncoder",
    "Windower",
    "learn_layout",
    "open_tokenizer",
]
