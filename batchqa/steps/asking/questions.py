"""The questions of a job: names, texts with {column} templates, thresholds, how many answers."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from batchqa.domains import shown
from batchqa.errors import InputError, SettingsError
from batchqa.settings import (
    AskingSettings,
    DecodingSettings,
    OutputLayout,
    ReadingSettings,
    TemplateColumnError,
)

from .question_file import Entry, named, read_question_file

KEYS = ("name", "question", "threshold", "answers")
"""What an entry of a question file may say."""

_BRACES = re.compile(r"(\{\{|\}\}|\{[^{}]*\}|\{)")


@dataclass(frozen=True, slots=True)
class Question:
    """A question that every row is asked.

    `parts` are its texts and columns in turn: a text at the even places, a column's dotted path at the odd
    ones. `threshold` is its own no-answer threshold, `answers` how many answers are listed: a number, "all"
    (as many as --max-answers), or None (as --answers says). `place` says where it was given, for messages.
    """

    name: str
    text: str
    parts: tuple[str, ...]
    threshold: float | None
    answers: int | Literal["all"] | None
    place: str

    @classmethod
    def of(cls, entry: Mapping[str, Any], place: str) -> Question:
        """Check an entry of a file, of --ask or of a Python call. Raises SettingsError with the place."""
        for key in entry:
            if key not in KEYS:
                near = difflib.get_close_matches(str(key), KEYS, n=1)
                hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(KEYS)}"
                raise SettingsError(f"{place}: unknown key {shown(key)}; {hint}")
        name, text, threshold, answers = (entry.get(key) for key in KEYS)
        if not isinstance(name, str) or not name.isidentifier():
            given = "has no name" if name is None else f"is named {shown(name)}"
            usable = re.sub(r"\W+", "_", name).strip("_") if isinstance(name, str) else ""
            example = f", such as {usable}" if usable.isidentifier() else ""
            raise SettingsError(
                f"{place}: a question {given}; name it with letters, digits and _, not beginning with a "
                f"digit{example}"
            )
        if not isinstance(text, str) or not text.strip():
            raise SettingsError(f"{place}: question {name!r} has no text; write it as `question`")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise SettingsError(f"{place}: question {name!r} cannot be written as UTF-8: {error}") from error
        parts = _parts(text, f"{place}: question {name!r}")
        return cls(name, text, parts, _threshold(threshold, place), _answers(answers, place), place)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it holds."""
        return self.parts[1::2]

    def texts(self, values: pa.RecordBatch) -> pa.Array:
        """The question to each row: string, (rows,), null where a column that it holds is null."""
        pieces = [values.column(part) if at % 2 else part for at, part in enumerate(self.parts)]
        return pc.binary_join_element_wise(*pieces, "", null_handling="emit_null")


@dataclass(frozen=True, slots=True)
class Questions:
    """All questions that every row of a job is asked, in order, and how their answers are laid out."""

    items: tuple[Question, ...]
    layout: OutputLayout

    @classmethod
    def of(cls, settings: AskingSettings) -> Questions | None:
        """Those of --questions, then those of --ask; None where there are none, and rows bring their own."""
        items = [] if settings.questions is None else _of_entries(read_question_file(settings.questions))
        if settings.given is not None:
            items += cls.given(settings.given, settings.layout).items
        for given in settings.ask:
            name, equals, text = given.partition("=")
            if not equals:
                raise SettingsError(
                    f"--ask {shown(given)} is not NAME=QUESTION, such as 'brand=What brand is it?'"
                )
            items.append(
                Question.of({"name": name.strip(), "question": text.strip()}, f"--ask {name.strip()}")
            )
        if items:
            return cls(_with_own_names(items), settings.layout)
        if settings.layout == "wide":
            raise SettingsError(
                "--layout wide writes a column for each question of --ask or --questions; give some, or use "
                "--layout long"
            )
        return None

    @classmethod
    def given(cls, questions: Mapping[str, Any], layout: OutputLayout) -> Questions:
        """A Python caller's: {name: text}, or {name: {"question": text, "threshold": number, ...}}."""
        AskingSettings(layout=layout)
        if not isinstance(questions, Mapping):
            raise TypeError(f"questions are a dict {{name: question}}, not {type(questions).__qualname__}")
        items = []
        for name, said in questions.items():
            place, entry = f"questions[{name!r}]", said if isinstance(said, Mapping) else {"question": said}
            items.append(Question.of(named(name, entry, place), place))
        if not items:
            raise SettingsError("there are no questions to ask; give at least one: {name: question}")
        return cls(_with_own_names(items), layout)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def texts(self) -> list[str]:
        """What they say, without the columns that they hold."""
        return [" ".join(item.parts[::2]) for item in self.items]

    @property
    def wide(self) -> bool:
        """Whether there is a column for each question, instead of a row."""
        return self.layout == "wide"

    @property
    def wide_names(self) -> tuple[str, ...] | None:
        """The columns of the wide layout, without their prefix; None in the long one."""
        return tuple(question.name for question in self.items) if self.wide else None

    def reading(self, settings: ReadingSettings) -> ReadingSettings:
        """The settings by which the rows are read that these questions are asked of."""
        if settings.question != ReadingSettings().question:
            raise SettingsError(
                "--question names a column of questions, but --ask and --questions ask others; "
                "leave out one or the other"
            )
        columns = dict.fromkeys(name for question in self.items for name in question.columns)
        return replace(settings, template_columns=tuple(columns), added_columns=self.wide_names)

    def with_limits(self, decoding: DecodingSettings) -> tuple[Questions, DecodingSettings]:
        """Each question with the number of answers that it lists, and settings that find as many.

        Both are as they were where no question says it, or where each lists the best alone.
        """
        usual = max(decoding.most_answers, 1)
        limits = [
            decoding.max_answers if item.answers == "all" else item.answers or usual for item in self.items
        ]
        most = max(limits)
        if all(item.answers is None for item in self.items) or (most == 1 and not decoding.most_answers):
            return replace(self, items=tuple(replace(item, answers=None) for item in self.items)), decoding
        items = tuple(replace(item, answers=limit) for item, limit in zip(self.items, limits, strict=True))
        most = max(most, decoding.most_answers)
        return replace(self, items=items), replace(decoding, answers="all", max_answers=most)

    def to_record(self) -> dict[str, Any]:
        """What of them can change an output, for its fingerprint."""
        return {
            "layout": self.layout,
            "questions": [
                {"name": item.name, "question": item.text}
                | ({} if item.threshold is None else {"threshold": item.threshold})
                | ({} if item.answers is None else {"answers": item.answers})
                for item in self.items
            ],
        }

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """An error about a column that a question holds says in the block which question that is."""
        try:
            yield
        except TemplateColumnError as error:
            item = next(item for item in self.items if error.column in item.columns)
            raise InputError(
                f"{item.place}: the question holds {{{error.column}}}, but {error} ({{{{ is a brace)"
            ) from None


def _of_entries(entries: Iterable[Entry]) -> list[Question]:
    return [Question.of(entry.said, entry.place) for entry in entries]


def _with_own_names(items: Iterable[Question]) -> tuple[Question, ...]:
    """The questions. Raises SettingsError where two have one name."""
    known: dict[str, Question] = {}
    for item in items:
        if item.name in known:
            raise SettingsError(
                f"{item.place}: the name {item.name!r} is taken by the question of {known[item.name].place}; "
                "each needs a name of its own"
            )
        known[item.name] = item
    return tuple(known.values())


def _parts(text: str, what: str) -> tuple[str, ...]:
    """Texts and column paths in turn; `{{` and `}}` are braces, and so is a lone `}`."""
    parts, literal = [], ""
    for at, piece in enumerate(_BRACES.split(text)):
        if at % 2 == 0 or piece in ("{{", "}}"):
            literal += piece[: len(piece) // 2] if at % 2 else piece
            continue
        column = piece.strip("{}").strip()
        if not column:
            problem = "has { without }" if piece == "{" else "has {} without a column's name"
            raise SettingsError(f"{what} {problem}; write {{{{ for a brace")
        parts += [literal, column]
        literal = ""
    return (*parts, literal)


def _threshold(value: Any, place: str) -> float | None:
    """A threshold as a number; a CSV file has it as text."""
    if value is None or value == "":
        return None
    try:
        number = float("no" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise SettingsError(f"{place}: the threshold must be a finite number, not {shown(value)}")
    return number


def _answers(value: Any, place: str) -> int | Literal["all"] | None:
    """How many answers a question lists: `best` is one; a CSV file has a number as text."""
    if value is None or value == "":
        return None
    if value in ("best", "all"):
        return 1 if value == "best" else "all"
    most = str(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else ""
    most = re.sub(r"\.0*$", "", most)  # pandas makes 2.0 of a 2 where another question has none
    if not re.fullmatch(r"0*[1-9][0-9]{0,2}|1000", most):
        raise SettingsError(
            f"{place}: answers must be best, all or a number from 1 to 1000, not {shown(value)}"
        )
    return int(most)
