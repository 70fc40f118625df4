"""What an output's rows are: their Arrow schema, and how Parquet and JSON lines are to say it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchqa import footer, thrift
from batchqa.errors import InputError
from batchqa.footer import Column


@dataclass(frozen=True, slots=True)
class OutputTable:
    """The columns of an output.

    `parquet` has how columns were described in the Parquet file that they come from, where that is more than
    Arrow knows. With `lines` the first column holds the input's lines themselves, as JSON text.
    """

    schema: pa.Schema
    parquet: Mapping[str, Column] = field(default_factory=dict)
    lines: bool = False

    def check(self, compression: str) -> None:
        """Raise InputError where Parquet cannot hold the columns."""
        try:
            self.writer(io.BytesIO(), compression).close()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise InputError(
                f"these columns cannot be written to Parquet: {error}; leave some out with --drop"
            ) from error

    def writer(self, sink: Any, compression: str) -> pq.ParquetWriter:
        """A writer whose footer is still to be passed through `restored`."""
        options = footer.writer_options(self.parquet)
        return pq.ParquetWriter(
            sink, self.schema, compression=compression, write_page_checksum=True, **options
        )

    def empty_footer(self, metadata: Mapping[str, str]) -> thrift.Struct:
        """The footer of a file without rows, with the schema and metadata of `writer`'s files."""
        sink = io.BytesIO()
        with self.writer(sink, "none") as writer:
            writer.add_key_value_metadata(dict(metadata))
        found = footer.decode_closing(sink.getvalue())
        footer.restore(found, self.parquet)
        return found

    def restored(self, closing: bytes) -> bytes:
        """The end of a file of `writer`, from its footer on, with the columns described as they were."""
        if not self.parquet:
            return closing
        found = footer.decode_closing(closing)
        footer.restore(found, self.parquet)
        return footer.closing(found)


def check_keys(schema: pa.Schema) -> None:
    """Raise InputError where a struct has two fields of one name, which is an object in JSON."""
    for column in schema:
        kinds = [column.type]
        while kinds:
            kind = kinds.pop()
            if pa.types.is_struct(kind) and len({child.name for child in kind}) < kind.num_fields:
                raise InputError(
                    f"column {column.name!r} has structs with two fields of one name, which JSON cannot "
                    f"hold; leave it out with --drop {column.name}, or write Parquet"
                )
            kinds += [kind.field(at).type for at in range(kind.num_fields)]
