"""Logits -> answers of pairs.

::

    rules.py    what decides about a row
    decoder.py  batches -> the best span, null odds and score of each pair
    search.py   all spans of a context over its windows: the best, candidates, all answers
    spans.py    the best spans that do not overlap
"""

from .decoder import Decoder, best_spans
from .rules import DecodingRules

__all__ = ["Decoder", "DecodingRules", "best_spans"]
