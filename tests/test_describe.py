"""`batchqa info`: bundles and outputs are told by their own metadata."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchqa.cli.describe import describe
from batchqa.cli.entry import main
from batchqa.cli.rendering import render_facts
from batchqa.errors import InputError, ModelError
from tests.models import write_tiny_bundle


def write_parquet(file: Path, metadata: dict[str, str]) -> Path:
    with pq.ParquetWriter(file, pa.schema([("id", pa.string())])) as writer:
        writer.write_table(pa.table({"id": ["a", "b"]}))
        writer.add_key_value_metadata(metadata)
    return file


def test_a_bundle_is_described_by_its_manifest_digest_and_sizes(tiny_bundle: Path) -> None:
    facts = describe(str(tiny_bundle))
    manifest = json.loads((tiny_bundle / "bundle.json").read_bytes())
    assert facts["kind"] == "bundle"
    assert facts["name"] == manifest["name"]
    assert facts["files"] == manifest["files"]
    assert facts["bytes"]["tokenizer.json"] == (tiny_bundle / "tokenizer.json").stat().st_size
    assert len(facts["digest"]) == 64
    assert manifest["name"] in render_facts(facts)


def test_a_damaged_bundle_is_not_described(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (copy / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json is damaged"):
        describe(str(copy))


def test_a_parquet_output_is_described_by_its_footer(tmp_path: Path) -> None:
    file = write_parquet(
        tmp_path / "out.parquet", {"batchqa.fingerprint": "abc", "batchqa.rows": "2", "other": "x"}
    )
    facts = describe(str(file))
    assert (facts["kind"], facts["rows"], facts["columns"]) == ("output", 2, ["id"])
    assert facts["record"] == {"fingerprint": "abc", "rows": 2}
    assert "fingerprint" in render_facts(facts)


def test_a_folder_output_is_described_by_its_success_record(tmp_path: Path) -> None:
    (tmp_path / "_SUCCESS").write_text('{"rows": 3, "parts": []}')
    write_parquet(tmp_path / "part-00000.parquet", {})
    facts = describe(str(tmp_path))
    assert (facts["kind"], facts["parts"], facts["success"]["rows"]) == ("output", 1, 3)


def test_a_jsonl_output_is_described_by_its_sidecar(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text('{"qa_answer": null}\n')
    (tmp_path / "out.jsonl.batchqa.json").write_text('{"fingerprint": "abc"}')
    facts = describe(str(tmp_path / "out.jsonl"))
    assert facts["record"] == {"fingerprint": "abc"}
    assert "abc" in render_facts(facts)


def test_the_staging_of_an_unfinished_output_is_found_by_the_output_s_name(tmp_path: Path) -> None:
    staging = tmp_path / "out.parquet.batchqa"
    (staging / "_batchqa").mkdir(parents=True)
    (staging / "_batchqa" / "job.json").write_text('{"fingerprint": "abc"}')
    facts = describe(str(tmp_path / "out.parquet"))
    assert facts["kind"] == "unfinished output"
    assert facts["job"] == {"fingerprint": "abc"}


def test_what_is_neither_bundle_nor_output_is_an_input_error(tmp_path: Path) -> None:
    plain = write_parquet(tmp_path / "plain.parquet", {"pandas": "{}"})
    text = tmp_path / "text.txt"
    text.write_text("hello")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(plain.read_bytes()[:-8])
    for path, reason in [
        (plain, "was not written by"),
        (text, "was not written by"),
        (cut, "cannot be read as Parquet"),
        (tmp_path, "neither a bundle"),
        (tmp_path / "nothing", "does not exist"),
    ]:
        with pytest.raises(InputError, match=reason):
            describe(str(path))


def test_a_terminal_is_not_obeyed_whatever_a_bundle_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle", name="model\x1b]0;pwned\x07\u202e")
    assert main(["info", str(bundle)]) == 0
    text = capsys.readouterr().out
    assert "pwned" in text
    assert not set(text) & set("\x1b\x07\u202e")
