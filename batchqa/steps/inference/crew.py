"""Several scorers of one model, side by side: each batch goes to one that is free.

On a CPU a scorer per core, each with one thread, does more than one scorer with a thread per core, which wait
for each other after each of a model's some hundred operators (docs/decisions/0003-workers.md). With several
GPUs there is one for each. A row's logits do not depend on which of them it meets.
"""

from __future__ import annotations

from collections.abc import Sequence
from queue import SimpleQueue

from batchqa.records import Float32, Int64

from .child import ChildScorer
from .scoring import SpanScorer


class Crew:
    """A SpanScorer that may be called by as many threads at once as it has members."""

    def __init__(self, members: Sequence[SpanScorer]) -> None:
        """All members run the same model with the same engine."""
        self.members = tuple(members)
        self.engine = members[0].engine
        self.unpadded = members[0].unpadded
        self.device = _joined([member.device for member in members])
        self._free: SimpleQueue[SpanScorer] = SimpleQueue()
        for member in members:
            self._free.put(member)

    def score(
        self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64
    ) -> tuple[Float32, Float32]:
        """See SpanScorer.score; waits until a member is free."""
        member = self._free.get()
        try:
            return member.score(input_ids, attention_mask, token_type_ids)
        finally:
            self._free.put(member)

    def close(self) -> None:
        """End the members' processes."""
        for member in self.members:
            if isinstance(member, ChildScorer):
                member.close()


def _joined(devices: Sequence[str]) -> str:
    """The devices as the option --device names them: `cpu`, or `cuda:0,1`."""
    distinct = list(dict.fromkeys(devices))
    return ",".join([distinct[0], *(device.partition(":")[2] for device in distinct[1:])])
