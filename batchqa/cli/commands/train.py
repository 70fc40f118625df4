"""`batchqa train`: a checkpoint is fine-tuned or distilled."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import click

from batchqa.cli.console import reporting, say_json, stoppable
from batchqa.cli.options import command, common_options, field, together
from batchqa.train.train_settings import TrainSettings

_of_training = partial(field, TrainSettings)


def _layers(_: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Layer numbers, separated by commas."""
    try:
        return None if value is None else tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is not a list of layers, such as 0,2,4", param=parameter
        ) from error


_training_options = together(
    click.option(
        "--teacher",
        multiple=True,
        metavar="CHECKPOINT|BUNDLE",
        help="Model to learn from as well (if several, their mean); also labels rows without gold answers.",
    ),
    click.option(
        "--layers", metavar="0,2,4", callback=_layers, help="Layers of BASE to keep, counted from 0."
    ),
    _of_training("--hidden", "Also learn the teacher's hidden states and attention."),
    _of_training("--alpha", "Weight of the teachers in the loss; the gold answers have the rest."),
    _of_training("--temperature", "Temperature that softens the teachers' distributions."),
    _of_training("--epochs", "Passes over the data; may be a fraction."),
    _of_training("--learning-rate", "Peak learning rate."),
    _of_training("--warmup", "Share of the steps in which the learning rate rises."),
    _of_training("--weight-decay", "AdamW's weight decay."),
    _of_training("--dropout", "Dropout rate of all layers.", show_default="the base's"),
    _of_training("--freeze-embeddings", "Do not train the word embeddings: faster, with less memory."),
    _of_training("--freeze-layers", "Lowest layers that are not trained, the embeddings with them: faster."),
    _of_training("--batch-tokens", "Tokens of a step, padding included."),
    _of_training(
        "--validation",
        "What to validate on: a share of the groups, fold K of N of them, or a file.",
        metavar="SHARE|K/N|FILE",
    ),
    _of_training("--validation-rows", "Rows to validate on during training; the final validation uses all."),
    _of_training(
        "--evaluate-every", "Steps between two validations.", show_default="ten validations in a run"
    ),
    _of_training("--save-every", "Steps between two saved states: the most that a kill can cost."),
    _of_training(
        "--max-missing-gold", "Largest share of rows whose gold answer may be missing from their context."
    ),
    click.option(
        "--gold-column",
        metavar="COLUMN",
        help="Column with the gold answers.",
        show_default="answers, or answer",
    ),
    click.option(
        "--group-column",
        metavar="COLUMN",
        help="Column of groups; the rows of a group are held out together.",
        show_default="title, group, or the context",
    ),
    _of_training("--max-length", "Size of a window, in tokens."),
    _of_training("--stride", "Tokens that neighbouring windows share."),
    _of_training("--max-question-length", "Longest question, in tokens; longer ones are cut."),
    _of_training("--seed", "Seed of the data order, new weights and dropout."),
    _of_training("--device", "Device to train on; auto: CUDA if there is one."),
    _of_training("--precision", "Precision to compute in; auto: bf16 if the device has it."),
    click.option("--revision", metavar="SHA", help="Commit, tag or branch of a hub id.", show_default="main"),
    click.option("--licence", metavar="ID", help="Licence of the weights, for the model card."),
    click.option("--allow-pickle", is_flag=True, help="Convert a pickled base, in a separate process."),
    click.option(
        "--restart", is_flag=True, help="Discard the saved states of an unfinished run and start again."
    ),
)


@command("train", "Fine-tune or distil a checkpoint.")
@click.argument("base", metavar="BASE")
@click.option("-o", "--output", required=True, metavar="CHECKPOINT", help="Folder to create.")
@click.option(
    "--data",
    required=True,
    multiple=True,
    metavar="FILE",
    help="Rows to train on; repeat it for several files.",
)
@_training_options
@common_options
def train_command(
    base: str,
    output: str,
    data: tuple[str, ...],
    teacher: tuple[str, ...],
    layers: tuple[int, ...] | None,
    log_format: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Fine-tune BASE (a folder, or a hub id) on rows with gold answers, or distil it from teachers.

    Needs `batchqa[train]`. A run that was stopped or killed is resumed by the same command.
    """
    with (
        reporting(log_format, quiet) as reporter,
        stoppable(at_once=False, kept="the steps so far are kept") as check_stop,
    ):
        from batchqa.train.training import train

        names = TrainSettings.__dataclass_fields__
        trained = train(
            base,
            output,
            data,
            teachers=teacher,
            layers=layers,
            settings=TrainSettings(**{name: value for name, value in options.items() if name in names}),
            on_progress=reporter.training,
            on_note=reporter.note,
            check_stop=check_stop,
            **{name: value for name, value in options.items() if name not in names},
        )
        say_json(trained.to_dict(), sys.stdout)
