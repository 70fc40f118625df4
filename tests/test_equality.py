"""An answer depends on its row alone: not on the batch budget, the threads, the neighbours or the order.

At a fixed budget and thread count the output is the same to the last bit. Across them, answers, offsets and
flags are equal and floats within 1e-4; only a row whose decision margin is below 1e-4 may differ.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from batchqa.annotator import Annotator
from tests.models import FAMILIES, SENTENCES
from tests.reference import plain_answers

DECISION = ("qa_answer", "qa_start", "qa_end", "qa_no_answer", "qa_error")
FLOATS = ("qa_score", "qa_null_odds")
TOLERANCE = 1e-4

FIXED = {"batch_tokens": 768, "threads": 1}
OTHER = [
    {"batch_tokens": 256, "threads": 1},
    {"batch_tokens": 4096, "threads": 1},
    {"batch_tokens": 768, "threads": 2},
    {"batch_tokens": 256, "threads": 2},
    {"batch_tokens": 4096, "threads": 2},
]


def annotate(bundle: Path, table: pa.Table, **options: Any) -> pa.Table:
    return Annotator(bundle, device="cpu", **options).annotate(table)


def shuffled(table: pa.Table, seed: int) -> pa.Table:
    """The rows in another order; the column `place` says which they were."""
    order = list(range(len(table)))
    random.Random(seed).shuffle(order)
    return table.take(pa.array(order)).append_column("place", pa.array(order))


def in_order(table: pa.Table) -> pa.Table:
    """The rows of a shuffled table where they were before."""
    return table.sort_by("place").drop_columns("place")


def rows_that_differ(expected: pa.Table, actual: pa.Table) -> list[int]:
    """Rows with another answer, offset or flag. The floats of all other rows must be within 1e-4."""
    other: set[int] = set()
    for name in DECISION:
        same = [a == b for a, b in zip(expected[name].to_pylist(), actual[name].to_pylist(), strict=True)]
        other |= {row for row, equal in enumerate(same) if not equal}
    keep = pa.array([row not in other for row in range(len(expected))])
    for name in FLOATS:
        left, right = expected[name].filter(keep), actual[name].filter(keep)
        assert left.is_null().equals(right.is_null()), name
        gap = pc.max(pc.abs(pc.subtract(left, right))).as_py()
        assert gap is None or gap <= TOLERANCE, f"{name} differs by {gap}"
    return sorted(other)


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """240 rows: one to sixteen sentences, so one to several windows; some repeated, some not to be judged."""
    rng = random.Random(7)
    pairs: list[tuple[str | None, str | None]] = []
    for _ in range(220):
        sentences = rng.choices(SENTENCES, k=rng.choice([1, 1, 2, 4, 8, 16]))
        pairs.append((" ".join(sentences), rng.choice(SENTENCES)))
    pairs += rng.choices(pairs, k=12)
    pairs += [(None, SENTENCES[0]), (SENTENCES[0], None), ("", SENTENCES[0]), (" \n ", SENTENCES[0])] * 2
    rng.shuffle(pairs)
    return pa.table({"context": [c for c, _ in pairs], "question": [q for _, q in pairs]})


@pytest.fixture(scope="module")
def bundle(bundles: Callable[..., Path]) -> Path:
    """A tiny model wide enough that its sums depend on how they are grouped."""
    return bundles("xlm-roberta", hidden=256)


@pytest.fixture(scope="module")
def expected(bundle: Path, rows: pa.Table) -> pa.Table:
    return annotate(bundle, rows, **FIXED)


def test_the_rows_are_of_every_kind(expected: pa.Table) -> None:
    counts = {
        "answered": pc.sum(pc.is_valid(expected["qa_answer"])).as_py(),
        "silent": pc.sum(expected["qa_no_answer"]).as_py(),
        "not judged": pc.sum(pc.is_valid(expected["qa_error"])).as_py(),
    }
    assert min(counts.values()) >= 8, counts


def test_the_same_run_twice_is_the_same_to_the_last_bit(
    bundle: Path, rows: pa.Table, expected: pa.Table
) -> None:
    assert annotate(bundle, rows, **FIXED).equals(expected)


def test_another_cut_of_the_input_into_batches_is_the_same_to_the_last_bit(
    bundle: Path, rows: pa.Table, expected: pa.Table
) -> None:
    pieces = pa.concat_tables(rows.slice(at, 7) for at in range(0, len(rows), 7))

    assert annotate(bundle, pieces, **FIXED).combine_chunks().equals(expected.combine_chunks())


@pytest.mark.parametrize("machine", OTHER, ids=str)
def test_budget_and_threads_do_not_change_an_answer(
    bundle: Path, rows: pa.Table, expected: pa.Table, machine: dict[str, int]
) -> None:
    assert rows_that_differ(expected, annotate(bundle, rows, **machine)) == []


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_neighbours_do_not_change_an_answer(
    bundles: Callable[..., Path], family: str, rows: pa.Table
) -> None:
    bundle = bundles(family)
    straight = annotate(bundle, rows, **FIXED)

    mixed = annotate(bundle, shuffled(rows, seed=1), **FIXED)

    assert rows_that_differ(straight, in_order(mixed)) == []


def test_a_poisoned_neighbour_does_not_change_an_answer(bundles: Callable[..., Path], rows: pa.Table) -> None:
    """A row with logits that are no numbers fails alone, whatever shares its batch."""
    bundle = bundles("bert-uncased", poisoned=True)
    poison = pa.table({"context": [f"{SENTENCES[0]} kryptonite"] * 3, "question": list(SENTENCES[1:4])})
    clean = annotate(bundle, rows, **FIXED)

    mixed = annotate(bundle, pa.concat_tables([poison, rows]), **FIXED)

    assert mixed["qa_error"].slice(0, 3).to_pylist() == ["non_finite"] * 3
    assert rows_that_differ(clean, mixed.slice(3)) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_real_model_gives_each_row_the_same_answer_in_any_company(
    fp32_bundle: Path, squad_dev: list[dict[str, Any]], record_testsuite_property: Callable[[str, Any], None]
) -> None:
    picked = squad_dev[::40]
    table = pa.table({name: [row[name] for row in picked] for name in ("id", "context", "question")})
    options = {"no_answer_threshold": 0.0, "no_answer": "on"}
    straight = annotate(fp32_bundle, table, **FIXED, **options)
    assert annotate(fp32_bundle, table, **FIXED, **options).equals(straight), "not the same to the last bit"

    differing: set[int] = set()
    for machine in ({"batch_tokens": 256, "threads": 1}, {"batch_tokens": 4096, "threads": 2}):
        mixed = annotate(fp32_bundle, shuffled(table, seed=2), **machine, **options)
        differing |= set(rows_that_differ(straight, in_order(mixed)))

    suspects = [(picked[row]["context"], picked[row]["question"]) for row in sorted(differing)]
    margins = [answer.margin for answer in plain_answers(fp32_bundle, suspects)]
    record_testsuite_property("equality_rows_that_differ", f"{len(margins)} of {len(table)}")
    assert all(margin < TOLERANCE for margin in margins), margins
