"""Rows -> the distinct (context, question) pairs of their part, and answers of pairs -> rows again.

::

    pairing.py       rows of a chunk -> pairs to ask, and back; what is wrong with a row
    answer_cache.py  which pairs a part has asked before, and their answers
    earlier.py       the answers of earlier outputs
    digests.py       texts and pairs as 128 bits
"""

from .answer_cache import AnswerCache, most_bytes
from .earlier import EarlierAnswers
from .pairing import answered_rows, pairs_of

__all__ = ["AnswerCache", "EarlierAnswers", "answered_rows", "most_bytes", "pairs_of"]
