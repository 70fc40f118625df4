"""Hypothesis strategies: texts as nasty as real ones get."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.models import MARKER, SENTENCES

FRAGMENTS = (
    *SENTENCES,
    *(word for sentence in SENTENCES[:3] for word in sentence.split()),
    " ",
    "  ",
    "\t",
    "\n\n",
    "\u00a0",  # no-break space
    "\u3000",  # ideographic space
    "\u2009",  # thin space
    "\u200b",  # zero width space: a format character, not white space
    "\u200d",  # zero width joiner
    "\ufeff",  # byte order mark
    "\u0000",
    "\u0085",  # next line
    "\u2028",  # line separator
    "\u001c",  # file separator: white space to Python, a control character to tokenizers
    "e\u0301",  # e and a combining accent
    "\u0301",
    "ﷺ",  # one character that NFKC makes 18 of
    "ﬁ",  # a ligature
    "İ",  # its lower case is two characters
    "ß",
    "½",
    "▁",  # SentencePiece's own space
    "Ġ",  # the byte-level space
    "##s",
    "[SEP]",
    "</s>",
    "<pad>",
    "[UNK]",
    MARKER,
    "👩‍👩‍👧",
    "🏳️‍🌈",
    "🇪🇸🇩🇪",
    "\u1112\u1161\u11ab",  # a Hangul syllable of three jamo
    "क्षि",
    "👍🏽",
    "𝔘𝔫𝔦",  # beyond the first 65,536 code points
    "漢字",
    "مكتبة",
    "ไทย",
    "กำ",
    "…",
    "``quoted''",
    "supercalifragilisticexpialidocious" * 4,  # too long for one WordPiece word
)
"""Pieces of text that have broken tokenizers' offsets somewhere."""


def texts(max_pieces: int = 12) -> st.SearchStrategy[str]:
    """Any valid Unicode text: fragments that are known to be nasty, and characters of any kind."""
    piece = st.sampled_from(FRAGMENTS) | st.sampled_from((" ", " the ", " river")) | st.text(max_size=5)
    return st.lists(piece, max_size=max_pieces).map("".join)
