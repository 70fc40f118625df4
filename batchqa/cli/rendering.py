"""What a person reads where a program reads JSON: a run's summary, an estimate, `batchqa info`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from batchqa.answer_columns import ROW_ERRORS
from batchqa.cli.progress import duration
from batchqa.job import Estimate, Summary
from batchqa.settings import RunSettings

NAMED_INPUTS = 5
"""How many inputs of an output are named."""

Line = tuple[str, str]
"""A fact: its name and what is known of it."""


def render(result: Summary | Estimate) -> str:
    """A run's summary, or a dry run's estimate, some lines for a terminal."""
    return _summary(result) if isinstance(result, Summary) else _estimate(result)


def _summary(summary: Summary) -> str:
    output = "standard output" if summary.output == "-" else summary.output
    if summary.skipped:
        return f"{output}: nothing to do, there is no input; nothing was written"
    title = f"{output}: {_rows(summary.rows)}"
    if summary.questions != summary.rows:
        title += f", {summary.questions:,} questions"
    lines = _counts(summary.questions, summary.answered, summary.no_answer, summary.errors, summary.statuses)
    if summary.rejected:
        lines.append(("rejected", f"{_rows(summary.rejected)}, in {output}.rejects.jsonl"))
    lines += _reused(summary.reused_rows)
    if summary.questions_cut:
        lines.append(("questions cut", f"{summary.questions_cut:,} (--max-question-length)"))
    if summary.already_done:
        title += ", already done"
    else:
        resumed = f", {summary.resumed_rows:,} rows were done before" if summary.resumed_rows else ""
        speed = f"{summary.rows_per_second:,.1f} rows/s"
        starting = f"{summary.startup_seconds:.1f} s to start"
        lines.append(("time", f"{_time(summary.seconds)} ({starting}, then {speed}{resumed})"))
    if summary.cpu_because:
        lines.append(("no GPU", summary.cpu_because))
    lines.append(("model", _model(summary.model, summary.variant, summary.engine, summary.device)))
    return _block(title, lines)


def _reused(rows: int) -> list[tuple[str, str]]:
    return [("reused", f"{_rows(rows)}, copied from earlier outputs")] if rows else []


def _estimate(estimate: Estimate) -> str:
    lines = [
        *_faults(estimate.errors, estimate.statuses),
        *(("", place) for place in estimate.bad_rows),
        *_reused(estimate.reused_rows),
        ("windows", f"{estimate.windows:,}, {estimate.tokens:,} tokens"),
        ("time", f"about {_time(estimate.seconds)} ({estimate.rows_per_second:,.1f} rows/s)"),
        ("memory", f"about {_bytes(estimate.memory_bytes)}, all {estimate.workers} workers included"),
        ("model", _model(estimate.model, estimate.variant, estimate.engine, estimate.device)),
    ]
    asked = f", {estimate.questions:,} questions" if estimate.questions != estimate.rows else ""
    return _block(f"dry run: {_rows(estimate.rows)}{asked}; nothing was written", lines)


def render_facts(facts: Mapping[str, Any]) -> str:
    """What `describe` found, in short; `batchqa info --json` has all of it."""
    lines = _bundle(facts) if facts["kind"] == "bundle" else _output(facts)
    return _block(f"{facts['path']}: {facts['kind']}", lines)


def _bundle(facts: Mapping[str, Any]) -> Iterator[Line]:
    source, threshold, abstains = facts["source"], facts["threshold"], facts["abstains"]
    yield "name", facts["name"]
    revision = f" at {source['revision'][:12]}" if source["revision"] else ""
    yield "made from", f"{source['id']}{revision}, {facts['architecture']}"
    yield "licence", source["licence"] or "not stated"
    yield "languages", ", ".join(facts["languages"]) or "not stated"
    yield "longest input", f"{facts['max_length']:,} tokens"
    yield "no answer", f"{'yes' if abstains['value'] else 'no'}: {abstains['how']}"
    yield "threshold", f"{threshold['value']:.4g}: {threshold['fitted_on']}"
    yield "calibration", "yes" if facts["calibration"] else "none"
    for variant in facts["variants"]:
        yield variant["precision"], _variant(variant, facts["bytes"])
    yield "digest", facts["digest"]


def _variant(variant: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    figures = variant["verification"]
    text = (
        f"{variant['file']} ({_bytes(sizes.get(variant['file'], 0))}), "
        f"{'/'.join(variant['devices'])}, {'/'.join(variant['engines'])}"
    )
    if variant.get("weight_bits"):
        text += f"; weights of {variant['weight_bits']} bits"
    if "span_agreement" in figures and "rows" in figures:
        text += f"; {figures['span_agreement']:.2%} of {figures['rows']:,} answers as the original's"
    if figures.get("f1") is not None and figures.get("f1_of_original") is not None:
        text += f"; F1 {figures['f1']:.2f}, the original's {figures['f1_of_original']:.2f}"
    return text


def _output(facts: Mapping[str, Any]) -> Iterator[Line]:
    """An output's record may be of another version: what it does not say is left out."""
    job = facts.get("success") or facts.get("job") or facts.get("record") or {}
    job = job.get("record", job)  # a file's record has its fingerprint beside it
    outcome, fields, resolved = (job.get(name) or {} for name in ("outcome", "fields", "resolved"))
    if outcome:
        read, counts, errors = (
            outcome.get("records_in", 0),
            outcome.get("counts", {}),
            outcome.get("errors", {}),
        )
        written, questions = outcome.get("rows_out", read), counts.get("questions", read)
        of = (
            f" of {_rows(read)} read"
            if questions == read
            else f"; {_rows(read)} read, {questions:,} questions"
        )
        yield "rows", f"{written:,}{of}"
        yield from _counts(
            questions,
            counts.get("answered", 0),
            counts.get("no_answer", 0),
            {code: n for code, n in errors.items() if code in ROW_ERRORS},
            {code: n for code, n in errors.items() if code not in ROW_ERRORS},
        )
        if outcome.get("rejects"):
            yield "rejected", _rows(outcome["rejects"])
    if facts["kind"] == "unfinished output":
        yield "parts", f"{facts['parts']:,} so far; the same `batchqa run` resumes the job"
    elif "parts" in facts:
        yield "parts", f"{facts['parts']:,}"
    if facts.get("columns"):
        yield "columns", ", ".join(facts["columns"])
    inputs = fields.get("inputs", ())
    for entry in inputs[:NAMED_INPUTS]:
        yield "input", f"{entry['uri']} ({_bytes(entry['size'])})" if "size" in entry else entry["uri"]
    if len(inputs) > NAMED_INPUTS:
        yield "", f"and {len(inputs) - NAMED_INPUTS:,} more inputs"
    totals = outcome.get("totals", {})
    if "bundle" in fields:
        model = totals.get("model") or f"bundle {fields['bundle'][:12]}"
        yield "model", _model(model, fields.get("variant"), fields.get("engine"), resolved.get("device"))
    if totals.get("texts"):
        yield "note", totals["texts"]
    if "options" in fields:
        yield "options", ", ".join(_changed(fields["options"])) or "the defaults"
    versions = {"batchqa": totals.get("batchqa"), **fields.get("versions", {})}
    if any(versions.values()):
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    yield "fingerprint", job.get("fingerprint", "none")


def _changed(options: Mapping[str, Any]) -> Iterator[str]:
    """The options that are not the defaults, as they were given: `top-k 3`."""
    defaults = RunSettings().of_the_output()
    for name, value in options.items():
        if isinstance(value, Mapping):
            group = defaults.get(name) or {}
            for key, inner in value.items():
                default = group.get(key)
                if inner != (list(default) if isinstance(default, tuple) else default):
                    yield f"{key.replace('_', '-')} {_text(inner)}"
        elif value != defaults.get(name):
            yield f"{name.replace('_', '-')} {_text(value)}"


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _counts(
    questions: int, answered: int, silent: int, errors: Mapping[str, int], statuses: Mapping[str, int]
) -> list[Line]:
    lines = [("answered", _share(answered, questions)), ("no answer", _share(silent, questions))]
    return lines + _faults(errors, statuses)


def _faults(errors: Mapping[str, int], statuses: Mapping[str, int]) -> list[Line]:
    named = (("errors", errors), ("not asked", statuses))
    return [(name, _by_code(codes)) for name, codes in named if any(codes.values())]


def _by_code(codes: Mapping[str, int]) -> str:
    each = ", ".join(f"{code} {count:,}" for code, count in codes.items() if count)
    return f"{sum(codes.values()):,} ({each})"


def _model(name: str, variant: str | None, engine: str | None, device: str | None) -> str:
    return f"{name}, {variant}, {engine} on {device}"


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.0%})" if total else f"{count:,}"


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def _block(title: str, lines: Iterable[Line]) -> str:
    """A title and its facts below it, their names in one column."""
    facts = list(lines)
    width = max((len(name) for name, _ in facts), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in facts)])
