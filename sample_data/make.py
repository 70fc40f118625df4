"""Write sample.parquet anew from sample.jsonl, so that both hold the same rows.

`--mark` first asks the model in the package, and sets `model_gets_it` for the rows of sample.jsonl and of
expected.jsonl whose answer is the expected one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
SOURCE, DOCUMENTS, EXPECTED = (HERE / f"{name}.jsonl" for name in ("sample", "documents", "expected"))
SCHEMA = pa.schema(
    [
        *(
            pa.field(name, pa.string())
            for name in ("id", "context", "question", "lang", "domain", "expected")
        ),
        pa.field("model_gets_it", pa.bool_()),
    ]
)


def main() -> None:
    """Read the JSON lines, keep the order of rows and columns, write Parquet."""
    rows = read(SOURCE)
    if "--mark" in sys.argv:
        mark(rows)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), HERE / "sample.parquet", compression="zstd")


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_bytes().rstrip(b"\n").split(b"\n")]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def mark(rows: list[dict[str, Any]]) -> None:
    """Set `model_gets_it` in both files by the default model's answers, on the CPU."""
    from batchqa import Annotator

    table = pa.table({name: [row[name] for row in rows] for name in ("context", "question")})
    with Annotator("default", device="cpu") as annotator:
        answers = annotator.annotate(table)["qa_answer"].to_pylist()
    for row, answer in zip(rows, answers, strict=True):
        row["model_gets_it"] = answer == row["expected"]
    write(SOURCE, rows)
    with Annotator("default", device="cpu", questions=str(HERE / "questions.toml")) as annotator:
        asked = annotator.annotate(read(DOCUMENTS))
    answered = {(row["id"], row["qa_name"]): row["qa_answer"] for row in asked}
    expected = read(EXPECTED)
    for row in expected:
        row["model_gets_it"] = answered[row["id"], row["qa_name"]] == row["expected"]
    write(EXPECTED, expected)


if __name__ == "__main__":
    main()
