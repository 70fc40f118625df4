"""Numbers that are nonsense are refused wherever they come from; the ends of each domain can be run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchqa.cli.configuration import options_of
from batchqa.cli.entry import commands, main
from batchqa.cli.options import Number
from batchqa.domains import Between, check_fields, checked
from batchqa.errors import LimitError, SettingsError
from batchqa.evaluation import evaluate
from batchqa.evaluation.result import Evaluation
from batchqa.export.exporting import export
from batchqa.job import run
from batchqa.settings import ErrorLimit, RunSettings
from batchqa.train.train_settings import TrainSettings

NUMBERS = [
    (command.name, option, parameter)
    for command in commands.commands.values()
    for option, parameter in options_of(command).items()
    if isinstance(parameter.type, Number)
]
SIGNED = {"no-answer-threshold", "threshold"}  # logits may be negative
NONSENSE = ["nan", "inf", "-inf", "Infinity", "1e999", "true", "many", "0x10", "1,5", "--", " ", "9" * 5000]

ARGUMENTS = {
    "run": ["in.jsonl", "-o", "out.parquet"],
    "finalize": ["no-such-output"],
    "export": ["no-such-model", "-o", "bundle"],
    "evaluate": ["no-such-file"],
    "train": ["no-such-model", "-o", "checkpoint", "--data", "in.jsonl"],
    "show": ["no-such-file"],
}


def test_every_number_among_the_options_has_a_domain() -> None:
    plain = (type(click.INT), type(click.FLOAT))
    for command in commands.commands.values():
        assert not [p.name for p in command.params if isinstance(p.type, plain)], command.name


@given(st.data())
def test_nonsense_for_a_number_is_a_usage_error_from_everywhere(data: st.DataObject) -> None:
    command, option, parameter = data.draw(st.sampled_from(NUMBERS))
    flag = f"--{option}"
    wrong = data.draw(st.sampled_from(NONSENSE))
    if option not in SIGNED and data.draw(st.booleans()):
        wrong = data.draw(st.sampled_from(["-1", "-0.5", str(-(10**40)), str(10**40)]))
    place = data.draw(st.sampled_from(["line", "environment", "file"]))
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("batchqa.cli.entry.say", lambda text, _: said.append(text))
        given_at = [f"{flag}={wrong}"]
        if place == "environment":
            patch.setenv(str(parameter.envvar), wrong)
            given_at = []
        elif place == "file":
            patch.setattr(
                Path, "read_text", lambda *_, **__: f"[{command}]\n{option} = {json.dumps(wrong)}\n"
            )
            given_at = ["--config", __file__]
        assert main([command, *ARGUMENTS[command], *given_at]) == 2
    assert len(said) == 1
    assert flag in said[0]
    assert "must be" in said[0]
    assert len(said[0]) < 400
    assert place == "line" or str(parameter.envvar) in said[0] or "--config file" in said[0]


@pytest.mark.parametrize("written", ["true", "3.5", "nan", "inf", "[3]", "1979-05-27"])
def test_a_toml_value_of_another_type_is_no_number(
    written: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "job.toml"
    config.write_text(f"[run]\ntop-k = {written}\n")
    assert main(["run", "in.jsonl", "-o", "out.parquet", "--config", str(config)]) == 2
    assert "--top-k" in capsys.readouterr().err


STEPS = [type(getattr(RunSettings(), step.name)) for step in fields(RunSettings)]
WRONG: list[Any] = [math.nan, math.inf, -math.inf, True, "3", b"3", [3], 10**400, object(), np.float32("nan")]


@pytest.mark.parametrize("step", [*STEPS, TrainSettings])
def test_settings_made_in_python_are_checked_too(step: type[Any]) -> None:
    for field in fields(step):
        for wrong in WRONG:
            declared = str(field.type)
            if (wrong is True and declared == "bool") or (wrong == "3" and declared.startswith("str")):
                continue  # a flag is a flag, and a text a text
            with pytest.raises(SettingsError, match=f"--{field.name.replace('_', '-')} must be"):
                step(**{field.name: wrong})


@pytest.mark.parametrize(
    "wrong", [-1, math.nan, 0.5, True, "5 rows", "-1", "101%", "nan", "inf%", None, "1e3"]
)
def test_a_limit_of_errors_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(SettingsError, match="--max-errors"):
        RunSettings.from_options({"max_errors": wrong})
    with pytest.raises(SettingsError, match="--max-errors"):
        ErrorLimit(wrong)


def test_numbers_of_numpy_are_numbers_like_any_other() -> None:
    settings = RunSettings.from_options(
        {"top_k": np.int64(3), "no_answer_threshold": np.float32(0.5), "keep": ["a"]}
    )
    assert type(settings.decoding.top_k) is int
    assert type(settings.decoding.no_answer_threshold) is float
    assert settings.reading.keep == ("a",)
    assert type(RunSettings.from_options({"no_answer_threshold": 1}).decoding.no_answer_threshold) is float


@pytest.mark.parametrize(
    "wrong",
    [{"folds": 1}, {"seed": -1}, {"resamples": 0}, {"resamples": 10**9}, {"confidence": 1}, {"folds": True}],
)
def test_evaluate_refuses_numbers_before_it_looks_at_the_file(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"--{next(iter(wrong))}"):
        evaluate("no-such-file", **wrong)


@pytest.mark.parametrize("wrong", [{"min_agreement": math.nan}, {"max_f1_drop": -1}, {"threshold": math.inf}])
def test_export_refuses_numbers_before_it_looks_at_the_model(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
        export("no-such-model", tmp_path / "bundle", **wrong)


def test_an_f1_that_is_no_number_passes_no_gate() -> None:
    judged = SimpleNamespace(
        figures=SimpleNamespace(all=SimpleNamespace(f1=math.nan)), predictions="answers.parquet"
    )
    with pytest.raises(LimitError, match="F1 is nan, below --min-f1 0"):
        Evaluation.require_f1(judged, 0)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="--min-f1"):
        Evaluation.require_f1(judged, math.nan)  # type: ignore[arg-type]


def test_a_domain_may_leave_its_ends_out() -> None:
    assert 0 in Between(0, 1)
    assert 0 not in Between(0, 1, ends=False)
    assert not any(number in Between() for number in (math.nan, math.inf, -math.inf))


def test_only_declared_numbers_of_a_function_are_looked_at() -> None:
    @checked
    def greet(name: str, loud: bool = False) -> str:
        return name.upper() if loud else name

    assert greet(name=3) == 3  # type: ignore[arg-type,comparison-overlap]
    with pytest.raises(TypeError):
        greet()  # type: ignore[call-arg]


ENDS = [
    (field.name, end)
    for step in STEPS
    for field in fields(step)
    for command, option, parameter in NUMBERS
    if command == "run" and option == field.name.replace("_", "-")
    for end in (parameter.type.domain.between.least, parameter.type.domain.between.most)  # type: ignore[attr-defined]
    if field.name not in {"threads", "workers"}
]


@pytest.mark.parametrize(("name", "end"), ENDS)
def test_the_ends_of_a_domain_can_be_run(
    name: str, end: float, tiny_bundle: Path, tmp_path: Path, one_row: Callable[[], Path]
) -> None:
    if math.isinf(end):
        end = math.copysign(1e308, end)
    options: dict[str, Any] = {"batch_tokens": 64, "threads": 1, "engine": "onnxruntime", name: end}
    try:
        summary = run(
            one_row(),
            tmp_path / "out.parquet",
            model=tiny_bundle,
            in_process=True,
            max_errors="100%",
            **options,
        )
    except SettingsError as refused:  # the model is asked, too
        assert name == "max_length"
        assert "--max-length" in str(refused)  # noqa: PT017
    else:
        assert summary.rows == (end if name == "limit" and end == 0 else 1)


@pytest.fixture
def one_row(tmp_path: Path) -> Callable[[], Path]:
    """A file of one row."""

    def write() -> Path:
        file = tmp_path / "in.jsonl"
        row = {"context": "Ada wrote the first program in 1843.", "question": "Who wrote the first program?"}
        file.write_text(json.dumps(row) + "\n")
        return file

    return write


def test_fields_are_checked_by_their_declared_types() -> None:
    settings = RunSettings().machine
    check_fields(settings)
    with pytest.raises(SettingsError, match="--engine must be one of auto, onnxruntime, openvino"):
        type(settings)(engine="tensorrt")  # type: ignore[arg-type]
