"""Show the answers of an annotated file as a table: `python sample_data/show.py demo.out.parquet`."""

from __future__ import annotations

import sys

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table


def main(path: str) -> None:
    """One line per row: question, answer, score; an error's code in red."""
    table = Table("lang", "question", "answer", "score", title=f"Answers in {path}", title_justify="left")
    for row in pq.read_table(path).to_pylist():
        if row["qa_error"]:
            answer, score = f"[red]{row['qa_error']}[/red]", ""
        else:
            answer, score = row["qa_answer"] or "[dim]· not in the context[/dim]", f"{row['qa_score']:.2f}"
        table.add_row(row["lang"], row["question"], answer, score)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)


if __name__ == "__main__":
    main(sys.argv[1])
