"""tokenizer.json -> the library's tokenizer, and the template by which it joins question and context."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from batchqa.errors import ModelError
from batchqa.records import Layout


def open_tokenizer(path: Path) -> Tokenizer:
    """Load tokenizer.json for the pipeline: no truncation, no padding, special tokens in texts are text.

    Raises ModelError where it is no tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path} cannot be read as a tokenizer: {error}; export the bundle again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def learn_layout(tokenizer: Tokenizer, pad_id: int, pad_type: int = 0) -> Layout:
    """How `tokenizer` joins (question, context), read off an encoded pair: whatever its special tokens are.

    Raises ModelError where the template is not specials, question, specials, context, specials.
    """
    pair = tokenizer.encode("a b", "c d")
    ids, types, sides = pair.ids, pair.type_ids, pair.sequence_ids
    question = [at for at, side in enumerate(sides) if side == 0]
    context = [at for at, side in enumerate(sides) if side == 1]
    in_order = (
        question
        and context
        and question == list(range(question[0], question[-1] + 1))
        and context == list(range(context[0], context[-1] + 1))
        and question[-1] < context[0]
    )
    if not in_order or question[0] == 0:
        raise ModelError(
            "this tokenizer's pair template is not supported: it must have the form: special tokens, "
            "question, special tokens, context, as BERT, RoBERTa and ALBERT do"
        )
    between = range(question[-1] + 1, context[0])
    after = range(context[-1] + 1, len(ids))
    return Layout(
        before=tuple(ids[: question[0]]),
        between=tuple(ids[at] for at in between),
        after=tuple(ids[at] for at in after),
        before_type=types[0],
        question_type=types[question[0]],
        between_type=types[between[0]] if between else types[question[0]],
        context_type=types[context[0]],
        after_type=types[after[0]] if after else types[context[0]],
        pad_id=pad_id,
        pad_type=pad_type,
    )
