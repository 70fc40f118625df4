"""Which rows belong together: the groups of `--by`, by a column or by the texts; the rows of an article."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.bundle import Bundle
from batchqa.errors import SettingsError
from batchqa.evaluation.joining import Examples
from batchqa.evaluation.metrics import Labels, names_of
from batchqa.records import Chunk, Cursor, Int64, Rows
from batchqa.settings import DEFAULT_MAX_LENGTH, WindowSettings
from batchqa.steps.pairing import AnswerCache, pairs_of
from batchqa.steps.windowing import Windower, open_tokenizer

ARTICLE = "title"
"""The column that says which article a row is from."""

MOST_GROUPS = 1_000
"""A column with more values than this is no grouping."""

MOST_NUMBERS = 20
"""A column of numbers with more values than this is cut into groups of like size."""

LENGTHS = (250, 500, 1000, 2000, 4000, 8000)
"""Where the lengths of contexts are cut, in characters."""

WINDOWS = (1, 2, 3, 4, 8, 16)
"""The numbers of windows at which a group of its own begins."""

# English and Spanish; in each row, the first that occurs. Spanish ones are known by their accents.
_QUESTION_WORDS = {
    "how many": r"how many|how much",
    "who": r"who|whom|whose",
    "what": r"what",
    "when": r"when",
    "where": r"where",
    "which": r"which",
    "why": r"why",
    "how": r"how",
    "por qué": r"por qué",
    "qué": r"qué",
    "quién": r"quién|quiénes",
    "cuál": r"cuál|cuáles",
    "cuándo": r"cuándo",
    "dónde": r"dónde",
    "cuánto": r"cuánto|cuánta|cuántos|cuántas",
    "cómo": r"cómo",
}


def labels_of(by: str, examples: Examples, bundle: Bundle | None, windows: WindowSettings) -> Labels:
    """The groups of `--by`: a column, else `context_length`, `windows` or `question_word`.

    Raises InputError where there is no such column, SettingsError where it has too many values.
    """
    if examples.has_column(by):
        return _by_column(by, examples)
    if by == "context_length":
        return _by_range(by, _lengths(examples.column("context")), LENGTHS, "characters")
    if by == "windows":
        return _by_range(by, _window_counts(examples, bundle, windows), WINDOWS, "")
    if by == "question_word":
        return _by_question_word(examples)
    return _by_column(by, examples)


def _by_column(by: str, examples: Examples) -> Labels:
    column = examples.column(by)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_nested(column.type):
        raise SettingsError(f"--by {by}: the column is of type {column.type}; name a column of single values")
    values = pl.Series("value", column)
    if values.dtype.is_numeric() and values.n_unique() > MOST_NUMBERS:
        quantiles = values.drop_nulls().drop_nans().quantile
        cuts = sorted({float(quantiles(at / 5, interpolation="nearest") or 0.0) for at in range(1, 5)})
        return _by_range(by, values.cast(pl.Float64).fill_null(np.nan).to_numpy(), cuts, "")
    distinct = values.unique().sort(nulls_last=True)
    if len(distinct) > MOST_GROUPS:
        raise SettingsError(
            f"--by {by}: the column has {len(distinct):,} different values; at most {MOST_GROUPS:,}"
        )
    place = pl.DataFrame({"value": distinct, "place": np.arange(len(distinct))})
    row = pl.DataFrame({"value": values}).join(
        place, on="value", how="left", nulls_equal=True, maintain_order="left"
    )
    return Labels(by, names_of(distinct.to_list()), row["place"].to_numpy().astype(np.int64))


def _by_range(by: str, values: npt.NDArray[Any], cuts: tuple[float, ...] | list[float], unit: str) -> Labels:
    """Groups between the cuts: a value at a cut belongs to the group that begins there; NaN has its own."""
    whole = all(float(cut).is_integer() for cut in cuts) and np.issubdtype(values.dtype, np.integer)
    row = np.searchsorted(np.asarray(cuts), values, side="right")
    names = [f"under {cuts[0]:g}"]
    for low, high in pairwise(cuts):
        top = int(high) - 1 if whole else high
        names.append(f"{low:g}" if whole and top == low else f"{low:g} to {top:g}")
    names = [*names, f"{cuts[-1]:g} and more"]
    nan = np.isnan(values.astype(np.float64))
    row[nan] = len(names)
    named = [f"{name} {unit}".rstrip() for name in names] + ["(none)"]
    return Labels(by, tuple(named), row.astype(np.int64))


def _by_question_word(examples: Examples) -> Labels:
    pattern = r"\b(" + "|".join(_QUESTION_WORDS.values()) + r")\b"
    forms = {form: word for word, pattern in _QUESTION_WORDS.items() for form in pattern.split("|")}
    questions = pl.Series("question", examples.column("question").cast(pa.large_string()))
    found = questions.str.to_lowercase().str.extract(pattern, 1).replace(forms)
    names = (*_QUESTION_WORDS, "(other)")
    place = {name: at for at, name in enumerate(names)}
    row = found.fill_null("(other)").replace_strict(place, return_dtype=pl.Int64)
    return Labels("question_word", names, row.to_numpy())


def _lengths(contexts: pa.ChunkedArray) -> Int64:
    """Lengths in characters; a null context has none."""
    lengths = []
    for chunk in contexts.chunks:
        if pa.types.is_dictionary(chunk.type):
            lengths.append(pc.utf8_length(chunk.dictionary).take(chunk.indices))
        else:
            lengths.append(pc.utf8_length(chunk))
    cast = [pc.fill_null(length.cast(pa.int64()), 0).to_numpy(zero_copy_only=False) for length in lengths]
    return np.concatenate(cast) if cast else np.zeros(0, dtype=np.int64)


def _window_counts(examples: Examples, bundle: Bundle | None, settings: WindowSettings) -> Int64:
    """How many windows the model read for each row; 0 for a row that could not be judged."""
    if bundle is None:
        raise SettingsError("--by windows needs the tokenizer of the model: give --model")
    manifest = bundle.manifest
    length = settings.max_length or min(DEFAULT_MAX_LENGTH, manifest.max_length)
    tokenizer = open_tokenizer(bundle.tokenizer)
    windower = Windower(tokenizer, manifest.layout, settings, length)
    texts = pa.table({name: _plain(examples.column(name)) for name in ("context", "question")})
    counts = []
    for batch in texts.combine_chunks().to_batches(max_chunksize=5_000):
        context, question = batch.column("context"), batch.column("question")
        rows = Rows(batch, context, question, {}, 0, lambda _: Cursor(), lambda row: f"row {row + 1}")
        pairs = pairs_of(Chunk(rows, part=0, last_of_part=True), AnswerCache())
        counts.append(np.append(windower.windows(pairs).pair_count, 0)[pairs.row_pair])
    return np.concatenate(counts).astype(np.int64) if counts else np.zeros(0, dtype=np.int64)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.large_string())


def units_of(examples: Examples, or_contexts: bool = False) -> tuple[str, Int64 | None]:
    """What rows depend on each other: those of an article, where the file names it; else each row is one."""
    for name, column in (("article", ARTICLE), *((("context", "context"),) if or_contexts else ())):
        if examples.has_column(column):
            values = examples.column(column)
            if pa.types.is_dictionary(values.type):
                values = values.cast(values.type.value_type)
            encoded = values.combine_chunks().dictionary_encode(null_encoding="encode")
            numbers = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
            if len(encoded.dictionary) > 1:
                return name, numbers
    return "row", None
