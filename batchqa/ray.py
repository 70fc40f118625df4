"""Ray Data: `batchqa.ray.annotate(dataset)`. Needs ray (extra `ray`).

The rows go through `Dataset.map_batches` with a pool of actors, each of which loads the model once. batchqa
must be installed where Ray's workers run, or be sent along (`ray.init(runtime_env={"pip": ["batchqa"]})`),
and the model's folder must be there under the same path.

Ray Data keeps the rows' order only where it is told to (`DataContext.execution_options.preserve_order`).
What its own writers wrote before a driver was killed stays, and is there twice after the next run: for
every row exactly once, use `batchqa run --on ray`.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchqa.annotator import Annotator

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["annotate"]


def annotate(
    dataset: Dataset,
    model: str | Path = "default",
    *,
    actors: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    batch_size: int = 4096,
    **options: Any,
) -> Dataset:
    """The dataset with the answer columns; options are those of `Annotator`.

    `actors` copies of the model work side by side (None: as many as Ray finds useful). Each has `num_cpus`
    CPUs, which are its threads unless `threads` is given, and `num_gpus` GPUs (0.5: two copies share one).
    Without GPUs the caller loads the model too, and decides which engine and variant all actors use, so
    that all rows are judged alike. `batch_size` rows go to an actor at once.
    """
    from ray.data import ActorPoolStrategy

    options.setdefault("threads", max(int(num_cpus), 1))
    if num_gpus:
        options.setdefault("device", "cuda")  # Ray shows each actor its own GPU alone
    with Annotator(model, load=not num_gpus, **options) as annotator:
        recipe = pickle.dumps(annotator)
    return dataset.map_batches(
        _Annotate,
        fn_constructor_args=(recipe,),
        batch_format="pyarrow",
        batch_size=batch_size,
        compute=ActorPoolStrategy(size=actors) if actors else ActorPoolStrategy(),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )


class _Annotate:
    """An actor: a loaded model."""

    def __init__(self, recipe: bytes) -> None:
        self._annotator: Annotator = pickle.loads(recipe)  # noqa: S301 -- the driver of this job made it

    def __call__(self, table: pa.Table) -> pa.Table:
        return self._annotator.annotate(table)
