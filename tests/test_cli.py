"""The command line: options become settings, errors become exit codes, one line each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchqa.runners
from batchqa import errors
from batchqa.cli.configuration import options_of
from batchqa.cli.console import stoppable
from batchqa.cli.entry import commands, main
from batchqa.errors import BatchqaError, StoppedError
from batchqa.settings import ErrorLimit, RunSettings
from batchqa.version import VERSION

ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, BatchqaError) and value is not StoppedError
]

HEAVY = {"torch", "transformers", "onnxruntime", "pyarrow", "numpy", "polars", "rich", "tokenizers"}

SUMMARY_KEYS = {
    "rows", "answered", "no_answer", "errors", "statuses", "rejected", "questions_cut", "windows",
    "reused_rows", "seconds", "startup_seconds", "rows_per_second", "resumed_rows", "model", "variant",
    "engine", "device", "output", "fingerprint",
}  # fmt: skip


def batchqa_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "batchqa", *arguments],
        **({"capture_output": True, "text": True, "encoding": "utf-8", "timeout": 120} | options),
    )


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    file = tmp_path / "in.jsonl"
    rows = [
        {"id": "1", "context": "Ada wrote the first program.", "question": "Who wrote it?"},
        {"id": "2", "context": "El gato duerme 🐈 en la silla.", "question": "¿Dónde duerme?"},
        {"id": "3", "context": None, "question": "Who?"},
    ]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command hands to the job, which is replaced: nothing runs."""
    received: dict[str, Any] = {}

    def run(inputs: Sequence[str], output: str, **given: Any) -> Any:
        received.update(given, inputs=inputs, output=output)
        return SimpleNamespace(to_dict=lambda: {"rows": 0})

    monkeypatch.setattr(batchqa.runners, "run", run)
    return received


@pytest.fixture
def job_raises(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Let the job end with an exception."""

    def arrange(error: BaseException) -> None:
        def run(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(batchqa.runners, "run", run)

    return arrange


# --- options


def test_every_setting_is_an_option_of_run_with_the_same_default(seen: dict[str, Any]) -> None:
    assert main(["run", "in.jsonl", "-o", "out.parquet"]) == 0
    assert seen["settings"] == RunSettings()
    options = {parameter.name for parameter in commands.commands["run"].params}
    for step in fields(RunSettings):
        settings = getattr(RunSettings(), step.name)
        # set by a job for its own questions, and by a Python caller's `questions` in the place of a file
        no_options = {"template_columns", "added_columns", "given"}
        assert {setting.name for setting in fields(settings)} - no_options <= options


def test_options_reach_the_settings(seen: dict[str, Any]) -> None:
    command = "run a b -o out/ --top-k 3 --keep id,lang --keep q --max-errors 1% --no-answer off --limit 0"
    assert main(command.split()) == 0
    settings = seen["settings"]
    assert seen["inputs"] == ("a", "b")
    assert seen["output"] == "out/"
    assert settings.decoding.top_k == 3
    assert settings.decoding.no_answer == "off"
    assert settings.reading.keep == ("id", "lang", "q")
    assert settings.errors.max_errors == ErrorLimit(1.0, percent=True)
    assert settings.output.limit == 0


def test_a_column_name_with_a_comma_is_quoted_as_in_csv(seen: dict[str, Any]) -> None:
    assert main(["run", "a", "-o", "out/", "--drop", '"last, first",age']) == 0
    assert seen["settings"].reading.drop == ("last, first", "age")


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    seen: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "job.toml"
    config.write_text('[run]\nstride = 11\ntop-k = 11\nthreads = 11\nkeep = ["id", "a b"]\nstrict = true\n')
    monkeypatch.setenv("BATCHQA_RUN_TOP_K", "22")
    monkeypatch.setenv("BATCHQA_RUN_THREADS", "22")
    assert main(["run", "a", "-o", "out/", "--config", str(config), "--threads", "33"]) == 0
    settings = seen["settings"]
    assert (settings.windows.stride, settings.decoding.top_k, settings.machine.threads) == (11, 22, 33)
    assert settings.reading.keep == ("id", "a b")
    assert settings.errors.strict is True


@pytest.mark.parametrize(("text", "keep"), [("id,a b", ("id", "a b")), ('"a, b"', ("a, b",))])
def test_a_text_in_the_file_is_what_it_is_on_the_command_line(
    seen: dict[str, Any], tmp_path: Path, text: str, keep: tuple[str, ...]
) -> None:
    config = tmp_path / "job.toml"
    lines = f"[run]\ninputs = 'abc'\nkeep = '{text}'\nstrict = 'yes'\noutput = 'out/'\n"
    config.write_text(lines, encoding="utf-8-sig")  # as editors on Windows write it
    assert main(["run", "--config", str(config)]) == 0
    assert (seen["inputs"], seen["settings"].reading.keep) == (("abc",), keep)
    assert seen["settings"].errors.strict is True


def test_inputs_and_output_can_stand_in_the_file_too(seen: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "job.toml"
    config.write_text('[run]\ninputs = ["a", "b"]\noutput = "out.parquet"\nmax-errors = 5\n')
    assert main(["run", "--config", str(config)]) == 0
    assert seen["inputs"] == ("a", "b")
    assert seen["output"] == "out.parquet"
    assert seen["settings"].errors.max_errors == ErrorLimit(5.0)


def test_columns_in_the_environment_may_have_spaces(
    seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHQA_RUN_KEEP", "first name,age")
    assert main(["run", "a", "-o", "out/"]) == 0
    assert seen["settings"].reading.keep == ("first name", "age")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("BATCHQA_RUN_TOPK", "did you mean BATCHQA_RUN_TOP_K?"),
        ("BATCHQA_RUN_MODLE", "did you mean BATCHQA_RUN_MODEL?"),
        ("BATCHQA_RUM_MODEL", "did you mean BATCHQA_RUN_MODEL?"),
        ("BATCHQA_EVALUATE_MIN_F", "did you mean BATCHQA_EVALUATE_MIN_F1?"),
        ("BATCHQA_INFO_AS_JSON", "did you mean BATCHQA_INFO_JSON?"),
        ("BATCHQA_RUN_ZZZZZZZZZZZZZZZZZ", "BATCHQA_RUN_ZZZZZZZZZZZZZZZZZ is not an option of any command"),
    ],
)
def test_a_misspelt_variable_is_a_usage_error_with_a_suggestion(
    seen: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    said: str,
) -> None:
    monkeypatch.setenv(name, "3")
    assert main(["run", "a", "-o", "out/"]) == 2
    err = capsys.readouterr().err
    assert name in err
    assert said in err
    assert err.count("\n") == 1
    assert seen == {}


def test_variables_that_are_no_options_are_left_alone(
    seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BATCHQA_CACHE", "BATCHQA_DATA", "BATCHQA_IMAGE_TAG", "BATCHQA_RUNNER"):
        monkeypatch.setenv(name, "3")
    assert main(["run", "a", "-o", "out/"]) == 0


def test_each_option_has_the_variable_and_the_toml_key_of_its_flag(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in commands.commands.values():
        for option, parameter in options_of(command).items():
            if isinstance(parameter, click.Option):
                assert f"--{option}" in parameter.opts
                variable = f"batchqa_{command.name}_{option}".upper().replace("-", "_")
                assert parameter.envvar == variable
    monkeypatch.setenv("BATCHQA_INFO_JSON", "yes")
    assert main(["info", "default"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "bundle"
    config = tmp_path / "job.toml"
    config.write_text("[info]\njson = true\n")
    monkeypatch.delenv("BATCHQA_INFO_JSON")
    assert main(["info", "default", "--config", str(config)]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "bundle"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[run]\nstrid = 1\n", "[run] has no option strid; did you mean stride?"),
        ("[run]\nxyzzy = 1\n", "[run] has no option xyzzy; it has allow-cpu-fallback, "),
        ("[rum]\nstride = 1\n", "'rum' is not a command; did you mean run?"),
        ("stride = 1\n", "'stride' is not a command; the tables of this file are [run], "),
        ("run = 1\n", "run must be a table"),
        ("[run\n", "is not valid TOML"),
        (
            "[run]\nstride = 'many'\n",
            "must be a whole number from 0 to 2147483647, not 'many' (in the --config file)",
        ),
        ("[run]\nstrict = 1\n", "strict must be true or false, not 1"),
        ("[run]\ndry-run = []\n", "dry-run must be true or false, not []"),
        ("[run]\nkeep = true\n", 'keep must be a list of texts (["a", "b"]), not True'),
        ("[run]\nkeep = [['a']]\n", "keep must be a list of texts"),
        ("[run]\ninputs = 5\n", "inputs must be a list of texts"),
        ("[run]\nsummary = true\n", "summary must be text, not True"),
        ("[run]\ncontext = ['a']\n", "context must be text, not ['a']"),
    ],
)
def test_a_mistake_in_the_file_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, reason: str
) -> None:
    config = tmp_path / "job.toml"
    config.write_text(text)
    assert main(["run", "a", "-o", "out/", "--config", str(config)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert reason in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "run a",
        "run a -o b --nonsense",
        "run a -o b --threads many",
        "run a -o b --stride -1",
        "run a -o b --keep x --drop y",
        "run a -o b --max-errors some",
        "run a -o b --device tpu",
        "run a -o b --config missing.toml",
        "fly",
        "info",
    ],
)
def test_a_usage_error_is_one_line_on_standard_error_and_exit_2(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("batchqa: error: ")
    assert err.count("\n") == 1


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"batchqa {VERSION}\n"


@pytest.mark.parametrize("name", sorted(commands.commands))
def test_the_help_of_each_command_imports_nothing_heavy(name: str) -> None:
    # the defaults of these two are those of their functions, whose modules load in half a second
    allowed = {"pyarrow", "numpy", "polars", "tokenizers"} if name in ("evaluate", "export") else set()
    script = (
        f"import sys, batchqa.cli.entry\nassert batchqa.cli.entry.main([{name!r}, '--help']) == 0\n"
        f"assert not {HEAVY - allowed} & set(sys.modules), {HEAVY} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert f"Usage: batchqa {name}" in run.stdout


# --- errors and exit codes


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: str(kind.__name__))
def test_each_error_ends_the_command_with_its_exit_code_and_one_line(
    kind: type[BatchqaError],
    job_raises: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    job_raises(kind("what happened\nand where"))
    assert main(["run", "a", "-o", "out/"]) == kind.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "batchqa: error: what happened and where\n"


def test_an_io_error_that_nobody_translated_is_exit_74(
    job_raises: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    job_raises(OSError(28, "No space left on device", "out.parquet"))
    assert main(["run", "a", "-o", "out/"]) == 74
    assert capsys.readouterr().err == "batchqa: error: out.parquet: No space left on device\n"


def test_a_bug_keeps_its_traceback(job_raises: Callable[[BaseException], None]) -> None:
    job_raises(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        main(["run", "a", "-o", "out/"])


def test_with_the_json_log_an_error_is_json(
    job_raises: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    job_raises(errors.InputError("no such file"))
    assert main(["run", "a", "-o", "out/", "--log-format", "json"]) == 2
    assert json.loads(capsys.readouterr().err) == {
        "event": "error",
        "message": "no such file",
        "exit_code": 2,
    }


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_job_with_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int
) -> None:
    def run(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), number)
        raise AssertionError("the signal was not delivered")

    monkeypatch.setattr(batchqa.runners, "run", run)
    before = signal.getsignal(number)
    assert main(["run", "a", "-o", "out/"]) == code
    assert f"stopped by {number.name}" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_a_stop_that_was_swallowed_is_raised_again_at_the_next_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(*_: Any, progress: Callable[[Any], None], **__: Any) -> Any:
        with suppress(StoppedError):
            os.kill(os.getpid(), signal.SIGTERM)
        progress(SimpleNamespace())
        raise AssertionError("progress did not stop the job")

    monkeypatch.setattr(batchqa.runners, "run", run)
    assert main(["run", "a", "-o", "out/"]) == 143


# --- the real thing, with a tiny model


def test_a_run_writes_the_output_and_says_the_summary_last(
    rows_file: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    out, summary = tmp_path / "out.parquet", tmp_path / "summary.json"
    run = batchqa_process(
        "run", str(rows_file), "-o", str(out), "--model", str(tiny_bundle), "--summary", str(summary)
    )
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout.splitlines()[-1])
    assert set(said) >= SUMMARY_KEYS
    assert said["rows"] == 3
    assert said["statuses"] == {"null_context": 1}
    assert json.loads(summary.read_bytes()) == said
    table = pq.read_table(out)
    assert table["id"].to_pylist() == ["1", "2", "3"]
    assert table["qa_error"].to_pylist() == [None, None, "null_context"]


@pytest.mark.parametrize(
    "option", ["--ask=a=\udce9?", "--output-prefix=\udce9", "--context=\udce9", "--drop=\udce9"]
)
def test_an_option_that_is_no_utf8_is_refused(
    rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(["run", str(rows_file), "-o", str(tmp_path / "out.parquet"), option]) == 2
    assert "UTF-8" in capsys.readouterr().err


def test_an_output_whose_name_is_no_utf8_is_written_and_said(
    rows_file: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "caf\udce9.parquet")
    model = ["--model", str(tiny_bundle), "--device", "cpu", "--in-process"]
    assert main(["run", str(rows_file), "-o", out, *model, "--log-format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"].endswith(r"caf\udce9.parquet")
    assert Path(out).is_file()
    assert main(["info", out]) == 2


def test_a_file_uri_is_a_local_path_for_every_command(
    rows_file: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"file://{tmp_path}/out.parquet"
    run = ["run", rows_file.as_uri(), "--model", str(tiny_bundle), "--device", "cpu", "--in-process"]
    assert main([*run, "-o", out]) == 0
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 3
    capsys.readouterr()
    assert main([*run, "-o", str(tmp_path / "again.parquet"), "--reuse", out]) == 0
    assert json.loads(capsys.readouterr().out)["reused_rows"] == 2
    for command in ("info", "show", "finalize"):
        assert main([command, out]) == 0, command
    beside = {name: f"file://{tmp_path}/{name}" for name in ("predictions.json", "page.html", "summary.json")}
    assert main(["convert", out, "--to", "squad", "-o", beside["predictions.json"]]) == 0
    assert main(["show", out, "--html", beside["page.html"]]) == 0
    third = f"{tmp_path}/third.parquet"
    assert main([*run, "-o", third, "--summary", beside["summary.json"]]) == 0
    assert all((tmp_path / name).is_file() for name in beside)
    gold = tmp_path / "gold.jsonl"
    gold.write_text("".join(json.dumps({"id": each, "answers": ["a"]}) + "\n" for each in "123"))
    assert main(["evaluate", out, "--gold", gold.as_uri(), "--resamples", "9"]) == 0


@pytest.mark.parametrize(
    "command",
    [
        "run {rows} -o {here}/second.jsonl --model {bundle} --device cpu --in-process --summary {there}",
        "show {out} --html {there}",
        "convert {out} --to squad -o {there}",
        "evaluate {out} --report {there}",
        "export {bundle} -o {there}",
        "train {bundle} --data {rows} -o {there}",
    ],
)
def test_what_only_a_local_path_can_be_is_no_folder_called_s3(
    command: str,
    rows_file: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:" / "bucket").mkdir(parents=True)  # or the parent's absence would be what is refused
    run = ["run", str(rows_file), "--model", str(tiny_bundle), "--device", "cpu", "--in-process"]
    assert main([*run, "-o", "out.jsonl"]) == 0
    names = {"rows": rows_file, "out": "out.jsonl", "bundle": tiny_bundle, "here": tmp_path}
    capsys.readouterr()
    assert main([word.format(**names, there="s3://bucket/made.json") for word in command.split()]) == 2
    assert "must be a local path, not s3://bucket/made.json" in capsys.readouterr().err
    assert not [*(tmp_path / "s3:" / "bucket").iterdir()]


def test_a_dry_run_says_what_to_expect_and_writes_nothing(
    rows_file: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "result" / "out.parquet"
    run = batchqa_process("run", str(rows_file), "-o", str(out), "--model", str(tiny_bundle), "--dry-run")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["rows"] == 3
    assert not out.parent.exists()


def test_standard_input_and_output_carry_nothing_but_rows(rows_file: Path, tiny_bundle: Path) -> None:
    run = batchqa_process(
        "run", "-", "-o", "-", "--model", str(tiny_bundle), "--quiet", input=rows_file.read_text("utf-8")
    )
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert rows[1]["context"] == "El gato duerme 🐈 en la silla."
    assert json.loads(run.stderr.splitlines()[-1])["rows"] == 3


def test_what_cannot_be_run_is_refused_with_its_code_and_leaves_no_output(
    rows_file: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.parquet"
    empty.write_bytes(b"")
    numbers = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({"context": [1], "question": ["Why?"]}), numbers)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in tiny_bundle.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes()[:-1])
    (damaged / "bundle.json").write_bytes((tiny_bundle / "bundle.json").read_bytes())
    clash = tmp_path / "clash.jsonl"
    clash.write_text('{"context": "a", "question": "b", "qa_answer": "c"}\n')
    model = ["--model", str(tiny_bundle)]
    out = tmp_path / "result" / "out.parquet"
    for arguments, code, said in [
        ([str(tmp_path / "missing.jsonl"), *model], 2, "missing.jsonl"),
        ([str(empty), *model], 2, "empty.parquet"),
        ([str(rows_file), *model, "--context", "text"], 2, "question"),
        ([str(numbers), *model], 2, "int64"),
        ([str(clash), *model], 2, "--output-prefix"),
        ([str(rows_file), "--model", str(tmp_path / "no-model")], 5, "no-model"),
        ([str(rows_file), "--model", str(damaged)], 5, "damaged"),
    ]:
        assert main(["run", *arguments, "-o", str(out)]) == code, said
        err = capsys.readouterr().err
        assert said in err
        assert err.splitlines()[-1].startswith("batchqa: error: ")
        assert not out.exists()
    assert main(["run", str(rows_file), *model, "-o", str(rows_file)]) == 2


def test_an_output_that_is_not_ours_is_kept_unless_overwrite_is_given(
    rows_file: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    out.write_bytes(b"precious")
    command = ["run", str(rows_file), "-o", str(out), "--model", str(tiny_bundle)]
    assert main(command) == 4
    assert out.read_bytes() == b"precious"
    assert main([*command, "--overwrite"]) == 0
    assert pq.read_metadata(out).num_rows == 3


def test_row_errors_above_the_limit_are_exit_3(tiny_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"context": "a", "question": "b"}\n{"context": \n')
    command = ["run", str(file), "-o", str(tmp_path / "out.parquet"), "--model", str(tiny_bundle)]
    assert main(command) == 3
    assert main([*command, "--max-errors", "1"]) == 0


def test_info_tells_what_a_bundle_and_an_output_are(
    rows_file: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.parquet"
    assert main(["run", str(rows_file), "-o", str(out), "--model", str(tiny_bundle)]) == 0
    fingerprint = json.loads(capsys.readouterr().out)["fingerprint"]
    assert main(["info", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["kind"], facts["rows"]) == ("output", 3)
    assert facts["record"]["fingerprint"] == fingerprint
    assert main(["info", str(tiny_bundle)]) == 0
    assert "longest input" in capsys.readouterr().out
    assert main(["info", str(tiny_bundle), "--json"]) == 0
    assert "max_length" in json.loads(capsys.readouterr().out)
    assert main(["info", str(out)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{out}: output\n")
    for line in (
        "rows         3 of 3 rows read",
        "not asked    1 (null_context 1)",
        "options      the defaults",
    ):
        assert f"  {line}\n" in told
    assert fingerprint in told
    assert main(["info", str(rows_file)]) == 2


def test_evaluate_scores_what_run_wrote_and_gates_on_f1(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "gold.jsonl", tmp_path / "out.parquet"
    rows = [
        {"id": str(n), "context": f"Ada has {n} cats.", "question": "Who?", "answers": ["Ada"]}
        for n in range(5)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["run", str(file), "-o", str(out), "--model", str(tiny_bundle)]) == 0
    capsys.readouterr()
    command = ["evaluate", str(out), "--resamples", "10"]
    assert main([*command, "--json", "--min-f1", "0"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["total"], 0 <= figures["f1"] < 100) == (5, True)
    assert main([*command, "--min-f1", "100"]) == 3
    printed = capsys.readouterr()
    assert "| all" in printed.out
    assert "--min-f1" in printed.err


def test_evaluate_annotates_first_with_the_options_of_a_run_that_were_given(
    rows_file: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import batchqa.evaluation

    received: dict[str, Any] = {}

    def evaluate(predictions: str, **given: Any) -> Any:
        received.update(given, predictions=predictions)
        return SimpleNamespace(table=lambda: "", to_dict=dict)

    monkeypatch.setattr(batchqa.evaluation, "evaluate", evaluate)
    monkeypatch.setenv("BATCHQA_EVALUATE_THREADS", "1")
    assert main(["evaluate", str(rows_file), "--model", "m", "--stride", "64", "--by", "lang"]) == 0
    assert (received["stride"], received["threads"], received["by"]) == (64, 1, ("lang",))
    assert "max_answer_length" not in received


def test_evaluate_says_what_the_run_that_it_makes_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import batchqa.evaluation

    def evaluate(
        _: str, *, progress: Callable[[Any], None], on_note: Callable[[str], None], **__: Any
    ) -> Any:
        on_note("took the CPU")
        monkeypatch.setattr(
            "batchqa.cli.progress.LineReporter.progress", lambda _, state: on_note(f"at {state}")
        )
        progress(5)
        return SimpleNamespace(table=lambda: "", to_dict=dict)

    monkeypatch.setattr(batchqa.evaluation, "evaluate", evaluate)
    assert main(["evaluate", "a.jsonl", "--model", "m"]) == 0
    said = capsys.readouterr().err
    assert "took the CPU" in said
    assert "at 5" in said


def test_tune_and_its_new_bundle_belong_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "a.parquet", "--tune"]) == 2
    assert main(["evaluate", "a.parquet", "-o", "new"]) == 2
    assert "--tune needs -o NEW_BUNDLE" in capsys.readouterr().err


def test_doctor_ends_with_5_where_the_model_cannot_run(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--model", str(tiny_bundle), "--device", "cpu", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {finding["level"] for finding in findings} <= {"ok", "warn"}
    assert main(["doctor", "--model", str(tmp_path / "none")]) == 5
    assert "fail  model" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["--help", "run --help", "info BUNDLE", "run ROWS -o OUT --model BUNDLE"])
def test_a_reader_that_goes_away_is_no_error(
    command: str, rows_file: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    paths = {"BUNDLE": str(tiny_bundle), "ROWS": str(rows_file), "OUT": str(tmp_path / "out.parquet")}
    words = [paths.get(word, word) for word in command.split()]
    reading, writing = os.pipe()
    os.close(reading)
    run = batchqa_process(*words, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert run.returncode == 0
    assert "Traceback" not in run.stderr
    assert "Exception" not in run.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without space")
def test_a_full_disk_behind_standard_output_is_exit_74(tiny_bundle: Path) -> None:
    with Path("/dev/full").open("w") as full:
        run = batchqa_process("info", str(tiny_bundle), capture_output=False, stdout=full, stderr=-1)
    assert run.returncode == 74
    assert "batchqa: error: " in run.stderr
    assert "No space left" in run.stderr


def test_closed_standard_streams_neither_stop_a_run_nor_get_into_its_output(
    rows_file: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    command = [
        sys.executable,
        "-m",
        "batchqa",
        "run",
        str(rows_file),
        "-o",
        str(out),
        "--model",
        str(tiny_bundle),
    ]
    run = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *command], timeout=120)
    assert run.returncode == 0
    assert pq.read_table(out)["id"].to_pylist() == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("words", "closed", "code", "says"),
    [
        ("run ROWS -o - --model BUNDLE", ">&-", 74, "standard output (-o -) is closed"),
        ("run - -o OUT --model BUNDLE", "<&-", 2, "standard input (-) is closed"),
        ("run - -o OUT --model BUNDLE", "0>NEW", 74, "standard input cannot be read"),
        ("info BUNDLE", ">&-", 74, "standard output is closed"),
        ("run ROWS -o OUT --model BUNDLE", ">/dev/full", 74, "the output itself is complete"),
        ("--version", ">/dev/full", 74, "No space left"),
        ("run --help", ">/dev/full", 74, "No space left"),
    ],
)
def test_a_standard_stream_that_is_needed_and_closed_or_full_is_an_error_and_no_success(
    words: str, closed: str, code: int, says: str, rows_file: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    paths = {
        "BUNDLE": str(tiny_bundle),
        "ROWS": str(rows_file),
        "OUT": str(tmp_path / "out.parquet"),
    }
    command = [sys.executable, "-m", "batchqa", *(paths.get(word, word) for word in words.split())]
    redirected = closed.replace("NEW", str(tmp_path / "new"))
    run = subprocess.run(
        ["sh", "-c", f'"$@" {redirected}', "sh", *command], stderr=subprocess.PIPE, text=True, timeout=120
    )
    last = run.stderr.splitlines()[-1]
    assert (run.returncode, last.startswith("batchqa: error: "), says in last) == (code, True, True)
    assert "Traceback" not in run.stderr


def test_a_signal_in_the_middle_of_an_import_is_a_stop_and_no_error_of_the_import() -> None:
    def interrupted_import() -> None:
        with stoppable():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except StoppedError as stopped:
                raise ImportError("initialization failed") from stopped

    with pytest.raises(StoppedError, match="SIGTERM"):
        interrupted_import()


LOUD = """
import os, subprocess, sys, warnings, logging
import batchqa.runners
from batchqa.cli.entry import main
from batchqa.errors import InputError

def run(*_, **__):
    warnings.warn("a warning of a library")
    logging.getLogger("library").error("a log of a library")
    print("a print of a library", file=sys.stderr)
    os.write(2, b"C++ of a library\\n")
    subprocess.run(["sh", "-c", "echo a child process of a library >&2"])
    if "bug" in sys.argv:
        raise RuntimeError("a bug")
    raise InputError("the input is wrong")

batchqa.runners.run = run
sys.exit(main(["run", "in.jsonl", "-o", "out.parquet", *sys.argv[1:2]]))
"""


def test_quiet_silences_libraries_and_their_processes_but_no_error_of_ours() -> None:
    def said(*options: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", LOUD, *options], capture_output=True, text=True, timeout=120
        ).stderr

    assert said("--quiet") == "batchqa: error: the input is wrong\n"
    loud = said("--strict")
    for what in ("warning", "log", "print", "C++", "child process"):
        assert f"{what} of a library" in loud.replace("a child", "child")
    assert "RuntimeError: a bug" in said("--quiet", "bug")


def test_with_rows_on_standard_output_a_quiet_run_still_says_its_summary(
    rows_file: Path, tiny_bundle: Path
) -> None:
    done = batchqa_process("run", str(rows_file), "-o", "-", "--model", str(tiny_bundle), "--quiet")
    assert done.returncode == 0
    assert json.loads(done.stderr)["rows"] == 3
    assert len(done.stdout.splitlines()) == 3


def test_where_there_is_no_terminal_the_log_says_what_the_command_does(
    rows_file: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    command = ["run", str(rows_file), "-o", str(tmp_path / "out.parquet"), "--model", str(tiny_bundle)]
    first, again = batchqa_process(*command), batchqa_process(*command)
    assert "batchqa: loading tiny-bert-uncased\n" in first.stderr
    assert json.loads(first.stdout)["already_done"] is False
    assert again.stderr == (
        f"batchqa: already done: {tmp_path / 'out.parquet'} is this job's output; nothing was changed\n"
    )
    assert json.loads(again.stdout)["already_done"] is True
