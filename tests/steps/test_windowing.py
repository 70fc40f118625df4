"""Windows: the tokenizer's own template, every token shown, nothing tokenized twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from batchqa.errors import ModelError
from batchqa.records import Chunk, EncodedContext, RowFault, Windows
from batchqa.settings import WindowSettings
from batchqa.steps.batching import padded_batches
from batchqa.steps.windowing import Windower, learn_layout, open_tokenizer
from tests.models import FAMILIES, tiny_tokenizer
from tests.steps.rows import rows_of

SENTENCE = "The old bridge over the river was closed for repairs in the spring of 1987."


class CountingTokenizer:
    """A real tokenizer that writes down which texts it is given."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.texts: list[str] = []

    def encode_batch(self, texts: list[str], **options: bool) -> object:
        self.texts += texts
        return self.tokenizer.encode_batch(texts, **options)

    def encode_batch_fast(self, texts: list[str], **options: bool) -> object:
        self.texts += texts
        return self.tokenizer.encode_batch_fast(texts, **options)

    def get_vocab(self, with_added_tokens: bool) -> dict[str, int]:
        return self.tokenizer.get_vocab(with_added_tokens)

    def to_str(self) -> str:
        return self.tokenizer.to_str()


def _windower(
    family: str = "bert-uncased", max_length: int = 384, tokenizer: object = None, **settings: int
) -> Windower:
    real = tiny_tokenizer(family)
    layout = learn_layout(real, real.token_to_id(FAMILIES[family].pad_token))
    return Windower(tokenizer or real, layout, WindowSettings(**settings), max_length)  # type: ignore[arg-type]


def _windows(
    windower: Windower, *pairs: tuple[str | None, str | None], part: int = 0, **rows: object
) -> Windows:
    return windower.windows(Chunk(rows_of(pairs, **rows), part, last_of_part=False))  # type: ignore[arg-type]


def _inputs(windows: Windows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, mask and types of all windows, in window order."""
    batch = next(padded_batches(windows, 10**9))
    order = np.argsort(batch.index)
    return batch.input_ids[order], batch.attention_mask[order], batch.token_type_ids[order]


def test_a_window_is_what_the_tokenizer_makes_of_the_pair(family: str) -> None:
    question = "Who repaired the bridge?"
    expected = tiny_tokenizer(family).encode(question, SENTENCE)
    ids, mask, types = _inputs(_windows(_windower(family), (SENTENCE, question)))
    assert ids[0].tolist() == expected.ids
    assert mask[0].tolist() == expected.attention_mask
    assert types[0].tolist() == expected.type_ids


def test_overlapping_windows_are_those_of_the_tokenizers_library(family: str) -> None:
    question, context = "Who repaired the bridge?", " ".join([SENTENCE] * 9)
    tokenizer = tiny_tokenizer(family)
    tokenizer.enable_truncation(60, stride=13, strategy="only_second")
    encoded = tokenizer.encode(question, context)
    expected = [encoded, *encoded.overflowing]
    windows = _windows(_windower(family, max_length=60, stride=13), (context, question))
    ids, mask, _ = _inputs(windows)
    found = [row[real == 1].tolist() for row, real in zip(ids, mask, strict=True)]
    assert found == [window.ids for window in expected]
    assert windows.length.max() <= 60


def test_a_tokenizer_that_puts_the_context_first_is_refused() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer("bert-uncased")
    special = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $B [SEP] $A [SEP]", special_tokens=special
    )
    with pytest.raises(ModelError, match="pair template"):
        learn_layout(tokenizer, 0)


def test_each_distinct_context_and_question_of_a_part_is_tokenized_once() -> None:
    counting = CountingTokenizer(tiny_tokenizer("bert-uncased"))
    windower = _windower(tokenizer=counting)
    _windows(windower, ("one context", "why?"), ("one context", "who?"), ("another", "who?"))
    assert sorted(counting.texts) == ["another", "one context", "who?", "why?"]
    counting.texts.clear()
    _windows(windower, ("one context", "when?"))
    assert counting.texts == ["when?"], "the next chunk of the part tokenized a context again"
    counting.texts.clear()
    _windows(windower, ("one context", "when?"), part=1)
    assert sorted(counting.texts) == ["one context", "when?"], "a part must not depend on the one before"


def test_identical_pairs_of_a_part_are_windowed_once() -> None:
    windower = _windower()
    first = _windows(windower, ("a b", "who?"), ("c d", "who?"), ("a b", "who?"))
    assert (len(first), first.row_pair.tolist(), first.first_pair) == (2, [0, 1, 0], 0)
    second = _windows(windower, ("c d", "who?"), ("c d", "why?"))
    assert (len(second), second.row_pair.tolist(), second.first_pair) == (1, [1, 2], 2)


def test_texts_that_have_nothing_to_read_are_named_and_not_windowed() -> None:
    windows = _windows(
        _windower(),
        ("", "who?"),
        (" \n\u200b\u00a0", "who?"),
        ("a b", ""),
        ("a b", "\u200d"),
        ("a b", "who?"),
        first_record=7,
    )
    codes = {row: fault.code for row, fault in windows.faults.items()}
    assert codes == {0: "empty_context", 1: "empty_context", 2: "empty_question", 3: "empty_question"}
    assert windows.row_pair.tolist() == [-1, -1, -1, -1, 0]
    assert windows.faults[0].detail == "row 8"


def test_rows_that_reading_found_bad_are_left_alone() -> None:
    fault = RowFault("bad_json", "in.jsonl:3")
    windows = _windows(_windower(), (None, None), ("a b", "who?"), faults={0: fault})
    assert windows.faults == {0: fault}
    assert windows.row_pair.tolist() == [-1, 0]


def test_a_long_question_is_cut_and_counted() -> None:
    windower = _windower(max_question_length=5)
    windows = _windows(windower, ("a b", "who " * 50), ("a b", "who?"), ("a b", "who " * 50))
    assert windows.questions_cut == 2
    assert len(windows.prefixes[0]) == 5 + 2
    assert not windows.faults


def test_a_question_that_leaves_no_room_for_the_context_is_named() -> None:
    windower = _windower(max_length=16, max_question_length=64, stride=4)
    windows = _windows(windower, ("a b", "who " * 50), ("a b", "who?"))
    assert {row: fault.code for row, fault in windows.faults.items()} == {0: "question_too_long"}


def test_a_stride_that_is_wider_than_the_window_still_comes_to_an_end() -> None:
    windows = _windows(_windower(max_length=20, stride=128), (SENTENCE * 5, "who?"))
    tokens = len(windows.contexts[0].ids)
    shown = np.zeros(tokens, dtype=bool)
    for begin, size in zip(windows.begin, windows.size, strict=True):
        shown[begin : begin + size] = True
    assert shown.all()
    assert len(windows) < tokens


@pytest.mark.parametrize("family", ["bert-uncased", "bert-cased", "distilbert", "roberta"])
def test_special_tokens_written_in_a_text_are_text(family: str, tmp_path: Path) -> None:
    # SentencePiece vocabularies hold their special tokens as ordinary pieces, so there they stay special
    tokenizer = tiny_tokenizer(family)
    specials = {token for token, _ in tokenizer.get_added_tokens_decoder().items()}
    words = [tokenizer.id_to_token(i) for i in specials]
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    opened = open_tokenizer(tmp_path / "tokenizer.json")
    ids = opened.encode(" ".join(w for w in words if w.startswith(("[", "<"))), add_special_tokens=False).ids
    unknown = tokenizer.token_to_id("[UNK]") or tokenizer.token_to_id("<unk>")
    assert not (set(ids) & specials) - {unknown}


def test_a_context_with_an_unknown_word_is_as_regular_as_any() -> None:
    windower = _windower()
    windows = _windows(windower, ("the " + "bridge" * 40 + " closed", "who?"))
    assert windower._tokenizer.token_to_id("[UNK]") in windows.contexts[0].ids
    assert windows.contexts[0].regular


def test_a_token_of_white_space_beyond_ascii_makes_its_context_irregular() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "\u3000": 1, "\u6f22": 2}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")

    def encoded(text: str) -> EncodedContext:
        encoding = tokenizer.encode(text)
        return EncodedContext(text, encoding, np.array(encoding.ids, np.int32), may_be_blank=False)

    assert encoded("a\u6f22a").regular
    assert not encoded("a\u3000a").regular


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        open_tokenizer(path)
