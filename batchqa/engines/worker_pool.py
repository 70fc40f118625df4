"""Several scorers of one model, side by side: each batch goes to the one with the least to do.

On a CPU a scorer per core, each with one thread, does more than one scorer with a thread per core, which wait
for each other after each of a model's some hundred operators (docs/decisions/0003-workers.md). With several
GPUs there is one for each. A row's logits do not depend on which of them it meets.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from batchqa.records import Float32, Int64
from batchqa.steps.scoring import SpanScorer


class WorkerPool:
    """A SpanScorer that may be called by as many threads at once as all its members together."""

    def __init__(self, members: Sequence[SpanScorer]) -> None:
        """All members run the same model with the same engine and token budget."""
        self.members = tuple(members)
        self.engine = members[0].engine
        self.budget, self.length_bucket = members[0].budget, members[0].length_bucket
        self.at_once = sum(member.at_once for member in members)
        self.device = _joined([member.device for member in members])
        self._calls = [0] * len(members)
        self._counting = threading.Lock()

    def score(
        self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64
    ) -> tuple[Float32, Float32]:
        """See SpanScorer.score."""
        with self._counting:
            chosen = min(range(len(self.members)), key=self._calls.__getitem__)
            self._calls[chosen] += 1
        try:
            return self.members[chosen].score(input_ids, attention_mask, token_type_ids)
        finally:
            with self._counting:
                self._calls[chosen] -= 1

    def close(self) -> None:
        """End the members' processes."""
        for member in self.members:
            member.close()


def _joined(devices: Sequence[str]) -> str:
    """The devices as the option --device names them: `cpu`, or `cuda:0,1`."""
    distinct = list(dict.fromkeys(devices))
    return ",".join([distinct[0], *(device.partition(":")[2] for device in distinct[1:])])
