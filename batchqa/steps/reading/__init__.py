"""Files of (context, question) rows -> `Rows`, streamed: Parquet, JSONL, JSON, CSV, TSV, text, SQuAD.

::

    input_files.py  arguments -> places; opening, and recognizing a file again
    input_names.py  names that are skipped, globs, prefixes of an object store
    tape.py        standard input and pipes
    table_formats.py  Delta, Iceberg and Hudi tables among the folders
    partitions.py  key=value folders -> columns
    streams.py     looking through compression; a JSON array as lines
    formats.py     what an input is, from its content
    other_formats.py  what a file is that cannot be read
    source.py      all inputs of a job -> one `Source`
    columns.py     what passes through, and where the texts are
    cells.py       types with texts; cells that are not UTF-8; texts and questions
    json_values.py the same in JSON records: lists of questions, values that questions hold
    parquet.py     row groups -> Rows
    union.py       files whose schemas differ harmlessly -> one table
    parquet_descriptions.py  columns as Parquet described them -> columns as it will
    int96.py, unreadable_columns.py  old timestamps; columns that pyarrow cannot read
    lines.py       bytes -> lines -> JSON objects, or the reason why not
    json_types.py  the types of JSON columns
    json_records.py, json_sample.py  the objects of a file; the first ones, which fix the columns
    jsonl.py       objects -> Rows
    table_text.py  lines -> the records of a CSV file, or the reason why not
    csv_files.py   records -> Rows
    squad_files.py  SQuAD documents -> Rows
    cursors.py     where parts begin and end, without reading rows
    text_files.py  a text file -> a row
    dataset.py     the same files as columns, and single rows by number: for evaluation and `show`
"""

from .columns import ColumnPlan, pieces
from .cursors import Parts
from .dataset import (
    Dataset,
    column_at,
    open_dataset,
    question_values,
    read_json_document,
    records_table,
    root_of,
)
from .formats import JsonDocumentError
from .input_files import InputFile, is_unfinished
from .input_names import NOT_FINISHED
from .json_types import inline_schema
from .source import STREAM, Source, open_source
from .squad_files import parse_document

__all__ = [
    "NOT_FINISHED",
    "STREAM",
    "ColumnPlan",
    "Dataset",
    "InputFile",
    "JsonDocumentError",
    "Parts",
    "Source",
    "column_at",
    "inline_schema",
    "is_unfinished",
    "open_dataset",
    "open_source",
    "parse_document",
    "pieces",
    "question_values",
    "read_json_document",
    "records_table",
    "root_of",
]
