"""Spark: `batchqa.spark.annotate(df)`. Needs pyspark 3.5 or 4 (extra `spark`).

The rows go through `DataFrame.mapInArrow`: each Python worker of an executor loads the model once and
annotates the partitions that it is given. batchqa must be installed in the executors' Python, and the
model's folder must be there under the same path.

A DataFrame is a recipe: every action computes it again, so write it before you use it twice. Spark tries a
lost partition again and commits its files once; that promise is Spark's own, not batchqa's.
"""

from __future__ import annotations

import functools
import inspect
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchqa.annotator import Annotator
from batchqa.errors import SettingsError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["annotate"]


def annotate(df: DataFrame, model: str | Path = "default", **options: Any) -> DataFrame:
    """The DataFrame with the answer columns; options are those of `Annotator`.

    Each Python worker uses as many threads as `spark.task.cpus` says, unless `threads` is given. Where
    tasks are given GPUs (`spark.task.resource.gpu.amount`), each uses its own. Without GPUs the driver
    loads the model too, and decides which engine and variant all workers use, so that all rows are judged
    alike.
    """
    from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

    # Spark 4 asks for the zone of its timestamps, 3.5 does not know the argument
    takes_zone = "timezone" in inspect.signature(to_arrow_schema).parameters
    zone = {"timezone": df.sparkSession.conf.get("spark.sql.session.timeZone")} if takes_zone else {}
    conf = df.sparkSession.sparkContext.getConf()
    options.setdefault("threads", int(conf.get("spark.task.cpus", "1")))
    on_gpus = float(conf.get("spark.task.resource.gpu.amount", "0")) > 0
    if on_gpus and options.get("device", "auto") not in ("auto", "cuda"):
        raise SettingsError(
            "tasks that are given GPUs use their own: leave the device to Spark, or take cuda"
        )
    if on_gpus:
        options["device"] = "cuda"
    with Annotator(model, load=not on_gpus, **options) as annotator:
        schema = from_arrow_schema(annotator.schema(to_arrow_schema(df.schema, **zone)))
        recipe = pickle.dumps(annotator)
    return df.mapInArrow(functools.partial(_annotated, recipe), schema)


def _annotated(recipe: bytes, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """A partition's batches, annotated in a Python worker."""
    from pyspark import TaskContext

    task = TaskContext.get()
    gpus = task.resources().get("gpu") if task else None
    return _loaded(recipe, gpus.addresses[0] if gpus else "").stream(batches)


@functools.lru_cache(maxsize=1)
def _loaded(recipe: bytes, gpu: str) -> Annotator:
    """The worker's annotator; Spark uses a worker for many partitions."""
    annotator: Annotator = pickle.loads(recipe)  # noqa: S301 -- the driver of this job made it
    if not gpu:
        return annotator
    machine = replace(annotator.settings.machine, device=f"cuda:{gpu}")
    return Annotator(annotator.bundle, settings=replace(annotator.settings, machine=machine))
