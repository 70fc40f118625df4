"""The first records of JSON inputs, which fix the columns of all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .input_files import MIB
from .json_types import MAX_KEYS, Guess
from .lines import Parsed

SAMPLE_RECORDS = 10_000
SAMPLE_BYTES = 256 * MIB
"""The sample that fixes the schema ends at the first of these."""

MAX_COLUMNS = 1000
"""Further keys of the sample are treated as unknown ones."""


@dataclass(slots=True)
class Sample:
    """What the first records of all inputs hold: a guess per key, and whether these were all records."""

    guesses: dict[str, Guess] = field(default_factory=dict)
    objects: int = 0
    records: list[int] = field(default_factory=list)  # by file
    complete: bool = False

    @property
    def overflowed(self) -> bool:
        """Whether there may have been more keys than were counted."""
        return len(self.guesses) == MAX_COLUMNS or any(
            len(guess.fields) > MAX_KEYS for guess in self.guesses.values()
        )

    def see(self, parsed: Parsed) -> None:
        """Take account of a block's records, up to the sample's size."""
        left = SAMPLE_RECORDS - sum(self.records)
        for row, record in enumerate(parsed.records[:left]):
            if row in parsed.faults:
                continue
            self.objects += 1
            for name, value in record.items():
                guess = self.guesses.get(name)
                if guess is None:
                    if len(self.guesses) == MAX_COLUMNS:
                        continue
                    guess = self.guesses[name] = Guess()
                guess.see(value)
        self.records[-1] += len(parsed.records)


def taken(files: Iterable[Iterable[Parsed]]) -> Sample:
    """The sample of these files' blocks of records."""
    sample = Sample()
    size = 0
    for blocks in files:
        sample.records.append(0)
        for parsed in blocks:
            sample.see(parsed)
            size += parsed.block.end - parsed.block.byte
            if sum(sample.records) > SAMPLE_RECORDS or size > SAMPLE_BYTES:
                return sample
    sample.complete = True
    return sample
