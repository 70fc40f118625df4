"""What values an option may have: declared in its type, checked wherever a value comes from.

    folds: Annotated[int, Between(2, 1000)] = 5

The same declaration is used for the settings and functions that Python users call (`check_fields`, `checked`)
and for the command line, the environment and TOML (`batchqa.cli.options`, by `parse`).
"""

from __future__ import annotations

import inspect
import math
import operator
import os
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from numbers import Real
from types import UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from batchqa.errors import SettingsError

P = ParamSpec("P")
T = TypeVar("T")

_SHOWN = 40
"""Characters of a wrong value that a message repeats."""


_WANTED: dict[Any, str] = {
    bool: "true or false",
    str: "text in UTF-8",
    tuple: "a list of texts in UTF-8",
    Mapping: "a dict",
}
"""What is wanted of a type without a range, in words."""


@dataclass(frozen=True, slots=True)
class Between:
    """The least and the largest value of a number, both of them allowed unless `ends` is False."""

    least: float = -math.inf
    most: float = math.inf
    ends: bool = True

    def __contains__(self, value: float) -> bool:
        inside = self.least <= value <= self.most
        return inside and math.isfinite(value) and (self.ends or value not in (self.least, self.most))


INT32 = 2**31 - 1
INT64 = 2**63 - 1

Count = Annotated[int, Between(1, INT32)]
CountOrZero = Annotated[int, Between(0, INT32)]
Rows = Annotated[int, Between(0, INT64)]
Seed = Annotated[int, Between(0, 2**32 - 1)]  # what numpy's and torch's generators both take
AnyNumber = Annotated[float, Between()]
Share = Annotated[float, Between(0, 1)]
InsideShare = Annotated[float, Between(0, 1, ends=False)]
Folds = Annotated[int, Between(2, 1000)]
Resamples = Annotated[int, Between(1, 1_000_000)]
Percent = Annotated[float, Between(0, 100)]


@dataclass(frozen=True, slots=True)
class Domain:
    """A declared type taken apart: `kind` is int, float, bool, str, tuple or another class."""

    kind: type[Any]
    between: Between | None
    choices: tuple[str, ...]
    optional: bool

    @classmethod
    def of(cls, hint: Any) -> Domain:
        """Read a type hint: X, X | None, Annotated[X, Between(...)], Literal["a", "b"], tuple[X, ...]."""
        options = list(get_args(hint)) if get_origin(hint) in (Union, UnionType) else [hint]
        optional = type(None) in options
        hint = next(option for option in options if option is not type(None))
        between = None
        if get_origin(hint) is Annotated:
            hint, between = get_args(hint)
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        kind = str if choices else get_origin(hint) or hint
        return cls(kind, between, choices, optional)

    def wanted(self) -> str:
        """The allowed values, in words: "a whole number from 1 to 100"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if not self.between:
            return _WANTED[self.kind]
        number = "a whole number" if self.kind is int else "a number"
        least, most = self.between.least, self.between.most
        if math.isinf(most):
            return "a finite number" if math.isinf(least) else f"{number} of at least {least:g}"
        if not self.between.ends:
            return f"{number} above {least} and below {most}"
        return f"{number} from {least} to {most}"

    def take(self, value: Any) -> Any:
        """`value` as this type; ValueError where it is none of the allowed values."""
        if value is None and self.optional:
            return None
        if self.kind is bool or self.kind not in (int, float, str, tuple):
            return _of_class(value, self.kind)
        if self.kind is str:
            return _one_of(_unicode(os.fspath(_of_class(value, (str, os.PathLike)))), self.choices)
        if self.kind is tuple:
            return tuple(_unicode(_of_class(item, str)) for item in _of_class(value, (list, tuple)))
        return self._number(value)

    def _number(self, value: Any) -> int | float:
        # True is 1 to Python, and to nobody who writes a setting
        if isinstance(value, bool):
            raise ValueError("a flag")  # noqa: TRY004 - the callers tell the user one thing
        try:
            number = operator.index(value) if self.kind is int else float(_of_class(value, Real))
        except (TypeError, OverflowError) as error:
            raise ValueError(str(error)) from error
        if self.between and number not in self.between:
            raise ValueError("outside")
        return number

    def parse(self, text: str) -> Any:
        """A number written as text; ValueError as `take`."""
        return self.take(int(text) if self.kind is int else float(text))


def shown(value: Any) -> str:
    """A wrong value as a message repeats it: short, whatever it is."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def check_fields(settings: Any) -> None:
    """Check the fields of a dataclass by their declared types. Raises SettingsError that names the option."""
    for name, domain in domains_of(settings.__class__).items():
        value = _checked(name, domain, getattr(settings, name))
        object.__setattr__(settings, name, value)  # numpy's numbers, say, become Python's


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """A function whose numbers and choices are checked by their declared types, as `check_fields` does."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        given = signature.bind(*args, **kwargs)
        for name, domain in domains_of(function).items():
            if (domain.between or domain.choices) and name in given.arguments:
                given.arguments[name] = _checked(name, domain, given.arguments[name])
        return function(*given.args, **given.kwargs)

    return call


@cache
def domains_of(declared: Hashable) -> dict[str, Domain]:
    """The domains of a dataclass's fields, or of a function's parameters, by name."""
    hints = get_type_hints(declared, include_extras=True)
    return {name: Domain.of(hint) for name, hint in hints.items() if name != "return"}


def _checked(name: str, domain: Domain, value: Any) -> Any:
    try:
        return domain.take(value)
    except ValueError as error:
        option = name.replace("_", "-")
        raise SettingsError(f"--{option} must be {domain.wanted()}, not {shown(value)}") from error


def _of_class(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError("another type")  # noqa: TRY004 - as above
    return value


def _unicode(text: str) -> str:
    """The text; ValueError where a terminal or a file of another encoding made half characters of it."""
    text.encode()
    return text


def _one_of(text: str, choices: tuple[str, ...]) -> str:
    if choices and text not in choices:
        raise ValueError("none of the choices")
    return text
