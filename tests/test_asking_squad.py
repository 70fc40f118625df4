"""All of SQuAD 2.0 dev, asked paragraph by paragraph: the answers and the figures of its rows."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchqa
from batchqa.evaluation import evaluate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

FIELDS = ("answer", "start", "end", "no_answer")


@pytest.fixture(scope="module")
def paragraphs(squad_dev: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The questions of each paragraph."""
    return [list(group) for _, group in itertools.groupby(squad_dev, key=lambda row: row["context"])]


def _run(path: Path, rows: list[dict[str, Any]], model: str | Path, **options: Any) -> list[dict[str, Any]]:
    pq.write_table(pa.Table.from_pylist(rows), path)
    output = path.with_suffix(".out.parquet")
    batchqa.run(path, output, model=model, device="cpu", **options)
    answered: list[dict[str, Any]] = pq.read_table(output).to_pylist()
    return answered


@pytest.mark.parametrize("model", ["tiny", "default"])
def test_squad_asked_by_paragraphs_has_the_answers_and_figures_of_its_rows(
    model: str,
    tiny_bundle: Path,
    tmp_path: Path,
    data_dir: Path,
    squad_dev: list[dict[str, Any]],
    paragraphs: list[list[dict[str, Any]]],
) -> None:
    bundle = tiny_bundle if model == "tiny" else model
    rows = [{key: row[key] for key in ("id", "context", "question")} for row in squad_dev]
    by_row = _run(tmp_path / "rows.parquet", rows, bundle)
    most = max(map(len, paragraphs))
    columns = [f"text{at}" for at in range(most)]
    documents = [
        {"context": asked[0]["context"]}
        | dict(itertools.zip_longest(columns, [each["question"] for each in asked]))
        for asked in paragraphs
    ]
    ask = {f"q{at}": f"{{{column}}}" for at, column in enumerate(columns)}
    wide = _run(tmp_path / "wide.parquet", documents, bundle, ask=ask, layout="wide")

    answers = [
        document[f"qa_q{at}"]
        for asked, document in zip(paragraphs, wide, strict=True)
        for at in range(len(asked))
    ]
    assert [[each[name] for name in FIELDS] for each in answers] == [
        [row[f"qa_{name}"] for name in FIELDS] for row in by_row
    ]
    for own, row in zip(answers, by_row, strict=True):
        assert own["score"] == pytest.approx(row["qa_score"], abs=1e-4)
    texts = {row["id"]: own["answer"] or "" for row, own in zip(squad_dev, answers, strict=True)}
    (tmp_path / "wide.json").write_text(json.dumps(texts))
    gold = data_dir / "squad-v2.0-dev.json"
    found = [
        evaluate(file, gold=gold, resamples=10).figures
        for file in (tmp_path / "rows.out.parquet", tmp_path / "wide.json")
    ]
    assert (found[0].all.f1, found[0].all.exact) == (found[1].all.f1, found[1].all.exact)
    assert found[0].all.total == len(squad_dev)
