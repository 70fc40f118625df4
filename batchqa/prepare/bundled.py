"""Make the model in the package anew: `python -m batchqa.prepare.bundled CHECKPOINT [OUTPUT]`.

CHECKPOINT is `minilm-l6-squad` of BATCHQA_MODELS; BATCHQA_DATA holds SQuAD 1.1 train, on which the threshold
is fitted and int8 calibrated, and SQuAD 2.0 dev, every 2nd question of which verifies the result. All of it
and XQuAD give the figures of the card. The same inputs and library versions give the same model.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from batchqa.annotator import BUNDLED
from batchqa.bundle import Manifest
from batchqa.errors import BatchqaError, InputError, ModelError

from .export import export
from .figures import add_figures
from .threshold import labelled_sample

PARAGRAPHS = 300
SEED = 20
EVERY = 2

MIN_AGREEMENT = 0.97
"""The promise for the package's model: at least 97 % of its spans equal float32's."""

MAX_F1_DROP = 0.5
MOST_BYTES = 36_000_000

LICENCE = "CC-BY-SA-4.0"
FITTED_ON = (
    f"best F1 on {PARAGRAPHS} paragraphs of SQuAD 1.1 train, a question each, with and without the "
    "sentences that hold its answer; the model was trained on these paragraphs, so the threshold is "
    "likely to be optimistic"
)
NOTES = (
    "Six layers, 384 wide, 22.6 million parameters, uncased English WordPiece. all-MiniLM-L6-v2 "
    "(Apache-2.0), fine-tuned on SQuAD 1.1 train (CC BY-SA 4.0) with unanswerable pairings made from it. "
    "It saw nothing of any development set, and none of SQuAD 2.0's own unanswerable questions, with which "
    "it is weak. English only: for other languages name another model."
)


def make(checkpoint: Path, output: Path, data: Path) -> Manifest:
    """Export `checkpoint` into folder `output`, which is replaced. Raises ModelError if it is too large."""
    train, dev = data / "squad-v1.1-train.json", data / "squad-v2.0-dev.json"
    for file in (train, dev):
        if not file.is_file():
            raise InputError(f"{file} is missing; set BATCHQA_DATA to the folder that holds it")
    with TemporaryDirectory(prefix="batchqa-bundled-") as work:
        fitting = Path(work) / "squad-v1.1-train-sample.jsonl"
        checking = Path(work) / f"squad-v2.0-dev-1-of-{EVERY}.jsonl"
        _write(fitting, labelled_sample(train, PARAGRAPHS, SEED))
        _write(checking, _every(dev, EVERY))
        made = Path(work) / "bundle"
        manifest = export(
            str(checkpoint),
            made,
            verify_on=checking,
            calibrate_on=fitting,
            fit_threshold_on=fitting,
            threshold_note=FITTED_ON,
            min_agreement=MIN_AGREEMENT,
            max_f1_drop=MAX_F1_DROP,
            licence=LICENCE,
            notes=NOTES,
            on_progress=_say,
        )
        size = sum(file.stat().st_size for file in made.iterdir())
        if size > MOST_BYTES:
            raise ModelError(f"the bundle has {size} bytes; the package's model has at most {MOST_BYTES}")
        _say("evaluating it on SQuAD 2.0 dev and XQuAD")
        add_figures(made, data)
        if output.exists():
            shutil.rmtree(output)
        shutil.copytree(made, output)
    return manifest


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 -- a command of its own


def _every(squad: Path, step: int) -> list[dict[str, Any]]:
    """Every `step`-th question of a SQuAD 2.0 file, from the first on."""
    rows = [
        (paragraph["context"], asked)
        for article in orjson.loads(squad.read_bytes())["data"]
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]
    return [
        {
            "context": context,
            "question": asked["question"],
            "answers": {
                "text": [gold["text"] for gold in asked["answers"]],
                "answer_start": [gold["answer_start"] for gold in asked["answers"]],
            },
        }
        for context, asked in rows[::step]
    ]


def _write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    file.write_bytes(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))


def main(arguments: Sequence[str]) -> int:
    """The command; the exit code is returned."""
    if len(arguments) not in (1, 2):
        _say(__doc__ or "")
        return 2
    output = Path(arguments[1]) if len(arguments) == 2 else BUNDLED
    try:
        manifest = make(Path(arguments[0]), output, Path(os.environ.get("BATCHQA_DATA", "../shared/data")))
    except BatchqaError as error:
        _say(f"error: {error}")
        return error.exit_code
    print(orjson.dumps(manifest.variants[0].verification, option=orjson.OPT_INDENT_2).decode())  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
