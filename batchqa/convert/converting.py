"""`batchqa convert`: one output (or file of labels) -> one file of another form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from batchqa.convert.labels import gold_rows
from batchqa.convert.layouts import to_long, to_wide
from batchqa.convert.tools import (
    LABEL_STUDIO_CONFIG,
    argilla_records,
    label_studio_tasks,
    spacy_records,
    squad_predictions,
    write_docbin,
)
from batchqa.convert.writing import write_object, write_records, write_tables
from batchqa.errors import InputError, PreconditionError
from batchqa.html_pages import replacing, write_whole
from batchqa.review import Output, Row, open_output
from batchqa.side_files import check_side_file
from batchqa.steps.reading import NOT_FINISHED, open_dataset
from batchqa.store.locations import local_output


def convert(
    given: str,
    path: str | Path,
    form: str,
    *,
    overwrite: bool = False,
    prefix: str | None = None,
    context: str | None = None,
    question: str | None = None,
) -> str:
    """Write `path` and say what was written. `form` is what `--to` takes; for the names see `open_output`.

    Raises PreconditionError where the file exists, InputError and SettingsError for what cannot be
    converted, StorageError.
    """
    path = local_output("-o", path)
    beside = [path.with_name(f"{path.stem}.{ending}") for ending in _BESIDE.get(form, ())]
    for each in (path, *beside):
        check_side_file("-o", each, [given])
        if each.exists() and not overwrite:
            raise PreconditionError(f"{each} already exists; give --overwrite to replace it")
    if form == "gold":
        count = write_records(path, gold_rows(given), lines=path.suffix == ".jsonl")
        return f"{path}: {count:,} rows with gold answers"
    output = open_output(given, prefix=prefix, context=context, question=question)
    if output.unfinished:
        raise InputError(f"{output.source.path} {NOT_FINISHED}")
    if form in ("wide", "long"):  # in the other layout the columns keep their types
        output = replace(output, source=open_dataset(output.source.given, repeated=()))
    return _WRITERS[form](output, path)


class _Counted:
    """Rows, counted as they pass by."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[Row]:
        for row in self._rows:
            self.count += 1
            yield row

    def without(self, written: int) -> str:
        """What is to be said where fewer than all were written."""
        left = self.count - written
        return f" ({left:,} rows without a context are left out)" if left else ""


def _label_studio(output: Output, path: Path) -> str:
    rows = _Counted(output.rows())
    count = write_records(path, label_studio_tasks(rows, _model(output)), lines=False)
    config = path.with_name(f"{path.stem}.config.xml")
    write_whole(config, LABEL_STUDIO_CONFIG)
    return f"{path}: {count:,} tasks{rows.without(count)}; their labelling interface: {config}"


def _argilla(output: Output, path: Path) -> str:
    rows = _Counted(output.rows())
    count = write_records(path, argilla_records(rows, _model(output)), lines=False)
    return f"{path}: {count:,} records{rows.without(count)}"


def _spacy(output: Output, path: Path) -> str:
    if path.suffix == ".spacy":
        with replacing(path) as tmp:
            count = write_docbin(output.rows(), tmp)
    else:
        records = spacy_records(output.rows(), _model(output))
        count = write_records(path, records, lines=path.suffix == ".jsonl")
    return f"{path}: {count:,} documents"


def _squad(output: Output, path: Path) -> str:
    texts, odds = squad_predictions(output.rows())
    said = f"{path}: {write_object(path, texts):,} predictions"
    beside = path.with_name(f"{path.stem}.null-odds.json")
    if not odds:
        beside.unlink(missing_ok=True)  # those of the predictions that were replaced
        return f"{said}, without null odds"
    write_object(beside, odds)
    return f"{said}; their null odds: {beside}"


def _wide(output: Output, path: Path) -> str:
    return f"{path}: {write_tables(path, lambda: to_wide(output)):,} rows"


def _long(output: Output, path: Path) -> str:
    return f"{path}: {write_tables(path, lambda: to_long(output)):,} rows"


def _model(output: Output) -> str:
    maker = output.maker
    return f"{maker.model} {maker.variant}" if maker else "batchqa"


_WRITERS: dict[str, Callable[[Output, Path], str]] = {
    "label-studio": _label_studio,
    "argilla": _argilla,
    "spacy": _spacy,
    "squad": _squad,
    "wide": _wide,
    "long": _long,
}

_BESIDE = {"label-studio": ("config.xml",), "squad": ("null-odds.json",)}
"""The endings of what is written beside the file."""
