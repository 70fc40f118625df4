"""The original as its owner runs it: transformers' own tokenizer call and model, and a plain decoding.

Nothing of what `batchqa run` does is used here: windows, token types, order and decoding are those of
transformers and its examples (utils_qa). So a bundle that is equal to it is right, not only equal to itself.
Each window is scored without padding, the longest first: a model may change its state with what it has seen
(BigBird goes over to full attention with the first short input), and its answer with padding.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa

from batchqa.errors import ModelError
from batchqa.records import Bool, Float32, Float64, Int64
from batchqa.settings import DEFAULT_MAX_LENGTH, DecodingSettings, WindowSettings
from batchqa.text import widen

from .extras import load, quiet

TOKENS = 768
"""Tokens that are scored together."""

BEST = 8
"""Spans of a window that are kept: more than the two that a margin needs."""


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """What the model says of each row, before a threshold decides.

    start, end: int64, (rows,), of the best span, -1 where there is none; null_odds: float64, null score less
    the best span's; margin: float64, the best span's score less the second best's. judged: whether
    transformers takes the row at all. windows and seconds: what the model had to do, and how long it took.
    """

    start: Int64
    end: Int64
    null_odds: Float64
    margin: Float64
    judged: Bool
    windows: int
    seconds: float

    def record(self) -> dict[str, Any]:
        """As JSON can hold it; infinity is null there."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in values.items()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Raw:
        """The inverse of `record`."""

        def numbers(name: str) -> Float64:
            return np.array([np.inf if v is None else v for v in record[name]], dtype=np.float64)

        return cls(
            start=np.array(record["start"], dtype=np.int64),
            end=np.array(record["end"], dtype=np.int64),
            null_odds=numbers("null_odds"),
            margin=numbers("margin"),
            judged=np.array(record["judged"], dtype=bool),
            windows=record["windows"],
            seconds=record["seconds"],
        )

    def decided(self, abstains: bool, threshold: float) -> tuple[Int64, Int64]:
        """Start and end of each answer, -1 where there is none."""
        abstained = (self.null_odds > threshold) & abstains
        return np.where(abstained, -1, self.start), np.where(abstained, -1, self.end)


@dataclass(slots=True)
class _Window:
    """What the model is given (by input name), and the characters of its context tokens, from `first` on."""

    row: int
    given: Mapping[str, list[int]]
    first: int
    offsets: Int64

    @property
    def length(self) -> int:
        return len(self.given["input_ids"])


@dataclass(slots=True)
class _Best:
    """The best spans of a row so far, and its least null score."""

    spans: dict[tuple[int, int], float] = field(default_factory=dict)
    null: float = float("inf")


@dataclass(frozen=True, slots=True)
class Reference:
    """transformers' tokenizer and model. `keeps_special`: special tokens in a text are tokens, not text."""

    name: str
    tokenizer: Any
    model: Any
    keeps_special: bool = False

    def raw(self, table: pa.Table, max_length: int = DEFAULT_MAX_LENGTH) -> Raw:
        """What the model says of a table of (context, question).

        Raises ModelError where the model itself fails.
        """
        contexts = table["context"].to_pylist()
        best = [_Best() for _ in contexts]
        with quiet():
            windows, judged = self._windows(contexts, table["question"].to_pylist(), max_length)
            began = time.perf_counter()
            scored = list(self._scored(windows))
            seconds = time.perf_counter() - began
        for batch, starts, ends in scored:
            for window, start, end in zip(batch, starts, ends, strict=True):
                _decode(best[window.row], contexts[window.row], window, start, end)
        rows = [_judged(each, context) for each, context in zip(best, contexts, strict=True)]
        start, end, odds, margin = zip(*rows, strict=True) if rows else ((), (), (), ())
        return Raw(
            np.array(start, dtype=np.int64),
            np.array(end, dtype=np.int64),
            np.array(odds, dtype=np.float64),
            np.array(margin, dtype=np.float64),
            np.array(judged, dtype=bool),
            len(windows),
            seconds,
        )

    def inputs(self, question: str, context: str, max_length: int = DEFAULT_MAX_LENGTH) -> Any:
        """The tokenizer call of transformers, as its question-answering examples make it."""
        return self.tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=max_length,
            stride=WindowSettings().stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            split_special_tokens=not self.keeps_special,
        )

    def _windows(
        self, contexts: Sequence[str], questions: Sequence[str], max_length: int
    ) -> tuple[list[_Window], list[bool]]:
        windows: list[_Window] = []
        judged = []
        for row, (question, context) in enumerate(zip(questions, contexts, strict=True)):
            try:
                pair = self.inputs(question, context, max_length)
            except BaseException as error:
                # the library's own panic, where the question leaves the stride no room, is no Exception
                if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
                    raise
                judged.append(False)
                continue
            judged.append(True)
            for at, ids in enumerate(pair["input_ids"]):
                inside = [place for place, side in enumerate(pair.sequence_ids(at)) if side == 1]
                if inside:
                    given = {
                        name: pair[name][at] for name in self.tokenizer.model_input_names if name in pair
                    }
                    offsets = np.array(pair["offset_mapping"][at], dtype=np.int64)[inside]
                    windows.append(_Window(row, {**given, "input_ids": ids}, inside[0], offsets))
        return windows, judged

    def _scored(self, windows: Sequence[_Window]) -> Iterator[tuple[Sequence[_Window], Float32, Float32]]:
        """Batches of windows of one length, the longest first, with their logits."""
        torch = load("torch")
        order = sorted(windows, key=lambda window: -window.length)
        first = 0
        while first < len(order):
            length = order[first].length
            most = first + max(TOKENS // length, 1)
            batch = [window for window in order[first:most] if window.length == length]
            given = {name: torch.tensor([window.given[name] for window in batch]) for name in batch[0].given}
            try:
                with torch.inference_mode():
                    output = self.model(**given)
                logits = output.start_logits.numpy(), output.end_logits.numpy()
            except (OSError, MemoryError):
                raise
            except Exception as error:  # torch and the models raise errors of many kinds
                text = str(error).strip().splitlines()
                raise ModelError(
                    f"{self.name}: the model itself, in transformers, fails on windows of {length} tokens "
                    f"({type(error).__name__}: {text[0][:200] if text else ''}); windows are not "
                    "padded to a fixed length, so a model that needs that cannot be exported"
                ) from error
            yield (batch, *logits)
            first += len(batch)


def with_questions_cut(table: pa.Table, tokenizer: Any) -> pa.Table:
    """The rows with questions of as many tokens as a run takes, so that both are given the same."""
    most, cut = WindowSettings().max_question_length, []
    for question in table["question"].to_pylist():
        encoded = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in encoded["offset_mapping"]]
        cut.append(question if len(ends) <= most else question[: ends[most - 1]])
    return table.set_column(table.column_names.index("question"), "question", pa.array(cut, pa.string()))


def _decode(best: _Best, context: str, window: _Window, start: Float32, end: Float32) -> None:
    """The window's best spans and null score (Devlin et al. 2019; utils_qa), added to its row's."""
    tokens = len(window.offsets)
    inside = slice(window.first, window.first + tokens)
    longest = DecodingSettings().max_answer_length
    scores = start[inside, None].astype(np.float64) + end[None, inside]
    place = np.arange(tokens)
    allowed = (place[None, :] >= place[:, None]) & (place[None, :] < place[:, None] + longest)
    scores[~allowed] = -np.inf
    best.null = min(best.null, float(start[0]) + float(end[0]))
    kept = 0
    flat = scores.ravel()
    most = min(4 * BEST, len(flat))
    top = np.argpartition(-flat, most - 1)[:most]
    for at in top[np.lexsort((top, -flat[top]))].tolist():
        first, last = divmod(at, tokens)
        begin, stop = int(window.offsets[first, 0]), int(window.offsets[last, 1])
        text = context[begin:stop]
        if not np.isfinite(scores[first, last]) or not text.strip():
            continue
        begin, stop = begin + len(text) - len(text.lstrip()), stop - len(text) + len(text.rstrip())
        score = float(scores[first, last])
        best.spans[begin, stop] = max(score, best.spans.get((begin, stop), -np.inf))
        kept += 1
        if kept == BEST:
            return


def _judged(best: _Best, context: str) -> tuple[int, int, float, float]:
    """Start, end, null odds and margin of a row: the highest score, then the earliest, then the shortest.

    The span's first and last user-perceived character are whole, as a run promises and transformers does not.
    """
    ranked = sorted(best.spans.items(), key=lambda item: (-item[1], item[0]))
    if not ranked:
        return -1, -1, float("inf"), float("inf")
    (start, end), score = ranked[0]
    margin = score - ranked[1][1] if len(ranked) > 1 else float("inf")
    return *widen(context, start, end), best.null - score, margin
