"""Settings: one small frozen dataclass per step, checked when built, combined as RunSettings.

`None` means "not given" and is different from 0. Sizes say their unit in the name or the comment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from batchqa.errors import SettingsError

DEFAULT_MAX_LENGTH = 384
"""Tokens of a window where neither the user nor the model says otherwise (run_qa's default)."""


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise SettingsError(f"--{name} must be at least {least}, not {value}")


@dataclass(frozen=True, slots=True)
class ReadingSettings:
    """Where the texts stand in the input, which columns pass through, and the bounds of a record."""

    context: str = "context"
    question: str = "question"
    id: str | None = None
    keep: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()
    schema: str | None = None
    output_prefix: str = "qa_"
    max_line_bytes: int = 64 * 2**20
    max_context_chars: int = 10_000_000

    def __post_init__(self) -> None:
        if self.keep is not None and self.drop:
            raise SettingsError("--keep and --drop exclude each other: name the columns in one of them")
        _at_least("max-line-bytes", self.max_line_bytes, 2)
        _at_least("max-context-chars", self.max_context_chars, 1)


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """Sizes of the overlapping windows, all in tokens.

    `max_length` None means min(384, the model's limit). `stride` is what neighbouring windows share, as in
    the tokenizers library (BERT's run_squad used the word for the step).
    """

    max_length: int | None = None
    stride: int = 128
    max_question_length: int = 64

    def __post_init__(self) -> None:
        _at_least("max-length", self.max_length, 8)
        _at_least("stride", self.stride, 0)
        _at_least("max-question-length", self.max_question_length, 1)


@dataclass(frozen=True, slots=True)
class DecodingSettings:
    """How logits become an answer. `no_answer_threshold` None means the bundle's."""

    max_answer_length: int = 30
    no_answer_threshold: float | None = None
    no_answer: Literal["auto", "on", "off"] = "auto"
    top_k: int = 0
    raw_score: bool = False

    def __post_init__(self) -> None:
        _at_least("max-answer-length", self.max_answer_length, 1)
        _at_least("top-k", self.top_k, 0)
        if self.no_answer_threshold is not None and self.no_answer_threshold != self.no_answer_threshold:
            raise SettingsError("--no-answer-threshold must be a number, not NaN")


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """Where the model runs. `None` is measured or read from the machine.

    The engine has a process of its own, so that a row with which it crashes costs that row alone; with
    `in_process` it runs in the caller's. `workers` are copies of the model that work side by side on the CPU
    and share `threads` out; several GPUs have one each. `arithmetic` is what openvino computes in;
    onnxruntime computes in what the variant says.
    """

    device: str = "auto"
    engine: Literal["auto", "onnxruntime", "openvino"] = "auto"
    variant: str | None = None
    threads: int | None = None
    workers: int | None = None
    batch_tokens: int | None = None
    allow_cpu_fallback: bool = False
    in_process: bool = False
    arithmetic: Literal["auto", "f32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        _at_least("threads", self.threads, 1)
        _at_least("workers", self.workers, 1)
        _at_least("batch-tokens", self.batch_tokens, 1)
        if not re.fullmatch(r"auto|cpu|all|cuda(:\d+(,\d+)*)?", self.device):
            raise SettingsError(f"--device {self.device!r} is none of auto, cpu, cuda, cuda:0,1, all")
        if self.engine == "onnxruntime" and self.arithmetic == "bf16":
            raise SettingsError("--arithmetic bf16 is for --engine openvino; onnxruntime has --variant")


@dataclass(frozen=True, slots=True)
class ErrorLimit:
    """How many row errors a run may have: a count, or a share of the rows in percent."""

    value: float
    percent: bool = False

    @classmethod
    def parse(cls, text: str) -> ErrorLimit:
        """Read `N` or `P%`."""
        match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)%", text.strip())
        if not match or (match[2] and float(match[2]) > 100):
            raise SettingsError(f"--max-errors {text!r} is neither a count (10) nor a share (0.5%)")
        return cls(float(match[1] or match[2]), percent=match[1] is None)

    def exceeded(self, errors: int, rows: int) -> bool:
        """Whether `errors` of `rows` are more than allowed."""
        return errors * 100 > self.value * rows if self.percent else errors > self.value


@dataclass(frozen=True, slots=True)
class ErrorSettings:
    """What happens to rows that cannot be judged."""

    max_errors: ErrorLimit = ErrorLimit(0)
    on_error: Literal["annotate", "reject", "fail"] = "annotate"
    strict: bool = False


@dataclass(frozen=True, slots=True)
class OutputSettings:
    """What is written, and how."""

    compression: Literal["zstd", "snappy", "gzip", "lz4", "none"] = "zstd"
    overwrite: bool = False
    restart: bool = False
    part_rows: int = 100_000
    limit: int | None = None

    def __post_init__(self) -> None:
        _at_least("part-rows", self.part_rows, 1)
        _at_least("limit", self.limit, 0)


@dataclass(frozen=True, slots=True)
class RunSettings:
    """All settings of a run."""

    reading: ReadingSettings = field(default_factory=ReadingSettings)
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
        if isinstance(left.get("max_errors"), (str, int)):
            left["max_errors"] = ErrorLimit.parse(str(left["max_errors"]))

        def take(step: type[Any]) -> Any:
            return step(**{name: left.pop(name) for name in step.__dataclass_fields__ if name in left})

        settings = cls(
            take(ReadingSettings),
            take(WindowSettings),
            take(DecodingSettings),
            take(MachineSettings),
            take(ErrorSettings),
            take(OutputSettings),
        )
        if left:
            raise TypeError(f"unknown options: {', '.join(sorted(left))}")
        return settings

    def of_the_output(self) -> dict[str, Any]:
        """The options that can change the output: what the fingerprint is made of.

        Device, threads and batch size are not among them: they change floats within DESIGN's tolerance.
        """
        return {
            "reading": asdict(self.reading),
            "windows": asdict(self.windows),
            "decoding": asdict(self.decoding),
            "errors": {"on_error": self.errors.on_error, "strict": self.errors.strict},
            "limit": self.output.limit,
            "compression": self.output.compression,
        }
