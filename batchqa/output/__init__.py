"""The commit protocol: record batches go in part by part, and come out exactly once, whatever is killed.

This package knows nothing of questions. A job is the `fields` that can change its output; a part is the
input records [k * R, (k + 1) * R) and what became of them. How to use it::

    target = Target.parse("out.parquet")               # or out.jsonl, out/ , out.jsonl/ , - , s3://...
    check_target(target, inputs, overwrite)            # SettingsError; before the model is loaded
    earlier = earlier_job(target)                      # job.json or the finished output: .fields, .resolved
    with open_output(target, fields=fields, schema=schema, part_rows=R, compression="zstd",
                     overwrite=False, restart=False, stream=sys.stdout.buffer) as commit:
        if commit.state == "done":                     # the same output is there already
            return commit.done_record()
        resolved = commit.begin({"batch_tokens": 8192})   # of a resumed job: what its first run chose
        for missing in commit.todo():                  # first_part, first_record, cursor, stop_part (or None)
            for k in ...:                              # from missing.first_part on; read from missing.cursor
                with commit.part(k) as part:           # left without commit: discarded
                    part.write(record_batch)           # any number of times; the schema of `open_output`
                    part.reject(b'{"context": ...}')   # the line, without its line end
                    part.commit(records_in, cursor, errors={"bad_json": 1}, counts={"answered": 9},
                                versions={"onnxruntime": "1.31.1"}, device="cpu")
        commit.publish({"model": "..."})               # no clock times in it: equal jobs give equal bytes
        record = commit.done_record()   # parts, records_in, rows_out, rejects, errors, counts, totals

A part that would hold no record is not begun; without any part, `publish` writes an output with no rows.
`commit.notes` are sentences for the user (no lock here, something was left in the staging).

Modules, in the order of the pipeline: `target` (where it goes), `manifest` (the records that
are written down), `finished` (what is at the target), `staging` (the unfinished work), `inspecting`
(both, without a lock), `part_writer` (one part), `publisher` with `merging` and `jsonlines` (from parts to
the output), `commit` (the whole), `stream` (standard output instead). They stand on `batchqa.store`, whose
`Store` is a file system or an object store; nothing here asks which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO

import pyarrow as pa

from batchqa.footer import Column
from batchqa.output.commit import Commit, PartRange
from batchqa.output.finished import Found, find
from batchqa.output.inspecting import Unfinished, earlier_job, tidied, written_by
from batchqa.output.manifest import JobRecord, PartRecord, canonical, differences, fingerprint
from batchqa.output.part_writer import Parts, PartWriter, shared_parts
from batchqa.output.stream import StreamCommit, StreamPart
from batchqa.output.table import OutputTable, check_keys
from batchqa.output.target import LocalTarget, ObjectTarget, Target, check_target, space_shortage

__all__ = [
    "Commit",
    "Found",
    "JobRecord",
    "LocalTarget",
    "ObjectTarget",
    "OutputTable",
    "PartRange",
    "PartRecord",
    "PartWriter",
    "Parts",
    "StreamCommit",
    "StreamPart",
    "Target",
    "Unfinished",
    "canonical",
    "check_target",
    "differences",
    "earlier_job",
    "find",
    "fingerprint",
    "open_output",
    "shared_parts",
    "space_shortage",
    "tidied",
    "written_by",
]


def open_output(
    target: Target,
    *,
    fields: Mapping[str, Any],
    schema: pa.Schema,
    part_rows: int,
    compression: str,
    overwrite: bool = False,
    restart: bool = False,
    shared: bool = False,
    stream: BinaryIO | None = None,
    parquet: Mapping[str, Column] | None = None,
    lines: bool = False,
) -> Commit | StreamCommit:
    """Open a job's output; `stream` is where `-o -` goes.

    With `shared` no lock is held: other processes work on other parts (`Commit.share`).
    `parquet` has how Parquet is to describe columns that come from it, where that is more than Arrow knows.
    With `lines` the first column holds the input's lines, which JSON lines keep byte for byte.
    """
    if target.format != "parquet":
        check_keys(schema)
    if target.kind == "stdout":
        if stream is None:
            raise ValueError("an output to standard output needs its stream")
        return StreamCommit(stream, fields=fields, part_rows=part_rows, lines=lines)
    return Commit.open(
        target,
        fields=fields,
        table=OutputTable(schema, parquet or {}, lines),
        part_rows=part_rows,
        compression=compression,
        overwrite=overwrite,
        restart=restart,
        shared=shared,
    )
