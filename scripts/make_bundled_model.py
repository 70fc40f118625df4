"""Make the model in the package, every step: `python scripts/make_bundled_model.py BASE [--work FOLDER]`.

BASE is an encoder or a question-answering checkpoint; BATCHQA_DATA holds SQuAD 2.0 train and dev and XQuAD.
The steps are data, train, export, tune, figures. Each leaves its result in the working folder and is not done
again, and training resumes from its last saved state: the same command finishes a run that was stopped. The
same base, data and library versions give the same model, as far as the processor rounds alike.

With --taught a second pass follows, taught by MPNet-base, which is fine-tuned for it. It is for a GPU (about
20 PFLOP, twenty hours of two cores) and has not been run whole; the package's model is that of the first
pass. A machine without a network gets the working folder that --only-prepare made on another one.

Choices (options of training, threshold, calibration) are made on held-out articles of train; SQuAD 2.0 dev
and XQuAD are looked at once, for the figures on the card.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import orjson

from batchqa.bundle import BUNDLED
from batchqa.errors import BatchqaError, InputError, ModelError
from batchqa.evaluation import evaluate
from batchqa.export.exporting import export
from batchqa.train.train_settings import TrainSettings
from batchqa.train.training import train

sys.path.insert(0, str(Path(__file__).parent))
from bundle_figures import add_figures
from teacher_base import fetch_mpnet, make_teacher_base

EVERY = 20
"""Every 20th article of train (k % 20 == 19, in file order) is held out whole."""

SEED = 20
CALIBRATION_ROWS = 600
MOST_BYTES = 36_000_000
LICENCE = "CC-BY-SA-4.0"
PRIOR = 0.4
"""Share of unanswerable questions that threshold and scores are fitted for.

Users' share is unknown: this is between the third of SQuAD 2.0 train and the half of dev. At a half the
threshold would give up one answer in eight for "no answer" that is right a little more often.
"""

SETTINGS = TrainSettings(
    epochs=1,
    learning_rate=8e-5,
    warmup=0.03,
    dropout=0.0,
    freeze_embeddings=True,
    batch_tokens=4096,
    validation_rows=1000,
    evaluate_every=400,
    save_every=100,
)

TEACHER = TrainSettings(
    epochs=2, learning_rate=3e-5, warmup=0.06, batch_tokens=16384, validation_rows=1000, seed=31
)

TAUGHT = TrainSettings(
    epochs=4,
    learning_rate=1e-4,
    warmup=0.06,
    freeze_embeddings=True,
    batch_tokens=16384,
    alpha=0.7,
    validation_rows=2000,
    seed=32,
)
"""The model of the first pass goes on; both it and MPNet are its teachers."""

NOTES = (
    "Six layers, 384 wide, 22.6 million parameters, uncased English WordPiece. all-MiniLM-L6-v2 "
    "(Apache-2.0), fine-tuned on SQuAD 1.1 train and unanswerable questions made from it, then on SQuAD 2.0 "
    "train (CC BY-SA 4.0) without every 20th article: all of its unanswerable questions, and as many "
    "answerable ones. It saw nothing of any development set. English only: for other languages use another "
    "model."
)

TAUGHT_NOTES = (
    "After that, four passes over the same questions, taught by MPNet-base (all-mpnet-base-v2, Apache-2.0), "
    "which was fine-tuned on them too."
)


def rows_of(squad: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number of the article, and a row of it, in file order."""
    for number, article in enumerate(orjson.loads(squad.read_bytes())["data"]):
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                gold = asked["answers"]
                answers = {
                    "text": [each["text"] for each in gold],
                    "answer_start": [each["answer_start"] for each in gold],
                }
                yield (
                    number,
                    {
                        "id": asked["id"],
                        "title": article["title"],
                        "context": paragraph["context"],
                        "question": asked["question"],
                        "answers": answers,
                    },
                )


def make_data(squad: Path, folder: Path) -> None:
    """train.jsonl, held-out.jsonl, every 2nd row of it to verify on, and a sample of train for int8's scales.

    Of the articles to train on all unanswerable questions are taken and as many answerable ones, drawn by a
    seed: the model sees both kinds equally often, as in the dev set (a third of train is unanswerable).
    """
    numbered = list(rows_of(squad))
    held = [row for number, row in numbered if number % EVERY == EVERY - 1]
    taken = [row for number, row in numbered if number % EVERY != EVERY - 1]
    answerable = [at for at, row in enumerate(taken) if row["answers"]["text"]]
    unanswerable = [at for at, row in enumerate(taken) if not row["answers"]["text"]]
    draw = random.Random(SEED)
    drawn = draw.sample(answerable, min(len(unanswerable), len(answerable)))
    chosen = [taken[at] for at in sorted([*drawn, *unanswerable])]
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "calibration.jsonl", draw.sample(chosen, CALIBRATION_ROWS))
    write(folder / "train.jsonl", chosen)
    write(folder / "verify.jsonl", held[::2])
    write(folder / "held-out.jsonl", held)


def write(file: Path, records: list[dict[str, Any]]) -> None:
    """JSONL, one record a line; the file appears when it is whole."""
    partial = file.with_suffix(".tmp")
    partial.write_bytes(
        b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records)
    )
    partial.rename(file)


def say(line: str) -> None:
    """One line on standard error."""
    click.echo(line, err=True)


def make(base: str, work: Path, data: Path, output: Path, *, taught: bool, until: str | None) -> None:
    """All steps, in order. `output` is replaced at the end. Raises ModelError if the bundle is too large.

    `taught`: with the second pass. `until` "prepared" or "trained" ends before the first or after the last
    step of training.
    """
    squad = data / "squad-v2.0-train.json"
    held_out, checkpoint, encoder = work / "data" / "held-out.jsonl", work / "checkpoint", work / "encoder"
    if not held_out.exists():
        if not squad.is_file():
            raise InputError(f"{squad} is missing; set BATCHQA_DATA to the folder that holds it")
        say("data: SQuAD 2.0 train without every 20th article")
        make_data(squad, work / "data")
    if taught and not encoder.exists():
        say("encoder: MPNet-base with the tokens of the student")
        make_teacher_base(fetch_mpnet(work), Path(base), encoder)
    if until == "prepared":
        return
    train_on_rows(base, checkpoint, work / "data", SETTINGS)
    if taught:
        teacher, first, checkpoint = work / "teacher", checkpoint, work / "taught"
        train_on_rows(str(encoder), teacher, work / "data", TEACHER)
        train_on_rows(str(first), checkpoint, work / "data", TAUGHT, (str(teacher), str(first)))
    if until == "trained":
        return
    kind = "taught-" if taught else ""
    exported, tuned, final = (work / f"{kind}{step}" for step in ("exported", "tuned", "final"))
    if not exported.exists():
        export(
            str(checkpoint),
            exported,
            name="minilm-l6-squad2",
            verify_on=work / "data" / "verify.jsonl",
            calibrate_on=work / "data" / "calibration.jsonl",
            licence=LICENCE,
            languages=("en",),
            notes=f"{NOTES} {TAUGHT_NOTES}" if taught else NOTES,
            on_progress=say,
        )
    if not tuned.exists():
        say("tune: threshold and calibration on the held-out articles")
        evaluate(
            held_out,
            model=exported,
            tune=tuned,
            prior=PRIOR,
            annotated=work / "held-out.parquet",
            engine="onnxruntime",
            seed=SEED,
        )
    if not final.exists():
        say("figures: SQuAD 2.0 dev and XQuAD")
        partial = final.with_suffix(".tmp")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(tuned, partial)
        add_figures(partial, data)
        partial.rename(final)
    size = sum(file.stat().st_size for file in final.iterdir())
    if size > MOST_BYTES:
        raise ModelError(f"the bundle has {size} bytes; the package's model has at most {MOST_BYTES}")
    if output.exists():
        shutil.rmtree(output)
    shutil.copytree(final, output)


def train_on_rows(
    base: str, output: Path, data: Path, settings: TrainSettings, teachers: Sequence[str] = ()
) -> None:
    """`batchqa train` on the rows in the folder `data`; nothing where `output` is done."""
    trained = train(
        base,
        output,
        [data / "train.jsonl"],
        teachers=teachers,
        settings=replace(settings, validation=str(data / "held-out.jsonl")),
        licence=LICENCE,
        on_note=say,
        on_progress=lambda at: say(
            f"{output.name}: step {at.step} of {at.steps}, loss {at.loss:.3f}, {at.eta_seconds:.0f} s"
        ),
    )
    say(f"{output.name}: {trained.validation}")


@click.command()
@click.argument("base")
@click.option("--work", type=click.Path(path_type=Path), default=".cache/bundled-model", show_default=True)
@click.option("--taught", is_flag=True, help="With a second pass, taught by MPNet: for a machine with a GPU.")
@click.option("--only-prepare", "until", flag_value="prepared", help="End before training.")
@click.option("--only-train", "until", flag_value="trained", help="End with the checkpoint.")
@click.option("--output", type=click.Path(path_type=Path), default=BUNDLED, help="Replaced at the end.")
def main(base: str, work: Path, output: Path, *, taught: bool, until: str | None) -> None:
    """Make the model in the package from BASE."""
    data = Path(os.environ.get("BATCHQA_DATA", "../shared/data"))
    try:
        make(base, work, data, output, taught=taught, until=until)
    except BatchqaError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
