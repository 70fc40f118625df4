"""The bootstrap over distinct units is the bootstrap over units."""

from __future__ import annotations

import numpy as np
import pytest

from batchqa.evaluation.intervals import LEAST_UNITS, Bootstrap, interval, resampled, sums_by_unit


def settings(resamples: int = 4000, seed: int = 0) -> Bootstrap:
    return Bootstrap("row", 1, resamples, 0.95, seed)


def test_a_draw_has_as_many_units_as_the_sample() -> None:
    units = np.stack([np.ones(100), np.arange(100) % 7], axis=1)
    totals = resampled(units, settings())
    assert (totals[:, 0] == 100).all()


def test_the_spread_is_that_of_the_mean() -> None:
    values = np.random.default_rng(1).integers(0, 2, 400).astype(np.float64)
    totals = resampled(np.stack([np.ones(400), values], axis=1), settings())
    drawn = totals[:, 1] / totals[:, 0]
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.003)
    assert drawn.std() == pytest.approx(values.std() / 20, rel=0.05)


def test_duplicated_units_narrow_the_interval_as_more_data_would() -> None:
    values = np.stack([np.ones(50), np.arange(50) % 2], axis=1)
    once = resampled(values, settings())[:, 1] / 50
    often = resampled(np.tile(values, (100, 1)), settings())[:, 1] / 5000
    assert often.std() == pytest.approx(once.std() / 10, rel=0.1)


def test_articles_that_differ_widen_the_interval() -> None:
    article = np.repeat(np.arange(20), 50)
    values = np.stack([np.ones(1000), (article % 2).astype(np.float64)], axis=1)
    by_row = resampled(sums_by_unit(values, None), settings())[:, 1] / 1000
    by_article = resampled(sums_by_unit(values, article), settings())[:, 1] / 1000
    assert by_article.std() > 5 * by_row.std()


def test_a_few_articles_are_not_drawn_but_their_rows() -> None:
    values = np.stack([np.ones(100), np.arange(100) % 2], axis=1)
    few = np.arange(100) % (LEAST_UNITS - 1)
    assert len(sums_by_unit(values, few)) == 100
    assert len(sums_by_unit(values, np.arange(100) % LEAST_UNITS)) == LEAST_UNITS


def test_the_interval_is_the_middle_of_the_draws_and_ignores_those_without_rows() -> None:
    totals = np.stack([np.append(np.ones(1001), 0), np.append(np.arange(1001), 0)], axis=1)
    found = interval(totals, lambda drawn: drawn[:, 1] / drawn[:, 0], 0.9)
    assert (found.low, found.high) == pytest.approx((50, 950))


def test_draws_in_blocks_are_draws_of_the_same_sample() -> None:
    units = np.random.default_rng(0).random((30_000, 1))
    totals = resampled(units, settings(resamples=150))
    assert totals.mean() == pytest.approx(units.sum(), rel=0.001)
    assert len(set(totals[:, 0])) == 150
