"""Files of (context, question) rows -> `Rows`, streamed: Parquet, JSONL (plain, gzip, zstd) and SQuAD JSON.

::

    files.py      arguments -> places; opening, looking through compression, knowing a file again
    recognise.py  what an input is, from its content
    plan.py       all inputs of a job -> one `Source`
    columns.py    what passes through, where the texts stand, which cells are bad
    parquet.py    row groups -> Rows
    lines.py      bytes -> lines -> JSON objects, or the reason why not
    shapes.py     the types of JSON columns
    jsonl.py      objects -> Rows
    squad.py      SQuAD documents -> Rows
"""

from .columns import ColumnPlan, pieces
from .files import InputFile
from .plan import Source, open_source

__all__ = ["ColumnPlan", "InputFile", "Source", "open_source", "pieces"]
