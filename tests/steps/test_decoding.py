"""Decoding: answers worked out by hand. Random ones are compared with the reference in test_properties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from batchqa.probability import Decided
from batchqa.records import BatchLogits, Chunk, RowFault
from batchqa.settings import DecodingSettings, WindowSettings
from batchqa.steps.batching import padded_batches
from batchqa.steps.decoding import Decoder, DecodingRules, best_spans
from batchqa.steps.pairing import AnswerCache, answered_rows, pairs_of
from batchqa.steps.windowing import Windower, learn_layout
from tests.models import FAMILIES, tiny_tokenizer
from tests.steps.rows import rows_of

RULES = DecodingRules(max_answer_length=30, threshold=0.0, abstains=True, top_k=0)
LOW = -20.0


def _answers(
    pairs: list[tuple[str | None, str | None]],
    logits: dict[int, list[tuple[dict[int, float], dict[int, float], float]]],
    rules: DecodingRules = RULES,
    *,
    family: str = "bert-uncased",
    max_length: int = 384,
    stride: int = 2,
    failed: dict[int, str] | None = None,
    faults: dict[int, RowFault] | None = None,
) -> list[dict[str, Any]]:
    """Decode with chosen logits: `logits[pair]` holds, per window, {context token: start}, {...: end}, null.

    All other tokens have LOW. The null value is the sum of the null token's two logits. One window is a
    batch, so that a row's windows come in different ones.
    """
    tokenizer = tiny_tokenizer(family)
    layout = learn_layout(tokenizer, tokenizer.token_to_id(FAMILIES[family].pad_token))
    windower = Windower(tokenizer, layout, WindowSettings(stride=stride), max_length)
    cache, decoder = AnswerCache(rules.top_k, rules.most_answers), Decoder(rules)
    windows = windower.windows(pairs_of(Chunk(rows_of(pairs, faults), 0, last_of_part=True), cache))
    for batch in padded_batches(windows, budget=1):
        start = np.full(batch.input_ids.shape, LOW, dtype=np.float32)
        end = start.copy()
        bad = {}
        for row, window in enumerate(batch.index.tolist()):
            pair = int(windows.pair[window])
            starts, ends, null = logits[pair][window - int(windows.pair_first[pair])]
            at = int(batch.context_at[row]) - int(windows.begin[window])
            for token, value in starts.items():
                start[row, at + token] = value
            for token, value in ends.items():
                end[row, at + token] = value
            start[row, 0] = end[row, 0] = null / 2
            if failed and pair in failed:
                bad[row] = failed[pair]
        answered = decoder.add(BatchLogits(batch, start, end, bad))
    assert answered is not None
    threshold = rules.threshold if rules.abstains else None
    return answered_rows(answered, cache, threshold).answers.to_pylist()


def test_the_best_span_is_the_largest_sum_with_the_start_before_the_end() -> None:
    (row,) = _answers([("a b c d", "who?")], {0: [({3: 9.0, 0: 5.0}, {1: 8.0, 2: 7.5}, 0.0)]})
    assert (row["answer"], row["start"], row["end"]) == ("a b", 0, 3)
    assert row["null_odds"] == pytest.approx(0.0 - 13.0)
    assert row["no_answer"] is False


def test_the_score_is_the_softmax_over_all_spans_and_null() -> None:
    (row,) = _answers([("a b", "who?")], {0: [({0: 1.0, 1: 0.0}, {0: 0.5, 1: 2.0}, 1.0)]})
    # spans: a 1.5, a b 3.0, b 2.0; null 1.0
    total = sum(math.exp(z) for z in (1.5, 3.0, 2.0, 1.0))
    assert row["score"] == pytest.approx(math.exp(3.0) / total, rel=1e-6)
    (abstained,) = _answers([("a b", "who?")], {0: [({0: 1.0, 1: 0.0}, {0: 0.5, 1: 2.0}, 4.0)]})
    total += math.exp(4.0) - math.exp(1.0)
    assert abstained["score"] == pytest.approx(math.exp(4.0) / total, rel=1e-6)


def test_no_answer_has_null_for_text_and_offsets_and_no_error() -> None:
    (row,) = _answers([("a b", "who?")], {0: [({0: 1.0}, {1: 1.0}, 3.0)]})
    assert row["no_answer"] is True
    assert (row["answer"], row["start"], row["end"], row["error"]) == (None, None, None, None)
    assert row["null_odds"] == pytest.approx(1.0)


@pytest.mark.parametrize(("threshold", "abstained"), [(0.9, True), (1.0, False), (1.1, False)])
def test_null_must_beat_the_best_span_by_more_than_the_threshold(threshold: float, abstained: bool) -> None:
    rules = DecodingRules(30, threshold, abstains=True, top_k=0)
    (row,) = _answers([("a b", "who?")], {0: [({0: 1.0}, {1: 1.0}, 3.0)]}, rules)
    assert row["no_answer"] is abstained


def test_a_model_that_does_not_abstain_always_answers_and_null_is_left_out_of_the_score() -> None:
    rules = DecodingRules(30, 0.0, abstains=False, top_k=0)
    (row,) = _answers([("a", "who?")], {0: [({0: 1.0}, {0: 1.0}, 50.0)]}, rules)
    assert (row["answer"], row["no_answer"], row["null_odds"]) == ("a", None, None)
    assert row["score"] == pytest.approx(1.0)


def test_ties_go_to_the_earliest_then_the_shortest() -> None:
    starts, ends = {1: 2.0, 2: 2.0}, {1: 3.0, 2: 3.0, 3: 3.0}
    (row,) = _answers([("a b c d", "who?")], {0: [(starts, ends, 0.0)]})
    assert (row["start"], row["end"]) == (2, 3)


def test_a_span_has_at_most_so_many_tokens() -> None:
    rules = DecodingRules(2, 0.0, abstains=True, top_k=0)
    (row,) = _answers([("a b c d", "who?")], {0: [({0: 9.0, 2: 1.0}, {3: 9.0, 1: 0.0}, 0.0)]}, rules)
    assert row["answer"] == "c d"  # a..d would be 18, c..d is 10, a b is 9


def test_windows_of_a_row_are_joined_by_the_largest_span_and_the_smallest_null() -> None:
    context = "a b c d e f g h"
    # [CLS] who ? [SEP] + 5 context tokens + [SEP] = 10, sharing 2: tokens 0-4, 3-7
    first = ({0: 1.0, 3: 4.0}, {0: 1.0, 3: 1.0}, 7.0)
    second = ({3: 2.0, 6: 3.0}, {3: 2.0, 7: 3.5}, -1.0)
    (row,) = _answers([(context, "who?")], {0: [first, second]}, max_length=10)
    assert (row["answer"], row["start"], row["end"]) == ("g h", 12, 15)
    assert row["null_odds"] == pytest.approx(-1.0 - 6.5)


def test_a_span_that_two_windows_show_counts_once_in_the_score() -> None:
    context = "a b c d e f g h"
    rules = DecodingRules(1, 0.0, abstains=False, top_k=0)  # spans of one token: 8 of them
    window = ({3: 0.0, 4: 0.0}, {3: 0.0, 4: 0.0}, 0.0)
    (row,) = _answers([(context, "who?")], {0: [window, window]}, rules, max_length=10)
    assert row["answer"] == "d"
    assert row["score"] == pytest.approx(0.5, abs=1e-6)


def test_white_space_that_a_token_carries_is_trimmed_and_spans_that_differ_in_it_count_once() -> None:
    # a byte-level vocabulary encodes the second of two spaces as a token of its own
    context = "a  b"
    tokenizer = tiny_tokenizer("roberta")
    pieces = [context[s:e] for s, e in tokenizer.encode(context, add_special_tokens=False).offsets]
    assert "" in (piece.strip() for piece in pieces), "the tokenizer has no blank token here"
    rules = DecodingRules(30, 0.0, abstains=False, top_k=0)
    last = len(pieces) - 1
    same = dict.fromkeys(range(1, last + 1), 0.0)
    (row,) = _answers([(context, "who?")], {0: [(same, {last: 5.0}, 0.0)]}, rules, family="roberta")
    assert (row["answer"], row["start"], row["end"]) == ("b", 3, 4)
    assert row["score"] == pytest.approx(1.0, abs=1e-3)


def test_candidates_are_the_best_spans_of_different_text_also_without_an_answer() -> None:
    rules = DecodingRules(1, 0.0, abstains=True, top_k=2)
    logits = ({0: 3.0, 1: 1.0, 2: 2.0, 3: 1.5}, dict.fromkeys(range(4), 0.0), 9.0)
    (row,) = _answers([("Bee sea bee tea", "who?")], {0: [logits]}, rules, family="bert-cased")
    assert row["no_answer"] is True
    pieces = [(c["answer"], c["start"], c["end"]) for c in row["candidates"]]
    # single tokens of this tokenizer: the first letters matter less than that texts are distinct
    assert len({text.casefold() for text, _, _ in pieces}) == len(pieces) == 2
    scores = [c["score"] for c in row["candidates"]]
    assert scores == sorted(scores, reverse=True)
    assert pieces[0][1] == 0


def test_candidates_do_not_overlap_unless_that_is_wanted() -> None:
    # spans: "a b" 9, "a" 8, "b c" 7.5 ...; d alone 3
    logits = ({0: 5.0, 1: 4.0, 3: 2.0}, {1: 4.0, 0: 3.0, 2: 3.5, 3: 1.0}, 0.0)
    texts = []
    for overlapping in (False, True):
        rules = DecodingRules(2, 0.0, abstains=True, top_k=2, overlapping_candidates=overlapping)
        (row,) = _answers([("a b c d", "who?")], {0: [logits]}, rules)
        texts.append([c["answer"] for c in row["candidates"]])
    assert texts == [["a b", "d"], ["a b", "a"]]


def test_all_answers_are_the_spans_that_pass_the_threshold_and_are_apart() -> None:
    rules = DecodingRules(2, -1.0, abstains=True, top_k=0, most_answers=3)
    # a 8, c 5, e 2, null 3: odds -5, -2, 1
    window = ({0: 4.0, 2: 2.5, 4: 1.0}, {0: 4.0, 2: 2.5, 4: 1.0}, 3.0)
    (row,) = _answers([("a b c d e", "who?")], {0: [window]}, rules)
    assert [(c["answer"], c["start"]) for c in row["answers"]] == [("a", 0), ("c", 4)]
    assert row["answers"][0]["score"] > row["answers"][1]["score"]
    (none,) = _answers([("a b c d e", "who?")], {0: [({0: 1.0}, {0: 1.0}, 3.0)]}, rules)
    assert none["no_answer"] is True
    assert none["answers"] == []


def test_an_answer_that_is_named_twice_is_found_twice_and_once_where_two_windows_show_it() -> None:
    context = "a b c d a f g h"
    rules = DecodingRules(1, 0.0, abstains=True, top_k=0, most_answers=20)
    # tokens 0-4 and 3-7: both show d and the second a
    first = ({0: 3.0, 4: 2.0}, {0: 3.0, 4: 2.0}, 0.0)
    second = ({4: 2.0}, {4: 2.0}, 0.0)
    (row,) = _answers([(context, "who?")], {0: [first, second]}, rules, max_length=10)
    assert [(c["answer"], c["start"]) for c in row["answers"]] == [("a", 0), ("a", 8)]


def test_the_list_of_answers_has_a_longest_length() -> None:
    rules = DecodingRules(1, 0.0, abstains=False, top_k=0, most_answers=2)
    (row,) = _answers([("a b c d e", "who?")], {0: [({}, {}, 0.0)]}, rules)
    assert [c["answer"] for c in row["answers"]] == ["a", "b"]


def test_a_window_that_failed_fails_its_row_and_no_other() -> None:
    window = ({0: 1.0}, {0: 1.0}, 0.0)
    rows = _answers(
        [("a b", "who?"), ("c d", "who?"), ("a b", "who?")],
        {0: [window], 1: [window]},
        failed={0: "non_finite"},
    )
    assert [row["error"] for row in rows] == ["non_finite", None, "non_finite"]
    assert [row["score"] is None for row in rows] == [True, False, True]
    assert rows[2]["error_detail"] == "row 3"


def test_rows_that_were_not_judged_carry_their_code_and_nothing_else() -> None:
    window = ({0: 1.0}, {0: 1.0}, 0.0)
    fault = RowFault("bad_json", "in.jsonl:1, byte 0: not JSON")
    rows = _answers([(None, None), ("a b", "who?"), (" ", "who?")], {0: [window]}, faults={0: fault})
    assert (rows[0]["error"], rows[0]["error_detail"]) == ("bad_json", fault.detail)
    assert rows[2]["error"] == "empty_context"
    for row in (rows[0], rows[2]):
        assert {row[name] for name in ("answer", "start", "end", "score", "no_answer", "null_odds")} == {None}
    assert rows[1]["answer"] == "a"


def test_extreme_logits_give_a_finite_score() -> None:
    # best start and best end are too far apart for one span, and their exponentials underflow
    context = " ".join("abcdefgh")
    rules = DecodingRules(1, 0.0, abstains=False, top_k=0)
    (row,) = _answers([(context, "who?")], {0: [({0: 3000.0, 4: 0.0}, {7: 3000.0, 4: 1.0}, 0.0)]}, rules)
    assert row["answer"] == "a"
    assert row["score"] is not None
    assert math.isfinite(row["score"])


def test_extreme_logits_of_two_windows_count_each_span_once() -> None:
    rules = DecodingRules(1, 0.0, abstains=False, top_k=0)
    # a, c and e (which both windows show) are worth 3000 + LOW, all others next to nothing
    first, second = ({0: 3000.0}, {2: 3000.0, 4: 3000.0}, 0.0), ({4: 3000.0}, {}, 0.0)
    (row,) = _answers([("a b c d e f g h", "who?")], {0: [first, second]}, rules, max_length=10)
    assert row["answer"] == "a"
    assert row["score"] == pytest.approx(1 / 3)


def test_a_calibration_maps_the_score_unless_the_raw_one_is_asked_for() -> None:
    def certain(_: Decided, abstained: np.ndarray) -> np.ndarray:
        return np.where(abstained, 0.25, 0.75)

    window, abstained = ({0: 1.0}, {0: 1.0}, 0.0), ({0: 1.0}, {0: 1.0}, 9.0)
    rules = DecodingRules.join(DecodingSettings(), True, 0.0, certain)
    rows = _answers([("a b", "who?"), ("a b", "why?")], {0: [window], 1: [abstained]}, rules)
    assert [row["score"] for row in rows] == [0.75, 0.25]
    assert DecodingRules.join(DecodingSettings(raw_score=True), True, 0.0, certain).calibrate is None


def test_a_calibration_is_told_what_the_model_was_trained_for_whatever_no_answer_says() -> None:
    told: list[Decided] = []

    def listen(decided: Decided, abstained: np.ndarray) -> np.ndarray:
        told.append(decided)
        return np.full(len(abstained), 0.5)

    pair, window = ("a", "who?"), ({0: 1.0}, {0: 1.0}, 3.0)
    with_null = math.exp(2) / (math.exp(2) + math.exp(3))
    for setting, trained, raw, odds in (
        ("auto", True, 1 - with_null, 1.0),
        ("off", True, with_null, 1.0),
        ("auto", False, 1.0, math.nan),
    ):
        rules = DecodingRules.join(DecodingSettings(no_answer=setting), trained, 0.0, listen)
        _answers([pair], {0: [window]}, rules)
        assert told[-1].raw == pytest.approx([raw])
        assert told[-1].null_odds == pytest.approx([odds], nan_ok=True)


def test_settings_outrank_the_bundle() -> None:
    join = DecodingRules.join
    assert join(DecodingSettings(), True, -1.5, None).threshold == -1.5
    assert join(DecodingSettings(no_answer_threshold=0.0), True, -1.5, None).threshold == 0.0
    assert join(DecodingSettings(no_answer="off"), True, 0.0, None).abstains is False
    assert join(DecodingSettings(no_answer="on"), False, 0.0, None).abstains is True
    assert join(DecodingSettings(), False, 0.0, None).abstains is False


@pytest.mark.parametrize("width", [1, 2, 3, 7, 30, 64])
def test_the_batched_search_equals_trying_every_span(width: int) -> None:
    rng = np.random.default_rng(width)
    start, end = rng.integers(-3, 4, (2, 20, 40)).astype(np.float64)
    context_at = rng.integers(1, 10, 20).astype(np.int32)
    size = rng.integers(1, 30, 20).astype(np.int32)
    found = best_spans(start, end, context_at, size, width)
    for row in range(20):
        at, n = int(context_at[row]), int(size[row])
        spans = [
            (start[row, at + i] + end[row, at + j], i, j)
            for i in range(n)
            for j in range(i, min(i + width, n))
        ]
        best = max(spans, key=lambda span: (span[0], -span[1], -span[2]))
        assert (found.z[row], found.first[row], found.last[row]) == best
        log_sum = math.log(sum(math.exp(z) for z, _, _ in spans))
        assert found.log_sum[row] == pytest.approx(log_sum)
