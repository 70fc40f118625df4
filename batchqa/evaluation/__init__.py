"""The quality of answers, by the standard rules: `evaluate` and what it returns.

- `predictions`: what other programs predicted; `files`: an opened file and what its run added to it;
  `joining`: gold answers and predictions brought together; `row_languages`: by whose rules rows are scored
- `metrics`, `intervals`, `grouping`: the figures, how sure they are, and by group
- `calibration`, `fitting`: scores as probabilities, the best threshold; `tuning`: the bundle that has both
- `selective`: how right the surest decisions are
- `comparing`: two sets of predictions for the same rows; `tables`: figures for people
- `report`: one HTML page; `result`: the typed result; `evaluating`: what joins them
"""

from batchqa.evaluation.evaluating import evaluate
from batchqa.evaluation.result import Evaluation

__all__ = ["Evaluation", "evaluate"]
