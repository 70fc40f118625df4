"""Which languages a bundle says that it is for."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

pytest.importorskip("optimum.onnxruntime", reason="needs the extra `export`")

from batchqa.errors import SettingsError
from batchqa.export.builtin_passages import all_rows
from batchqa.export.bundle_languages import languages_answered, texts_in
from batchqa.export.checkpoint import _languages
from batchqa.export.exporting import export
from batchqa.export.verify import row_scores


@pytest.mark.parametrize(
    ("header", "languages"),
    [
        ("language: en", ("en",)),
        ("license: mit\nlanguage: [en, pt-BR]\ntags: [qa]", ("en", "pt-br")),
        ("language:\n- es\n  - multilingual\nlicense: mit", ("es", "multilingual")),
        ('language: "de"', ("de",)),
        ("license: mit", ()),
    ],
)
def test_the_checkpoints_card_names_its_languages(
    tmp_path: Path, header: str, languages: tuple[str, ...]
) -> None:
    (tmp_path / "README.md").write_text(f"---\n{header}\n---\n# A model\nlanguage: xx\n")
    assert _languages(tmp_path) == languages


def test_without_a_card_they_are_those_in_which_it_is_right_half_of_the_time() -> None:
    table = all_rows()
    gold = [row["text"] for row in table["answers"].to_pylist()]
    language = table["language"].to_pylist()
    knows = [
        text[0] if text and name in ("en", "ar") else None for text, name in zip(gold, language, strict=True)
    ]
    scores = row_scores(table, pa.array(knows))
    assert languages_answered(table, scores) == ("en", "ar")
    assert languages_answered(table.drop_columns(["language"]), scores) == ()
    assert languages_answered(table, None) == ()


def test_the_texts_are_those_in_its_languages() -> None:
    table = all_rows()
    spanish = texts_in(table, ("es-mx",))
    assert 0 < len(spanish) < len(texts_in(table, ("es", "en"))) < len(texts_in(table, ()))
    assert texts_in(table, ("multilingual",)) == texts_in(table, ())
    assert texts_in(table, ("fi",)) == []


def test_what_is_no_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--language 'English' is not a language's code, such as en"):
        export("anything", tmp_path / "b", languages=("English",))
