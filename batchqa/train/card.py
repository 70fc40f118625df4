"""What a trained checkpoint says of itself: its model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_CURVE = ("step", "rows", "exact", "f1", "has_answer_f1", "no_answer_f1", "best_f1", "best_threshold")


def model_card(record: Mapping[str, Any]) -> str:
    """README.md of a checkpoint, from what training.json holds."""
    licence, versions = record["licence"], record["versions"]
    header = ["pipeline_tag: question-answering", "library_name: transformers"]
    header += [f"license: {licence.lower()}"] if licence else []
    options = {name.replace("_", "-"): value for name, value in record["options"].items()}
    parts = [
        "\n".join(["---", *header, "---"]),
        f"# {record['name']}",
        (
            f"An extractive question-answering model, made by `batchqa train` {versions['batchqa']} from "
            f"`{record['base']}`."
        ),
        f"**Licence of the weights:** {licence or 'not stated; see those of the base and of the data'}.",
        "## Data",
        "\n".join(
            f"- `{each['name']}`, {each['bytes']:,} bytes, {each['digest']}" for each in record["data"]
        ),
        (
            f"{record['rows']:,} rows ({record['labelled_rows']:,} with gold answers, "
            f"{record['answerable_rows']:,} of them answerable) in {record['windows']:,} windows and "
            f"{record['tokens']:,} tokens. {record['gold_not_found']:,} rows were left out because their "
            "gold answer is not in their context."
        ),
        *_teachers(record["teachers"]),
        "## Validation",
        *_validation(record["validation"], record["curve"]),
        "## Options",
        "\n".join(f"- {name}: {value}" for name, value in options.items() if value is not None),
        (
            f"{record['steps']:,} steps, {record['seconds'] / 3600:.2f} hours on {record['device']} in "
            f"{record['precision']}. Versions: {', '.join(f'{name} {v}' for name, v in versions.items())}."
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _teachers(teachers: Sequence[Mapping[str, str]]) -> list[str]:
    return (
        ["## Teachers", "\n".join(f"- `{each['name']}`, sha256 {each['sha256']}" for each in teachers)]
        if teachers
        else []
    )


def _validation(final: Mapping[str, Any] | None, curve: Sequence[Mapping[str, Any]]) -> list[str]:
    """The step that was kept, on all held-out rows, and what was looked at on the way."""
    if final is None:
        return ["None: nothing was held out."]
    return [
        (
            f"On {final['rows']:,} rows of groups that were not trained on, answered at a threshold of 0. "
            "First the step that was kept, on all of them; then what was looked at on the way."
        ),
        "\n".join(
            [
                "| step | rows | EM | F1 | answerable F1 | unanswerable | best F1 | at threshold |",
                "|---|---|---|---|---|---|---|---|",
                *(_row(each) for each in (final, *curve)),
            ]
        ),
    ]


def _row(figures: Mapping[str, Any]) -> str:
    values = (figures[name] for name in _CURVE)
    cells = ("" if v is None else f"{v:.2f}" if isinstance(v, float) else f"{v:,}" for v in values)
    return f"| {' | '.join(cells)} |"
