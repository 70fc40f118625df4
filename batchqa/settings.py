"""Settings: one small frozen dataclass per step, checked when built, combined as RunSettings.

What values an option may have is declared in its type (`batchqa.domains`).
`None` means "not given" and is different from 0. Sizes say their unit in the name or the comment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from batchqa.domains import (
    INT32,
    AnyNumber,
    Between,
    Count,
    CountOrZero,
    Domain,
    Percent,
    Rows,
    Share,
    check_fields,
    shown,
)
from batchqa.errors import InputError, SettingsError

DEFAULT_MAX_LENGTH = 384
"""Tokens of a window where neither the user nor the model says otherwise (run_qa's default)."""

EngineName = Literal["auto", "onnxruntime", "openvino"]
"""The engines, the preferred one first: each is a file of that name in `engines/`."""

OutputLayout = Literal["long", "wide"]
"""How the answers of asked documents are written: a row for each question, or a column."""

ComputeDtype = Literal["f32", "bf16"]
"""What the matrix products' factors are: float32, or bfloat16 with sums in float32."""

Cores = Annotated[int, Between(1, 1024)]
"""Threads or processes that one machine runs side by side; more is a typing mistake."""


@dataclass(frozen=True, slots=True)
class ReadingSettings:
    """Where the texts stand in the input, which columns pass through, and the bounds of a record.

    `template_columns` and `added_columns` are no options: a job that asks its own questions sets them. The
    first are the columns that its questions hold, and there is no column of questions then; the second the
    names of the columns that it adds, without their prefix.
    """

    context: str = "context"
    question: str = "question"
    id: str | None = None
    keep: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()
    partition_columns: bool = False
    schema: str | None = None
    output_prefix: str = "qa_"
    max_line_bytes: Annotated[int, Between(2, INT32)] = 64 * 2**20
    max_context_chars: Count = 10_000_000
    max_zstd_window: Annotated[int, Between(1024, 2**31)] = 2**27  # bytes; what the command zstd allows
    if_no_input: Literal["fail", "skip"] = "fail"
    template_columns: tuple[str, ...] | None = None
    added_columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.keep is not None and self.drop:
            raise SettingsError("--keep and --drop cannot be combined; give one of them")

    @property
    def text_columns(self) -> tuple[tuple[str, str], ...]:
        """The columns with the texts: the option that names each one, and its name."""
        if self.template_columns is None:
            return ("context", self.context), ("question", self.question)
        return ("context", self.context), *(("ask", name) for name in self.template_columns)


class TemplateColumnError(InputError):
    """The column `column` of `template_columns` is not in the input, or has no text."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


@dataclass(frozen=True, slots=True)
class AskingSettings:
    """The questions that every row is asked, where the rows do not bring their own.

    `ask` has them as NAME=QUESTION, `questions` names a file of them; what they may be is in
    docs/asking.md. `layout` is how the answers are written: a row for each question, or a column. `given` is
    no option: it is what a Python caller gives as `questions` in the place of a file.
    """

    ask: tuple[str, ...] = ()
    questions: str | None = None
    given: Mapping[str, Any] | None = None
    layout: OutputLayout = "long"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """Sizes of the overlapping windows, all in tokens.

    `max_length` None means min(384, the model's limit). `stride` is what neighbouring windows share, as in
    the tokenizers library (BERT's run_squad used the word for the step).
    """

    max_length: Annotated[int, Between(8, INT32)] | None = None
    stride: CountOrZero = 128
    max_question_length: Count = 64

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class DecodingSettings:
    """How logits become an answer. `no_answer_threshold` None means the bundle's.

    With `answers` "all" there is a list of all answers beside the best one, at most `max_answers` long.
    An answer with a score below `min_score` is none.
    """

    max_answer_length: Count = 30
    no_answer_threshold: AnyNumber | None = None
    no_answer: Literal["auto", "on", "off"] = "auto"
    answers: Literal["best", "all"] = "best"
    max_answers: Annotated[int, Between(1, 1000)] = 20
    top_k: CountOrZero = 0
    overlapping_candidates: bool = False
    raw_score: bool = False
    min_score: Share | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def most_answers(self) -> int:
        """How many of all answers are listed; 0 where only the best is wanted."""
        return self.max_answers if self.answers == "all" else 0


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """Where the model runs. `None` is measured or read from the machine.

    The engine has a process of its own, so that a row with which it crashes costs that row alone; with
    `in_process` it runs in the caller's. `workers` are copies of the model that work side by side on the CPU
    and share `threads` out; several GPUs have one each. `arithmetic` is the compute dtype of openvino;
    onnxruntime computes in what the variant says.
    """

    device: str = "auto"
    engine: EngineName = "auto"
    variant: str | None = None
    threads: Cores | None = None
    workers: Cores | None = None
    batch_tokens: Count | None = None
    allow_cpu_fallback: bool = False
    in_process: bool = False
    arithmetic: Literal["auto", "f32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        if not re.fullmatch(r"auto|cpu|all|cuda(:\d+(,\d+)*)?", self.device):
            raise SettingsError(
                f"--device {self.device!r} is not a device: give auto, cpu, cuda, cuda:0,1 or all"
            )
        if self.engine == "onnxruntime" and self.arithmetic == "bf16":
            raise SettingsError("--arithmetic bf16 is for --engine openvino; onnxruntime has --variant")


@dataclass(frozen=True, slots=True)
class ErrorLimit:
    """How many row errors a run may have: a count, or a share of the rows in percent."""

    value: float
    percent: bool = False

    def __post_init__(self) -> None:
        try:
            number = Domain.of(Percent if self.percent else AnyNumber).take(self.value)
            if not self.percent:  # a count: 5.0 is one, 0.5 is none
                Domain.of(Rows).take(-1 if number % 1 else int(number))
        except ValueError as error:
            raise _no_limit(self.value) from error

    @classmethod
    def parse(cls, text: str) -> ErrorLimit:
        """Read `N` or `P%`."""
        count, _, rest = text.strip().partition("%")
        try:
            percent = text.strip().endswith("%") and not rest
            return cls(float(count), percent=True) if percent else cls(int(text))
        except ValueError as error:
            raise _no_limit(text) from error

    def __str__(self) -> str:
        return f"{self.value:g}%" if self.percent else f"{self.value:.0f}"

    def exceeded(self, errors: int, rows: int) -> bool:
        """Whether `errors` of `rows` are more than allowed."""
        return errors * 100 > self.value * rows if self.percent else errors > self.value


def _no_limit(value: Any) -> SettingsError:
    return SettingsError(f"--max-errors must be a count (10) or a share (0.5%), not {shown(value)}")


@dataclass(frozen=True, slots=True)
class ErrorSettings:
    """What happens to rows that cannot be judged."""

    max_errors: ErrorLimit = ErrorLimit(0)
    on_error: Literal["annotate", "reject", "fail"] = "annotate"
    strict: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.max_errors, ErrorLimit):
            raise _no_limit(self.max_errors)
        check_fields(self)


@dataclass(frozen=True, slots=True)
class Shard:
    """Which share of a job one process does: number `index`, from 0, of `count`."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.index < self.count:
            raise SettingsError(f"--shard {self}: I/N must have N of at least 1 and I from 0 to N - 1")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `I/N`."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if match is None:
            raise SettingsError(f"--shard must be I/N (0/4 to 3/4) or auto, not {shown(text)}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True, slots=True)
class OutputSettings:
    """What is written, and how; `reuse` names earlier outputs whose answers are copied for the same pairs."""

    reuse: tuple[str, ...] = ()
    compression: Literal["zstd", "snappy", "gzip", "lz4", "none"] = "zstd"
    overwrite: bool = False
    restart: bool = False
    part_rows: Count = 100_000
    limit: Rows | None = None

    def __post_init__(self) -> None:
        check_fields(self)


def _asked_as(name: Any, question: Any) -> str:
    """A question of a mapping as --ask has it. Raises SettingsError for one that is no text."""
    if not isinstance(question, str):
        raise SettingsError(
            f"ask[{name!r}] must be the question's text, not {shown(question)}; a threshold of its own is "
            "given with questions="
        )
    if "=" in str(name):
        raise SettingsError(f"ask[{name!r}]: a question's name has letters, digits and _, and no =")
    return f"{name}={question}"


@dataclass(frozen=True, slots=True)
class RunSettings:
    """All settings of a run."""

    reading: ReadingSettings = field(default_factory=ReadingSettings)
    asking: AskingSettings = field(default_factory=AskingSettings)
    windows: WindowSettings = field(default_factory=WindowSettings)
    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    errors: ErrorSettings = field(default_factory=ErrorSettings)
    output: OutputSettings = field(default_factory=OutputSettings)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> RunSettings:
        """Build the settings from flat options (`top_k=3`), the names being those of the command line.

        An option that no step knows is a TypeError: it is a mistake of the caller's code.
        """
        left = dict(options)
        limit = left.get("max_errors")
        if isinstance(limit, (str, int)) and not isinstance(limit, bool):
            left["max_errors"] = ErrorLimit.parse(str(limit))
        if isinstance(left.get("ask"), Mapping):
            left["ask"] = tuple(_asked_as(name, question) for name, question in left["ask"].items())
        if isinstance(left.get("questions"), Mapping):
            left["given"] = left.pop("questions")
        if isinstance(reuse := left.get("reuse", ()), (str, Path)):
            reuse = [reuse]
        left["reuse"] = tuple(map(str, reuse))

        def take(step: Any) -> Any:
            return step(**{name: left.pop(name) for name in step.__dataclass_fields__ if name in left})

        settings = cls(**{each.name: take(each.default_factory) for each in fields(cls)})
        if left:
            raise TypeError(f"unknown options: {', '.join(sorted(left))}")
        return settings

    def of_the_output(self) -> dict[str, Any]:
        """The options that can change the output: what the fingerprint is made of.

        Device, threads and batch size are not among them: they change floats within the tolerance of
        docs/contract.md (Equality). What zstd may hold only decides whether an input can be read, and what
        happens without input whether there is an output. The questions that are asked are not among the
        options: what a file says of them counts, not its name.
        """
        without_effect = {"max_zstd_window", "if_no_input", "template_columns", "added_columns"}
        return {
            "reading": {k: v for k, v in asdict(self.reading).items() if k not in without_effect},
            "windows": asdict(self.windows),
            "decoding": asdict(self.decoding),
            "errors": {"on_error": self.errors.on_error, "strict": self.errors.strict},
            "limit": self.output.limit,
            "compression": self.output.compression,
        }
