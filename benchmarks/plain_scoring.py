"""SQuAD 2.0's official algorithm in plain Python on a file that `run` wrote; prints JSON.

As the script does, each text is scored once, row by row, and the best thresholds are found in one walk.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import pyarrow.parquet as pq

from tests.official_squad import exact_match, f1, gold_answers


def main() -> None:
    """Read the columns, score row by row."""
    columns = ["answers", "qa_answer", "qa_null_odds", "qa_candidates"]
    table = pq.read_table(sys.argv[1], columns=columns)
    golds = [gold_answers(answers["text"]) for answers in table["answers"].to_pylist()]
    given = [text or "" for text in table["qa_answer"].to_pylist()]
    spans = [best[0]["answer"] for best in table["qa_candidates"].to_pylist()]
    odds = table["qa_null_odds"].to_pylist()
    exact, overlap = _scores(golds, given)
    rows = len(golds)
    figures = {"exact": 100 * sum(exact) / rows, "f1": 100 * sum(overlap) / rows, "total": rows}
    for name, scores in zip(("best_exact", "best_f1"), _scores(golds, spans), strict=True):
        figures[name], figures[f"{name}_thresh"] = _best(golds, scores, odds)
    print(json.dumps(figures))


def _scores(golds: list[list[str]], texts: list[str]) -> tuple[list[float], list[float]]:
    exact, overlap = [], []
    for answers, text in zip(golds, texts, strict=True):
        exact.append(max(exact_match(answer, text) for answer in answers))
        overlap.append(max(f1(answer, text) for answer in answers))
    return exact, overlap


def _best(golds: list[list[str]], scores: Sequence[float], odds: Sequence[float]) -> tuple[float, float]:
    """The best score in percent, and the null odds above which a question then gets no answer."""
    score = float(sum(answers == [""] for answers in golds))
    best, threshold = score, 0.0
    order = sorted(range(len(odds)), key=odds.__getitem__)
    for place, row in enumerate(order):
        score += scores[row] if golds[row] != [""] else -1
        last_of_equals = place + 1 == len(order) or odds[order[place + 1]] > odds[row]
        if last_of_equals and score > best:
            best, threshold = score, odds[row]
    return 100 * best / len(golds), threshold


if __name__ == "__main__":
    main()
