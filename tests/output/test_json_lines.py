"""Rows as JSON lines."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pytest

from batchqa.output import (
    jsonlines,
)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (pa.array([0.1], pa.float32()), "0.1"),
        (pa.array([float("nan")], pa.float32()), "null"),
        (pa.array([float("inf")], pa.float64()), "null"),
        (pa.array([Decimal("12345678901234567890.10")]), "12345678901234567890.10"),
        (pa.array([2**64 - 1], pa.uint64()), "18446744073709551615"),
        (pa.array([b"\xff\x00"]), '"/wA="'),
        (pa.array([0], pa.timestamp("us")), '"1970-01-01T00:00:00"'),
        (pa.array([1], pa.timestamp("ns")), '"1970-01-01 00:00:00.000000001"'),
        (pa.array([568971820800], pa.timestamp("s")), '"20000-01-01 00:00:00"'),
        (pa.array([0], pa.timestamp("ms", "+05:45")), '"1970-01-01T05:45:00+05:45"'),
        (pa.array([0], pa.timestamp("us", "No/Where")), '"1970-01-01T00:00:00+00:00"'),
        (pa.array([1], pa.timestamp("ns", "No/Where")), '"1970-01-01 00:00:00.000000001Z"'),
        (pa.array([[0]], pa.list_(pa.timestamp("s", "No/Where"))), '["1970-01-01T00:00:00+00:00"]'),
        (pa.array([12345], pa.time64("us")), '"00:00:00.012345"'),
        (pa.array([7], pa.duration("ms")), "7"),
        (pa.array(["a"]).dictionary_encode(), '"a"'),
        (pa.array([None], pa.string()), "null"),
        (pa.array([[{"s": 0.3}]], pa.list_(pa.struct([("s", pa.float32())]))), '[{"s":0.3}]'),
        (pa.array([[("k", 1.5)]], pa.map_(pa.string(), pa.float32())), '[["k",1.5]]'),
        (pa.array(["\u2028\u0000"]), '"\u2028\\u0000"'),
    ],
)
def test_every_type_has_a_json_form(array: pa.Array, text: str) -> None:
    (line,) = jsonlines.lines(pa.record_batch({"x": array}))
    assert line.decode() == '{"x":' + text + "}\n"


@pytest.mark.parametrize(
    ("original", "line"),
    [
        ('{"a":1}', '{"a":1,"qa":7}'),
        ("{}", '{"qa":7}'),
        ("{ }\r", '{"qa":7}'),
        (None, '{"qa":7}'),
        ("", '{"qa":7}'),
        (
            '{"a": 1e400, "b": 123456789012345678901234567890}',
            '{"a": 1e400, "b": 123456789012345678901234567890,"qa":7}',
        ),
    ],
)
def test_an_original_line_is_kept_byte_for_byte(original: str | None, line: str) -> None:
    batch = pa.record_batch([pa.array([original], pa.string()), pa.array([7])], names=["line", "qa"])
    (found,) = jsonlines.lines(batch, originals=True)
    assert found.decode() == line + "\n"


def test_large_rows_are_turned_into_lines_a_few_at_a_time() -> None:
    batch = pa.record_batch({"text": ["x" * 2**20] * 20})
    assert len(list(jsonlines.lines(batch))) > 2
