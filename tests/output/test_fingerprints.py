"""What makes two jobs the same."""

from __future__ import annotations

import json

import pytest

from batchqa.output import (
    differences,
    fingerprint,
)


def test_the_fingerprint_does_not_depend_on_the_order_of_the_fields() -> None:
    assert fingerprint({"a": 1, "b": [2, {"c": 3, "d": None}]}) == fingerprint(
        {"b": [2, {"d": None, "c": 3}], "a": 1}
    )
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint({"path": "\udcff"}) != fingerprint({"path": "x"})


def test_a_field_that_json_cannot_hold_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError):
        fingerprint({"a": object()})
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"a": float("nan")})


def test_differences_are_named_shortly_and_at_most_six() -> None:
    earlier = {"inputs": [{"size": 1, "uri": "a"}], "stride": 128, "same": (1, 2), "gone": "x" * 500}
    now = {"inputs": [{"size": 2, "uri": "a"}], "stride": 64, "same": [1, 2]}
    found = differences(json.loads(json.dumps(earlier)), now)
    assert found[1:] == ["inputs[0].size: 1 -> 2", "stride: 128 -> 64"]
    assert found[0].startswith('gone: "xxx')
    assert len(found[0]) < 100
    assert differences({"inputs": [1]}, {"inputs": [1, 2]}) == ["inputs: 1 of them -> 2 of them"]
    one, other = ({"inputs": [{"size": n, "uri": f"file:///{'long/' * 20}{n}.csv"}]} for n in (1, 2))
    assert [line[-8:] for line in differences(one, other)[0].split(" -> ")] == ["ng/1.csv", "ng/2.csv"]
    assert len(differences(one, other)) == 1
    many = differences({str(n): 0 for n in range(20)}, {str(n): 1 for n in range(20)})
    assert many[5:] == ["and 15 more"]
