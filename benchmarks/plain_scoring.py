"""SQuAD 2.0's official algorithm in plain Python on a file that `run` wrote; prints JSON."""

from __future__ import annotations

import json
import sys

import pyarrow.parquet as pq

from tests.official_squad import best_threshold, evaluate, exact_match, f1


def main() -> None:
    """Read the columns, score row by row."""
    columns = ["answers", "qa_answer", "qa_null_odds", "qa_candidates"]
    table = pq.read_table(sys.argv[1], columns=columns)
    ids = [str(row) for row in range(len(table))]
    golds = dict(zip(ids, (answers["text"] for answers in table["answers"].to_pylist()), strict=True))
    given = dict(zip(ids, (text or "" for text in table["qa_answer"].to_pylist()), strict=True))
    spans = dict(zip(ids, (best[0]["answer"] for best in table["qa_candidates"].to_pylist()), strict=True))
    odds = dict(zip(ids, table["qa_null_odds"].to_pylist(), strict=True))
    figures = evaluate(golds, given)
    figures["best_exact"], figures["best_exact_thresh"] = best_threshold(exact_match, golds, spans, odds)
    figures["best_f1"], figures["best_f1_thresh"] = best_threshold(f1, golds, spans, odds)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
