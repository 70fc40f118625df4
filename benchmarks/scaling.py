"""`make bench-scaling`: how cost grows with rows, context, question and model; whether --dry-run foresees it.

Each point is a process of its own, `batchqa run` from file to file. Before some of them `--dry-run` says what
to expect. `--write-docs` writes the figures into docs/scaling.md; `--from FILE.json` does so from kept ones.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that need not be installed

from batchqa.bundle import BUNDLED
from batchqa.machine import cpu_quota
from benchmarks.chart import Panel, draw_growth
from benchmarks.measuring import HERE, ROOT, WORK, keep, measured
from benchmarks.models import base_sized, fp32_bundle, tiny_bundle

PAGE = ROOT / "docs" / "scaling.md"
SHORT_WORDS, WORDS = 40, 120
"""Words of a context: of the rows for the tiny model, and, as in SQuAD, of those for the others."""

QUESTION_WORDS = 10
BILLION = 10**9
PART_ROWS = 100_000
CORES, NIGHT_HOURS = 32, 10
"""The machines and the night for which a billion rows are reckoned."""

TINY, PACKAGE, FP32, BASE = "tiny", "package, int8", "MiniLM, fp32", "BERT-base's size, fp32"


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is measured: rows by model, words of contexts and questions."""

    tiny_rows: tuple[int, ...]
    package_rows: tuple[int, ...]
    context_words: tuple[int, ...]
    words_in_all: int
    question_words: tuple[int, ...]
    question_rows: int
    models: Mapping[str, int]


FULL = Sizes(
    tiny_rows=(1_000, 10_000, 100_000, 1_000_000),
    package_rows=(100, 300, 1_000, 3_000),
    context_words=(50, 100, 200, 500, 1_000, 2_000, 4_000),
    words_in_all=120_000,
    question_words=(5, 10, 20, 40, 60),
    question_rows=400,
    models={TINY: 20_000, PACKAGE: 800, FP32: 400, BASE: 60},
)
QUICK = Sizes(
    tiny_rows=(1_000, 10_000),
    package_rows=(50, 200),
    context_words=(50, 500, 4_000),
    words_in_all=16_000,
    question_words=(5, 40),
    question_rows=80,
    models={TINY: 5_000, PACKAGE: 200},
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The rows of a point: so many, with contexts and questions of so many words."""

    rows: int
    context_words: int
    question_words: int = QUESTION_WORDS


@dataclass(frozen=True, slots=True)
class Point:
    """What one run took. Seconds are its summary's; memory is the sum of the peaks of its processes.

    `predicted` holds what --dry-run said of windows, seconds and memory_mib, and the seconds that it took.
    """

    series: str
    model: str
    model_mib: float
    rows: int
    context_words: int
    question_words: int
    windows: int
    startup_seconds: float
    working_seconds: float
    process_seconds: float
    cpu_seconds: float
    memory_mib: float
    input_bytes: int
    output_bytes: int
    cores: int
    predicted: dict[str, float] | None

    @property
    def seconds(self) -> float:
        """From the start to the published output."""
        return self.startup_seconds + self.working_seconds

    @property
    def rows_per_second(self) -> float:
        """After the start."""
        return self.rows / self.working_seconds

    @property
    def core_ms(self) -> float:
        """What a row takes of one core, in milliseconds, after the start; all cores count as busy."""
        return 1e3 * self.working_seconds * self.cores / self.rows


def main() -> int:
    """Measure or read, keep, draw, and write the page if asked."""
    options = _options()
    if options.kept:
        record = json.loads(options.kept.read_text(encoding="utf-8"))
        points = [Point(**point) for point in record["points"]]
        name = options.kept.with_suffix("")
    else:
        squad, checkpoint = options.data / "squad-v2.0-dev.json", options.models / "minilm-l6-squad"
        for needed in (squad, checkpoint):
            if not needed.exists():
                print(f"this needs {needed}; set BATCHQA_DATA and BATCHQA_MODELS. No figures were made.")
                return 0
        WORK.mkdir(exist_ok=True)
        sizes = QUICK if options.quick else FULL
        points = list(_measure(sizes, _Texts(squad), _models(sizes, checkpoint)))
        tables = "\n\n".join(_tables(points).values())
        facts = {"quick": options.quick, "points": [asdict(point) for point in points]}
        name = keep("scaling", options.results, tables, facts)
    draw_growth(
        _panels(points), name.with_suffix(".svg"), f"batchqa run on {cpu_quota()} cores, file to file"
    )
    if options.write_docs:
        _write_page(points, name)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few and small points: two minutes")
    parser.add_argument("--from", dest="kept", type=Path, metavar="FILE.json", help="kept results; no run")
    parser.add_argument("--write-docs", action="store_true", help="write the figures into docs/scaling.md")
    parser.add_argument("--data", type=Path, default=os.environ.get("BATCHQA_DATA", "../shared/data"))
    parser.add_argument("--models", type=Path, default=os.environ.get("BATCHQA_MODELS", "../shared/models"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    return parser.parse_args()


# ------------------------------------------------------------------------------------------- measuring


def _models(sizes: Sizes, checkpoint: Path) -> dict[str, Path]:
    """The bundles by name, made once; the larger ones only where they are measured."""
    bundles = {TINY: tiny_bundle(WORK), PACKAGE: BUNDLED}
    if FP32 in sizes.models:
        bundles[FP32] = fp32_bundle(checkpoint, WORK)
    if BASE in sizes.models:
        bundles[BASE] = base_sized(checkpoint, WORK, "fp32")
    return bundles


def _measure(sizes: Sizes, texts: _Texts, models: Mapping[str, Path]) -> Iterator[Point]:
    """All points; those whose cost --dry-run is asked for have it asked first."""
    for count in sizes.tiny_rows:
        yield _point("rows", TINY, models, texts, Shape(count, SHORT_WORDS), predict=True)
    for count in sizes.package_rows:
        # a shorter run is mostly the start of two processes
        yield _point("rows", PACKAGE, models, texts, Shape(count, WORDS), predict=count >= 200)
    for words in sizes.context_words:
        shape = Shape(sizes.words_in_all // words, words)
        yield _point("context", PACKAGE, models, texts, shape, predict=words in sizes.context_words[::3])
    for words in sizes.question_words:
        shape = Shape(sizes.question_rows, WORDS, words)
        yield _point("question", PACKAGE, models, texts, shape, predict=words == sizes.question_words[-1])
    for model, count in sizes.models.items():
        yield _point("model", model, models, texts, Shape(count, WORDS), predict=True)


def _point(
    series: str, model: str, models: Mapping[str, Path], texts: _Texts, shape: Shape, *, predict: bool
) -> Point:
    source, output = texts.file(shape), WORK / "scaling-out.parquet"
    command = [sys.executable, "-m", "batchqa", "run", str(source), "-o", str(output), "--device", "cpu"]
    command += ["--engine", "onnxruntime", "--model", str(models[model]), "--overwrite", "--quiet"]
    predicted = None
    if predict:
        dry = measured([*command, "--dry-run"])
        said = json.loads(dry.lines[-1])
        predicted = {
            "windows": said["windows"],
            "seconds": said["seconds"],
            "memory_mib": said["memory_bytes"] / 2**20,
            "took_seconds": dry.seconds,
        }
    process = measured(command)
    summary = json.loads(process.lines[-1])
    point = Point(
        series=series,
        model=model,
        model_mib=sum(file.stat().st_size for file in models[model].glob("*.onnx")) / 2**20,
        rows=summary["rows"],
        context_words=shape.context_words,
        question_words=shape.question_words,
        windows=summary["windows"],
        startup_seconds=summary["startup_seconds"],
        working_seconds=summary["seconds"] - summary["startup_seconds"],
        process_seconds=process.seconds,
        cpu_seconds=process.cpu_seconds,
        memory_mib=process.peak_mib,
        input_bytes=source.stat().st_size,
        output_bytes=output.stat().st_size,
        cores=cpu_quota(),
        predicted=predicted,
    )
    print(
        f"{series}: {model}, {point.rows} rows of {shape.context_words} words, questions of "
        f"{shape.question_words}: {point.rows_per_second:.1f} rows/s, {point.memory_mib:.0f} MiB",
        flush=True,
    )
    return point


class _Texts:
    """Rows of any number and length, cut from the paragraphs and questions of SQuAD 2.0 dev."""

    def __init__(self, squad: Path) -> None:
        articles = json.loads(squad.read_text(encoding="utf-8"))["data"]
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        self._words = [word for paragraph in paragraphs for word in paragraph["context"].split()]
        asked = [question["question"] for paragraph in paragraphs for question in paragraph["qas"]]
        self._asked = [word for question in asked for word in question.split()]

    def file(self, shape: Shape) -> Path:
        """A Parquet file of such rows: a context of its own for every second row, all pairs distinct."""
        name = f"scaling-{shape.rows}-{shape.context_words}-{shape.question_words}.parquet"
        if (WORK / name).exists():
            return WORK / name
        schema = pa.schema([("id", pa.int64()), ("context", pa.string()), ("question", pa.string())])
        with pq.ParquetWriter(WORK / f"{name}.tmp", schema) as writer:
            for begin in range(0, shape.rows, PART_ROWS):
                numbers = range(begin, min(begin + PART_ROWS, shape.rows))
                contexts = [self._cut(self._words, n // 2, shape.context_words) for n in numbers]
                questions = [self._cut(self._asked, n, shape.question_words) for n in numbers]
                writer.write_table(pa.table([list(numbers), contexts, questions], schema=schema))
        return (WORK / f"{name}.tmp").rename(WORK / name)

    def _cut(self, words: list[str], number: int, count: int) -> str:
        """The `number`-th piece of so many words; it has its number in it, because texts come round again."""
        begin = number * count % len(words)
        end = begin + count - 1
        return " ".join([*words[begin:end], *words[: max(end - len(words), 0)], str(number)])


# --------------------------------------------------------------------------------------------- telling


def _tables(points: list[Point]) -> dict[str, str]:
    """The tables of the page, by the name of their place in it."""
    of = {
        name: [point for point in points if point.series == name]
        for name in ("rows", "context", "question", "model")
    }
    return {
        "rows": _table(
            "model | rows | start, s | work, s | rows/s | CPU, s | memory, MiB",
            [
                f"{p.model} | {p.rows:,} | {p.startup_seconds:.1f} | {p.working_seconds:.1f} | "
                f"{p.rows_per_second:.0f} | {p.cpu_seconds:.1f} | {p.memory_mib:.0f}"
                for p in of["rows"]
            ],
        ),
        "context": _table(
            "words | rows | windows a row | rows/s | windows/s | words/s | memory, MiB",
            [
                f"{p.context_words:,} | {p.rows:,} | {p.windows / p.rows:.1f} | {p.rows_per_second:.1f} | "
                f"{p.windows / p.working_seconds:.0f} | {p.rows_per_second * p.context_words:,.0f} | "
                f"{p.memory_mib:.0f}"
                for p in of["context"]
            ],
        ),
        "question": _table(
            "words | rows/s | core milliseconds a row",
            [f"{p.question_words} | {p.rows_per_second:.1f} | {p.core_ms:.1f}" for p in of["question"]],
        ),
        "model": _table(
            "model | files, MiB | rows/s | core milliseconds a row | memory, MiB",
            [
                f"{p.model} | {p.model_mib:.1f} | {p.rows_per_second:.1f} | {p.core_ms:.2f} | "
                f"{p.memory_mib:.0f}"
                for p in of["model"]
            ],
        ),
        "planner": _planner(points),
        "billion": _billion(of["rows"], of["model"]),
    }


def _table(head: str, rows: list[str]) -> str:
    return "\n".join([f"| {head} |", "|" + "---|" * (head.count("|") + 1), *(f"| {row} |" for row in rows)])


def _planner(points: list[Point]) -> str:
    """Predicted beside actual, and the errors."""
    rows, errors = [], {"windows": [], "seconds": [], "memory_mib": []}  # type: ignore[var-annotated]
    for p in points:
        if p.predicted is None:
            continue
        cells = [f"{p.model}, {p.rows:,} rows, {p.context_words:,} + {p.question_words} words"]
        for name, digits in (("windows", 0), ("seconds", 1), ("memory_mib", 0)):
            said, was = p.predicted[name], getattr(p, name)
            errors[name].append(abs(said / was - 1))
            cells.append(f"{said:,.{digits}f} / {was:,.{digits}f} ({said / was - 1:+.0%})")
        rows.append(" | ".join([*cells, f"{p.predicted['took_seconds']:.1f}"]))
    table = _table("predicted / actual | windows | seconds | memory, MiB | --dry-run took, s", rows)
    said = [
        f"{name}: median {statistics.median(values):.0%}, largest {max(values):.0%}"
        for name, values in zip(("windows", "seconds", "memory"), errors.values(), strict=True)
    ]
    return f"{table}\n\nErrors: {'; '.join(said)}."


def _billion(by_rows: list[Point], by_model: list[Point]) -> str:
    """What BILLION rows would take, from the largest runs; SQuAD-like rows, except the tiny model's."""
    largest = {p.model: p for p in (*by_model, *by_rows) if p.context_words == WORDS}
    rows = []
    for model, p in largest.items():
        hours = p.core_ms * BILLION / 3.6e6
        machines = hours / CORES / NIGHT_HOURS
        rows.append(
            f"{model} | {p.rows:,} | {p.core_ms:.2f} | {hours:,.0f} | {machines:,.1f} | "
            f"{_gb(p.input_bytes, p.rows):,.0f} | {_gb(p.output_bytes, p.rows):,.0f}"
        )
    head = (
        f"model | measured on rows | core milliseconds a row | core hours | machines of {CORES} cores for "
        f"{NIGHT_HOURS} hours | input, GB | output, GB"
    )
    return f"{_table(head, rows)}\n\nParts of {PART_ROWS:,} rows: {BILLION // PART_ROWS:,}."


def _gb(size: int, rows: int) -> float:
    return size / rows * BILLION / 1e9


def _panels(points: list[Point]) -> list[Panel]:
    def curve(series: str, model: str, x: str, y: str) -> list[tuple[float, float]]:
        return [(getattr(p, x), getattr(p, y)) for p in points if (p.series, p.model) == (series, model)]

    grown = (TINY, PACKAGE)
    sized = [(p.model_mib, p.core_ms) for p in points if p.series == "model"]
    return [
        Panel("time", "rows", "seconds", {m: curve("rows", m, "rows", "seconds") for m in grown}),
        Panel("memory", "rows", "MiB", {m: curve("rows", m, "rows", "memory_mib") for m in grown}, log="x"),
        Panel(
            "context",
            "words of a context",
            "core milliseconds a row",
            {PACKAGE: curve("context", PACKAGE, "context_words", "core_ms")},
        ),
        Panel(
            "question",
            "words of a question",
            "core milliseconds a row",
            {PACKAGE: curve("question", PACKAGE, "question_words", "core_ms")},
            log="",
        ),
        Panel("model", "MiB of the model's files", "core milliseconds a row", {"": sized}),
    ]


def _write_page(points: list[Point], name: Path) -> None:
    """Put the tables, the plot and their source between the page's marks."""
    page = PAGE.read_text(encoding="utf-8")
    plot = Path(os.path.relpath(name, PAGE.parent)).as_posix()
    source = (
        f"![time, memory, context, question, model]({plot}.svg)\n\nFigures: [{name.name}.json]({plot}.json)."
    )
    for place, text in {**_tables(points), "plot": source}.items():
        marks = re.compile(f"(<!-- begin {place} -->\n).*?(<!-- end {place} -->)", re.DOTALL)
        page, found = marks.subn(lambda marked, text=text: f"{marked[1]}{text}\n{marked[2]}", page)
        if found != 1:
            raise SystemExit(f"{PAGE} needs the place <!-- begin {place} --> once")
    PAGE.write_text(page, encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    sys.exit(main())
