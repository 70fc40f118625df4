"""When a variant is good enough: judged by intervals, all limits at once, by F1 where there is gold."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pytest

from batchqa.cli.commands.export import export_command
from batchqa.export.limits import (
    MAX_F1_DROP,
    Limits,
    MeasuredAgreement,
    accepted_by,
    mean_interval,
    said,
    wilson,
)


def test_an_interval_of_a_share_is_wilsons() -> None:
    low, high = wilson(97, 100)
    assert (round(low, 4), round(high, 4)) == (0.9155, 0.9897)  # R: prop.test(97, 100, correct = FALSE)
    assert wilson(10, 10)[1] == 1.0
    assert wilson(0, 10)[0] == 0.0


def test_the_interval_of_a_mean_holds_it_and_is_a_point_for_equal_differences() -> None:
    low, high = mean_interval(np.array([0.0, 0.0, 100.0, 0.0]))
    assert low < 25 < high
    assert mean_interval(np.zeros(5)) == (0.0, 0.0)


def test_a_few_rows_below_a_limit_by_chance_are_no_miss_and_many_are() -> None:
    """97.67 % of 300 rows were below 98 %, and 293 of 300 could be 98 % as well."""
    limits = Limits(min_agreement=0.98)
    assert limits.misses(MeasuredAgreement(300, 293)) == []
    (miss,) = limits.misses(MeasuredAgreement(30_000, 29_300))
    assert "below --min-agreement 0.98" in miss.why
    assert Limits(min_agreement=1.0).misses(MeasuredAgreement(300, 299))


def test_two_rows_of_two_hundred_do_not_lose_a_point_of_f1_for_certain() -> None:
    lost = np.zeros(200)
    lost[:2] = 100.0
    found = MeasuredAgreement(200, 190, float(lost.mean()), mean_interval(lost), f1_decides=True)
    assert found.f1_drop == 1.0
    assert Limits().misses(found) == []
    lost[:40] = 100.0
    worse = MeasuredAgreement(200, 190, float(lost.mean()), mean_interval(lost), f1_decides=True)
    assert "more than --max-f1-drop 0.5" in said(Limits().misses(worse))


def test_f1_decides_where_gold_answers_exist_unless_an_agreement_is_asked_for() -> None:
    found = MeasuredAgreement(10_000, 9_000, 0.1, (0.0, 0.2), f1_decides=True)
    assert Limits().misses(found) == []
    assert len(Limits(min_agreement=0.97).misses(found)) == 1
    assert len(Limits().misses(MeasuredAgreement(10_000, 9_000, 0.1, (0.0, 0.2)))) == 1


def test_all_limits_are_said_at_once_with_the_options_that_accept_it() -> None:
    misses = Limits(0.97, 0.5).misses(MeasuredAgreement(10_000, 9_000, 8.0, (7.0, 9.0)))
    assert "--min-agreement 0.97, and loses 8.00 points" in said(misses)
    advice = accepted_by(misses)
    assert advice == "; --min-agreement 0.905 --max-f1-drop 7 would accept it"
    least, most = (float(word) for word in advice.split() if word[0].isdigit())
    assert Limits(least, most).misses(MeasuredAgreement(10_000, 9_000, 8.0, (7.0, 9.0))) == []


@pytest.mark.parametrize(("name", "default"), [("min_agreement", None), ("max_f1_drop", MAX_F1_DROP)])
def test_the_command_and_the_package_s_own_model_have_one_default(name: str, default: float | None) -> None:
    script = Path(__file__).parents[2] / "scripts" / "make_bundled_model.py"
    (option,) = [parameter for parameter in export_command.params if parameter.name == name]
    assert option.get_default(click.Context(export_command)) == default
    assert name not in script.read_text(encoding="utf-8")
