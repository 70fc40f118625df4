"""Rows become distinct pairs, and answers of pairs become rows again; what is kept of them is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchqa.answer_columns import answer_schema
from batchqa.records import BatchLogits, Chunk, Pairs, RowFault, Rows
from batchqa.settings import WindowSettings
from batchqa.steps.batching import padded_batches
from batchqa.steps.decoding import Decoder, DecodingRules
from batchqa.steps.pairing import AnswerCache, EarlierAnswers, answer_cache, answered_rows, pairs_of
from batchqa.steps.pairing.answer_cache import PairNumbers
from batchqa.steps.pairing.digests import DistinctTexts, UInt64, pair_digests
from batchqa.steps.windowing import Windower, learn_layout
from tests.models import tiny_tokenizer
from tests.steps.rows import rows_of

Texts = tuple[str | None, str | None]

TEXTS = st.sampled_from(["a", "b", "c", "\u00e4", "long " * 40, "long " * 41])
RULES = DecodingRules(max_answer_length=30, threshold=0.0, abstains=True, top_k=0)


def _chunk(rows: Rows, part: int = 0) -> Chunk:
    return Chunk(rows, part, last_of_part=False)


def _asked(pairs: Pairs) -> list[tuple[str, str]]:
    """The texts of the pairs to ask."""
    context, question = pairs.context[pairs.to_ask], pairs.question[pairs.to_ask]
    return [(pairs.contexts[c], pairs.questions[q]) for c, q in zip(context, question, strict=True)]


class _Pipeline:
    """Pairing and its inverse around windowing and decoding, with logits that depend on the ids alone."""

    def __init__(
        self,
        rules: DecodingRules = RULES,
        max_length: int = 384,
        longest_question: int = 64,
        earlier: EarlierAnswers | None = None,
    ) -> None:
        tokenizer = tiny_tokenizer("bert-uncased")
        settings = WindowSettings(stride=2, max_question_length=longest_question)
        self.windower = Windower(tokenizer, learn_layout(tokenizer, 0), settings, max_length)
        self.decoder, self.cache = Decoder(rules), AnswerCache(rules.top_k, earlier=earlier)
        self.asked: list[tuple[str, str]] = []
        self.cut = self.reused = 0

    def answers(self, rows: Rows, part: int = 0, failed: str | None = None) -> list[dict[str, object]]:
        pairs = pairs_of(_chunk(rows, part), self.cache)
        self.asked = _asked(pairs)
        for batch in padded_batches(self.windower.windows(pairs), budget=10**6):
            logits = (batch.input_ids % 7).astype(np.float32)
            bad = {} if failed is None else dict.fromkeys(range(len(batch.index)), failed)
            answers = self.decoder.add(BatchLogits(batch, logits, logits, bad))
        assert answers is not None
        answered = answered_rows(answers, self.cache)
        self.cut, self.reused = answered.questions_cut, answered.reused_rows
        return answered.answers.to_pylist()


def _faults(answers: Sequence[dict[str, object]]) -> list[object]:
    return [answer["error"] for answer in answers]


# --- rows -> pairs ---------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.tuples(TEXTS, TEXTS), min_size=1), max_size=8))
def test_each_pair_of_a_part_is_asked_once_in_the_order_in_which_rows_ask(chunks: list[list[Texts]]) -> None:
    kept, seen = AnswerCache(), list[Texts]()
    for rows in chunks:
        pairs = pairs_of(_chunk(rows_of(rows)), kept)
        new = [pair for pair in dict.fromkeys(rows) if pair not in seen]
        assert _asked(pairs) == new
        seen += new
        of_rows = zip(pairs.context[pairs.row_pair], pairs.question[pairs.row_pair], strict=True)
        assert [(pairs.contexts[c], pairs.questions[q]) for c, q in of_rows] == rows


def test_the_next_part_asks_its_pairs_anew() -> None:
    kept, rows = AnswerCache(), rows_of([("a", "1"), ("a", "2")])
    assert len(pairs_of(_chunk(rows), kept).to_ask) == 2
    assert len(pairs_of(_chunk(rows), kept).to_ask) == 0
    assert len(pairs_of(_chunk(rows, part=1), kept).to_ask) == 2


def _with_dictionaries(rows: Rows) -> Rows:
    """The same texts as codes and dictionaries, with texts that no row has and texts that are there twice."""

    def coded(texts: pa.Array) -> pa.DictionaryArray:
        distinct = [*dict.fromkeys(text for text in texts.to_pylist() if text is not None), "nobody's", None]
        twice = pa.array([*distinct, *distinct], pa.large_string())
        codes = [
            distinct.index(text) + (row % 2) * len(distinct) for row, text in enumerate(texts.to_pylist())
        ]
        return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), twice)

    return replace(rows, context=coded(rows.context), question=coded(rows.question))


@given(st.lists(st.tuples(st.none() | TEXTS, st.none() | TEXTS), max_size=12))
def test_dictionary_arrays_and_plain_texts_give_the_same_pairs(texts: list[Texts]) -> None:
    rows = rows_of(texts)
    plain, coded = (pairs_of(_chunk(r), AnswerCache()) for r in (rows, _with_dictionaries(rows)))
    assert _asked(coded) == _asked(plain)
    assert coded.row_pair.tolist() == plain.row_pair.tolist()
    assert coded.faults == plain.faults


def test_a_text_that_a_dictionary_holds_is_hashed_once_for_all_its_questions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed: list[str] = []
    digests = DistinctTexts.digests
    monkeypatch.setattr(
        DistinctTexts, "digests", lambda distinct: hashed.extend(distinct.texts) or digests(distinct)
    )
    texts = [(context, f"question {n}?") for context in ("one", "two") for n in range(40)]
    rows = rows_of(texts)
    context = pa.DictionaryArray.from_arrays(np.repeat(np.arange(2), 40), pa.array(["one", "two"]))
    assert len(pairs_of(_chunk(replace(rows, context=context)), AnswerCache()).to_ask) == 80
    assert sorted(hashed) == sorted(["one", "two", *(f"question {n}?" for n in range(40))])


# --- what is wrong with a row ----------------------------------------------------------------------------


def test_texts_with_nothing_to_read_are_named_where_they_are_and_not_asked() -> None:
    rows: list[Texts] = [
        ("", "who?"),
        (" \n\u200b\u00a0", "who?"),
        ("a b", ""),
        ("a b", "\u200d"),
        (None, "who?"),
        ("a b", None),
        ("\x01", "who?"),  # no white space, but nothing that the tokenizer keeps
        ("a b", "\x01"),
        ("a b", "who?"),
    ]
    pipeline = _Pipeline()
    answers = pipeline.answers(rows_of(rows, first_record=7))
    assert _faults(answers) == [
        *("empty_context", "empty_context", "empty_question", "empty_question"),
        *("null_context", "null_question", "empty_context", "empty_question", None),
    ]
    assert [answer["error_detail"] for answer in answers] == [*(f"row {n}" for n in range(8, 16)), None]
    assert all(answer["answer"] is answer["score"] is answer["no_answer"] is None for answer in answers[:-1])
    assert set(pipeline.asked) == {("\x01", "who?"), ("a b", "\x01"), ("a b", "who?")}


def test_a_question_that_leaves_no_room_for_the_context_is_named() -> None:
    pipeline = _Pipeline(max_length=16)
    assert _faults(pipeline.answers(rows_of([("a b", "who " * 50), ("a b", "who?")]))) == [
        "question_too_long",
        None,
    ]
    assert pipeline.cut == 0


def test_rows_that_reading_found_bad_are_left_alone() -> None:
    fault = RowFault("bad_json", "in.jsonl:3")
    answers = _Pipeline().answers(rows_of([(None, None), ("a b", "who?")], faults={0: fault}))
    assert [(answer["error"], answer["error_detail"]) for answer in answers] == [
        ("bad_json", "in.jsonl:3"),
        (None, None),
    ]


def test_copies_of_a_pair_that_failed_have_the_error_too_each_with_its_own_place() -> None:
    pipeline = _Pipeline()
    (first,) = pipeline.answers(rows_of([("a b", "who?")]), failed="oom")
    (copy,) = pipeline.answers(rows_of([("a b", "who?")], first_record=1))
    assert (first["error"], first["error_detail"]) == ("oom", "row 1")
    assert (copy["error"], copy["error_detail"]) == ("oom", "row 2")


# --- answers -> rows -------------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.tuples(st.none() | TEXTS, TEXTS), min_size=1, max_size=6), min_size=1, max_size=5),
    st.integers(0, 2),
)
def test_rows_that_ask_the_same_have_the_same_answer_in_whichever_chunk_they_are(
    chunks: list[list[Texts]], top_k: int
) -> None:
    pipeline = _Pipeline(replace(RULES, top_k=top_k))
    together = [answer for rows in chunks for answer in pipeline.answers(rows_of(rows))]
    alone = []
    for row in [row for rows in chunks for row in rows]:
        alone += _Pipeline(replace(RULES, top_k=top_k)).answers(rows_of([row]))
    for answer in (*together, *alone):
        del answer["error_detail"]  # it tells the row
    assert together == alone


def test_an_answer_and_its_candidates_are_cut_from_the_context_in_characters() -> None:
    context = "\u00fcber \U0001f309 the old bridge"
    (answer,) = _Pipeline(replace(RULES, top_k=3, abstains=False)).answers(rows_of([(context, "who?")]))
    assert answer["answer"] == context[answer["start"] : answer["end"]] != ""
    candidates = answer["candidates"]
    assert len(candidates) == 3
    assert all(c["answer"] == context[c["start"] : c["end"]] for c in candidates)


def test_a_cut_question_counts_for_every_row_that_asks_it() -> None:
    pipeline, rows = (
        _Pipeline(longest_question=5),
        [("a b", "who " * 50), ("a b", "who?"), ("a b", "who " * 50)],
    )
    pipeline.answers(rows_of(rows))
    assert pipeline.cut == 2
    pipeline.answers(rows_of(rows[:1]))
    assert (pipeline.cut, pipeline.asked) == (1, [])


# --- bounds ----------------------------------------------------------------------------------------------


def test_what_is_kept_is_bounded_in_pairs_and_what_was_forgotten_is_answered_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answer_cache, "MOST_PAIRS", 3)
    pipeline = _Pipeline()
    kept = []
    for number in range(0, 20, 2):
        rows = rows_of([("the old bridge", f"who {n}?") for n in (number, number + 1, 0)])
        answers = pipeline.answers(rows)
        kept.append(pipeline.cache.answers_kept)
        assert answers[2]["answer"] is not None
    assert max(kept) <= 3 + 3  # and a chunk's more


def test_fewer_pairs_are_kept_where_each_takes_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_cache, "MOST_BYTES", 1000)
    rows = [rows_of([(str(n), "who?")]) for n in range(10)]
    few, many = AnswerCache(top_k=20), AnswerCache(top_k=0)
    for kept in (few, many):
        for piece in rows:
            pairs_of(_chunk(piece), kept)
    assert len(pairs_of(_chunk(rows[0]), few).to_ask) == 1
    assert len(pairs_of(_chunk(rows[0]), many).to_ask) == 0


def test_a_new_part_leaves_nothing_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, rows = _Pipeline(), rows_of([("a", "1"), ("a", "2")])
    pipeline.answers(rows)
    assert pipeline.cache.answers_kept == 2
    pipeline.answers(rows_of([("b", "1")]), part=1)
    assert pipeline.cache.answers_kept == 1


# --- digests ---------------------------------------------------------------------------------------------


def _number(numbers: PairNumbers, pairs: list[tuple[str, str]]) -> tuple[list[int], list[bool]]:
    contexts, questions = (DistinctTexts.of(pa.array(texts)) for texts in zip(*pairs, strict=True))
    found, is_new = numbers.number(*pair_digests(contexts, questions, contexts.codes, questions.codes))
    return found.tolist(), is_new.tolist()


@given(st.lists(st.lists(st.tuples(TEXTS, TEXTS), unique=True, min_size=1), max_size=8))
def test_a_pair_has_one_number_in_all_chunks_and_the_numbers_are_in_order(
    chunks: list[list[tuple[str, str]]],
) -> None:
    numbers = PairNumbers(1000)
    expected: dict[tuple[str, str], int] = {}
    for pairs in chunks:
        is_new = [pair not in expected for pair in pairs]
        wanted = [expected.setdefault(pair, len(expected)) for pair in pairs]
        assert _number(numbers, pairs) == (wanted, is_new)
        assert numbers.count == len(expected)


def test_a_chunk_without_pairs_changes_nothing() -> None:
    numbers = PairNumbers(1000)
    none = np.zeros(0, dtype=np.int32)
    for texts in ([], ["a"]):
        distinct = DistinctTexts.of(pa.array(texts, pa.string()))
        found, is_new = numbers.number(*pair_digests(distinct, distinct, none, none))
        assert (len(found), len(is_new), numbers.count) == (0, 0, 0)


def test_pairs_are_forgotten_rather_than_too_many_and_no_number_is_given_twice() -> None:
    numbers = PairNumbers(3)
    assert _number(numbers, [("a", "1"), ("a", "2")]) == ([0, 1], [True, True])
    assert _number(numbers, [("a", "2"), ("a", "3")]) == ([1, 2], [False, True])
    assert _number(numbers, [("a", "2")]) == ([3], [True])
    assert numbers.oldest == 3


def test_pairs_that_share_half_of_their_bits_are_different_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def half(distinct: DistinctTexts) -> UInt64:
        return np.array([(0, ord(text)) for text in distinct.texts], dtype=np.uint64)

    monkeypatch.setattr(DistinctTexts, "digests", half)
    numbers = PairNumbers(1000)
    first, _ = _number(numbers, [("a", "1"), ("b", "1")])
    second, _ = _number(numbers, [("c", "1"), ("d", "1")])
    assert sorted(first + second) == [0, 1, 2, 3]


# --- earlier outputs -------------------------------------------------------------------------------------


def _as_written(answers: list[dict[str, object]], top_k: int) -> dict[str, pa.Array]:
    table = pa.RecordBatch.from_pylist(answers, answer_schema(top_k))
    return dict(zip(table.schema.names, table.columns, strict=True))


def _texts(rows: list[Texts]) -> tuple[pa.Array, pa.Array]:
    contexts, questions = zip(*rows, strict=True)
    return pa.array(contexts, pa.string()), pa.array(questions, pa.string())


@given(
    st.lists(st.lists(st.tuples(st.none() | TEXTS, TEXTS), min_size=1, max_size=6), max_size=5),
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8),
    st.integers(0, 2),
)
def test_earlier_answers_are_those_of_the_rows_that_were_added_in_however_many_runs(
    earlier: list[list[Texts]], rows: list[Texts], top_k: int
) -> None:
    known = EarlierAnswers(top_k)
    for number, piece in enumerate(earlier):
        known.add(
            *_texts(piece), _as_written(_Pipeline(replace(RULES, top_k=top_k)).answers(rows_of(piece)), top_k)
        )
        if number % 2:
            known.settle()
    known.settle()
    expected = _Pipeline(replace(RULES, top_k=top_k)).answers(rows_of(rows))
    pipeline = _Pipeline(replace(RULES, top_k=top_k), earlier=known)
    assert pipeline.answers(rows_of(rows)) == expected
    seen = {pair for piece in earlier for pair in piece}
    assert set(pipeline.asked) == set(rows) - seen
    assert pipeline.reused == sum(pair in seen for pair in rows)


def test_a_pair_takes_some_35_bytes_however_long_its_texts_are() -> None:
    numbers = np.arange(200_000)
    columns = {
        "start": pa.array(numbers.astype(np.int64)),  # as JSON has it
        "end": pa.array(numbers.astype(np.int64)),
        "score": pa.array(numbers / 7),
        "no_answer": pa.array(numbers % 3 == 0),
        "null_odds": pa.array(numbers / 11),
        "error": pa.nulls(len(numbers)),
    }
    known = EarlierAnswers()
    known.add(
        pa.array([f"{n} {'long ' * 20}" for n in numbers]), pa.array([f"{n}?" for n in numbers]), columns
    )
    known.settle()
    assert len(known) == len(numbers)
    assert known.nbytes / len(known) < 36
