"""`evaluate` on files in an object store: a real S3 API on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchqa.errors import InputError
from batchqa.evaluation import evaluate
from tests.evaluation.making import Row, write, write_jsonl, write_squad
from tests.s3 import Bucket

ROWS = [Row(), Row(span="Rome"), Row(gold=(), silent=True, odds=5.0)]


def test_predictions_and_gold_answers_in_a_store_are_scored_as_here(bucket: Bucket, tmp_path: Path) -> None:
    files = {
        "part.parquet": write(tmp_path / "part.parquet", ROWS),
        "part.jsonl": write_jsonl(tmp_path / "part.jsonl", ROWS),
        "gold.json": write_squad(tmp_path / "gold.json", ROWS),
    }
    for name, file in files.items():
        bucket.put(f"some folder/{name}", file.read_bytes())
    expected = evaluate(files["part.parquet"]).figures
    for name in ("part.parquet", "part.jsonl"):
        assert evaluate(bucket.uri(f"some folder/{name}")).figures == expected
    predictions = bucket.uri("some folder/part.parquet")
    assert evaluate(predictions, gold=bucket.uri("some folder/gold.json")).figures == expected
    assert evaluate(files["part.jsonl"], gold=bucket.uri("some folder/gold.json")).figures == expected


def test_a_folder_of_parts_in_a_store_is_read_in_order_without_its_markers(
    bucket: Bucket, tmp_path: Path
) -> None:
    for number, row in enumerate(ROWS):
        bucket.put(f"out/part-{number}.parquet", write(tmp_path / "p.parquet", [row]).read_bytes())
    for marker in ("out/_SUCCESS", "out/out_$folder$"):
        bucket.put(marker, b"")
    assert evaluate(bucket.uri("out/")).figures.all.total == len(ROWS)


def test_an_object_that_is_not_there_is_named_without_the_credentials(bucket: Bucket) -> None:
    with pytest.raises(InputError, match="does not exist; check the path") as caught:
        evaluate(bucket.uri("nothing.parquet"))
    assert f"s3://{bucket.name}/nothing.parquet" in str(caught.value)
    assert "?" not in str(caught.value)
