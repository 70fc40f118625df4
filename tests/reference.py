"""The answers as they should be, computed the slow and plain way; shares no code with batchqa.

transformers' fast tokenizer makes the windows (`truncation="only_second"`, stride, overflow), PyTorch scores
them in float32, and loops in plain Python decode them by the rules of "run: decoding" in the design.
Needs torch and transformers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Encoding

BATCH = 8
"""Windows per call of the model; they are sorted by length, so that little is padding."""


@dataclass(frozen=True, slots=True)
class ReferenceWindow:
    """A window's logits: `start` and `end` of its context tokens, `null` = start + end of the null token.

    `offsets` are the context tokens' characters in the context, end excluded, as the tokenizer gives them.
    """

    start: Sequence[float]
    end: Sequence[float]
    offsets: Sequence[tuple[int, int]]
    null: float


@dataclass(frozen=True, slots=True)
class ReferenceCandidate:
    """One of the best distinct spans."""

    answer: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class ReferenceAnswer:
    """What a row's answer columns should be, and how close the decision was.

    `best` is the best span, also where the row is "no answer". `span_margin` is the best span's z minus the
    second best distinct one's; `null_margin` is how far null_odds is from the threshold. Both are infinite
    where there is nothing to choose.
    """

    answer: str | None
    start: int | None
    end: int | None
    score: float
    no_answer: bool | None
    null_odds: float | None
    candidates: tuple[ReferenceCandidate, ...]
    best: ReferenceCandidate | None
    span_margin: float
    null_margin: float

    @property
    def margin(self) -> float:
        """By how much the logits would have to change for another decision."""
        return min(self.null_margin, math.inf if self.no_answer else self.span_margin)


def reference_answers(
    checkpoint: Path,
    rows: Sequence[tuple[str, str]],
    *,
    max_length: int = 384,
    stride: int = 128,
    max_question_length: int = 64,
    max_answer_length: int = 30,
    threshold: float = 0.0,
    abstains: bool = True,
    top_k: int = 0,
) -> list[ReferenceAnswer]:
    """Answer `rows` of (context, question) with the transformers checkpoint in a folder."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    encodings: list[tuple[int, Encoding]] = []  # (row, window)
    for row, (context, question) in enumerate(rows):
        windows = _windows(tokenizer, question, context, max_length, stride, max_question_length)
        encodings.extend((row, window) for window in windows)
    logits = _logits(checkpoint, tokenizer, [window for _, window in encodings])

    windows_of: list[list[ReferenceWindow]] = [[] for _ in rows]
    for (row, encoding), (start, end) in zip(encodings, logits, strict=True):
        # The tokenizer says which of its tokens are the context's; that holds for every template.
        inside = [at for at, sequence in enumerate(encoding.sequence_ids) if sequence == 1]
        windows_of[row].append(
            ReferenceWindow(
                start=[start[at] for at in inside],
                end=[end[at] for at in inside],
                offsets=[encoding.offsets[at] for at in inside],
                null=start[0] + end[0],
            )
        )
    return [
        decode_reference(
            context,
            windows,
            max_answer_length=max_answer_length,
            threshold=threshold,
            abstains=abstains,
            top_k=top_k,
        )
        for (context, _), windows in zip(rows, windows_of, strict=True)
    ]


def decode_reference(
    context: str,
    windows: Sequence[ReferenceWindow],
    *,
    max_answer_length: int = 30,
    threshold: float = 0.0,
    abstains: bool = True,
    top_k: int = 0,
) -> ReferenceAnswer:
    """The decision about one row from the logits of its windows."""
    scores: dict[tuple[int, int], float] = {}
    for window in windows:
        for span, z in _spans(context, window, max_answer_length):
            scores[span] = max(z, scores.get(span, -math.inf))
    null = min(window.null for window in windows)
    ranking = sorted(scores, key=lambda span: (-scores[span], span[0], span[1]))
    zs = [scores[span] for span in ranking]
    total = _log_sum_exp([*zs, null] if abstains else zs)
    ranked = [
        ReferenceCandidate(context[start:end], start, end, math.exp(scores[start, end] - total))
        for start, end in ranking
    ]

    best = ranked[0] if ranked else None
    null_odds = null - zs[0] if zs else math.inf
    no_answer = best is None or (abstains and null_odds > threshold)
    given = None if no_answer else best
    decided = null if no_answer else zs[0]
    return ReferenceAnswer(
        answer=given.answer if given else None,
        start=given.start if given else None,
        end=given.end if given else None,
        score=math.exp(decided - total),
        no_answer=no_answer if abstains else None,
        null_odds=null_odds if abstains else None,
        candidates=tuple(_distinct_texts(ranked))[:top_k],
        best=best,
        span_margin=zs[0] - zs[1] if len(zs) > 1 else math.inf,
        null_margin=abs(null_odds - threshold) if abstains and math.isfinite(null_odds) else math.inf,
    )


def _spans(
    context: str, window: ReferenceWindow, max_answer_length: int
) -> Iterator[tuple[tuple[int, int], float]]:
    """Every span of a window with its z: characters without white space at the ends, no blank ones."""
    tokens = len(window.offsets)
    for first in range(tokens):
        for last in range(first, min(first + max_answer_length, tokens)):
            start, end = window.offsets[first][0], window.offsets[last][1]
            while start < end and context[start].isspace():
                start += 1
            while start < end and context[end - 1].isspace():
                end -= 1
            if start < end:
                yield (start, end), window.start[first] + window.end[last]


def _distinct_texts(ranked: Sequence[ReferenceCandidate]) -> Iterator[ReferenceCandidate]:
    seen = set()
    for candidate in ranked:
        text = candidate.answer.casefold()
        if text not in seen:
            seen.add(text)
            yield candidate


def _log_sum_exp(values: Sequence[float]) -> float:
    if not values:
        return 0.0
    largest = max(values)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))


def _windows(
    tokenizer: Any, question: str, context: str, max_length: int, stride: int, max_question_length: int
) -> list[Encoding]:
    """The overlapping windows of a pair, in the context's order."""
    if len(tokenizer(question, add_special_tokens=False)["input_ids"]) <= max_question_length:
        return list(
            tokenizer(
                question,
                context,
                truncation="only_second",
                max_length=max_length,
                stride=stride,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            ).encodings
        )
    # A long question is cut after a token, and a text cut there need not be tokenized into the same tokens:
    # so the encoding is cut, and joined with the context's by the same Rust code that the call above runs.
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    cut = backend.encode(question, add_special_tokens=False)
    cut.truncate(max_question_length)
    rest = backend.encode(context, add_special_tokens=False)
    backend.enable_truncation(max_length, stride=stride, strategy="only_second")
    joined = backend.post_process(cut, rest)
    backend.no_truncation()
    return [joined, *joined.overflowing]


def _logits(
    checkpoint: Path, tokenizer: Any, windows: Sequence[Encoding]
) -> list[tuple[list[float], list[float]]]:
    """Start and end logits of each window's tokens, in the order of `windows`, padding cut off."""
    import torch
    from transformers import AutoModelForQuestionAnswering

    model = AutoModelForQuestionAnswering.from_pretrained(checkpoint, dtype=torch.float32).eval()
    by_length = sorted(range(len(windows)), key=lambda at: len(windows[at].ids))
    logits: dict[int, tuple[list[float], list[float]]] = {}
    for first in range(0, len(by_length), BATCH):
        batch = by_length[first : first + BATCH]
        with torch.inference_mode():
            output = model(**_padded(tokenizer, [windows[at] for at in batch]))
        for place, at in enumerate(batch):
            tokens = len(windows[at].ids)
            logits[at] = (
                output.start_logits[place, :tokens].tolist(),
                output.end_logits[place, :tokens].tolist(),
            )
    return [logits[at] for at in range(len(windows))]


def _padded(tokenizer: Any, windows: Sequence[Encoding]) -> dict[str, Any]:
    """The model's inputs, padded on the right; a family's own `model_input_names` say which it takes."""
    columns = {
        "input_ids": [window.ids for window in windows],
        "attention_mask": [window.attention_mask for window in windows],
        "token_type_ids": [window.type_ids for window in windows],
    }
    taken = {name: columns[name] for name in tokenizer.model_input_names}
    return dict(tokenizer.pad(taken, padding_side="right", return_tensors="pt"))
