"""What flows between the steps of the pipeline: rows, chunks, windows, batches, logits, answers.

Everything is held as columns (Arrow arrays for text, numpy arrays for numbers), because a Python object
per row or per token would cost more than the tokenizer. One record holds all the columns that belong
together, so that nothing is matched up by position across functions.

Units: *characters* are Unicode code points; ends are excluded; *tokens* are the tokenizer's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # the process of an engine sees numbers only
    import pyarrow as pa

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

LENGTH_BUCKET = 16
"""Tokens. Windows are in one length bucket if their lengths, rounded up to a multiple of it, are the same.

An engine may take only such together; and each shape that is new to an engine costs it a few milliseconds.
"""


@dataclass(frozen=True, slots=True)
class RowFault:
    """Why one row has no answer: a code of ROW_ERRORS or ROW_STATUSES, and where it was.

    `detail` names file, line or row, byte and reason; never the row's text.
    """

    code: str
    detail: str


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place between two records of the inputs: what is needed to start reading there.

    `file` counts the input files; `row` the records of that file before this place; `line` and `byte`
    (of the uncompressed text) the lines and bytes before it, for line-based inputs, else 0.
    """

    file: int = 0
    row: int = 0
    line: int = 0
    byte: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Consecutive input rows, as reading hands them over; bounded in bytes.

    `columns` are the columns to be passed through (kept ones only), `context` and `question` the texts to
    answer: pa.string() or pa.large_string(), valid UTF-8, null where there is none to judge. A row that has
    an entry in `faults` (by position) is not answered. `cursor_after(n)` is the place after the first n rows,
    `locate(i)` that of row i for messages: file and line or row, from 1.

    Where a record is asked several questions, reading gives one row for each record: `question` is an array
    of QUESTIONS_TYPE (each row brings its own), or all null, and `values` has the columns that questions are
    made with, as texts, under their dotted paths. The step `asking` makes one row of each record and question
    of it; `context` and `question` are dictionary arrays then, so that each distinct text is held once.
    """

    columns: pa.RecordBatch
    context: pa.Array
    question: pa.Array
    faults: Mapping[int, RowFault]
    first_record: int
    cursor_after: Callable[[int], Cursor]
    locate: Callable[[int], str]
    values: pa.RecordBatch | None = None

    def __len__(self) -> int:
        return len(self.context)

    def slice(self, start: int, end: int) -> Rows:
        """The rows [start, end)."""
        # the new rows must not keep these alive, or a stream of slices would keep the whole input in memory
        cursor_after, locate = self.cursor_after, self.locate
        return Rows(
            columns=self.columns.slice(start, end - start),
            context=self.context.slice(start, end - start),
            question=self.question.slice(start, end - start),
            faults={row - start: fault for row, fault in self.faults.items() if start <= row < end},
            first_record=self.first_record + start,
            cursor_after=lambda count: cursor_after(start + count),
            locate=lambda row: locate(start + row),
            values=None if self.values is None else self.values.slice(start, end - start),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """The look-ahead buffer: consecutive rows of one part whose windows are sorted and batched together.

    The cut depends on the part's rows alone (not on how they were read), so that a resumed run makes the
    same batches. `last_of_part` marks the chunk with which a part is complete. `asked` is there where `rows`
    are not the records themselves, but the questions that they are asked.
    """

    rows: Rows
    part: int
    last_of_part: bool
    asked: Asked | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What the rows of a chunk are, where records are asked several questions: question after question.

    record: int64, (rows,): which row of `records` it is asked of, ascending. columns: `name` and `question`,
    strings, (rows,). threshold: float64, (rows,): the question's own no-answer threshold, NaN where it has
    none; None where no question has one. most_answers: int64, (rows,): how many of all answers are listed;
    None where that is the same for all. A chunk of many questions comes in pieces; `last` marks the last.
    """

    records: Chunk
    record: Int64
    columns: pa.RecordBatch
    threshold: Float64 | None
    most_answers: Int64 | None
    last: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """How the tokenizer joins a question and a context into one input, learned from the tokenizer itself.

    An input is `before + question + between + context + after`; the token types are those of BERT's
    segments. `null_position` is the token whose logits mean "no answer" ([CLS], <s>).
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    before_type: int
    question_type: int
    between_type: int
    context_type: int
    after_type: int
    pad_id: int
    pad_type: int
    null_position: int = 0

    @property
    def special_tokens(self) -> int:
        """Number of tokens that are neither question nor context."""
        return len(self.before) + len(self.between) + len(self.after)

    def without_types(self) -> Layout:
        """The same for a model that is given no token types: it takes them for zeros."""
        return replace(
            self,
            before_type=0,
            question_type=0,
            between_type=0,
            context_type=0,
            after_type=0,
            pad_type=0,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Token ids of many texts, one behind the other: text i has values[first[i] : first[i] + length[i]].

    values: int32, (all tokens,); first, length: int64, (texts,).
    """

    values: Int32
    first: Int64
    length: Int64

    @classmethod
    def of(cls, values: Int32, lengths: Sequence[int]) -> Ragged:
        """`values` cut into pieces of these lengths."""
        length = np.array(lengths, dtype=np.int64)
        return cls(values, np.cumsum(length) - length, length)

    @classmethod
    def joined(cls, texts: Sequence[Int32]) -> Ragged:
        """Arrays of ids, put behind one another."""
        return cls.of(np.concatenate([np.zeros(0, dtype=np.int32), *texts]), [len(ids) for ids in texts])

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, text: int) -> Int32:
        return self.values[self.first[text] : self.first[text] + self.length[text]]

    def pieces(self, texts: Int32, begin: Int32, size: Int32) -> Int32:
        """Tokens [begin, begin + size) of one text after the other, all in one array."""
        skipped = self.first[texts] + begin - (np.cumsum(size) - size)
        place = np.repeat(skipped, size)
        place += np.arange(len(place))
        taken: Int32 = self.values[place]
        return taken


class EncodedContext(Protocol):
    """One distinct context: its text, its token ids, and where each token stands in the text."""

    @property
    def text(self) -> str:
        """As the row has it."""

    @property
    def ids(self) -> Int32:
        """Token ids, (tokens,)."""

    @property
    def regular(self) -> bool:
        """No two token spans cover the same characters (after trimming white space).

        A decoder need not look for duplicates then.
        """

    @property
    def nbytes(self) -> int:
        """About what it takes of memory, its text included."""

    def trimmed_offsets(self) -> tuple[Int32, Int32]:
        """Where a span from or to each token starts and ends, without white space: int32, (tokens,) each.

        A blank token starts where the next visible character is and ends after the one before it.
        """

    def characters(self, first_token: int, last_token: int) -> tuple[int, int]:
        """The characters that a token span covers (last token included), without white space at its ends."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """The distinct (context, question) pairs of a chunk, and which of them each row asks.

    Pairs are in the order in which the rows first ask them; `contexts` and `questions` are distinct texts. A
    question with two no-answer thresholds is two questions.

    context, question: int32, (pairs,): each pair's places in `contexts` and `questions`.
    number: int64, (pairs,): under which the part's pairs are kept (`steps/pairing`), in order; the answers of
    numbers below `oldest` are needed no more.
    to_ask: int32, (asked,): the pairs that the part has not asked before, or no longer remembers.
    reused: int32, (reused,): those of them that an earlier output answers, with `reused_answers`; the columns
    are those of `pair_schema`.
    row_pair: int32, (rows,): the pair that answers each row, -1 for a row that `faults` names.
    threshold: float64, (questions,): each question's own no-answer threshold, NaN where it has none; None
    where none has.
    """

    chunk: Chunk
    contexts: list[str]
    questions: list[str]
    context: Int32
    question: Int32
    number: Int64
    oldest: int
    to_ask: Int32
    reused: Int32
    reused_answers: pa.RecordBatch
    row_pair: Int32
    faults: Mapping[int, RowFault]
    threshold: Float64 | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """All windows of the pairs to ask, one column per property; window w belongs to asked pair `pair[w]`.

    Asked pair p is `pairs.to_ask[p]`; `pair_context` and `pair_question` index `contexts` and `prefixes`. A
    prefix is `before + question + between`. Windows of a pair are consecutive and ordered; window w shows
    context tokens [begin[w], begin[w] + size[w]). A pair has no windows where a text has no tokens, or where
    the question leaves no room for the context.

    pair, begin, size, length: int32, (windows,); length is the whole input's, in tokens, without padding.
    pair_first, pair_count: int32, (asked,): the pair's windows are [first, first + count).
    question_cut: bool, (questions,): the question was longer than may be asked.
    """

    pairs: Pairs
    layout: Layout
    contexts: list[EncodedContext]
    prefixes: Ragged
    question_cut: Bool
    pair_context: Int32
    pair_question: Int32
    pair_first: Int32
    pair_count: Int32
    pair: Int32
    begin: Int32
    size: Int32
    length: Int32

    def __len__(self) -> int:
        return len(self.pair)


@dataclass(frozen=True, slots=True, eq=False)
class PaddedBatch:
    """Windows of like length, padded on the right to the longest.

    index: int32, (batch,): which windows of `windows` these are.
    input_ids, attention_mask, token_type_ids: int64, (batch, tokens).
    context_at: int32, (batch,): position of the first context token.
    `last` marks the batch with which the chunk is complete; it can be empty.
    """

    windows: Windows
    index: Int32
    input_ids: Int64
    attention_mask: Int64
    token_type_ids: Int64
    context_at: Int32
    last: bool


@dataclass(frozen=True, slots=True, eq=False)
class BatchLogits:
    """What the model says of a batch: start and end, float32, (batch, tokens).

    `failed` gives the windows (by position in the batch) that could not be scored, with the row error's
    code; their logits are to be ignored.
    """

    batch: PaddedBatch
    start: Float32
    end: Float32
    failed: Mapping[int, str]


@dataclass(frozen=True, slots=True, eq=False)
class PairAnswers:
    """What the model answers to the pairs that were asked, in their order.

    answers: one record batch with the columns of `pair_schema`: places in the context, no texts yet. A pair
    that could not be scored has nothing but its row error's code; one without a span has nothing at all.
    """

    windows: Windows
    answers: pa.RecordBatch


@dataclass(frozen=True, slots=True, eq=False)
class AnsweredChunk:
    """A chunk with its answers, in the rows' order.

    answers: one Arrow record batch with the columns of `ANSWER_FIELDS` (and `candidates` with top-k). With
    `asked`, `chunk` has the records, and there is an answer for each question that they were asked.
    """

    chunk: Chunk
    answers: pa.RecordBatch
    windows: int
    questions_cut: int
    reused_rows: int
    asked: Asked | None = None
