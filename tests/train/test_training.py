"""`train`: what it makes, how it resumes, and what it refuses before the first step."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchqa.errors import (
    BatchqaError,
    DeviceError,
    InputError,
    ModelError,
    PreconditionError,
    SettingsError,
    StoppedError,
    StorageError,
    TryAgainError,
)
from batchqa.train.train_settings import TrainSettings
from tests.models import write_tiny_bundle
from tests.train.making import rows, write

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from batchqa.train.remembered import VALUES  # noqa: E402
from batchqa.train.student import keep_layers  # noqa: E402
from batchqa.train.targets import hidden_loss  # noqa: E402
from batchqa.train.teachers import CheckpointTeacher  # noqa: E402
from batchqa.train.training import Trained, train  # noqa: E402

QUICK: dict[str, Any] = {
    "epochs": 4,
    "learning_rate": 5e-3,
    "batch_tokens": 1024,
    "max_length": 64,
    "stride": 8,
    "device": "cpu",
    "precision": "f32",
    "validation": "0.2",
    "evaluate_every": 20,
}
"""A run of 44 steps, a second or two."""


@pytest.fixture(scope="module")
def base(checkpoints: Callable[[str], Path]) -> Path:
    return checkpoints("bert-uncased")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "train.jsonl", rows(400))


@pytest.fixture(scope="module")
def whole(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path]:
    """A run that nothing disturbed, and its checkpoint; do not change it."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return train(str(base), out, [data], settings=TrainSettings(**QUICK), licence="MIT"), out


def weights(checkpoint: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(str(checkpoint / "model.safetensors")))


def same(one: Path, other: Path) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class Kill:
    """Stops a run after so many steps, as a signal does."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise StoppedError("stopped by SIGTERM", 143)


def test_a_run_learns_its_task_and_leaves_a_checkpoint_that_can_be_exported(
    whole: tuple[Trained, Path],
) -> None:
    from batchqa.export.checkpoint import open_checkpoint

    trained, out = whole
    assert trained.validation is not None
    assert trained.validation.best_f1 > 95
    assert trained.validation.rows == 80
    with open_checkpoint(str(out), None) as checkpoint:
        checkpoint.load_model()
    assert not out.with_name("out.batchqa").exists()
    record = orjson.loads((out / "training.json").read_bytes())
    assert record["data"][0]["name"] == "train.jsonl"
    assert (record["rows"], record["labelled_rows"], record["options"]["seed"]) == (320, 320, 0)
    card = (out / "README.md").read_text()
    assert "license: mit" in card
    assert "On 80 rows of groups that were not trained on" in card


def test_a_run_that_is_stopped_again_and_again_ends_with_the_same_weights(
    base: Path, data: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(**QUICK, dropout=0.1, save_every=7)
    train(str(base), tmp_path / "whole", [data], settings=settings)
    notes: list[str] = []
    for after in (5, 1, 17, 0, 8):
        with pytest.raises(StoppedError):
            train(
                str(base),
                tmp_path / "cut",
                [data],
                settings=settings,
                check_stop=Kill(after),
                on_note=notes.append,
            )
        assert not (tmp_path / "cut").exists()
    train(str(base), tmp_path / "cut", [data], settings=settings, on_note=notes.append)

    assert any(note.startswith("resuming after step") for note in notes)
    assert same(tmp_path / "whole", tmp_path / "cut")
    figures = [orjson.loads((tmp_path / name / "training.json").read_bytes()) for name in ("whole", "cut")]
    assert figures[0]["curve"] == figures[1]["curve"]


def test_a_state_that_was_cut_off_while_it_was_written_is_not_taken(
    base: Path, data: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(**QUICK)
    with pytest.raises(StoppedError):
        train(str(base), tmp_path / "out", [data], settings=settings, check_stop=Kill(12))
    (whole,) = (tmp_path / "out.batchqa").glob("state-*")
    partial = whole.with_name("state-00000040.tmp")
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")

    notes: list[str] = []
    train(str(base), tmp_path / "out", [data], settings=settings, on_note=notes.append)

    assert f"resuming after step {int(whole.name[-8:])} of 44" in notes


def test_a_run_that_is_done_is_not_done_again(whole: tuple[Trained, Path], base: Path, data: Path) -> None:
    first, out = whole
    written = (out / "model.safetensors").stat().st_mtime_ns

    again = train(str(base), out, [data], settings=TrainSettings(**QUICK), licence="MIT")

    assert again.already_done
    assert again.validation == first.validation
    with pytest.raises(PreconditionError, match=r"trained differently.*seed"):
        train(str(base), out, [data], settings=TrainSettings(**QUICK, seed=1), licence="MIT")
    assert (out / "model.safetensors").stat().st_mtime_ns == written


def test_a_run_that_began_otherwise_is_not_resumed(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(str(base), tmp_path / "out", [data], settings=TrainSettings(**QUICK), check_stop=Kill(5))
    other = TrainSettings(**QUICK | {"learning_rate": 1e-3})

    with pytest.raises(PreconditionError, match=r"learning_rate.*--restart"):
        train(str(base), tmp_path / "out", [data], settings=other)
    with pytest.raises(PreconditionError, match="gold_column"):
        train(str(base), tmp_path / "out", [data], settings=TrainSettings(**QUICK), gold_column="answers")

    assert train(str(base), tmp_path / "out", [data], settings=other, restart=True).steps == 44


@pytest.mark.parametrize("restart", [False, True])
def test_of_two_runs_at_once_the_second_leaves_the_first_alone(
    base: Path, data: Path, tmp_path: Path, *, restart: bool
) -> None:
    settings, calls, refused = TrainSettings(**QUICK), count(), []

    def also_train() -> None:
        if next(calls) == 20:
            with pytest.raises(TryAgainError, match="another run is writing") as error:
                train(str(base), tmp_path / "out", [data], settings=settings, restart=restart)
            refused.append(error.value)

    first = train(str(base), tmp_path / "out", [data], settings=settings, check_stop=also_train)

    assert refused
    assert first.steps == 44
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_rows_without_gold_are_learned_from_a_teacher(
    whole: tuple[Trained, Path], base: Path, tmp_path: Path
) -> None:
    _, teacher = whole
    nightly = write(tmp_path / "nightly.jsonl", rows(400, seed=5, gold=False))
    judged = write(tmp_path / "judged.jsonl", rows(90, seed=6))
    settings = TrainSettings(**QUICK | {"validation": str(judged)})

    student = train(str(base), tmp_path / "student", [nightly], teachers=[str(teacher)], settings=settings)

    assert student.validation is not None
    assert student.validation.best_f1 > 90
    record = orjson.loads((tmp_path / "student" / "training.json").read_bytes())
    assert record["labelled_rows"] == 0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many windows teachers were asked about, call by call."""
    calls: list[int] = []
    own = CheckpointTeacher.__call__

    def counted(self: CheckpointTeacher, inputs: Any, **options: Any) -> Any:
        calls.append(len(inputs["input_ids"]))
        return own(self, inputs, **options)

    monkeypatch.setattr(CheckpointTeacher, "__call__", counted)
    return calls


@pytest.mark.parametrize("gold", [True, False])
def test_a_teacher_is_asked_about_each_window_once_however_many_epochs_there_are(
    whole: tuple[Trained, Path], base: Path, tmp_path: Path, asked: list[int], gold: bool
) -> None:
    _, teacher = whole
    data = write(tmp_path / "nightly.jsonl", rows(100, seed=5, gold=gold))
    settings = TrainSettings(**QUICK | {"validation": "0", "epochs": 3})

    train(str(base), tmp_path / "student", [data], teachers=[str(teacher)], settings=settings)

    record = orjson.loads((tmp_path / "student" / "training.json").read_bytes())
    assert sum(asked) == record["windows"]


def test_what_a_teacher_said_survives_a_kill_as_far_as_the_last_state(
    whole: tuple[Trained, Path], base: Path, tmp_path: Path, asked: list[int]
) -> None:
    _, teacher = whole
    data = write(tmp_path / "nightly.jsonl", rows(100, seed=5, gold=False))
    settings = TrainSettings(**QUICK | {"validation": "0", "epochs": 3, "save_every": 2})
    steps = train(str(base), tmp_path / "whole", [data], teachers=[str(teacher)], settings=settings).steps
    windows = sum(asked)
    asked.clear()
    for after in (1, 2, steps // 3, 1):
        with pytest.raises(StoppedError):
            train(
                str(base),
                tmp_path / "cut",
                [data],
                teachers=[str(teacher)],
                settings=settings,
                check_stop=Kill(after + 2),  # it is looked twice before the first step
            )
    train(str(base), tmp_path / "cut", [data], teachers=[str(teacher)], settings=settings)

    assert sum(asked) == windows
    assert same(tmp_path / "whole", tmp_path / "cut")


def test_a_teacher_is_asked_again_where_what_it_said_is_gone(
    whole: tuple[Trained, Path], base: Path, tmp_path: Path, asked: list[int]
) -> None:
    _, teacher = whole
    data = write(tmp_path / "nightly.jsonl", rows(100, seed=5, gold=False))
    settings = TrainSettings(**QUICK | {"validation": "0", "epochs": 2})
    given: dict[str, Any] = {"teachers": [str(teacher)], "settings": settings}
    steps = train(str(base), tmp_path / "whole", [data], **given).steps
    with pytest.raises(StoppedError):
        train(str(base), tmp_path / "cut", [data], **given, check_stop=Kill(steps // 2 + 2))
    (tmp_path / "cut.batchqa" / VALUES).unlink()
    asked.clear()
    train(str(base), tmp_path / "cut", [data], **given)

    assert asked
    for name, weight in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "cut")[name], weight, atol=1e-3, rtol=0)


def test_no_room_for_what_a_teacher_says_is_said_before_the_first_step(
    whole: tuple[Trained, Path], base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    settings = TrainSettings(**QUICK)
    with pytest.raises(StorageError, match=r"teachers say: No space left on device; make room"):
        train(str(base), tmp_path / "out", [data], teachers=[str(whole[1])], settings=settings)


def test_a_student_of_fewer_layers_begins_with_those_of_its_base(
    base: Path, data: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(**QUICK | {"epochs": 0.1, "learning_rate": 1e-9, "validation": "0"})
    train(str(base), tmp_path / "out", [data], layers=[1], settings=settings)

    config = orjson.loads((tmp_path / "out" / "config.json").read_bytes())
    assert config["num_hidden_layers"] == 1
    key = "bert.encoder.layer.{}.output.dense.weight"
    torch.testing.assert_close(
        weights(tmp_path / "out")[key.format(0)], weights(base)[key.format(1)], atol=1e-5, rtol=0
    )


def test_frozen_layers_and_the_embeddings_stay_as_they_are(base: Path, data: Path, tmp_path: Path) -> None:
    settings = TrainSettings(**QUICK | {"epochs": 0.2, "validation": "0", "freeze_layers": 1})
    train(str(base), tmp_path / "out", [data], settings=settings)

    before, after = weights(base), weights(tmp_path / "out")
    stayed = {name for name in before if torch.equal(before[name], after[name])}
    below = {name for name in before if ".embeddings." in name or ".layer.0." in name}
    assert below <= stayed
    assert not any(name.endswith("dense.weight") for name in stayed - below)


def test_a_run_that_would_train_no_layer_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--freeze-layers 2 leaves nothing"):
        train(str(base), tmp_path / "out", [data], settings=TrainSettings(**QUICK | {"freeze_layers": 2}))


@pytest.mark.parametrize("width", [32, 48])
def test_hidden_states_come_nearer_to_the_teachers(
    width: int, base: Path, data: Path, tmp_path: Path
) -> None:
    import transformers

    config = transformers.AutoConfig.from_pretrained(base)
    config.hidden_size, config.num_attention_heads = width, width // 16
    torch.manual_seed(7)
    teacher = transformers.AutoModelForQuestionAnswering.from_config(config)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "teacher")
    teacher.save_pretrained(tmp_path / "teacher")
    settings = TrainSettings(**QUICK | {"validation": "0"}, hidden=True)

    train(
        str(base),
        tmp_path / "student",
        [data],
        layers=[0],
        teachers=[str(tmp_path / "teacher")],
        settings=settings,
    )

    if width == 32:  # else the map between the widths is gone with the teacher
        before = transformers.AutoModelForQuestionAnswering.from_pretrained(base)
        keep_layers(before, [0], "base")
        assert inner_distance(tmp_path / "student", teacher) < 0.8 * inner_distance(before, teacher)


def inner_distance(student: Any, teacher: Any) -> float:
    """`hidden_loss` of a student (a model, or its folder) with one layer, on arbitrary tokens."""
    import transformers

    if isinstance(student, Path):
        student = transformers.AutoModelForQuestionAnswering.from_pretrained(student)
    ids = torch.arange(5, 37).reshape(2, 16)
    said = []
    for model in (student, teacher):
        model.config._attn_implementation = "eager"
        with torch.no_grad():
            said.append(model.eval()(input_ids=ids, output_hidden_states=True, output_attentions=True))
    return float(hidden_loss(*said, torch.nn.ModuleList(), [0], torch.ones_like(ids, dtype=torch.bool)))


def test_an_encoder_without_a_head_is_a_base(base: Path, data: Path, tmp_path: Path) -> None:
    import transformers

    encoder = transformers.AutoModel.from_pretrained(base)
    encoder.save_pretrained(tmp_path / "encoder")
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "encoder")

    trained = train(str(tmp_path / "encoder"), tmp_path / "out", [data], settings=TrainSettings(**QUICK))

    assert trained.validation is not None
    assert trained.validation.best_f1 > 60


def test_a_bundle_can_teach_and_one_with_other_tokens_cannot(
    checkpoints: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle", "bert-uncased")
    settings = TrainSettings(**QUICK | {"epochs": 0.3, "validation": "0"})
    base = checkpoints("bert-uncased")

    train(str(base), tmp_path / "out", [data], teachers=[str(bundle)], settings=settings)

    other = checkpoints("roberta")
    with pytest.raises(ModelError, match="another tokenizer"):
        train(str(base), tmp_path / "not", [data], teachers=[str(other)], settings=settings)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda row: row.pop("answers"), InputError, "no row has gold answers.*--gold-column"),
        (lambda row: row.pop("context"), InputError, "context"),
        (
            lambda row: row.update(answers={"text": ["not there"], "answer_start": [0]}),
            InputError,
            "not in their context.*--max-missing-gold",
        ),
        (lambda row: row.update(question=""), InputError, "no row with a context and a question"),
    ],
)
def test_data_that_teaches_nothing_is_refused_before_the_first_step(
    change: Callable[[dict[str, Any]], Any],
    error: type[BatchqaError],
    words: str,
    base: Path,
    tmp_path: Path,
) -> None:
    records = rows(40)
    for record in records:
        change(record)
    file = write(tmp_path / "bad.jsonl", records)

    with pytest.raises(error, match=words):
        train(str(base), tmp_path / "out", [file], settings=TrainSettings(**QUICK))

    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("layers", [[2], [-1], [0, 0], []])
def test_layers_that_are_not_there_are_refused(
    layers: list[int], base: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="from 0 to 1"):
        train(str(base), tmp_path / "out", [data], layers=layers, settings=TrainSettings(**QUICK))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no CUDA device"):
        train(str(base), tmp_path / "out", [data], settings=TrainSettings(**QUICK | {"device": "cuda"}))


def test_some_lost_gold_is_left_out_and_counted(base: Path, tmp_path: Path) -> None:
    records = rows(100)
    records[1]["answers"] = {"text": ["not there"], "answer_start": [0]}
    file = write(tmp_path / "train.jsonl", records)
    notes: list[str] = []

    train(str(base), tmp_path / "out", [file], settings=TrainSettings(**QUICK), on_note=notes.append)

    assert any("1 rows are left out" in note for note in notes)
    assert orjson.loads((tmp_path / "out" / "training.json").read_bytes())["gold_not_found"] == 1


def test_rows_that_cannot_be_read_are_left_out_and_counted(base: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "train.jsonl", rows(20))
    file.write_bytes(file.read_bytes() + b"{no json\n")
    notes: list[str] = []
    settings = TrainSettings(**QUICK | {"epochs": 0.1})

    train(str(base), tmp_path / "out", [file], settings=settings, on_note=notes.append)

    assert any("bad_json 1" in note for note in notes)


@pytest.mark.parametrize("output", ["s3://bucket/out", ".", "/"])
def test_an_output_that_can_be_no_new_folder_is_refused(output: str, base: Path, data: Path) -> None:
    with pytest.raises(SettingsError, match="-o "):
        train(str(base), output, [data], settings=TrainSettings(**QUICK))


def test_windows_without_room_for_a_context_are_refused(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--max-length 8 .*larger"):
        train(str(base), tmp_path / "out", [data], settings=TrainSettings(**QUICK | {"max_length": 8}))


def test_a_column_that_names_no_groups_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'answers' of type struct"):
        train(str(base), tmp_path / "out", [data], settings=TrainSettings(**QUICK), group_column="answers")


def test_a_validation_that_judges_nothing_is_refused_or_said(base: Path, data: Path, tmp_path: Path) -> None:
    unlabelled = write(tmp_path / "unlabelled.jsonl", rows(20, gold=False))
    with pytest.raises(InputError, match=r"--validation .*unlabelled.*no row has gold answers"):
        train(str(base), tmp_path / "out", [data], settings=_validated_by(unlabelled))

    notes: list[str] = []
    seen = write(tmp_path / "seen.jsonl", rows(20))
    train(str(base), tmp_path / "a", [seen], settings=_validated_by(seen), on_note=notes.append)
    assert any("20 of 20 rows" in note and "trained on too" in note for note in notes)

    settings = TrainSettings(**QUICK | {"epochs": 0.1})
    labelled_by_teacher = {"teachers": [str(base)], "on_note": notes.append}
    train(str(base), tmp_path / "b", [unlabelled], settings=settings, **labelled_by_teacher)
    assert any("nothing is validated" in note for note in notes)


def _validated_by(file: Path) -> TrainSettings:
    return TrainSettings(**QUICK | {"validation": str(file), "epochs": 0.1})


def test_a_foreign_folder_is_never_replaced(base: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")

    with pytest.raises(PreconditionError, match="not made by"):
        train(str(base), tmp_path / "out", [data], settings=TrainSettings(**QUICK), restart=True)

    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
