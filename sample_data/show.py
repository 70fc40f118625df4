"""Show the answers of an annotated file as a table: `python sample_data/show.py demo.out.parquet`."""

from __future__ import annotations

import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def main(path: str) -> None:
    """The table that suits the file: rows with a question each, or documents that were asked many."""
    rows = pq.read_table(path)
    table = questions(rows, path) if "qa_answer" in rows.column_names else documents(rows, path)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)


def questions(rows: pa.Table, path: str) -> Table:
    """One line per row: question, answer, score, and whether the answer is the expected one."""
    table = Table("lang", "question", "answer", "score", "as expected", title=f"Answers in {path}")
    for row in rows.to_pylist():
        score = "" if row["qa_error"] else f"{row['qa_score']:.2f}"
        right = "yes" if row["qa_answer"] == row["expected"] else f"no: {row['expected'] or 'no answer'}"
        answer = shown({"error": row["qa_error"], "answer": row["qa_answer"]})
        table.add_row(row["lang"], escape(row["question"]), answer, score, escape(right))
    return table


def documents(rows: pa.Table, path: str) -> Table:
    """One line per document, one column per question that every document was asked (`--layout wide`)."""
    asked = [name for name in rows.column_names if name.startswith("qa_")]
    names = [name.removeprefix("qa_") for name in asked]
    table = Table("document", *names, title=f"Answers in {path}", show_lines=True)
    for row in rows.to_pylist():
        table.add_row(escape(row["id"]), *(shown(row[name]) for name in asked))
    return table


def shown(answer: dict[str, Any]) -> str:
    """An answer in a cell."""
    if answer["error"]:
        return f"[red]{answer['error']}[/red]"
    return escape(answer["answer"]) if answer["answer"] else "[dim]· no answer[/dim]"


if __name__ == "__main__":
    main(sys.argv[1])
