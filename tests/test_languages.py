"""A note where the texts of a run do not look like those that its bundle was verified on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from batchqa.bundle import BUNDLED, open_bundle, write_manifest
from batchqa.cli.describe import describe
from batchqa.cli.rendering import render_facts
from batchqa.job import dry_run, run
from batchqa.job.first_texts import FirstTexts
from batchqa.languages import TextProfile, profile_of
from tests.models import SENTENCES, tiny_tokenizer, write_tiny_bundle
from tests.steps.rows import rows_of

FOREIGN = tuple(sentence.translate(str.maketrans("aeiou", "ůőěýž")) for sentence in SENTENCES)
GREEK = ("Η παλιά γέφυρα πάνω από το ποτάμι έκλεισε για επισκευές την άνοιξη.",)


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that says what it was verified on."""
    folder = write_tiny_bundle(tmp_path_factory.mktemp("verified") / "bundle")
    profile = tiny_profile(SENTENCES)
    manifest = replace(open_bundle(folder).manifest, languages=("en",), texts=profile)
    write_manifest(folder, manifest)
    return folder


def tiny_profile(texts: tuple[str, ...]) -> TextProfile:
    tokenizer = tiny_tokenizer("bert-uncased")
    return profile_of(texts, tokenizer, tokenizer.token_to_id("[UNK]"))


def rows_file(path: Path, texts: tuple[str, ...], count: int = 60) -> Path:
    rows = [{"context": f"{texts[at % len(texts)]} {at}", "question": texts[0]} for at in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(("texts", "why"), [(GREEK, "in Greek script"), (FOREIGN, "pieces")])
def test_texts_unlike_those_of_the_verification_are_noted_once_and_the_run_goes_on(
    verified: Path, tmp_path: Path, texts: tuple[str, ...], why: str
) -> None:
    file, notes = rows_file(tmp_path / "in.jsonl", texts), list[str]()
    options = {"threads": 1, "batch_tokens": 512, "part_rows": 20}
    summary = run(file, tmp_path / "out.parquet", model=verified, on_note=notes.append, **options)
    assert summary.rows == 60
    (note,) = (note for note in notes if "do not look like" in note)
    assert "verified on (en)" in note
    assert why in note
    assert not any(text[:12] in note for text in texts)
    assert note in render_facts(describe(str(tmp_path / "out.parquet")))
    notes.clear()
    dry_run(file, tmp_path / "other.parquet", model=verified, on_note=notes.append, threads=1)
    assert notes.count(note) == 1


def test_texts_alike_get_no_note_nor_do_those_of_a_bundle_that_does_not_say(
    verified: Path, bundles: Callable[..., Path], tmp_path: Path
) -> None:
    notes: list[str] = []
    for number, (model, texts) in enumerate(((verified, SENTENCES), (bundles(), GREEK))):
        file = rows_file(tmp_path / f"{number}.jsonl", texts)
        run(file, tmp_path / f"{number}.parquet", model=model, on_note=notes.append, threads=1)
    assert not [note for note in notes if "look like" in note]


def test_numbers_and_few_words_say_nothing() -> None:
    known = tiny_profile(SENTENCES)
    numbers = tuple(f"{at * 7919} {at}.{at} #{at:x}_{at} 2026-11-{at}" for at in range(200))
    assert tiny_profile(numbers).differs_from(known) == ""
    assert tiny_profile(("Привет, мир",)).differs_from(known) == ""
    assert tiny_profile(()).differs_from(known) == ""


def test_a_small_share_of_another_script_says_nothing_and_a_large_one_does() -> None:
    known = tiny_profile(SENTENCES)
    assert tiny_profile((*SENTENCES * 20, *GREEK)).differs_from(known) == ""
    assert "Greek" in tiny_profile((*SENTENCES, *(f"{GREEK[0]} {at}" for at in range(20)))).differs_from(
        known
    )


def test_the_same_texts_are_looked_at_however_the_rows_come() -> None:
    pairs = [(f"context {at // 3}", f"question {at % 400}") for at in range(3000)]
    whole, cut = FirstTexts(), FirstTexts()
    whole.gather([rows_of(pairs)])
    list(cut.passing(rows_of(pairs[at : at + 70]) for at in range(0, 3000, 70)))
    assert whole.texts == cut.texts
    assert len(whole.texts) == 200
    empty = FirstTexts()
    empty.gather([rows_of([(None, "who?")])])
    assert empty.texts == ["who?"]


def test_a_resumed_job_says_what_the_whole_one_would(verified: Path, tmp_path: Path) -> None:
    # the first rows alone are foreign: a resume that looked at its own first rows would say nothing
    lines = (
        rows_file(tmp_path / "a.jsonl", GREEK, 40).read_text()
        + rows_file(tmp_path / "b.jsonl", SENTENCES, 40).read_text()
    )
    file, out = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    file.write_text(lines + "broken\n" + lines)
    options = {"model": verified, "threads": 1, "batch_tokens": 512, "part_rows": 10}
    with pytest.raises(Exception, match="max-errors"):
        run(file, out, **options)
    notes: list[str] = []
    run(file, out, on_note=notes.append, max_errors=1, **options)
    assert any("in Greek script" in note for note in notes)
    whole = tmp_path / "whole.parquet"
    run(file, whole, max_errors=1, **options)
    assert whole.read_bytes() == out.read_bytes()


def test_the_packages_vocabulary_tells_english_from_other_languages(data_dir: Path) -> None:
    tokenizer = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
    unknown = tokenizer.token_to_id("[UNK]")

    def texts(file: str) -> list[str]:
        articles = json.loads((data_dir / file).read_text(encoding="utf-8"))["data"]
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        return [p["context"] for p in paragraphs] + [q["question"] for p in paragraphs for q in p["qas"]]

    dev = texts("squad-v2.0-dev.json")
    known = profile_of(dev[::2], tokenizer, unknown)
    for at in range(0, 1200, 100):
        assert profile_of(dev[at : at + 100], tokenizer, unknown).differs_from(known) == ""
    assert profile_of(texts("xquad/xquad.en.json")[:200], tokenizer, unknown).differs_from(known) == ""
    for language, why in (("es", "in Latin script is 1."), ("ar", "in Arabic script"), ("zh", "in Chinese")):
        found = profile_of(texts(f"xquad/xquad.{language}.json")[:200], tokenizer, unknown)
        assert why in found.differs_from(known)
