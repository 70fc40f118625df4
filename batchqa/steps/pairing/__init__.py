"""Rows -> the distinct (context, question) pairs of their part, and answers of pairs -> rows again.

::

    pairing.py       rows of a chunk -> pairs to ask
    unpairing.py     answers of pairs -> answers of rows, in order
    statuses.py      what is wrong with a row
    answer_cache.py  which pairs a part has asked before, and their answers
    earlier.py       the answers of earlier outputs
    digests.py       texts and pairs as 128 bits
    texts.py         answers with their texts and without
"""

from .answer_cache import AnswerCache, most_bytes
from .earlier import EarlierAnswers
from .pairing import pairs_of
from .unpairing import answered_rows

__all__ = ["AnswerCache", "EarlierAnswers", "answered_rows", "most_bytes", "pairs_of"]
