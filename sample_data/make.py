"""Write sample.parquet anew from sample.jsonl, so that both hold the same rows.

`--mark` first asks the model in the package, and sets `model_gets_it` for the rows whose answer is the
expected one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
SOURCE = HERE / "sample.jsonl"
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
    rows = [json.loads(line) for line in SOURCE.read_bytes().rstrip(b"\n").split(b"\n")]
    if "--mark" in sys.argv:
        mark(rows)
        SOURCE.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), HERE / "sample.parquet", compression="zstd")


def mark(rows: list[dict[str, Any]]) -> None:
    """Set `model_gets_it` by the default model's answers, on the CPU."""
    from batchqa import Annotator

    table = pa.table({name: [row[name] for row in rows] for name in ("context", "question")})
    answers = Annotator("default", device="cpu").annotate(table)["qa_answer"].to_pylist()
    for row, answer in zip(rows, answers, strict=True):
        row["model_gets_it"] = answer == row["expected"]


if __name__ == "__main__":
    main()
