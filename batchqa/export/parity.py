"""Does `batchqa run` give this model's answers? Its float32 graph there, compared with transformers.

Windows, token types, their order and the graph are compared with what transformers makes of the same rows,
long ones among them, at the length of a run's windows and at the model's longest. If the original were run by
batchqa's own steps, as its variants are, a fault in any of these would be the same in both and never be seen.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchqa.bundle import Bundle, Variant
from batchqa.errors import ModelError
from batchqa.gold import plain_array
from batchqa.records import Bool
from batchqa.settings import DEFAULT_MAX_LENGTH

from . import graphs
from .builtin_passages import all_rows, long_rows
from .calibration_data import Feed, batches_of
from .reference import Raw, Reference
from .threshold import ALWAYS
from .verify import Answers, TorchScorer, answer, onnx_scorer

LONGEST_TRIED = 1024
"""Tokens: attention takes memory with their square."""

CLOSE = 1e-3
"""Spans whose scores differ by less may change places: the sums of float32 are of another order."""

ODDS_CLOSE = 0.02
"""Difference of null odds, as a share of their size (or of 1), that float32 explains."""

MOST_DIFFERENT = 0.02
"""Share of rows that may differ all the same: a tokenizer converted for the tokenizers library, say."""

OWN_ROWS = 32
"""Rows of the user's own that are looked at too, the longest."""

PADDING_MATTERS = 1e-4
"""Largest difference of a logit, as a share of the largest logit (or of 1), that padding may make."""


def check_parity(bundle: Bundle, graph: Any, reference: Reference, own: pa.Table | None) -> int:
    """Compare batchqa's answers with those of transformers; how many rows were compared.

    Raises ModelError, saying what differs, where too many do. `bundle` has the tokenizer and describes the
    model, `graph` is the plain float32 one, `own` are the user's own rows. To be called before `reference`
    has seen a short row: see there.
    """
    longest = min(bundle.manifest.max_length, LONGEST_TRIED)
    tables = [("long rows", long_rows(), longest)] if longest > DEFAULT_MAX_LENGTH else []
    tables += [("long rows", long_rows(), DEFAULT_MAX_LENGTH), ("rows", all_rows(), DEFAULT_MAX_LENGTH)]
    if own is not None:
        lengths = pc.utf8_length(plain_array(own["context"]))
        longest_first = pc.array_sort_indices(lengths, order="descending")[:OWN_ROWS]
        own = own.select(["context", "question"]).take(longest_first)
        tables.append(("rows of the verification", own, DEFAULT_MAX_LENGTH))
    with TemporaryDirectory(prefix="batchqa-parity-") as work:
        file = Path(work) / "model.fp32.onnx"
        graphs.save(graph, file)
        variant = Variant("fp32", str(file), ("cpu",), ("onnxruntime",))
        # whether padding matters is another question; transformers' windows are not padded either
        scorer = onnx_scorer(bundle.changed(variants=(variant,), unpadded=True), "fp32")
        for what, table, length in tables:
            raw = reference.raw(table, length)
            given = answer(bundle, scorer, table, abstains=True, threshold=ALWAYS, max_length=length)
            wrong = _different(raw, given)
            if wrong.sum() > MOST_DIFFERENT * len(table):
                row = int(np.flatnonzero(wrong)[0])
                why = _why(bundle, reference, table.slice(row, 1), length)
                raise ModelError(
                    f"{reference.name}: batchqa answers {int(wrong.sum())} of {len(table)} {what} "
                    f"differently from transformers, in windows of {min(length, longest)} tokens: {why}"
                )
    return sum(len(table) for _, table, _ in tables)


def _different(raw: Raw, given: Answers) -> Bool:
    start, end = given.spans()
    spans = (start != raw.start) | (end != raw.end)
    odds = given.columns["null_odds"].to_numpy(zero_copy_only=False).astype(np.float64)
    with np.errstate(invalid="ignore"):
        size = np.maximum(1.0, np.abs(raw.null_odds))
        far = np.abs(odds - raw.null_odds) > ODDS_CLOSE * size
        return np.asarray(raw.judged & ((spans & (raw.margin > CLOSE * size)) | far))


def _why(bundle: Bundle, reference: Reference, row: pa.Table, length: int) -> str:
    """What is different about a row's windows: the tokens, their types, or the logits alone."""
    pair = reference.inputs(row["question"][0].as_py(), row["context"][0].as_py(), length)
    theirs = {tuple(ids): at for at, ids in enumerate(pair["input_ids"])}
    for feed in batches_of(bundle, row, length):
        for at, mask in enumerate(feed["attention_mask"] > 0):
            ids = tuple(feed["input_ids"][at][mask].tolist())
            if ids not in theirs:
                return "its tokens differ (the tokenizer's pair template or normalization is unusual)"
            if "token_type_ids" in pair:
                types = pair["token_type_ids"][theirs[ids]]
                if "token_type_ids" not in feed and any(types):
                    return "its tokenizer gives token types, which the exported graph does not take"
                if "token_type_ids" in feed and feed["token_type_ids"][at][mask].tolist() != types:
                    return "its token types differ"
    return "the exported graph gives different logits for the same tokens" + (
        "; its attention is block_sparse, which is exported as full attention: set attention_type to "
        "original_full in config.json to use that in both"
        if getattr(reference.model.config, "attention_type", "") == "block_sparse"
        else ""
    )


def padding_matters(scorer: TorchScorer, feeds: list[Feed]) -> bool:
    """Whether a window's logits change with its padding (convolutions, landmarks, a trained pad)."""
    for feed in feeds:
        mask = feed["attention_mask"]
        types = feed.get("token_type_ids", np.zeros_like(mask))
        together = scorer.score(feed["input_ids"], mask, types)
        for row, tokens in enumerate(mask.sum(axis=1).tolist()):
            if tokens == mask.shape[1]:
                continue
            at = np.s_[row : row + 1, :tokens]
            alone = scorer.score(feed["input_ids"][at], mask[at], types[at])
            for one, other in zip(alone, together, strict=True):
                size = max(1.0, float(np.abs(one).max()))
                if float(np.abs(one - other[at]).max()) > PADDING_MATTERS * size:
                    return True
    return False
