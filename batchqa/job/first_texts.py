"""The texts of a run's first rows: what is looked at to tell whether the model was made for such texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import pyarrow.compute as pc

from batchqa.answer_columns import QUESTIONS_TYPE
from batchqa.languages import TEXT_CHARACTERS
from batchqa.records import Rows

ROWS = 1000
"""Rows that are looked at in a run, from the first on."""

TEXTS = 100
"""Distinct contexts that are looked at, and as many questions: some 50 ms of work."""


class FirstTexts:
    """The beginnings of the first distinct contexts and questions of some rows, gathered as the rows pass.

    `questions` are those that every row is asked, where the rows do not bring their own.
    """

    def __init__(self, questions: Iterable[str] = ()) -> None:
        self._rows_left = ROWS
        self._contexts: dict[str, None] = {}
        self._questions = {text[:TEXT_CHARACTERS]: None for text in islice(questions, TEXTS)}

    @property
    def complete(self) -> bool:
        """Whether no further row is looked at."""
        return not self._rows_left

    @property
    def texts(self) -> list[str]:
        """What was gathered so far."""
        return [*self._contexts, *self._questions]

    def passing(self, rows: Iterable[Rows]) -> Iterator[Rows]:
        """The same rows."""
        for piece in rows:
            if self._rows_left:
                self._add(piece)
            yield piece
        self._rows_left = 0

    def gather(self, rows: Iterable[Rows]) -> None:
        """Look at as many rows as are needed, and leave the others unread."""
        for _ in self.passing(rows):
            if not self._rows_left:
                break
        self._rows_left = 0

    def _add(self, rows: Rows) -> None:
        head = rows.slice(0, min(self._rows_left, len(rows)))
        questions = head.question
        if questions.type == QUESTIONS_TYPE:
            questions = pc.struct_field(pc.list_flatten(questions), "question")
        for column, gathered in ((head.context, self._contexts), (questions, self._questions)):
            short = pc.unique(pc.utf8_slice_codeunits(column, 0, TEXT_CHARACTERS)).drop_null()
            for text in short.to_pylist():
                if len(gathered) == TEXTS:
                    break
                gathered[text] = None
        self._rows_left -= len(head)  # last: another thread may look whether all is there
