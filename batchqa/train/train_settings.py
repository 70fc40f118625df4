"""What a training run may be told. No library is needed to build it, so that mistakes are found at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from batchqa.domains import Between, Count, CountOrZero, Seed, Share, check_fields
from batchqa.errors import SettingsError

Positive = Annotated[float, Between(0, 1000, ends=False)]
Rate = Annotated[float, Between(0, 1, ends=False)]
WindowTokens = Annotated[int, Between(8, 2**31 - 1)]


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """The options of `batchqa train`, checked when built.

    epochs: passes over the data; the last may be a part of one. learning_rate: its peak; it rises over the
    share `warmup` of the steps and falls in a line to 0 (Devlin et al. 2019). batch_tokens: tokens of a
    step, with padding. freeze_layers: so many of the lowest layers, and the embeddings, stay as they are.
    validation: the share of the groups that is held out, a fold of them (K/N), or a file. evaluate_every:
    steps between two validations, None for ten in a run. alpha: weight of the teachers beside the gold.
    max_missing_gold: share of the labelled rows whose answer may be missing from their context. Windows are
    those of `run`: max_length tokens, of which neighbours share `stride`.
    """

    epochs: Positive = 3.0
    learning_rate: Rate = 3e-5
    warmup: Share = 0.1
    weight_decay: Share = 0.01
    dropout: Share | None = None
    freeze_embeddings: bool = False
    freeze_layers: CountOrZero = 0
    batch_tokens: Count = 8192
    alpha: Share = 0.75
    temperature: Positive = 1.5
    hidden: bool = False
    validation: str = "0.05"
    validation_rows: Count = 2000
    evaluate_every: Count | None = None
    save_every: Count = 200
    max_missing_gold: Share = 0.05
    max_length: WindowTokens = 384
    stride: CountOrZero = 128
    max_question_length: Count = 64
    seed: Seed = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "f32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.batch_tokens < self.max_length:
            raise SettingsError(
                f"--batch-tokens {self.batch_tokens} has no room for one window of --max-length "
                f"{self.max_length}"
            )

    @property
    def remembers_teachers(self) -> bool:
        """Whether what teachers say is kept for later epochs; hidden states are too large for that."""
        return self.epochs > 1 and not self.hidden

    @property
    def held_out(self) -> tuple[float, float] | None:
        """The stretch of the groups, in a random order, that is held out; None where `validation` is a file.

        From 0 up to a share, or that of one fold of several.
        """
        if fold := re.fullmatch(r"(\d+)/(\d+)", self.validation):
            number, folds = map(int, fold.groups())
            if not 1 <= number <= folds or folds < 2:
                raise SettingsError(
                    f"--validation {self.validation} must be a fold of several, such as 1/5 or 5/5 (a "
                    f"file of that name: ./{self.validation})"
                )
            return (number - 1) / folds, number / folds
        try:
            share = float(self.validation)
        except ValueError:
            return None
        if not 0 <= share < 1:
            raise SettingsError(
                f"--validation {self.validation} must be a share from 0 to below 1, a fold such as 1/5, or a "
                "file"
            )
        return 0.0, share
