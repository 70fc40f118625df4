"""Calibration: the error is what its definition says, curves are monotone, folds keep articles whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from batchqa.evaluation.calibration import IDENTITY, fit_curve, folds_of, reliability

scores = hnp.arrays(np.float64, st.integers(1, 300), elements=st.floats(0, 1, width=32))


def test_the_calibration_error_of_a_case_worked_out_by_hand() -> None:
    measured = reliability(np.array([0.2, 0.2, 0.8, 1.0]), np.array([0.0, 1.0, 1.0, 1.0]), bins=2)
    assert measured is not None
    # the bins: scores 0.2 of which 0.5 are right; scores 0.9 of which all are right
    assert measured.error == pytest.approx((2 * 0.3 + 2 * 0.1) / 4)
    assert (measured.confidence, measured.right, measured.rows) == ((0.2, 0.9), (0.5, 1.0), (2, 2))


def test_bins_are_of_equal_mass() -> None:
    measured = reliability(np.linspace(0, 1, 100) ** 5, np.ones(100))
    assert measured is not None
    assert len(measured.rows) == 15
    assert set(measured.rows) == {6, 7}


def test_without_rows_there_is_nothing_to_measure_and_nothing_to_learn() -> None:
    assert reliability(np.zeros(0), np.zeros(0)) is None
    assert fit_curve(np.zeros(0), np.zeros(0)) == IDENTITY


@given(scores, st.integers(0, 2**32 - 1))
def test_a_curve_never_descends_and_stays_a_probability(raw: np.ndarray, seed: int) -> None:
    right = np.random.default_rng(seed).random(len(raw)) < 0.5
    curve = fit_curve(raw, right)
    assert len(curve.raw) == len(curve.probability) > 0
    assert (np.diff(curve.raw) > 0).all()
    assert (np.diff(curve.probability) >= 0).all()
    mapped = curve.apply(np.linspace(0, 1, 50))
    assert ((mapped >= 0) & (mapped <= 1)).all()
    assert (np.diff(mapped) >= 0).all()


def test_a_curve_learns_how_often_scores_are_right() -> None:
    random = np.random.default_rng(0)
    raw = random.random(20_000)
    right = random.random(20_000) < raw**2
    curve = fit_curve(raw[:10_000], right[:10_000])
    before, after = (
        reliability(raw[10_000:], right[10_000:]),
        reliability(curve.apply(raw[10_000:]), right[10_000:]),
    )
    assert before is not None
    assert after is not None
    assert before.error > 0.1
    assert after.error < 0.03


def test_equal_scores_become_one_knot() -> None:
    curve = fit_curve(np.ones(1000), np.arange(1000) % 4 == 0)
    assert curve.raw == (1.0,)
    assert curve.probability[0] == pytest.approx(0.25, abs=0.001)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=300), st.integers(2, 6), st.integers(0, 5))
def test_a_fold_holds_whole_articles(articles: list[int], folds: int, seed: int) -> None:
    _, unit = np.unique(articles, return_inverse=True)
    fold = folds_of(unit, len(articles), folds, seed)
    assert ((fold >= 0) & (fold < folds)).all()
    for article in set(articles):
        assert len(set(fold[np.array(articles) == article])) == 1


def test_folds_are_of_like_size() -> None:
    fold = folds_of(np.repeat(np.arange(50), np.arange(1, 51)), 1275, 5, 0)
    assert np.ptp(np.bincount(fold)) <= 10
    assert np.ptp(np.bincount(folds_of(None, 1000, 3, 0))) <= 1
