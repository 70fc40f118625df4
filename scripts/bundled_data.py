"""SQuAD 2.0 train -> train.jsonl and held-out.jsonl, from which the package's model is made.

Every 20th article (k % 20 == 19, in file order) is held out whole: threshold and calibration are fitted on
them. Of the others all unanswerable questions are taken and as many answerable ones, drawn by a seed, so
that the model sees both kinds equally often, as in the dev set (a third of train is unanswerable).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

EVERY, SEED = 20, 20


def rows(squad: Path) -> Iterator[tuple[int, dict[str, Any]]]:
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


def prepare(squad: Path, out: Path) -> None:
    """Write train.jsonl and held-out.jsonl into `out`."""
    held = [row for number, row in rows(squad) if number % EVERY == EVERY - 1]
    taken = [row for number, row in rows(squad) if number % EVERY != EVERY - 1]
    answerable = [at for at, row in enumerate(taken) if row["answers"]["text"]]
    unanswerable = [at for at, row in enumerate(taken) if not row["answers"]["text"]]
    drawn = random.Random(SEED).sample(answerable, min(len(unanswerable), len(answerable)))
    write(out / "train.jsonl", [taken[at] for at in sorted([*drawn, *unanswerable])])
    write(out / "held-out.jsonl", held)


def write(file: Path, records: list[dict[str, Any]]) -> None:
    """JSONL, one record a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records))


if __name__ == "__main__":
    prepare(Path(sys.argv[1]) / "squad-v2.0-train.json", Path(sys.argv[2]))
