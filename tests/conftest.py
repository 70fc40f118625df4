"""Fixtures that every test can use: tiny bundles and checkpoints, and the real data where it is present."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.models import FAMILIES, write_checkpoint, write_tiny_bundle

# The same examples every time, so that a test that passed does not fail for another's change. To search for
# new counterexamples: HYPOTHESIS_PROFILE=search. No deadline: the machine may be busy.
_RELAXED = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.register_profile("repeatable", _RELAXED, derandomize=True, max_examples=25, database=None)
settings.register_profile("search", _RELAXED, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


LONG = (
    "object_stores",
    "export",
    "runners",
    "train",
    "test_airflow.py",
    "evaluation/test_report.py",
    "engines/test_worker_process.py",
    "engines/test_openvino.py",
    "engines/test_selecting.py",
    "test_commit_kills.py",
    "test_doctor.py",
    "test_equality.py",
    "test_faults.py",
    "test_estimate.py",
    "test_examples.py",
    "test_integrations.py",
    "test_migrate.py",
    "test_notebook.py",
    "test_processes.py",
    "test_properties.py",
    "test_sample_data.py",
    "test_shards.py",
    "test_stream.py",
    "test_telemetry.py",
    "test_terminal.py",
)
"""Folders and files that `make test-quick` leaves out: they export models, serve object stores, start many
processes or search for counterexamples, and take seconds for each test."""


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in LONG as `long`."""
    for item in items:
        place = item.path.relative_to(Path(__file__).parent)
        if place.parts[0] in LONG or place.as_posix() in LONG:
            item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what batchqa measures out of the user's cache folder, and the user's out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCHQA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`bundles("roberta", abstains=False, ...)`: a tiny bundle, made once per session; do not change it.

    The options are those of `tests.models.write_tiny_bundle`. A test that damages a bundle writes its own.
    """
    made: dict[str, Path] = {}

    def get(family: str = "bert-uncased", **options: Any) -> Path:
        key = repr((family, sorted(options.items())))
        if key not in made:
            made[key] = write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", family, **options)
        return made[key]

    return get


@pytest.fixture(scope="session")
def tiny_bundle(bundles: Callable[..., Path]) -> Path:
    """The tiny BERT bundle that abstains: the one to take where the model does not matter."""
    return bundles()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`checkpoints("albert")`: a tiny random transformers checkpoint, made once per session.

    Skips the test where torch or transformers (the extra `export`) is missing.
    """
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        pytest.importorskip("torch", reason="needs the extra `export` (torch)")
        pytest.importorskip("transformers", reason="needs the extra `export` (transformers)")
        if family not in made:
            made[family] = write_checkpoint(tmp_path_factory.mktemp("checkpoint") / family, family)
        return made[family]

    return get


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """Each family of tokenizers and models in turn."""
    return str(request.param)


def _folder_of(variable: str, what: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names the folder with {what}")
    folder = Path(value)
    if not folder.is_dir():
        pytest.skip(f"{variable}={value} is not a folder: it should hold {what}")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with SQuAD and XQuAD (BATCHQA_DATA); skips where it is absent."""
    return _folder_of("BATCHQA_DATA", "SQuAD and XQuAD")


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """The folder with real checkpoints (BATCHQA_MODELS); skips where it is absent."""
    return _folder_of("BATCHQA_MODELS", "fine-tuned checkpoints")


@pytest.fixture(scope="session")
def minilm(models_dir: Path) -> Path:
    """The real fine-tuned checkpoint `minilm-l6-squad`; skips where it is absent."""
    checkpoint = models_dir / "minilm-l6-squad"
    if not checkpoint.is_dir():
        pytest.skip(f"{checkpoint} is missing: it should hold the fine-tuned checkpoint")
    return checkpoint


@pytest.fixture(scope="session")
def fp32_bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """`fp32_bundles(checkpoint)`: its fp32 bundle at threshold 0, exported once per session.

    Skips the test where the extra `export` is missing.
    """
    made: dict[Path, Path] = {}

    def get(checkpoint: Path) -> Path:
        for module in ("torch", "transformers", "optimum.onnxruntime"):
            pytest.importorskip(module, reason=f"needs the extra `export` ({module})")
        if checkpoint not in made:
            from batchqa.export.exporting import export

            out = tmp_path_factory.mktemp("fp32") / "bundle"
            export(str(checkpoint), out, precisions=("fp32",), abstains="yes", threshold=0.0)
            made[checkpoint] = out
        return made[checkpoint]

    return get


@pytest.fixture(scope="session")
def fp32_bundle(fp32_bundles: Callable[[Path], Path], minilm: Path) -> Path:
    """The fp32 bundle of the real checkpoint."""
    return fp32_bundles(minilm)


def squad_questions(file: Path) -> Iterator[dict[str, Any]]:
    """The questions of a SQuAD-format file: id, context, question, answers (list of texts)."""
    for article in json.loads(file.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                yield {
                    "id": question["id"],
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": [answer["text"] for answer in question["answers"]],
                }


@pytest.fixture(scope="session")
def squad_dev(data_dir: Path) -> list[dict[str, Any]]:
    """All 11,873 questions of SQuAD 2.0 dev, in the file's order; see `squad_questions`."""
    return list(squad_questions(data_dir / "squad-v2.0-dev.json"))


@pytest.fixture(scope="session")
def xquad(data_dir: Path) -> Callable[[str], list[dict[str, Any]]]:
    """`xquad("zh")`: the 1,190 questions of one language; see `squad_questions`."""
    return lambda language: list(squad_questions(data_dir / "xquad" / f"xquad.{language}.json"))
