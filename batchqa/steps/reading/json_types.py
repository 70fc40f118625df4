"""The types of JSON columns: guessed from a sample or given by `--schema`, and values fitted to them.

Nothing is coerced and nothing is lost: a value either fits its column exactly, or it is said not to. Values
of several types, of none, or too large for Arrow's numbers have the type "json": their JSON text, in a
string column whose field carries the metadata `batchqa.type: json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson
import pyarrow as pa

from batchqa.errors import SettingsError

from .streams import BOM

Kind = Literal["bool", "integer", "number", "string", "json", "list", "struct", "parsed"]

MAX_DEPTH = 16
"""Values nested more deeply become JSON text."""

MAX_KEYS = 200
"""Objects with more keys than this over the sample are taken for maps and become JSON text."""

_EXACT = 2**53  # floats hold every integer up to here
_NAMES = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}
_FITTING: Mapping[Kind, frozenset[type]] = {
    "bool": frozenset({bool, type(None)}),
    "integer": frozenset({int, type(None)}),
    "number": frozenset({int, float, type(None)}),
    "string": frozenset({str, type(None)}),
}


class MisfitError(Exception):
    """A value does not fit its type; the message says what it is, without the value."""


@dataclass(frozen=True, slots=True, eq=False)
class JsonType:
    """What the values of a column (or of a list's items, a struct's fields) are, and their Arrow type.

    "number" holds integers and floats; "parsed" is a type that JSON writes as a string (dates, times).
    """

    kind: Kind
    type: pa.DataType
    item: JsonType | None = None
    fields: Mapping[str, JsonType] = field(default_factory=dict)


JSON = JsonType("json", pa.string())
STRING = JsonType("string", pa.string())


def arrow_field(name: str, json_type: JsonType) -> pa.Field:
    """The Arrow field of a column."""
    return pa.field(
        name, json_type.type, metadata={"batchqa.type": "json"} if json_type.kind == "json" else None
    )


def struct_of(fields: Mapping[str, JsonType]) -> JsonType:
    """A struct with these fields."""
    kind = pa.struct([arrow_field(name, json_type) for name, json_type in fields.items()])
    return JsonType("struct", kind, fields=fields)


def json_text(value: Any) -> str:
    """A value as JSON, integers of any size exactly. Raises MisfitError where it is nested too deeply."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # beyond 64 bits, or nested beyond 254 levels
        pass
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise MisfitError("is nested too deeply") from None


# ------------------------------------------------------------------------------------------------ guessing


class Guess:
    """What has been seen of the values of one column."""

    __slots__ = ("_depth", "_high", "_item", "_low", "_types", "fields")

    def __init__(self, depth: int = 1) -> None:
        self.fields: dict[str, Guess] = {}
        self._types: set[type] = set()
        self._item: Guess | None = None
        self._low = self._high = 0
        self._depth = depth

    def see(self, value: Any) -> None:
        """Take account of one more value."""
        kind = type(value)
        if kind is type(None):
            return
        self._types.add(kind)
        if kind is int:
            self._low, self._high = min(self._low, value), max(self._high, value)
        elif kind is list and self._depth < MAX_DEPTH:
            if self._item is None:
                self._item = Guess(self._depth + 1)
            for item in value:
                self._item.see(item)
        elif kind is dict and self._depth < MAX_DEPTH:
            for name, item in value.items():
                guess = self.fields.get(name)
                if guess is None:
                    if len(self.fields) > MAX_KEYS:
                        continue
                    guess = self.fields[name] = Guess(self._depth + 1)
                guess.see(item)

    @property
    def saw_values(self) -> bool:
        """Whether any value but null was seen."""
        return bool(self._types)

    @property
    def saw_only_lists(self) -> bool:
        """Whether there were arrays and no texts: a stray list among texts is an error of its row."""
        return list in self._types and str not in self._types

    def json_type(self, texts: Sequence[tuple[str, ...]] = ()) -> JsonType:
        """The type that holds all values seen. `texts` are the paths below it that must be strings."""
        if () in texts:
            return STRING
        if texts:
            return struct_of(
                {
                    name: guess.json_type([path[1:] for path in texts if path[0] == name])
                    for name, guess in self.fields.items()
                }
            )
        if self._types == {bool}:
            return JsonType("bool", pa.bool_())
        if self._types == {str}:
            return STRING
        if self._types == {int}:
            return self._integer()
        if self._types <= {int, float} and self._types and max(-self._low, self._high) <= _EXACT:
            return JsonType("number", pa.float64())
        if self._types == {list} and self._item is not None:
            return list_of(self._item.json_type())
        if self._types == {dict} and 0 < len(self.fields) <= MAX_KEYS:
            return struct_of({name: guess.json_type() for name, guess in self.fields.items()})
        return JSON

    def _integer(self) -> JsonType:
        if self._low >= -(2**63) and self._high < 2**63:
            return JsonType("integer", pa.int64())
        if self._low >= 0 and self._high < 2**64:
            return JsonType("integer", pa.uint64())
        return JSON


def list_of(item: JsonType) -> JsonType:
    """A list of such items."""
    return JsonType("list", pa.list_(arrow_field("item", item)), item=item)


# ----------------------------------------------------------------------------------------------- --schema


def parse_schema(text: str) -> dict[str, JsonType]:
    """The columns of `--schema`: `name:type,name:type`, or the path of a JSON file {"name": type, ...}.

    A type is an Arrow name (bool, int8 to uint64, float, double, string, large_string, date32, timestamp[us],
    time64[us], ...), `json` (any value, kept as JSON text) or `list<type>`; in a file also [type] for a list
    and {"name": type} for a struct.
    """
    return {name: _given_type(kind, name) for name, kind in _given_schema(text).items()}


def inline_schema(text: str) -> str:
    """The same schema as JSON, without a file: it may change while a job runs, or not be where it runs."""
    return orjson.dumps(_given_schema(text)).decode()


def _given_schema(text: str) -> dict[str, Any]:
    if text.lstrip().startswith("{") or (":" not in text or Path(text).is_file()):
        given = _schema_file(text)
    else:
        given = {}
        for column in text.split(","):
            name, colon, kind = column.strip().partition(":")
            if not colon or not name or name in given:
                raise SettingsError(f"--schema: {column.strip()!r} is not name:type, or occurs twice")
            given[name] = kind.strip()
    if not given:
        raise SettingsError("--schema names no column")
    return given


def _schema_file(text: str) -> dict[str, Any]:
    try:
        given = orjson.loads(
            text if text.lstrip().startswith("{") else Path(text).read_bytes().removeprefix(BOM)
        )
    except OSError as error:
        raise SettingsError(
            f"--schema {text}: neither name:type,name:type nor a file that can be read ({error.strerror})"
        ) from None
    except orjson.JSONDecodeError as error:
        raise SettingsError(f"--schema: {text[:200]} is not valid JSON: {error.msg}") from None
    if not isinstance(given, dict):
        raise SettingsError(f'--schema {text[:200]}: it holds no JSON object {{"column": "type"}}')
    return given


def _given_type(kind: Any, name: str) -> JsonType:
    if isinstance(kind, dict) and kind:
        return struct_of({inner: _given_type(below, f"{name}.{inner}") for inner, below in kind.items()})
    if isinstance(kind, list) and len(kind) == 1:
        return list_of(_given_type(kind[0], name))
    if not isinstance(kind, str):
        raise SettingsError(
            f"--schema: the type of {name!r} must be the name of a type, [type] or {{name: type}}"
        )
    if kind == "json":
        return JSON
    if kind.startswith("list<") and kind.endswith(">"):
        return list_of(_given_type(kind[5:-1].strip(), name))
    try:
        arrow = pa.type_for_alias(kind)
    except (ValueError, pa.ArrowException):
        raise SettingsError(f"--schema: {name!r}: there is no type {kind!r}") from None
    return JsonType(_kind_of(arrow, name), arrow)


def _kind_of(arrow: pa.DataType, name: str) -> Kind:
    kinds: list[tuple[Kind, Callable[[pa.DataType], bool]]] = [
        ("bool", pa.types.is_boolean),
        ("integer", pa.types.is_integer),
        ("number", pa.types.is_floating),
        ("string", pa.types.is_string),
        ("string", pa.types.is_large_string),
        ("parsed", pa.types.is_temporal),
    ]
    for kind, test in kinds:
        if test(arrow) and not pa.types.is_duration(arrow):
            return kind
    raise SettingsError(f"--schema: {name!r}: {arrow} is not a type that JSON values can have")


# ------------------------------------------------------------------------------------------------- fitting


def fit(value: Any, json_type: JsonType, unknown: dict[str, Any] | None = None) -> Any:
    """The value as pa.array takes it for the type. Raises MisfitError where it does not fit.

    Keys of structs that the type does not have go into `unknown`, nested as they were; without it (inside
    lists, where they would lose their place) they are a misfit.
    """
    if value is None:
        return None
    if json_type.kind == "json":
        return json_text(value)
    if json_type.kind == "list" and type(value) is list:
        assert json_type.item is not None
        return [fit(item, json_type.item) for item in value]
    if json_type.kind == "struct" and type(value) is dict:
        return _fit_struct(value, json_type, unknown)
    if json_type.kind == "parsed" and type(value) is str:
        return _parsed(value, json_type)
    if type(value) in _FITTING.get(json_type.kind, ()):
        return _fit_scalar(value, json_type)
    raise MisfitError(f"is {_NAMES[type(value)]}, not {json_type.type}")


def _fit_struct(value: dict[str, Any], json_type: JsonType, unknown: dict[str, Any] | None) -> dict[str, Any]:
    fitted = {}
    for name, item in value.items():
        if name in json_type.fields:
            below: dict[str, Any] | None = None if unknown is None else {}
            fitted[name] = fit(item, json_type.fields[name], below)
            if below and unknown is not None:
                unknown[name] = below
        elif unknown is None:
            raise MisfitError("has a key that its type does not have")
        else:
            unknown[name] = item
    return fitted


def _fit_scalar(value: Any, json_type: JsonType) -> Any:
    if type(value) is int:
        low, high = (-_EXACT, _EXACT) if json_type.kind == "number" else _integer_range(json_type.type)
        if not low <= value <= high:
            raise MisfitError(f"is an integer beyond the exact range of {json_type.type}")
    return value


def _integer_range(kind: pa.DataType) -> tuple[int, int]:
    if pa.types.is_unsigned_integer(kind):
        return 0, 2**kind.bit_width - 1
    return -(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1


def _parsed(value: str, json_type: JsonType) -> Any:
    try:
        return pa.scalar(value, pa.string()).cast(json_type.type)
    except (pa.ArrowException, ValueError):
        raise MisfitError(f"is a string that is not {json_type.type}") from None


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A column built from JSON values: null where a value did not fit (`misfits` says why, by position).

    `unknown` holds, by position, the keys of structs that the column's type does not have.
    """

    array: pa.Array
    misfits: Mapping[int, str]
    unknown: Mapping[int, dict[str, Any]]


def build(values: list[Any], json_type: JsonType, *, keep_unknown: bool) -> Fitted:
    """A column of the type from JSON values.

    Without `keep_unknown`, keys of structs that the type does not have are misfits: they would be lost.
    """
    types = set(map(type, values))
    if types == {type(None)} or types <= _FITTING.get(json_type.kind, frozenset()):
        try:
            return Fitted(pa.array(values, json_type.type), {}, {})
        except (pa.ArrowException, OverflowError):
            pass  # an integer out of range: find it below
    fitted: list[Any] = []
    misfits: dict[int, str] = {}
    unknown: dict[int, dict[str, Any]] = {}
    for row, value in enumerate(values):
        left: dict[str, Any] = {}
        try:
            fitted.append(fit(value, json_type, left if keep_unknown else None))
        except MisfitError as error:
            fitted.append(None)
            misfits[row] = str(error)
        else:
            if left:
                unknown[row] = left
    return Fitted(pa.array(fitted, json_type.type), misfits, unknown)
