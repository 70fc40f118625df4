"""A worker process whose engine dies of a segmentation fault at one token, as a row that crashes it would.

The token's id is in BATCHQA_TEST_CRASH_AT; the process is ended by the signal itself, so all that the job
sees of it is what it would see of a fault in the engine.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from batchqa.engines import worker_process
from batchqa.engines.onnxruntime import OnnxScorer


def main() -> None:
    token = int(os.environ["BATCHQA_TEST_CRASH_AT"])
    score = OnnxScorer.score

    def dying(self: OnnxScorer, input_ids: Any, *others: Any) -> Any:
        # the check of the vocabulary at the start asks for this token by itself
        if input_ids.shape[1] > 1 and (input_ids == token).any():
            os.kill(os.getpid(), signal.SIGSEGV)
        return score(self, input_ids, *others)

    OnnxScorer.score = dying  # type: ignore[method-assign]
    worker_process.main()
