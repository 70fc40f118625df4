"""Write sample.parquet anew from sample.jsonl, so that both hold the same rows: `python sample_data/make.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
COLUMNS = ("id", "context", "question", "lang", "domain", "expected")


def main() -> None:
    """Read the JSON lines, keep the order of rows and columns, write Parquet."""
    lines = (HERE / "sample.jsonl").read_bytes().rstrip(b"\n").split(b"\n")
    schema = pa.schema([pa.field(name, pa.string()) for name in COLUMNS])
    pq.write_table(
        pa.Table.from_pylist([json.loads(line) for line in lines], schema), HERE / "sample.parquet", compression="zstd"
    )


if __name__ == "__main__":
    main()
