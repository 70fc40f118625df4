"""Rows -> the distinct (context, question) pairs of their part, and answers of pairs -> rows again.

::

    cache.py    which pairs a part has asked before, and their answers
    pairing.py  rows of a chunk -> pairs to ask; what is wrong with the other rows
    rows.py     answers of pairs -> answers of rows, in order, with their texts and errors
"""

from .cache import AnswerCache, most_bytes
from .pairing import pairs_of
from .rows import answered_rows

__all__ = ["AnswerCache", "answered_rows", "most_bytes", "pairs_of"]
