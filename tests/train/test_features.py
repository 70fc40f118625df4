"""Gold places in windows, held-out groups, and the order of batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchqa.errors import SettingsError
from batchqa.settings import WindowSettings
from batchqa.steps.windowing import Windower, learn_layout
from batchqa.train.features import batches, make_features
from batchqa.train.gold_rows import GoldRows, held_out, read_gold_rows
from batchqa.train.train_settings import TrainSettings
from tests.models import FAMILIES, SENTENCES, tiny_tokenizer
from tests.train.making import rows, write


def windower(family: str, max_length: int = 24, stride: int = 8) -> Windower:
    tokenizer = tiny_tokenizer(family)
    return Windower(tokenizer, learn_layout(tokenizer, 0), WindowSettings(max_length, stride, 8), max_length)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_gold_places_are_the_tokens_of_the_answer_in_every_window_that_shows_it_whole(
    family: str, tmp_path: Path
) -> None:
    records = []
    for number, sentence in enumerate(SENTENCES):
        words = sentence.split()
        half = len(words) // 2
        answer = " ".join(words[half : half + 2]) if half else sentence[3:6]
        context = " ".join([*SENTENCES[:number], sentence])
        records.append(
            {
                "context": context,
                "question": "who?",
                "answers": {"text": [answer], "answer_start": [context.rindex(answer)]},
            }
        )
    examples = read_gold_rows([write(tmp_path / "x.jsonl", records)])
    features = make_features(examples, windower(family))
    windows = features.windows
    seen = set()
    for window in range(len(windows)):
        context = windows.contexts[windows.pair_context[windows.pair[window]]]
        starts, ends = context.trimmed_offsets()
        row = next(r for r, record in enumerate(records) if record["context"] == context.text)
        wanted = (int(examples.start[row]), int(examples.end[row]))
        begin, size = int(windows.begin[window]), int(windows.size[window])
        place = int(windows.length[window]) - len(windows.layout.after) - size
        first, last = int(features.start[window]), int(features.end[window])
        if first == windows.layout.null_position:
            shown = (int(starts[begin]), int(ends[begin + size - 1]))
            assert wanted[0] < shown[0] or wanted[1] > shown[1]
            continue
        seen.add(row)
        found = int(starts[begin + first - place]), int(ends[begin + last - place])
        # a token that holds more than the answer (a word with its full stop) is taken whole
        assert found[0] <= wanted[0]
        assert found[1] >= wanted[1]
        extra = context.text[found[0] : wanted[0]] + context.text[wanted[1] : found[1]]
        assert len(extra) <= 12
        assert not any(character.isspace() for character in extra.strip())
    assert seen == set(range(len(records)))


def test_a_start_that_is_off_is_corrected_to_the_nearest_occurrence(tmp_path: Path) -> None:
    context = "red and blue and red and green and red"
    records = [
        {"context": context, "question": "q", "answers": {"text": ["red"], "answer_start": [start]}}
        for start in (0, 1, 15, 17, 30, 99)
    ]
    found = read_gold_rows([write(tmp_path / "x.jsonl", records)])
    assert found.start.tolist() == [0, 0, 17, 17, 35, 35]
    assert (found.end - found.start).tolist() == [3] * 6


def test_a_squad_question_without_answers_is_unlabelled_unless_it_is_said_to_have_none(
    tmp_path: Path,
) -> None:
    questions = [
        {"id": "a", "question": "Who?", "answers": [{"text": "Ann", "answer_start": 0}]},
        {"id": "b", "question": "Who else?"},
        {"id": "c", "question": "Where?", "is_impossible": True},
        {"id": "d", "question": "Why?", "answers": [], "is_impossible": True},
    ]
    paragraph = {"context": "Ann came.", "qas": questions}
    file = tmp_path / "squad.json"
    file.write_bytes(orjson.dumps({"data": [{"title": "t", "paragraphs": [paragraph]}]}))
    assert read_gold_rows([file]).gold.to_pylist() == [["Ann"], None, [], []]


def test_rows_of_a_group_are_held_out_together(tmp_path: Path) -> None:
    examples = read_gold_rows([write(tmp_path / "x.jsonl", rows(200))])
    trained, judged = held_out(examples, (0, 0.3), seed=1)
    assert len(trained) + len(judged) == 200
    assert len(np.unique(judged.group)) == 3
    assert not set(trained.group.tolist()) & set(judged.group.tolist())


@pytest.mark.parametrize(("groups", "folds"), [(10, 5), (10, 3), (10, 7), (3, 5), (2, 2)])
def test_every_group_is_held_out_in_one_fold(groups: int, folds: int, tmp_path: Path) -> None:
    records = [row | {"title": f"article {n % groups}"} for n, row in enumerate(rows(60))]
    examples = read_gold_rows([write(tmp_path / "x.jsonl", records)])
    parts = [TrainSettings(validation=f"{number}/{folds}").held_out for number in range(1, folds + 1)]
    judged = [held_out(examples, part, seed=2)[1] for part in parts if part is not None]
    assert sorted(group for each in judged for group in set(each.group.tolist())) == list(range(groups))
    assert sum(map(len, judged)) == 60


@pytest.mark.parametrize("fold", ["0/5", "6/5", "1/1", "1/0"])
def test_a_fold_that_there_is_not_is_refused(fold: str) -> None:
    with pytest.raises(SettingsError, match=f"--validation {fold} must be a fold"):
        _ = TrainSettings(validation=fold).held_out


def test_without_titles_the_contexts_are_the_groups(tmp_path: Path) -> None:
    records = [
        {**row, "title": None, "context": f"context {n // 4}", "answers": []}
        for n, row in enumerate(rows(40))
    ]
    for record in records:
        del record["title"]
    examples = read_gold_rows([write(tmp_path / "x.jsonl", records)])
    trained, judged = held_out(examples, (0, 0.2), seed=0)
    assert not set(trained.context.to_pylist()) & set(judged.context.to_pylist())


def test_rows_without_a_title_are_grouped_by_their_contexts_beside_those_with_one(tmp_path: Path) -> None:
    records = [
        {**row, "title": None if n % 3 else row["title"], "context": f"context {n // 4}", "answers": []}
        for n, row in enumerate(rows(40))
    ]
    examples = read_gold_rows([write(tmp_path / "x.jsonl", records)])
    untitled = [n for n in range(40) if n % 3]
    groups = examples.group[untitled].tolist()
    assert len(set(groups)) == len({examples.context[n].as_py() for n in untitled})


def test_a_context_of_two_groups_is_never_both_trained_on_and_judged_by(tmp_path: Path) -> None:
    records = [
        {**row, "title": f"article {n}", "context": f"context {n % 7}", "answers": []}
        for n, row in enumerate(rows(20))
    ]
    trained, judged = held_out(read_gold_rows([write(tmp_path / "x.jsonl", records)]), (0, 0.4), seed=3)
    assert len(trained) == 12
    assert not set(trained.context.to_pylist()) & set(judged.context.to_pylist())


@given(
    st.lists(st.integers(1, 384), min_size=1, max_size=300),
    st.integers(384, 4096),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_an_epoch_has_every_window_once_within_the_budget(
    lengths: list[int], budget: int, seed: int, epoch: int
) -> None:
    array = np.array(lengths, dtype=np.int32)
    made = batches(array, budget, seed, epoch)
    assert sorted(np.concatenate(made).tolist()) == list(range(len(lengths)))
    assert all(len(batch) * int(array[batch].max()) <= budget for batch in made)
    again = batches(array, budget, seed, epoch)
    assert [batch.tolist() for batch in made] == [batch.tolist() for batch in again]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    lengths = np.arange(1, 200, dtype=np.int32)
    orders = {
        tuple(np.concatenate(batches(lengths, 512, seed, epoch)).tolist())
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_only_context_and_null_may_be_answers(tmp_path: Path) -> None:
    examples: GoldRows = read_gold_rows([write(tmp_path / "x.jsonl", rows(12))])
    features = make_features(examples, windower("bert-uncased", 64))
    index = np.arange(len(features), dtype=np.int32)
    batch = features.batch(index)
    allowed = features.answerable(batch)
    assert allowed[:, 0].all()
    assert (allowed.sum(axis=1) == features.windows.size + 1).all()
    assert allowed[np.arange(len(index)), features.start].all()
    assert allowed[np.arange(len(index)), features.end].all()
