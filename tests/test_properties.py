"""What must hold for any text, any logits and any order: searched for counterexamples."""

from __future__ import annotations

import functools
import itertools
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from batchqa.annotator import Annotator
from batchqa.records import BatchLogits, Chunk, PaddedBatch, Windows
from batchqa.settings import WindowSettings
from batchqa.steps.batching import padded_batches
from batchqa.steps.decoding import Decoder, DecodingRules
from batchqa.steps.pairing import AnswerCache, answered_rows, pairs_of
from batchqa.steps.windowing import Windower, learn_layout
from batchqa.text import _LAST_SPACE, trim
from tests.models import FAMILIES, SENTENCES, tiny_tokenizer
from tests.reference import (
    ReferenceAnswer,
    ReferenceCandidate,
    ReferenceWindow,
    decode_reference,
    plain_answers,
    windows_of_tokenizers,
)
from tests.steps.rows import rows_of
from tests.strategies import texts

QUESTION = "Who repaired the bridge?"

thoroughly = settings(max_examples=3 * settings().max_examples)
"""For steps by themselves: their examples cost next to nothing."""


def text_only_tokenizer(family: str) -> Tokenizer:
    """A family's tiny tokenizer, to which special tokens that a text spells are text."""
    tokenizer = tiny_tokenizer(family)
    tokenizer.encode_special_tokens = True
    return tokenizer


@functools.cache
def windower_of(family: str, max_length: int, stride: int) -> Windower:
    """A windower of a family's tiny tokenizer; questions are cut after 6 tokens."""
    tokenizer = text_only_tokenizer(family)
    layout = learn_layout(tokenizer, tokenizer.token_to_id(FAMILIES[family].pad_token))
    return Windower(tokenizer, layout, WindowSettings(stride=stride, max_question_length=6), max_length)


def windows_of(
    family: str,
    pairs: Sequence[tuple[str, str]],
    max_length: int,
    stride: int,
    cache: AnswerCache | None = None,
) -> Windows:
    windower = windower_of(family, max_length, stride).fresh()
    chunk = Chunk(rows_of(pairs), 0, last_of_part=True)
    return windower.windows(pairs_of(chunk, cache or AnswerCache()))


def is_blank(text: str) -> bool:
    """Nothing that a reader could see: white space and format characters."""
    return all(c.isspace() or unicodedata.category(c) == "Cf" for c in text)


# --- windows ---------------------------------------------------------------------------------------------


@thoroughly
@given(context=texts(), question=texts(3), max_length=st.integers(18, 40), stride=st.integers(0, 5))
def test_windows_of_any_text_show_every_token_as_the_tokenizer_would(
    family: str, context: str, question: str, max_length: int, stride: int
) -> None:
    windows = windows_of(family, [(context, question)], max_length, stride)
    if not len(windows):
        assert is_blank(context) or is_blank(question) or _has_no_token(family, context, question)
        return

    expected = windows_of_tokenizers(tiny_tokenizer(family), question, context, max_length, stride, 6)

    tokens = len(windows.contexts[0].ids)
    shown = {
        at
        for begin, size in zip(windows.begin, windows.size, strict=True)
        for at in range(begin, begin + size)
    }
    assert shown == set(range(tokens))
    assert _inputs(windows) == [window.ids for window in expected]


def _has_no_token(family: str, *texts: str) -> bool:
    tokenizer = text_only_tokenizer(family)
    return any(not tokenizer.encode(text, add_special_tokens=False).ids for text in texts)


def _inputs(windows: Windows) -> list[list[int]]:
    """The ids that the model would be shown, without padding, in the windows' order."""
    ids: dict[int, list[int]] = {}
    for batch in padded_batches(windows, budget=100):
        for row, window in enumerate(batch.index.tolist()):
            ids[window] = batch.input_ids[row, : int(windows.length[window])].tolist()
    return [ids[window] for window in range(len(windows))]


@thoroughly
@given(context=texts())
def test_a_context_is_regular_if_and_only_if_no_two_tokens_cover_the_same_visible_characters(
    family: str, context: str
) -> None:
    (encoded,) = windower_of(family, 40, 0).encoder.contexts([context])

    offsets = text_only_tokenizer(family).encode(context, add_special_tokens=False).offsets
    spans = [trim(context, start, end) for start, end in offsets]
    blank = any(start == end for start, end in spans)
    repeats = any(a[0] >= b[0] or a[1] >= b[1] for a, b in itertools.pairwise(spans))

    assert encoded.regular == (not blank and not repeats)


@thoroughly
@given(contexts=st.lists(texts(8), min_size=1, max_size=5), questions=st.lists(texts(4), max_size=5))
def test_any_texts_have_the_tokens_and_places_that_their_tokenizer_gives_each_of_them(
    family: str, contexts: list[str], questions: list[str]
) -> None:
    tokenizer, encoder = text_only_tokenizer(family), windower_of(family, 40, 0).encoder
    for context, found in zip(contexts, encoder.contexts(contexts), strict=True):
        expected = tokenizer.encode(context, add_special_tokens=False)
        assert found.ids.tolist() == expected.ids
        characters = [found.characters(token, token) for token in range(len(found.ids))]
        assert characters == [trim(context, *offsets) for offsets in expected.offsets]
    expected_ids = [tokenizer.encode(question, add_special_tokens=False).ids for question in questions]
    assert encoder.questions(questions) == expected_ids


# --- decoding --------------------------------------------------------------------------------------------


def _once_wrong(context: str, **others: Any) -> Callable[[Any], Any]:
    """An example that an earlier decoder got wrong."""
    given: dict[str, Any] = {"seed": 0, "steps": 1, "max_length": 20, "stride": 0, "budget": 1}
    rules = DecodingRules(max_answer_length=30, threshold=0.0, abstains=False, top_k=0)
    return example(contexts=[context], rules=rules, **(given | others))


@thoroughly
@_once_wrong("ﷺ")  # 18 tokens of one character, in windows that share nothing
@_once_wrong("the old bridge\x1f")  # white space to Python, an unknown word to SentencePiece
@given(
    contexts=st.lists(texts(8), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
    steps=st.sampled_from([1, 3, 40, 4000]),
    max_length=st.integers(20, 40),
    stride=st.integers(0, 9),
    budget=st.integers(1, 200),
    rules=st.builds(
        DecodingRules,
        max_answer_length=st.integers(1, 12) | st.just(30),
        threshold=st.sampled_from([0.0, -2.0, 1.5]),
        abstains=st.booleans(),
        top_k=st.integers(0, 4),
        most_answers=st.sampled_from([0, 20]),
        overlapping_candidates=st.booleans(),
    ),
)
def test_any_logits_are_decoded_as_the_reference_does(
    family: str,
    contexts: list[str],
    seed: int,
    steps: int,
    max_length: int,
    stride: int,
    budget: int,
    rules: DecodingRules,
) -> None:
    cache = AnswerCache(rules.top_k, rules.most_answers)
    windows = windows_of(family, [(context, QUESTION) for context in contexts], max_length, stride, cache)
    # Few different values, all exact in float32: so there are many ties, and they are exact too.
    rng = np.random.default_rng(seed)
    decoder = Decoder(rules)
    seen: dict[int, tuple[list[float], list[float]]] = {}
    answered = None
    for batch in padded_batches(windows, budget):
        start, end = (
            (rng.integers(-steps, steps + 1, batch.input_ids.shape) / 4).astype(np.float32) for _ in range(2)
        )
        _note(seen, batch, start, end)
        answered = decoder.add(BatchLogits(batch, start, end, {}))

    assert answered is not None
    threshold = rules.threshold if rules.abstains else None
    rows = answered_rows(answered, cache, threshold).answers.to_pylist()
    for row, context in enumerate(contexts):
        given = rows[row]
        expected = _expected(windows, seen, row, family, context, rules)
        if expected is None or expected.best is None:
            assert given["error"] == "empty_context"
            assert given["answer"] is given["score"] is given["no_answer"] is None
        else:
            _assert_same_answer(given, expected, rules)


def _note(seen: dict[int, tuple[list[float], list[float]]], batch: PaddedBatch, start: Any, end: Any) -> None:
    """Keep each window's logits, without those of padding."""
    for row, window in enumerate(batch.index.tolist()):
        length = int(batch.windows.length[window])
        seen[window] = (start[row, :length].tolist(), end[row, :length].tolist())


def _expected(
    windows: Windows,
    seen: dict[int, tuple[list[float], list[float]]],
    row: int,
    family: str,
    context: str,
    rules: DecodingRules,
) -> ReferenceAnswer | None:
    """What the reference says of a row, None where the row was not judged."""
    pair = int(windows.pairs.row_pair[row])
    if pair < 0 or not windows.pair_count[pair]:
        assert is_blank(context) or _has_no_token(family, context)
        return None
    offsets = text_only_tokenizer(family).encode(context, add_special_tokens=False).offsets
    pieces = []
    for window in np.flatnonzero(windows.pair == pair).tolist():
        start, end = seen[window]
        begin, size = int(windows.begin[window]), int(windows.size[window])
        at = len(windows.prefixes[windows.pair_question[pair]])
        pieces.append(
            ReferenceWindow(
                start[at : at + size], end[at : at + size], offsets[begin : begin + size], start[0] + end[0]
            )
        )
    return decode_reference(
        context,
        pieces,
        max_answer_length=rules.max_answer_length,
        threshold=rules.threshold,
        abstains=rules.abstains,
        top_k=rules.top_k,
    )


def _assert_same_answer(given: dict[str, Any], expected: ReferenceAnswer, rules: DecodingRules) -> None:
    assert (given["answer"], given["start"], given["end"], given["no_answer"], given["error"]) == (
        expected.answer,
        expected.start,
        expected.end,
        expected.no_answer,
        None,
    )
    assert given["score"] == pytest.approx(expected.score, abs=1e-6)
    assert given["null_odds"] == expected.null_odds
    if rules.top_k:
        wanted = expected.overlapping if rules.overlapping_candidates else expected.candidates
        _assert_same_list(given["candidates"], wanted)
    if rules.most_answers:
        _assert_same_list(given["answers"], expected.answers)


def _assert_same_list(given: list[dict[str, Any]], expected: Sequence[ReferenceCandidate]) -> None:
    assert [(c["answer"], c["start"], c["end"]) for c in given] == [
        (c.answer, c.start, c.end) for c in expected
    ]
    assert [c["score"] for c in given] == pytest.approx([c.score for c in expected], abs=1e-6)


# --- the whole pipeline ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def annotators(bundles: Callable[..., Path]) -> Callable[..., Annotator]:
    """`annotators("albert", top_k=2)`: an annotator of a tiny bundle with windows of 40 tokens."""

    @functools.cache
    def get(family: str, **options: Any) -> Annotator:
        common = {"max_length": 40, "stride": 8, "max_question_length": 12, "threads": 1}
        return Annotator(bundles(family), device="cpu", in_process=True, **(common | options))

    return get


def table_of(pairs: Sequence[tuple[str | None, str | None]]) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(range(len(pairs)), pa.int64()),
            "context": pa.array([context for context, _ in pairs], pa.string()),
            "question": pa.array([question for _, question in pairs], pa.string()),
        }
    )


@example(rows=[("The ﷺ [SEP] ▁ 🏳️‍🌈\u00a0İ e\u0301 ﬁ 𝔘𝔫𝔦", "Who?")])
@given(rows=st.lists(st.tuples(texts(), texts(3)), min_size=1, max_size=4))
def test_an_answer_is_the_text_at_its_offsets_without_white_space(
    annotators: Callable[..., Annotator], family: str, rows: list[tuple[str, str]]
) -> None:
    for no_answer in ("off", "on"):
        annotator = annotators(family, batch_tokens=200, no_answer=no_answer, top_k=3, answers="all")
        for row in annotator.annotate(table_of(rows)).to_pylist():
            context, answer = row["context"], row["qa_answer"]
            found = [(c["answer"], c["start"], c["end"]) for c in row["qa_candidates"] or []]
            if answer is not None:
                found.append((answer, row["qa_start"], row["qa_end"]))
            else:
                assert row["qa_start"] is row["qa_end"] is None
                assert row["qa_no_answer"] or row["qa_error"]
            for text, start, end in found:
                assert 0 <= start < end <= len(context)
                assert context[start:end] == text
                assert text == text.strip()
            if row["qa_error"] is None:
                assert 0.0 <= row["qa_score"] <= 1.0
                assert row["qa_candidates"]
                every = row["qa_answers"]
                assert bool(every) == (answer is not None)
                if every:
                    assert (every[0]["start"], every[0]["end"]) == (row["qa_start"], row["qa_end"])
                places = sorted((c["start"], c["end"]) for c in every)
                assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places))
                scores = [c["score"] for c in every]
                assert scores == sorted(scores, reverse=True)
            else:
                assert row["qa_error"] in ("empty_context", "empty_question")
                assert row["qa_score"] is row["qa_no_answer"] is row["qa_null_odds"] is None


@given(rows=st.lists(st.tuples(texts(), texts(4)), min_size=1, max_size=4), budget=st.sampled_from([40, 400]))
def test_the_road_ends_where_the_plain_way_ends(
    annotators: Callable[..., Annotator],
    bundles: Callable[..., Path],
    family: str,
    rows: list[tuple[str, str]],
    budget: int,
) -> None:
    answered = annotators(family, batch_tokens=budget).annotate(table_of(rows)).to_pylist()
    judged = [row for row in answered if row["qa_error"] is None]

    texts_judged = [(row["context"], row["question"]) for row in judged]
    expected = plain_answers(bundles(family), texts_judged, max_length=40, stride=8, max_question_length=12)

    for ours, theirs in zip(judged, expected, strict=True):
        if theirs.margin < 1e-4:
            continue
        assert (ours["qa_answer"], ours["qa_start"], ours["qa_end"], ours["qa_no_answer"]) == (
            theirs.answer,
            theirs.start,
            theirs.end,
            theirs.no_answer,
        )
        assert ours["qa_score"] == pytest.approx(theirs.score, abs=1e-4)
        assert ours["qa_null_odds"] == pytest.approx(theirs.null_odds, abs=1e-4)


PAIRS = st.tuples(
    st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=6).map(" ".join),
    st.sampled_from(SENTENCES),
)
ROWS = PAIRS | st.sampled_from([(None, QUESTION), (SENTENCES[0], None), ("", QUESTION), (SENTENCES[0], "  ")])


@given(rows=st.lists(ROWS, min_size=1, max_size=12), budget=st.sampled_from([40, 120, 1000]), data=st.data())
def test_rows_keep_their_order_and_their_answers_among_any_neighbours(
    annotators: Callable[..., Annotator],
    family: str,
    rows: list[tuple[str | None, str | None]],
    budget: int,
    data: st.DataObject,
) -> None:
    alone = annotators(family, batch_tokens=40)
    row = data.draw(st.integers(0, len(rows) - 1), label="row")

    together = annotators(family, batch_tokens=budget).annotate(table_of(rows))
    by_itself = alone.annotate(table_of([rows[row]]))

    assert together["id"].to_pylist() == list(range(len(rows)))
    assert list(zip(together["context"].to_pylist(), together["question"].to_pylist(), strict=True)) == rows
    expected, actual = by_itself.to_pylist()[0], together.slice(row, 1).to_pylist()[0]
    for name in ("qa_answer", "qa_start", "qa_end", "qa_no_answer", "qa_error"):
        assert actual[name] == expected[name], name
    for name in ("qa_score", "qa_null_odds"):
        assert actual[name] == (expected[name] and pytest.approx(expected[name], abs=1e-4)), name


@given(rows=st.lists(ROWS, min_size=2, max_size=6), repeats=st.lists(st.integers(0, 5), max_size=12))
def test_rows_with_the_same_texts_get_the_same_answer_to_the_last_bit(
    annotators: Callable[..., Annotator],
    rows: list[tuple[str | None, str | None]],
    repeats: list[int],
) -> None:
    repeated = rows + [rows[at % len(rows)] for at in repeats]

    answered = annotators("bert-uncased", batch_tokens=120).annotate(table_of(repeated)).to_pylist()

    first: dict[tuple[str | None, str | None], dict[str, Any]] = {}
    for row in answered:
        columns = {name: row[name] for name in row if name.startswith("qa_") and name != "qa_error_detail"}
        assert first.setdefault((row["context"], row["question"]), columns) == columns


@given(
    rows=st.lists(PAIRS, min_size=1, max_size=6), sizes=st.lists(st.integers(1, 3), min_size=6, max_size=6)
)
def test_a_stream_gives_what_the_table_gives_however_it_is_cut(
    annotators: Callable[..., Annotator], rows: list[tuple[str, str]], sizes: list[int]
) -> None:
    table, annotator = table_of(rows), annotators("roberta", batch_tokens=120)
    cuts = np.cumsum([0, *sizes])
    pieces = [table.slice(at, size) for at, size in zip(cuts, sizes, strict=False) if at < len(table)]
    batches = [batch for piece in pieces for batch in piece.combine_chunks().to_batches()]

    streamed = pa.Table.from_batches(annotator.stream(iter(batches)))

    assert streamed.combine_chunks().equals(annotator.annotate(table).combine_chunks())


def test_no_character_beyond_the_table_is_white_space() -> None:
    assert not [c for c in range(_LAST_SPACE + 1, sys.maxunicode + 1) if chr(c).isspace()]
    assert chr(_LAST_SPACE).isspace()
