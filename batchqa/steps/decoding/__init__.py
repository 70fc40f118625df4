"""Logits -> answers of pairs.

::

    rules.py    what decides about a row
    decoder.py  batches -> the best span, null odds and score of each pair
    batched.py  the best spans of many windows at once
    search.py   all spans of a context over its windows: the best, candidates, all answers
    spans.py    the best spans that do not overlap
"""

from .batched import best_spans
from .decoder import Decoder
from .rules import DecodingRules

__all__ = ["Decoder", "DecodingRules", "best_spans"]
