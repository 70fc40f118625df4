"""Logits -> answers of pairs.

::

    decoder.py  batches -> the best span, null odds and score of each pair; its candidates and answers
    spans.py    the best spans that do not overlap
"""

from .decoder import BestSpans, Decoder, DecodingRules, SpanSearch, best_spans
from .spans import Candidate, SpanPool

__all__ = ["BestSpans", "Candidate", "Decoder", "DecodingRules", "SpanPool", "SpanSearch", "best_spans"]
