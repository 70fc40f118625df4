"""The figures of a bundle's card."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("optimum.onnxruntime", reason="needs the extra `export`")

from batchqa.bundle import CARD, open_bundle
from batchqa.errors import InputError
from batchqa.probability import Calibration
from scripts.bundle_figures import HEADING, XQUAD, add_figures
from tests.evaluation.making import Row, write_squad
from tests.models import SENTENCES, write_tiny_bundle


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with small files in place of SQuAD 2.0 dev and XQuAD."""
    folder = tmp_path / "data"
    (folder / "xquad").mkdir(parents=True)
    rows = [
        Row(
            id=f"q{i}",
            title=f"article {i % 20}",
            context=SENTENCES[i % len(SENTENCES)],
            question=f"What is {i}?",
            gold=(SENTENCES[i % len(SENTENCES)].split()[0],) if i % 2 else (),
        )
        for i in range(120)
    ]
    write_squad(folder / "squad-v2.0-dev.json", rows)
    for language in XQUAD:
        write_squad(folder / "xquad" / f"xquad.{language}.json", [row for row in rows if row.gold])
    return folder


def test_the_card_tells_the_figures_and_the_bundle_still_verifies(data: Path, tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    before = open_bundle(folder)
    add_figures(folder, data)
    card = (folder / CARD).read_text(encoding="utf-8")
    assert card.startswith("# A tiny bert-uncased for tests")
    for wanted in ("answerable (HasAns)", "best F1", "question_word", "context_length", "XQuAD", "| 100 % "):
        assert wanted in card
    after = open_bundle(folder)
    assert {**after.manifest.files, CARD: ""} == {**before.manifest.files, CARD: ""}
    add_figures(folder, data)
    assert (folder / CARD).read_text(encoding="utf-8") == card
    assert card.count(HEADING) == 1


def test_the_card_of_a_calibrated_bundle_tells_its_own_scores(data: Path, tmp_path: Path) -> None:
    knots = (0.0, 1.0), (0.2, 0.6), (0.0, 1.0), (0.3, 0.9)
    folder = write_tiny_bundle(tmp_path / "bundle", calibration=Calibration("by the test", "nothing", *knots))
    add_figures(folder, data)
    card = (folder / CARD).read_text(encoding="utf-8")
    assert "Expected calibration error: 0." in card
    assert "not calibrated" not in card


def test_without_the_data_the_card_stays_as_it_is(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    before = (folder / CARD).read_bytes()
    with pytest.raises(InputError, match="BATCHQA_DATA"):
        add_figures(folder, tmp_path)
    assert (folder / CARD).read_bytes() == before
