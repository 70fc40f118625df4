"""Answers are those of an independent reference: transformers' tokenizer, PyTorch, plain loops.

Slow: the reference scores every window in PyTorch. The fast half, without PyTorch, is in test_properties.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchqa.annotator import Annotator
from tests.models import SENTENCES
from tests.reference import ReferenceAnswer, reference_answers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CLOSE_CALL = 1e-4
"""A decision by less than this may fall otherwise: float32 sums differ by as much between two engines."""

LEAST_EQUAL = 0.998
"""Share of rows with the identical span."""

Rows = Sequence[tuple[str, str]]


def pipeline(bundle: Path, rows: Rows, **options: Any) -> list[dict[str, Any]]:
    table = pa.table({"context": [context for context, _ in rows], "question": [q for _, q in rows]})
    answered: list[dict[str, Any]] = Annotator(bundle, device="cpu", **options).annotate(table).to_pylist()
    return answered


def assert_parity(rows: Rows, given: Sequence[dict[str, Any]], expected: Sequence[ReferenceAnswer]) -> int:
    """Compare row by row and return how many rows differ; every difference is a close call."""
    differing = 0
    for at, ((context, _), ours, theirs) in enumerate(zip(rows, given, expected, strict=True)):
        assert ours["qa_error"] is None, f"row {at}"
        if ours["qa_answer"] is not None:
            assert context[ours["qa_start"] : ours["qa_end"]] == ours["qa_answer"], f"row {at}"
        decision = (ours["qa_start"], ours["qa_end"], ours["qa_answer"], ours["qa_no_answer"])
        if decision == (theirs.start, theirs.end, theirs.answer, theirs.no_answer):
            assert ours["qa_score"] == pytest.approx(theirs.score, abs=1e-3), f"row {at}"
        else:
            assert theirs.margin < CLOSE_CALL, f"row {at} differs by a margin of {theirs.margin}"
            differing += 1
        assert ours["qa_null_odds"] == pytest.approx(theirs.null_odds, abs=1e-3), f"row {at}"
    assert len(rows) - differing >= LEAST_EQUAL * len(rows), f"{differing} of {len(rows)} rows differ"
    return differing


def pairs(questions: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(row["context"], row["question"]) for row in questions]


def test_a_thousand_squad_questions_are_answered_as_the_reference_answers_them(
    fp32_bundle: Path,
    minilm: Path,
    squad_dev: list[dict[str, Any]],
    record_testsuite_property: Callable[[str, Any], None],
) -> None:
    rows = pairs(squad_dev[::11])
    assert len(rows) >= 1000

    differing = assert_parity(rows, pipeline(fp32_bundle, rows), reference_answers(minilm, rows))

    record_testsuite_property("parity_squad_rows_that_differ", f"{differing} of {len(rows)}")


@pytest.mark.parametrize("language", ["en", "es", "ar", "zh"])
def test_questions_in_other_scripts_are_answered_as_the_reference_answers_them(
    fp32_bundle: Path,
    minilm: Path,
    xquad: Callable[[str], list[dict[str, Any]]],
    language: str,
    record_testsuite_property: Callable[[str, Any], None],
) -> None:
    rows = pairs(xquad(language)[::5])
    assert len(rows) >= 200

    differing = assert_parity(rows, pipeline(fp32_bundle, rows), reference_answers(minilm, rows))

    record_testsuite_property(f"parity_{language}_rows_that_differ", f"{differing} of {len(rows)}")


def test_small_windows_cut_questions_and_candidates_are_those_of_the_reference(
    fp32_bundle: Path, minilm: Path, squad_dev: list[dict[str, Any]]
) -> None:
    rows = pairs(squad_dev[::60])
    sizes: dict[str, Any] = {
        "max_length": 96,
        "stride": 24,
        "max_question_length": 9,
        "max_answer_length": 12,
        "top_k": 4,
    }

    given = pipeline(fp32_bundle, rows, **sizes)
    expected = reference_answers(minilm, rows, **sizes)

    assert_parity(rows, given, expected)
    for at, (ours, theirs) in enumerate(zip(given, expected, strict=True)):
        scores = [candidate.score for candidate in theirs.candidates]
        assert [c["score"] for c in ours["qa_candidates"]] == pytest.approx(scores, abs=1e-3), f"row {at}"
        texts = {c["answer"].casefold() for c in ours["qa_candidates"]}
        assert len(texts) == len(scores), f"row {at} has a candidate twice"


def test_a_checkpoint_of_each_family_is_answered_as_the_reference_answers_it(
    fp32_bundles: Callable[[Path], Path], checkpoints: Callable[[str], Path], family: str
) -> None:
    """Token types or none, double separators, SentencePiece: all in five scripts, one to many windows."""
    checkpoint = checkpoints(family)
    contexts = [*SENTENCES, *(" ".join(SENTENCES[at:] + SENTENCES[:at]) for at in range(6))]
    rows = [(context, question) for context in contexts for question in SENTENCES[1::3]]
    sizes: dict[str, Any] = {"max_length": 80, "stride": 20, "max_question_length": 16}

    given = pipeline(fp32_bundles(checkpoint), rows, **sizes)

    assert_parity(rows, given, reference_answers(checkpoint, rows, **sizes))
