"""Which scorer is fastest on this machine, and with which token budget."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from batchqa.steps.scoring import OutOfMemoryError, SpanScorer

CPU_BUDGETS = (384, 512, 768, 1024, 1536)
CUDA_BUDGETS = (8192, 16384, 32768, 65536)
"""Token budgets that are tried at the start; on a CPU large batches spend their time mapping memory."""


RACE_BUDGET = 1024
"""Tokens per batch with which engines are compared: near the best of each."""

CLEARLY_FASTER = 1.05
"""How much faster a later candidate must be to be taken instead of an earlier one."""


def fastest(scorers: Sequence[SpanScorer], tokens: int, seconds: float = 1.0) -> tuple[int, list[float]]:
    """Which scorer is fastest on windows of `tokens` tokens, and each one's speed in tokens per second.

    They take turns for about `seconds`, after a first batch each that is not counted, and each is judged by
    its best turn. An earlier one is preferred unless a later one is clearly faster.
    """
    ids = np.ones((max(RACE_BUDGET // tokens, 1), tokens), dtype=np.int64)
    best = [0.0] * len(scorers)
    for scorer in scorers:
        scorer.score(ids, ids, ids * 0)
    start = time.monotonic()
    while not best[-1] or time.monotonic() - start < seconds:
        for number, scorer in enumerate(scorers):
            began = time.monotonic()
            scorer.score(ids, ids, ids * 0)
            best[number] = max(best[number], ids.size / max(time.monotonic() - began, 1e-9))
    first = 0
    for number, speed in enumerate(best):
        if speed > CLEARLY_FASTER * best[first]:
            first = number
    return first, best


def measure_budget(scorer: SpanScorer, tokens: int, seconds: float = 1.0) -> int:
    """The token budget with which `scorer` is fastest on windows of `tokens` tokens; takes about `seconds`.

    The candidates take turns, because a machine's speed drifts; the first is preferred unless another is
    faster by more than chance (1 %). Where even one round takes too long, the smallest candidates decide.
    """
    budgets = CPU_BUDGETS if scorer.device == "cpu" else CUDA_BUDGETS
    best = dict.fromkeys(budgets, 0.0)
    start = time.monotonic()
    rounds = 0
    while time.monotonic() - start < seconds and rounds < 8:
        for budget in budgets:
            rows = max(budget // tokens, 1)
            ids = np.ones((rows, tokens), dtype=np.int64)
            began = time.monotonic()
            try:
                scorer.score(ids, ids, ids * 0)
            except OutOfMemoryError:
                break
            best[budget] = max(best[budget], rows * tokens / (time.monotonic() - began))
            if time.monotonic() - start > 2 * seconds:
                break
        rounds += 1
    fastest = max(best.values())
    return next(budget for budget in budgets if best[budget] >= 0.99 * fastest)
