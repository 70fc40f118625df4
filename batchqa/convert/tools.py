"""Rows of an output -> what other tools read. Places are code points everywhere, as in the output.

Label Studio counts them so in its JSON (its frontend has stored code points, not UTF-16 units, since 2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from batchqa.errors import InputError, SettingsError
from batchqa.review import Row

LABEL = "answer"
"""The label of an answer that has no question's name."""

LABEL_STUDIO_CONFIG = """<View>
  <Header value="$question"/>
  <Labels name="answers" toName="context">
    <Label value="answer" background="#2563a8"/>
  </Labels>
  <Text name="context" value="$context"/>
</View>
"""
"""The labelling interface that the tasks are for. Its names are those of our columns, so that Label Studio's
JSON-MIN is gold for `evaluate` and `train` as it is."""


def label_studio_tasks(rows: Iterable[Row], model: str) -> Iterator[dict[str, Any]]:
    """A task for each row, with the answers as a prediction; rows without a context are left out."""
    for row in rows:
        if not row.context:
            continue
        result = [
            {
                "id": f"{row.record}-{number}",
                "from_name": "answers",
                "to_name": "context",
                "type": "labels",
                "value": {"start": span.start, "end": span.end, "text": span.text, "labels": [LABEL]},
                "score": span.score,
            }
            for number, span in enumerate(row.answers)
        ]
        data = {"context": row.context, "question": row.question, "row_id": row.id, "name": row.name}
        prediction = {"model_version": model, "score": row.score, "result": result}
        yield {"data": data, "predictions": [] if row.state == "error" else [prediction]}


def argilla_records(rows: Iterable[Row], model: str) -> Iterator[dict[str, Any]]:
    """Records for fields `context` and `question` and a span question `answers` with the label "answer"."""
    for row in rows:
        if not row.context:
            continue
        value = [{"start": span.start, "end": span.end, "label": LABEL} for span in row.answers]
        suggestion = {"value": value, "score": [span.score for span in row.answers], "agent": model}
        metadata = {"row": row.record, "id": row.id, "name": row.name, "score": row.score}
        yield {
            "id": f"{row.record}" if row.name is None else f"{row.record}-{row.name}",
            "fields": {"context": row.context, "question": row.question},
            "metadata": {name: known for name, known in metadata.items() if known is not None},
            "suggestions": {"answers": suggestion} if row.answers else {},
            "responses": {},
            "vectors": {},
        }


def spacy_records(rows: Iterable[Row], model: str) -> Iterator[dict[str, Any]]:
    """A text with its labelled spans for each context, as Prodigy and spaCy's projects exchange them."""
    for context, spans in _by_context(rows):
        listed = [{"start": start, "end": end, "label": label} for start, end, label in spans]
        yield {"text": context, "spans": listed, "meta": {"model": model}}


def write_docbin(rows: Iterable[Row], path: Path) -> int:
    """A `DocBin` with the spans in `doc.spans["answers"]`; how many documents it has. Needs spaCy.

    A span covers whole tokens: where an answer cuts one, all of the token is taken.
    """
    try:
        import spacy
        from spacy.tokens import DocBin
    except ImportError as error:
        raise SettingsError(
            "a DocBin (.spacy) needs spaCy: pip install spacy; a .jsonl of texts with spans does not"
        ) from error
    blank = spacy.blank("xx")
    documents = DocBin(store_user_data=True)
    for context, spans in _by_context(rows):
        blank.max_length = max(blank.max_length, len(context))  # a limit for parsers, and nothing is parsed
        document = blank.make_doc(context)
        document.spans["answers"] = [
            document.char_span(start, end, label=label, alignment_mode="expand")
            for start, end, label in spans
        ]
        documents.add(document)
    documents.to_disk(path)
    return len(documents)


def _by_context(rows: Iterable[Row]) -> Iterator[tuple[str, list[tuple[int, int, str]]]]:
    """Contexts that follow one another are one document, with the answers to all its questions."""
    context: str | None = None
    spans: list[tuple[int, int, str]] = []
    for row in rows:
        if row.context != context:
            if context:
                yield context, spans
            context, spans = row.context, []
        spans += [(span.start, span.end, row.name or LABEL) for span in row.answers]
    if context:
        yield context, spans


def squad_predictions(rows: Iterable[Row]) -> tuple[dict[str, str], dict[str, float]]:
    """`{id: text}` ("": no answer) and `{id: null odds}`, as the official scripts take them.

    Rows that could not be judged have no prediction. Raises InputError where ids lack or repeat.
    """
    texts: dict[str, str] = {}
    odds: dict[str, float] = {}
    for row in rows:
        if row.id is None:
            raise InputError(f"row {row.record + 1} has no id, and SQuAD's predictions are by id")
        name = row.id if row.name is None else f"{row.id}/{row.name}"
        if name in texts:
            raise InputError(f"row {row.record + 1}: another row has the same id, and predictions are by id")
        if row.state == "error":
            continue
        texts[name] = row.answers[0].text if row.answers else ""
        if row.null_odds is not None:
            odds[name] = row.null_odds
    return texts, odds
