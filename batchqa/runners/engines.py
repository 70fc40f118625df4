"""The shards of a job as tasks of Ray or Spark: `batchqa run --on ray`, `--on spark`.

::

    this process                                  the engine's workers
    how many shards, progress, finalize ──I/N──▶  run(..., shard="I/N")
                                        ◀──what it did, or why it must not be tried again

A task that raises, or whose worker dies, is tried again by the engine, and resumes from the parts that are
committed. Errors that would only come again (all but 74 and 75) are therefore handed back, not raised.
The workers need batchqa, and the inputs, the model and the output under the same names as here.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from batchqa import errors
from batchqa.domains import Count, checked
from batchqa.errors import BatchqaError, SettingsError, StorageError, TryAgainError
from batchqa.job import Progress, Summary, finalize
from batchqa.job.finalizing import PartsMissingError
from batchqa.job.following import Clock
from batchqa.job.running import one_of
from batchqa.job.summary import check_summary, written
from batchqa.machine import process_seconds
from batchqa.output import Target
from batchqa.runners import local_processes
from batchqa.runners.engine_errors import SHARED, given_up, gone, of_task, unreachable
from batchqa.settings import Cores, RunSettings, Shard

POLL_SECONDS = 0.5
"""How often this process looks for signals while it waits."""

RAY_RETRIES = 3
"""How often Ray tries a task again; Spark has `spark.task.maxFailures`."""

ADDRESSES = {
    "ray": r"auto|local|[\w.\[\]:-]+:\d+",
    "spark": r"local(-cluster)?(\[[\w*, ]+\])?|yarn|k8s://\S+|[\w.-]+:\d+(,[\w.-]+:\d+)*",
}
"""What may be behind `ray://` and `spark://`."""


@dataclass(frozen=True, slots=True)
class ShardWork:
    """What the task of each shard is given, pickled."""

    inputs: tuple[str, ...]
    output: str
    model: str
    settings: RunSettings
    processes: int | None

    def threads(self, otherwise: int = 1) -> int:
        """The CPUs of a task."""
        return max(self.settings.machine.threads or self.processes or otherwise, 1)

    def on(self, **machine: Any) -> ShardWork:
        """The same with other machine settings: threads, device."""
        settings = replace(self.settings, machine=replace(self.settings.machine, **machine))
        return replace(self, settings=settings)


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """What became of a shard: what it did, or the name and message of the error that stops the job."""

    shard: Shard
    summary: Summary | None
    error: tuple[str, str]
    notes: tuple[str, ...]


def do_shard(work: ShardWork, shard: Shard) -> ShardOutcome:
    """A task. Raises what is worth another try."""
    # the tokenizers library would take all CPUs of a machine on which other tasks are running
    os.environ.setdefault("RAYON_NUM_THREADS", str(work.threads()))
    notes: list[str] = []
    try:
        done = local_processes.run(
            work.inputs,
            work.output,
            processes=work.processes,
            model=work.model,
            settings=work.settings,
            shard=shard,
            on_note=notes.append,
        )
    except BatchqaError as error:
        if error.exit_code in (StorageError.exit_code, TryAgainError.exit_code):
            raise
        name = next(kind.__name__ for kind in type(error).__mro__ if hasattr(errors, kind.__name__))
        return ShardOutcome(shard, None, (name, str(error)), tuple(notes))
    except OSError as error:  # what the storage refuses and nobody translated
        raise StorageError(f"{error.filename or 'I/O'}: {error.strerror or error}") from error
    return ShardOutcome(shard, done, ("", ""), tuple(notes))


@checked
def run_on(
    on: str,
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    shards: Count | None = None,
    processes: Cores | None = None,
    shard: Shard | str | None = None,
    model: str | Path = "default",
    settings: RunSettings | None = None,
    progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    on_status: Callable[[str], None] | None = None,
    summary: str | Path | None = None,
    whole_process: bool = False,
    **options: Any,
) -> Summary:
    """`batchqa.job.run` as tasks of the engine `on` ("ray", "spark://host:7077"), and then `finalize`.

    `shards` is how many (None: as many as the cluster can do at once). A program that is connected to Ray, or
    has a Spark session, keeps that one.
    """
    clock = Clock(process_seconds() if whole_process else 0.0)
    note, status, tell = on_note or _nothing, on_status or _nothing, progress or _nothing
    settings = one_of(settings, options)
    names = [str(name) for name in ([inputs] if isinstance(inputs, (str, Path)) else inputs)]
    name, address = _engine(on)
    target = Target.parse(str(output))
    if shard is not None:
        raise SettingsError(
            "--on and --shard cannot be combined: --on runs all shards; give --shards N for their number"
        )
    if target.kind == "stdout" or "-" in names:
        raise SettingsError("--on needs files as input and output: - is a stream, which cannot be split")
    if settings.output.restart:
        raise SettingsError(
            "--on cannot be combined with --restart; run the job once without --on and with --restart"
        )
    check_summary(summary, target, names)
    work = _anywhere(ShardWork(tuple(names), str(output), str(model), settings, processes))

    done: list[Summary] = []
    noted: set[str] = set()
    with closing(_ENGINES[name](address, work, shards, status)) as outcomes:
        startup = 0.0
        for some in outcomes:
            startup = startup or clock.seconds()
            for outcome in some:
                for text in outcome.notes:
                    if text not in noted:
                        noted.add(text)
                        note(text)
                if outcome.summary is None:
                    raise of_task(*outcome.error, f"shard {outcome.shard}: ")
                done.append(outcome.summary)
                status(f"{len(done)} of {outcome.shard.count} shards are done")
            tell(_progress(done, clock.seconds(), startup))
    if done[0].skipped:
        return written(summary, done[0])
    try:
        result = finalize(
            output,
            max_errors=str(settings.errors.max_errors),
            overwrite=settings.output.overwrite,
            on_note=note,
            on_status=status,
        )
    except PartsMissingError as error:
        raise SettingsError(
            f"all shards are done, but not all of their parts are at {target} as this machine sees it; "
            f"{SHARED}: choose an object store or a shared file system"
        ) from error
    if not result.already_done:
        far = _progress(done, clock.seconds(), startup)
        result = replace(
            result,
            seconds=round(far.seconds, 3),
            startup_seconds=round(startup, 3),
            rows_per_second=round(far.rows_per_second, 2),
            resumed_rows=sum(each.resumed_rows for each in done),
        )
    return written(summary, result)


def _on_ray(
    address: str, work: ShardWork, shards: int | None, status: Callable[[str], None]
) -> Generator[list[ShardOutcome], None, None]:
    """Yields outcomes as they come, often none. A task has `--threads` CPUs, and a GPU if there are some."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise SettingsError("--on ray needs Ray: pip install 'batchqa[ray]'") from error
    with ExitStack() as stack:
        if not ray.is_initialized():
            where = address or os.environ.get("RAY_ADDRESS") or "auto"
            try:
                with _signals_kept():
                    ray.init(where, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, RuntimeError, ValueError) as error:
                raise unreachable("ray", where, "set RAY_ADDRESS, or `ray start --head`", error) from error
            stack.callback(ray.shutdown)
        cluster, device = ray.cluster_resources(), work.settings.machine.device
        gpus = 0 if device == "cpu" else int(cluster.get("GPU", 0))
        on_gpus = gpus > 0 or device not in ("auto", "cpu")
        room = gpus if on_gpus else int(cluster.get("CPU", 0) // work.threads())
        parts = _shards(shards, room)
        # Ray shows each task its own GPU alone, whatever its number
        own = "cpu" if not on_gpus else "auto" if device == "auto" else "cuda"
        given = work.on(threads=work.threads(), device=own)
        status(f"{len(parts)} shards are tasks of Ray")
        task = ray.remote(
            num_cpus=work.threads(), num_gpus=int(on_gpus), max_retries=RAY_RETRIES, retry_exceptions=True
        )(do_shard)
        left = [task.options(name=f"batchqa {shard}").remote(given, shard) for shard in parts]
        stack.callback(lambda: [ray.cancel(each, force=True) for each in left])
        while left:
            ready, left[:] = ray.wait(left, timeout=POLL_SECONDS)
            try:
                yield ray.get(ready)
            except ray.exceptions.RayError as error:
                raise given_up("Ray", error) from error


def _on_spark(
    address: str, work: ShardWork, shards: int | None, status: Callable[[str], None]
) -> Generator[list[ShardOutcome], None, None]:
    """Yields outcomes as they come, often none. A task has `spark.task.cpus` threads, and its GPU."""
    try:
        from py4j.protocol import Py4JError, Py4JNetworkError
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise SettingsError("--on spark needs Spark: pip install 'batchqa[spark]'") from error
    with ExitStack() as stack:
        session = SparkSession.getActiveSession()
        if session is None:
            builder = SparkSession.builder.appName(f"batchqa {work.output}")
            builder = builder.config("spark.ui.showConsoleProgress", "false")  # ours is there
            if where := _master(address) or os.environ.get("SPARK_MASTER_URL", ""):
                builder = builder.master(where)
            if work.threads(0) > 1:
                builder = builder.config("spark.task.cpus", work.threads())
            try:
                with _signals_kept():
                    session = builder.getOrCreate()
            except (Py4JError, PySparkException, OSError, RuntimeError) as error:
                raise unreachable("spark", where, "Java is needed here, too", error) from error
            stack.callback(_if_it_is_there, session.stop)
        context = session.sparkContext
        threads = int(context.getConf().get("spark.task.cpus", "1"))
        parts = _shards(shards, context.defaultParallelism // threads)
        status(f"{len(parts)} shards are tasks of Spark ({context.master})")
        done = context.accumulator({}, _ShardOutcomes())
        group = f"batchqa {os.getpid()} {id(done)}"

        def do_all() -> None:
            context.setJobGroup(group, f"batchqa {work.output}", interruptOnCancel=True)
            task = partial(_task_of_spark, work.on(threads=threads), done)
            context.parallelize(parts, len(parts)).foreach(task)

        def cancel() -> None:
            if not job.done():
                _if_it_is_there(context.cancelJobGroup, group)

        job = stack.enter_context(ThreadPoolExecutor(1)).submit(do_all)
        stack.callback(cancel)
        told: set[Shard] = set()
        over = False
        while not over:
            over = bool(wait([job], POLL_SECONDS).done)
            new = [outcome for shard, outcome in done.value.items() if shard not in told]
            told.update(outcome.shard for outcome in new)
            yield new
        try:
            job.result()
        except (Py4JNetworkError, OSError) as error:
            raise gone("Spark's Java", error) from error
        except (Py4JError, PySparkException) as error:
            raise given_up("Spark", error) from error


_OfShards = dict[Shard, ShardOutcome]


class _ShardOutcomes:
    """How Spark adds up what the tasks did: outcomes by shard."""

    def zero(self, _: _OfShards) -> _OfShards:
        return {}

    def addInPlace(self, some: _OfShards, more: _OfShards) -> _OfShards:  # noqa: N802 - Spark's name
        return some | more


def _task_of_spark(work: ShardWork, done: Any, shard: Shard) -> None:
    from pyspark import TaskContext

    gpus = TaskContext.get().resources().get("gpu")
    done.add({shard: do_shard(work.on(device=f"cuda:{gpus.addresses[0]}") if gpus else work, shard)})


def _if_it_is_there(do: Callable[..., Any], *arguments: Any) -> None:
    """To tidy up must not hide why there is nothing left to tidy: Java that was killed."""
    from py4j.protocol import Py4JError

    with suppress(Py4JError, OSError):
        do(*arguments)


_ENGINES = {"ray": _on_ray, "spark": _on_spark}


def _nothing(_: Any) -> None:
    pass


def _engine(text: str) -> tuple[str, str]:
    """The engine and the address that `--on` names; the address may be empty."""
    name, colon, address = text.partition("://")
    if name not in ADDRESSES or (colon and not re.fullmatch(ADDRESSES[name], address, re.ASCII)):
        raise SettingsError(
            f"--on must be one of ray, ray://HOST:PORT, ray://local, spark, spark://HOST:PORT, "
            f"spark://local[N], spark://yarn and spark://k8s://..., not {text!r}"
        )
    return name, address


def _master(address: str) -> str:
    """The address as Spark writes it."""
    return f"spark://{address}" if address and re.match(r"[^:\[]+:\d", address) else address


def _shards(count: int | None, room: int) -> list[Shard]:
    number = count or max(room, 1)
    return [Shard(index, number) for index in range(number)]


def _anywhere(work: ShardWork) -> ShardWork:
    """The same with absolute paths: workers have other working folders."""
    asking, output = work.settings.asking, work.settings.output
    settings = replace(
        work.settings,
        asking=replace(asking, questions=asking.questions and _absolute(asking.questions)),
        output=replace(output, reuse=tuple(map(_absolute, output.reuse))),
    )
    return replace(
        work,
        inputs=tuple(map(_absolute, work.inputs)),
        output=_absolute(work.output),
        model=_absolute(work.model) if work.model != "default" else work.model,
        settings=settings,
    )


def _absolute(name: str) -> str:
    # not by Path, which would take the slash from the end of a folder's name
    return name if "://" in name else os.path.join(Path.cwd(), name)  # noqa: PTH118


def _progress(done: Sequence[Summary], seconds: float, startup: float) -> Progress:
    """How far all shards are together: those that are done count."""
    rows = sum(each.rows for each in done)
    fresh = rows - sum(each.resumed_rows for each in done)
    speed = fresh / max(seconds - startup, 1e-9)
    answered = sum(each.answered for each in done)
    return Progress(rows, None, answered, seconds, speed, part=0)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Undo what an engine does to SIGINT and SIGTERM, which end the command in its own way."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
