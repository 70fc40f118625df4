"""Show the answers of an annotated file as a table: `python sample_data/show.py demo.out.parquet`."""

from __future__ import annotations

import sys

import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def main(path: str) -> None:
    """One line per row: question, answer, score, and whether the answer is the expected one."""
    table = Table("lang", "question", "answer", "score", "as expected", title=f"Answers in {path}")
    for row in pq.read_table(path).to_pylist():
        if row["qa_error"]:
            answer, score = f"[red]{row['qa_error']}[/red]", ""
        else:
            answer = escape(row["qa_answer"]) if row["qa_answer"] else "[dim]· no answer[/dim]"
            score = f"{row['qa_score']:.2f}"
        right = "yes" if row["qa_answer"] == row["expected"] else f"no: {row['expected'] or 'no answer'}"
        table.add_row(row["lang"], escape(row["question"]), answer, score, escape(right))
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)


if __name__ == "__main__":
    main(sys.argv[1])
