"""What decides about a row: `DecodingRules`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from batchqa.probability import Decided
from batchqa.records import Bool, Float64
from batchqa.settings import DecodingSettings

Calibrate = Callable[[Decided, Bool], Float64]
"""Maps what is known of decisions and their no-answer flags to the probability of being right."""


@dataclass(frozen=True, slots=True)
class DecodingRules:
    """What decides about a row: settings joined with what the bundle says of its model."""

    max_answer_length: int
    threshold: float
    abstains: bool
    top_k: int
    calibrate: Calibrate | None = None
    trained_to_abstain: bool = True
    most_answers: int = 0
    overlapping_candidates: bool = False
    min_score: float | None = None

    @classmethod
    def join(
        cls,
        settings: DecodingSettings,
        trained_to_abstain: bool,
        threshold: float,
        calibrate: Calibrate | None,
    ) -> DecodingRules:
        """The user's settings where they were given, else the bundle's."""
        given = settings.no_answer_threshold
        return cls(
            max_answer_length=settings.max_answer_length,
            threshold=threshold if given is None else given,
            abstains={"on": True, "off": False, "auto": trained_to_abstain}[settings.no_answer],
            top_k=settings.top_k,
            calibrate=None if settings.raw_score else calibrate,
            trained_to_abstain=trained_to_abstain,
            most_answers=settings.most_answers,
            overlapping_candidates=settings.overlapping_candidates,
            min_score=settings.min_score,
        )

    @property
    def lists_spans(self) -> bool:
        """Whether more than the best span of a pair is wanted."""
        return self.top_k > 0 or self.most_answers > 0
