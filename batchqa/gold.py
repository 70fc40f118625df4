"""Gold answers as data sets have them -> each row's texts, and where they begin.

One reader for all that judges or learns by gold answers, so that a column which one of them takes is taken by
all. It knows columns alone; which file they come from is its caller's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.errors import InputError

COLUMNS = ("answers", "answer")
"""Where gold answers are looked for, if no column is named."""

_STARTS = ("answer_start", "start")


@dataclass(frozen=True, slots=True, eq=False)
class Gold:
    """The gold answers of each row.

    texts: large_list<large_string>, (rows,); an empty list says "not answerable"; nothing is null.
    starts: large_list<int64>, of the same lengths: the code point at which the text begins in the
    context, null where the data does not say.
    """

    texts: pa.Array
    starts: pa.Array

    def __len__(self) -> int:
        return len(self.texts)


def gold_column(names: Sequence[str], wanted: str | None = None) -> str | None:
    """The column of gold answers: `wanted`, else `answers`, else `answer`; None where there is none."""
    return wanted or next((name for name in COLUMNS if name in names), None)


def read_gold(column: pa.Array | pa.ChunkedArray, where: str) -> Gold:
    """The gold answers of a column; `where` names it in messages.

    Takes SQuAD's struct of lists (`text`, `answer_start`), a struct of one text, a list of structs with
    `text`, a list of texts, one text (null or "" then says "not answerable"), or any of these as JSON text.
    Raises InputError for anything else.
    """
    array = plain_array(column)
    kind = array.type
    if pa.types.is_null(kind):
        return _gold(np.zeros(len(array), dtype=np.int64), pa.nulls(0), None)
    if _is_text(kind):
        if (decoded := _decoded(array, where)) is not None:
            return read_gold(decoded, where)
        return _of_texts(array, None)
    if pa.types.is_struct(kind) and kind.get_field_index("text") >= 0:
        texts, starts = plain_array(pc.struct_field(array, "text")), _starts(array)
        if _is_text(texts.type) or pa.types.is_null(texts.type):
            return _of_texts(texts, starts)
        if _is_list(texts.type) and _holds_texts(texts):
            flat = None if starts is None or not _is_list(starts.type) else pc.list_flatten(starts)
            return _gold(_counts(texts), plain_array(pc.list_flatten(texts)), flat)
    if _is_list(kind):
        values = plain_array(pc.list_flatten(array))
        if pa.types.is_struct(values.type) and values.type.get_field_index("text") >= 0:
            texts, starts = plain_array(pc.struct_field(values, "text")), _starts(values)
            if _is_text(texts.type) or pa.types.is_null(texts.type):
                return _gold(_counts(array), texts, starts)
        elif _holds_texts(array):
            return _gold(_counts(array), values, None)
    raise InputError(
        f"{where} is of type {kind}, not gold answers: it must be SQuAD's `answers` struct, a list of texts, "
        "or a text; leave the column out, or name another one with --gold-column"
    )


def _of_texts(texts: pa.Array, starts: pa.Array | None) -> Gold:
    """One text a row, none where it is null or empty."""
    texts = texts.cast(pa.large_string())
    given = pc.fill_null(pc.not_equal(texts, ""), False)
    counts = given.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return _gold(counts, texts.filter(given), None if starts is None else starts.filter(given))


def _gold(counts: Any, texts: pa.Array, starts: pa.Array | None) -> Gold:
    """`counts` of the flat `texts` and `starts` belong to each row; texts that are null are dropped."""
    texts = texts.cast(pa.large_string())
    begins = _whole_numbers(starts, len(texts))
    if texts.null_count:
        kept = texts.is_valid()
        row = np.repeat(np.arange(len(counts)), counts)[kept.to_numpy(zero_copy_only=False)]
        counts = np.bincount(row, minlength=len(counts))
        texts, begins = texts.filter(kept), begins.filter(kept)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    return Gold(pa.LargeListArray.from_arrays(offsets, texts), pa.LargeListArray.from_arrays(offsets, begins))


def _whole_numbers(starts: pa.Array | None, length: int) -> pa.Array:
    """The starts as int64 (pandas writes 20.0 where some are missing); null where they are not numbers."""
    if starts is None or len(starts) != length:
        return pa.nulls(length, pa.int64())
    try:
        return plain_array(starts).cast(pa.int64())
    except pa.ArrowException:
        return pa.nulls(length, pa.int64())


def _starts(array: pa.StructArray) -> pa.Array | None:
    name = next((name for name in _STARTS if array.type.get_field_index(name) >= 0), None)
    return None if name is None else plain_array(pc.struct_field(array, name))


def _decoded(texts: pa.Array, where: str) -> pa.Array | None:
    """What texts hold that are JSON for answers, as CSV and JSON columns of mixed shapes have them."""
    given = [text for text in texts.to_pylist() if text and text.strip()]
    if not given or not all(text.lstrip().startswith(("{", "[")) for text in given):
        return None
    try:
        values = [orjson.loads(text) if text and text.strip() else None for text in texts.to_pylist()]
        if not all(map(are_answers, values)):
            return None
        return pa.array([as_list(value) for value in values])
    except orjson.JSONDecodeError:
        if given[0].lstrip().startswith("{'text'"):
            raise InputError(
                f"{where} holds Python's notation of dicts, not JSON; write the column with json.dumps, or "
                "the file as Parquet or JSONL"
            ) from None
        return None
    except (pa.ArrowException, OverflowError) as error:
        raise InputError(f"{where} has answers in several forms; use one form for all rows") from error


def are_answers(value: Any) -> bool:
    """Whether a value of JSON has one of the shapes that `as_list` takes."""
    if isinstance(value, list):
        return all(isinstance(each, str) or are_answers(each) for each in value)
    return value is None or (isinstance(value, dict) and "text" in value)


def as_list(value: Any) -> list[dict[str, Any]]:
    """Any shape of one row's answers as a list of dicts, each with a text."""
    if value is None:
        return []
    if isinstance(value, list):
        return [item for each in value for item in as_list(each)]
    if isinstance(value, str):
        return [{"text": value, "answer_start": None}]
    texts, starts = value["text"], next((value[name] for name in _STARTS if name in value), None)
    if not isinstance(texts, list):
        return as_list([]) if not texts else [{"text": texts, "answer_start": starts}]
    if not isinstance(starts, list) or len(starts) != len(texts):
        starts = [None] * len(texts)
    return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]


def plain_array(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array of the plain type: no chunks, dictionaries, views, extensions or fixed sizes."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
        if isinstance(array, pa.ChunkedArray):  # pyarrow gives chunks back where there is none
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    if pa.types.is_dictionary(kind):
        return plain_array(array.dictionary_decode())
    if pa.types.is_string_view(kind):
        return array.cast(pa.large_string())
    if pa.types.is_fixed_size_list(kind):
        return array.cast(pa.large_list(kind.value_type))
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        # pyarrow 26 casts these to lists of wrong lengths
        return pa.array(array.to_pylist(), pa.large_list(kind.value_type))
    return array


def decoded_json(column: pa.Array) -> pa.Array:
    """A column of lists or structs, which a table as text has as JSON; any other column as it is."""
    if not _is_text(column.type):
        return column
    texts = column.to_pylist()
    if not any(texts) or not all(text is None or text.startswith(("[", "{")) for text in texts):
        return column
    try:
        return pa.array([None if text is None else orjson.loads(text) for text in texts])
    except (orjson.JSONDecodeError, pa.ArrowException):
        return column


def _counts(lists: pa.Array) -> Any:
    return pc.fill_null(pc.list_value_length(lists), 0).cast(pa.int64()).to_numpy(zero_copy_only=False)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _holds_texts(lists: pa.Array) -> bool:
    kind = plain_array(pc.list_flatten(lists)).type
    return _is_text(kind) or bool(pa.types.is_null(kind))
