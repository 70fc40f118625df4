"""Windows: the tokenizer's own template, every token shown, nothing tokenized twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from batchqa.bundle import BUNDLED
from batchqa.errors import ModelError
from batchqa.records import Chunk, Windows
from batchqa.settings import WindowSettings
from batchqa.steps.batching import padded_batches
from batchqa.steps.pairing import AnswerCache, pairs_of
from batchqa.steps.windowing import Windower, learn_layout, open_tokenizer, plain
from batchqa.steps.windowing.contexts import LookedUpContext, TiledContext
from batchqa.steps.windowing.encoder import TextEncoder
from tests.models import FAMILIES, MARKER, tiny_tokenizer
from tests.steps.rows import rows_of

SENTENCE = "The old bridge over the river was closed for repairs in the spring of 1987."


def _windower(family: str = "bert-uncased", max_length: int = 384, **settings: int) -> Windower:
    tokenizer = tiny_tokenizer(family)
    layout = learn_layout(tokenizer, tokenizer.token_to_id(FAMILIES[family].pad_token))
    return Windower(tokenizer, layout, WindowSettings(**settings), max_length)


def _windows(
    windower: Windower, *pairs: tuple[str | None, str | None], cache: AnswerCache | None = None
) -> Windows:
    chunk = Chunk(rows_of(pairs), 0, last_of_part=False)
    return windower.windows(pairs_of(chunk, cache or AnswerCache()))


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


def test_each_distinct_context_and_question_is_tokenized_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenized: list[str] = []
    for name in ("contexts", "questions"):
        encode = getattr(TextEncoder, name)
        monkeypatch.setattr(
            TextEncoder,
            name,
            lambda self, texts, encode=encode: tokenized.extend(texts) or encode(self, texts),
        )
    windower = _windower()
    _windows(windower, ("one context", "why?"), ("one context", "who?"), ("another", "who?"))
    assert sorted(tokenized) == ["another", "one context", "who?", "why?"]
    tokenized.clear()
    _windows(windower, ("one context", "when?"))
    assert tokenized == ["when?"], "the next chunk tokenized a context again"
    tokenized.clear()
    _windows(windower.fresh(), ("one context", "when?"))
    assert sorted(tokenized) == ["one context", "when?"], "a stream must not depend on another"


def test_a_pair_that_was_asked_before_is_neither_tokenized_nor_windowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    windower, cache = _windower(), AnswerCache()
    assert len(_windows(windower, ("a b", "who?"), ("c d", "who?"), ("a b", "who?"), cache=cache)) == 2
    tokenized: list[str] = []
    monkeypatch.setattr(TextEncoder, "questions", lambda _, texts: tokenized.extend(texts) or [[1]])
    again = _windows(windower, ("c d", "who?"), ("c d", "why?"), cache=cache)
    assert (len(again), again.pair.tolist()) == (1, [0])
    assert [context.text for context in again.contexts] == ["c d"]
    assert tokenized == ["why?"]


def test_a_long_question_is_cut_and_counted() -> None:
    windower = _windower(max_question_length=5)
    windows = _windows(windower, ("a b", "who " * 50), ("a b", "who?"), ("a b", "who " * 50))
    assert windows.question_cut.tolist() == [True, False]
    assert len(windows.prefixes[0]) == 5 + 2
    assert windows.pair_count.tolist() == [1, 1]


def test_a_question_that_leaves_no_room_for_the_context_has_no_window() -> None:
    windower = _windower(max_length=16, max_question_length=64, stride=4)
    windows = _windows(windower, ("a b", "who " * 50), ("a b", "who?"))
    assert windows.pair_count.tolist() == [0, 1]


@pytest.mark.parametrize("pair", [("\x01", "who?"), ("a b", "\x01")])
def test_a_text_that_has_no_token_has_no_window(pair: tuple[str, str]) -> None:
    assert _windows(_windower(), pair, ("a b", "why?")).pair_count.tolist() == [0, 1]


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
    assert tiny_tokenizer("bert-uncased").token_to_id("[UNK]") in windows.contexts[0].ids
    assert windows.contexts[0].regular


def test_a_token_of_white_space_beyond_ascii_makes_its_context_irregular() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "\u3000": 1, "\u6f22": 2}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")

    def encoded(text: str) -> LookedUpContext:
        encoding = tokenizer.encode(text)
        return LookedUpContext(text, encoding, np.array(encoding.ids, np.int32), may_be_blank=False)

    assert encoded("a\u6f22a").regular
    assert not encoded("a\u3000a").regular


def _as_the_tokenizer_gives_them(tokenizer: Tokenizer, texts: list[str]) -> list[tuple[object, object]]:
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [(e.ids, e.offsets) for e in encodings]


def _as_encoded(encoder: TextEncoder, texts: list[str]) -> list[tuple[object, object]]:
    contexts = encoder.contexts(texts)
    offsets = (zip(*(column.tolist() for column in c.trimmed_offsets()), strict=True) for c in contexts)
    return [(c.ids.tolist(), list(spans)) for c, spans in zip(contexts, offsets, strict=True)]


ALIKE = [(0x3400, 0x4DC0), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0xE000, 0xF900)]
"""Ideographs, syllables of Korean and the private area: tens of thousands of characters of four kinds."""


@pytest.mark.parametrize("step", [61, pytest.param(1, marks=pytest.mark.slow)])
def test_every_character_is_tokenized_as_by_the_packages_tokenizer_by_itself_and_inside_words(
    step: int,
) -> None:
    tokenizer = open_tokenizer(BUNDLED / "tokenizer.json")
    encoder = TextEncoder(tokenizer)
    skipped = {code for begin, end in ALIKE for code in range(begin, end) if (code - begin) % step}
    codes = (*range(0xD800), *range(0xE000, 0x11000), 0x1F389, 0x20000)
    characters = [chr(code) for code in codes if code not in skipped]
    texts = [f"An {c}old{c} Bridge {c}" for c in characters]
    assert _as_encoded(encoder, texts) == _as_the_tokenizer_gives_them(tokenizer, texts)
    assert encoder.questions(texts) == [ids for ids, _ in _as_the_tokenizer_gives_them(tokenizer, texts)]


def test_texts_in_many_pieces_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "AT_ONCE", 100)
    tokenizer = open_tokenizer(BUNDLED / "tokenizer.json")
    unknown, chinese = "a " + "bridge" * 40, "\u6f22 (kanji)"
    texts = [
        text for number in range(40) for text in (f"{SENTENCE} {number}", chinese, f"{unknown} {number}", "")
    ]
    assert _as_encoded(TextEncoder(tokenizer), texts) == _as_the_tokenizer_gives_them(tokenizer, texts)


@pytest.mark.parametrize("family", ["bert-uncased", "bert-cased", "distilbert"])
def test_common_texts_are_tokenized_without_a_normalizer(family: str) -> None:
    encoder = TextEncoder(tiny_tokenizer(family))
    common = [
        SENTENCE,
        "Na\u00efve caf\u00e9 owners\tpaid \u00a320,\n\u20ac35!",
        "\u00bfQui\u00e9n lo construy\u00f3?",
    ]
    assert [type(context) for context in encoder.contexts(common)] == 3 * [TiledContext]
    assert None not in encoder.plain.ids(common)


def test_words_that_the_tokenizer_finds_before_it_normalizes_are_found_in_plain_texts_too() -> None:
    tokenizer = tiny_tokenizer("bert-uncased")
    texts = [f"the {MARKER} bridge", f"the {MARKER.title()} bridge"]
    found = _as_encoded(TextEncoder(tokenizer), texts)
    assert found == _as_the_tokenizer_gives_them(tokenizer, texts)
    assert [tokenizer.token_to_id(MARKER) in ids for ids, _ in found] == [True, False]


@pytest.mark.parametrize("is_text", [True, False])
def test_special_tokens_are_text_or_not_as_the_tokenizer_has_it(is_text: bool) -> None:
    tokenizer = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
    tokenizer.encode_special_tokens = is_text
    found = _as_encoded(TextEncoder(tokenizer), ["the [SEP] bridge"])
    assert found == _as_the_tokenizer_gives_them(tokenizer, ["the [SEP] bridge"])
    assert (tokenizer.token_to_id("[SEP]") in found[0][0]) is not is_text


UNIGRAM = [("a", -1.0), (',"unk_id":7', -2.0), ("<unk>", -3.0)]


@pytest.mark.parametrize(
    ("model", "unknown"),
    [
        (models.Unigram(UNIGRAM, unk_id=2), 2),
        (models.Unigram(UNIGRAM), None),
        (models.BPE({"a": 0, "?": 1}, [], unk_token="?"), 1),
        (models.BPE({"a": 0}, []), None),
        (models.WordLevel({"a": 0, "?": 1}, unk_token="?"), 1),
        (models.WordPiece({"a": 0, "?": 1}, unk_token="?"), 1),
    ],
)
def test_the_unknown_token_is_that_of_the_tokenizers_model(model: models.Model, unknown: int | None) -> None:
    assert TextEncoder(Tokenizer(model)).unknown == unknown


def _of_two_letters(**normalizer: bool) -> Tokenizer:
    """A BERT tokenizer whose vocabulary has words of an a and any number of b."""
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**normalizer)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def test_unknown_words_keep_their_places_whatever_their_lengths() -> None:
    tokenizer = _of_two_letters()
    texts = ["ab aaaa ab aaaaaa abb", "aaaaa ab", "ab ab"]
    assert _as_encoded(TextEncoder(tokenizer), texts) == _as_the_tokenizer_gives_them(tokenizer, texts)


def test_a_vocabulary_without_an_unknown_token_is_left_to_the_library() -> None:
    tokenizer = Tokenizer(models.WordPiece({"a": 0, "##b": 1}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    assert _as_encoded(TextEncoder(tokenizer), ["ab a"]) == [([0, 1, 0], [(0, 1), (1, 2), (3, 4)])]


def test_a_separator_that_does_not_separate_for_the_tokenizer_does_not_for_plain_texts() -> None:
    tokenizer = _of_two_letters(clean_text=False)
    texts = ["a\x1cab", "a\tab"]
    found = _as_encoded(TextEncoder(tokenizer), texts)
    assert found == _as_the_tokenizer_gives_them(tokenizer, texts)
    assert [ids for ids, _ in found] == [[0], [1, 1, 2]]


def test_a_text_with_a_character_that_no_piece_spells_is_not_tokenized_twice() -> None:
    encoder = TextEncoder(_of_two_letters())
    assert encoder.plain.ids(["ab", "ab c"]) == [[1, 2], None]


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        open_tokenizer(path)
