"""The answers as they should be, computed the slow and plain way; shares no code with batchqa.

`reference_answers`: transformers' fast tokenizer makes the windows (`truncation="only_second"`, stride,
overflow), PyTorch scores them in float32. Needs torch and transformers.
`plain_answers`: the tokenizers library makes the windows, onnxruntime scores a bundle's model window by
window. Needs nothing but what a run needs, and isolates the pipeline from the export.
Both decode with `decode_reference`: loops in plain Python, by the rules of "run: decoding" in the design.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import regex
from tokenizers import Tokenizer

Logits = tuple[Sequence[float], Sequence[float]]
"""A window's start and end logits, one each per token."""

BATCH = 8
"""Windows per call of the model; they are sorted by length, so that little is padding."""


@dataclass(frozen=True, slots=True)
class InputWindow:
    """What the model is shown: token ids, where the context's begin, and the characters that they cover."""

    ids: list[int]
    context_at: int
    offsets: list[tuple[int, int]]

    @property
    def token_types(self) -> list[int]:
        """BERT's segments: 0 up to the context, 1 from there on. Other models do not ask for them."""
        return [int(at >= self.context_at) for at in range(len(self.ids))]


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

    `candidates` do not overlap, `overlapping` may; `answers` are all that pass the threshold, 20 at most.
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
    overlapping: tuple[ReferenceCandidate, ...]
    answers: tuple[ReferenceCandidate, ...]
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
    windows = [
        windows_of_transformers(tokenizer, question, context, max_length, stride, max_question_length)
        for context, question in rows
    ]
    logits = _torch_logits(checkpoint, tokenizer, [window for of_row in windows for window in of_row])
    return _decoded(rows, windows, logits, max_answer_length, threshold, abstains, top_k)


def plain_answers(
    bundle: Path,
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
    """Answer `rows` of (context, question) with the ONNX model in a bundle's folder; the only one there."""
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    (model,) = bundle.glob("model.*.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    windows = [
        windows_of_tokenizers(tokenizer, question, context, max_length, stride, max_question_length)
        for context, question in rows
    ]
    logits = [_onnx_logits(session, window) for of_row in windows for window in of_row]
    return _decoded(rows, windows, logits, max_answer_length, threshold, abstains, top_k)


def _decoded(
    rows: Sequence[tuple[str, str]],
    windows: Sequence[Sequence[InputWindow]],
    logits: Sequence[Logits],
    max_answer_length: int,
    threshold: float,
    abstains: bool,
    top_k: int,
) -> list[ReferenceAnswer]:
    """`logits` are those of all windows, row after row."""
    left = iter(logits)
    return [
        decode_reference(
            context,
            [_reference_window(window, *next(left)) for window in of_row],
            max_answer_length=max_answer_length,
            threshold=threshold,
            abstains=abstains,
            top_k=top_k,
        )
        for (context, _), of_row in zip(rows, windows, strict=True)
    ]


def _reference_window(window: InputWindow, start: Sequence[float], end: Sequence[float]) -> ReferenceWindow:
    inside = slice(window.context_at, window.context_at + len(window.offsets))
    return ReferenceWindow(start[inside], end[inside], window.offsets, null=start[0] + end[0])


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
    whole = {span: _whole_characters(context, *span) for span in ranking}
    ranked = [
        ReferenceCandidate(context[slice(*whole[span])], *whole[span], math.exp(scores[span] - total))
        for span in ranking
    ]
    order = sorted(range(len(zs)), key=lambda at: (-zs[at], *whole[ranking[at]]))
    rivals = [ranked[at] for at in order]

    passing = [each for each, z in zip(ranked, zs, strict=True) if not (abstains and null - z > threshold)]

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
        candidates=tuple(_apart(ranked, distinct_texts=True))[:top_k],
        overlapping=tuple(_distinct_texts(rivals))[:top_k],
        answers=tuple(_apart(passing, distinct_texts=False))[:20],
        best=best,
        span_margin=zs[0] - zs[1] if len(zs) > 1 else math.inf,
        null_margin=abs(null_odds - threshold) if abstains and math.isfinite(null_odds) else math.inf,
    )


def _apart(ranked: Sequence[ReferenceCandidate], *, distinct_texts: bool) -> list[ReferenceCandidate]:
    """Those that share no character with a better one that was taken."""
    taken: list[ReferenceCandidate] = []
    for each in ranked:
        overlaps = any(each.start < other.end and other.start < each.end for other in taken)
        again = any(each.answer.casefold() == other.answer.casefold() for other in taken)
        if not overlaps and not (distinct_texts and again):
            taken.append(each)
    return taken


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


def _whole_characters(context: str, start: int, end: int) -> tuple[int, int]:
    """The span with all of the user-perceived characters at its ends, but for those that are white space."""
    ends = _ends_of_characters(context)
    first, last = ends[bisect_right(ends, start) - 1], ends[bisect_left(ends, end)]
    return start if context[first].isspace() else first, end if context[last - 1].isspace() else last


@lru_cache(maxsize=2)
def _ends_of_characters(context: str) -> list[int]:
    """0, and where each user-perceived character of the context ends."""
    return [0, *(found.end() for found in regex.finditer(r"\X", context))]


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


def windows_of_transformers(
    tokenizer: Any, question: str, context: str, max_length: int, stride: int, max_question_length: int
) -> list[InputWindow]:
    """The overlapping windows of a pair, in the context's order, as every user of transformers makes them."""
    # A text that spells a special token ("[SEP]") is text: nothing a row says may change the template.
    asked = tokenizer(question, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if len(asked) > max_question_length:
        backend = tokenizer.backend_tokenizer
        return windows_of_tokenizers(backend, question, context, max_length, stride, max_question_length)
    pair = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        split_special_tokens=True,
    )
    windows = []
    for at, (ids, offsets) in enumerate(zip(pair["input_ids"], pair["offset_mapping"], strict=True)):
        # The tokenizer says which of its tokens are the context's; that holds for every template.
        inside = [place for place, sequence in enumerate(pair.sequence_ids(at)) if sequence == 1]
        windows.append(InputWindow(ids, inside[0], [offsets[place] for place in inside]))
    return windows


def windows_of_tokenizers(
    tokenizer: Tokenizer, question: str, context: str, max_length: int, stride: int, max_question_length: int
) -> list[InputWindow]:
    """The same, cut by hand out of the whole encoded pair, which also takes a question cut after a token.

    Cutting the question's text instead would be wrong: it need not be tokenized into the same tokens. And
    the library's own `truncate` and `post_process` spoil token types and offsets (tokenizers 0.22).
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    pair = tokenizer.encode(question, context)
    asked, read = ([at for at, side in enumerate(pair.sequence_ids) if side == which] for which in (0, 1))
    ids, offsets = pair.ids, pair.offsets
    prefix = [
        *ids[: asked[0]],
        *[ids[at] for at in asked][:max_question_length],
        *ids[asked[-1] + 1 : read[0]],
    ]
    suffix = ids[read[-1] + 1 :]
    room = max_length - len(prefix) - len(suffix)
    windows = []
    for begin in range(0, len(read), room - stride):
        shown = read[begin : begin + room]
        windows.append(
            InputWindow(
                prefix + [ids[at] for at in shown] + suffix, len(prefix), [offsets[at] for at in shown]
            )
        )
        if begin + room >= len(read):
            break
    return windows


def _onnx_logits(session: onnxruntime.InferenceSession, window: InputWindow) -> Logits:
    columns = {
        "input_ids": window.ids,
        "attention_mask": [1] * len(window.ids),
        "token_type_ids": window.token_types,
    }
    feed = {wanted.name: np.array([columns[wanted.name]], np.int64) for wanted in session.get_inputs()}
    start, end = session.run(["start_logits", "end_logits"], feed)
    return start[0].tolist(), end[0].tolist()


def _torch_logits(checkpoint: Path, tokenizer: Any, windows: Sequence[InputWindow]) -> list[Logits]:
    """Start and end logits of each window's tokens, in the order of `windows`, padding cut off."""
    import torch
    from transformers import AutoModelForQuestionAnswering

    model = AutoModelForQuestionAnswering.from_pretrained(checkpoint, dtype=torch.float32).eval()
    by_length = sorted(range(len(windows)), key=lambda at: len(windows[at].ids))
    logits: dict[int, Logits] = {}
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


def _padded(tokenizer: Any, windows: Sequence[InputWindow]) -> dict[str, Any]:
    """The model's inputs, padded on the right; a family's own `model_input_names` say which it takes."""
    import torch

    longest = max(len(window.ids) for window in windows)

    def column(lists: list[list[int]], padding: int) -> torch.Tensor:
        return torch.tensor([values + [padding] * (longest - len(values)) for values in lists])

    columns = {
        "input_ids": column([window.ids for window in windows], tokenizer.pad_token_id),
        "attention_mask": column([[1] * len(window.ids) for window in windows], 0),
        "token_type_ids": column([window.token_types for window in windows], tokenizer.pad_token_type_id),
    }
    return {name: columns[name] for name in tokenizer.model_input_names}
