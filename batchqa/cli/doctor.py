"""`batchqa doctor`: what this machine can run, and a question to the model whose answer is known.

Each look at the machine gives one finding; "fail" is what would keep `batchqa run` from working, "warn"
what makes it slower or other than expected.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from batchqa.engines import ModelSpec, cuda_is_available, load
from batchqa.engines.devices import EXACT_INT8, look_for_cuda, products_overflow
from batchqa.errors import BatchqaError, SettingsError
from batchqa.machine import cpu_flags, cpu_model, cpu_quota, memory_limit
from batchqa.telemetry import SWITCHES, import_onnxruntime, loaded_before
from batchqa.user_cache import cache_folders, cache_note
from batchqa.version import VERSION

GOLDEN_CONTEXT = (
    "The old mill on the river Tarn was rebuilt in 1907 by the engineer Clara Hoffmann. "
    "Since then it has ground buckwheat for the villages of the valley."
)
GOLDEN_QUESTION = "Who rebuilt the old mill?"
GOLDEN_ANSWER = "Clara Hoffmann"

NOTABLE = EXACT_INT8 | {"asimddp", "i8mm", "avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile"}
"""CPU features that say which precisions run well."""

ONNXRUNTIMES = frozenset(
    {
        "onnxruntime",
        "onnxruntime-gpu",
        "onnxruntime-directml",
        "onnxruntime-migraphx",
        "onnxruntime-openvino",
        "onnxruntime-qnn",
        "onnxruntime-rocm",
        "onnxruntime-silicon",
        "onnxruntime-training",
    }
)
"""Distributions that all install the module `onnxruntime`, each over the others' files."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what it is, what was found, and what to do where something should be done.

    `facts` are what was found for a program, where there is more to it than the text.
    """

    name: str
    level: Literal["ok", "warn", "fail"]
    found: str
    advice: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def examine(model: str = "default", device: str = "auto") -> list[Finding]:
    """Look at everything; the model is loaded on `device` and asked the golden question."""
    return [
        _python(),
        _telemetry(),
        *_processor(),
        *_memory(),
        _cache(),
        *_onnxruntime(),
        *_cuda(),
        _precisions(),
        _openvino(),
        *_smoke_test(model, device),
    ]


def render(findings: list[Finding]) -> str:
    """For a person: a line per finding, its advice below."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<4}  {finding.name:<{width}}  {finding.found}")
        if finding.advice:
            lines.append(f"{'':<4}  {'':<{width}}  -> {finding.advice}")
    return "\n".join(lines)


def _python() -> Finding:
    return Finding(
        "batchqa", "ok", f"{VERSION}, Python {platform.python_version()}, {sys.platform} {platform.machine()}"
    )


def _telemetry() -> Finding:
    """Whether the libraries that call home were told not to, before they were loaded."""
    facts = {name: os.environ.get(name) for name in SWITCHES}
    late = loaded_before()
    if late or facts != SWITCHES:
        who = ", ".join(late) or "a library"
        found = f"{who} may send telemetry: loaded before batchqa, or allowed by this program"
        return Finding("telemetry", "warn", found, "import batchqa before these libraries", facts)
    found = "off in onnxruntime, OpenVINO and the Hugging Face libraries"
    return Finding("telemetry", "ok", found, facts=facts)


def _cache() -> Finding:
    """Where what is measured and made is kept."""
    note = cache_note()
    return Finding("cache", "warn" if note else "ok", note or str(cache_folders()[0]))


def _processor() -> Iterator[Finding]:
    flags = cpu_flags()
    quota, host = cpu_quota(), os.cpu_count() or 1
    yield Finding("CPU", "ok", cpu_model())
    limited = f"{quota} of the machine's {host}" if quota < host else str(quota)
    yield Finding(
        "CPUs to use",
        "ok",
        f"{limited} (affinity and cgroup quota); --threads overrides it",
        facts={"quota": quota, "host": host},
    )
    if not flags:
        yield Finding("CPU features", "ok", "not known on this system")
        return
    facts = {
        "vnni": bool(flags & {"avx512_vnni", "avx_vnni"}),
        "amx_int8": "amx_int8" in flags,
        "bfloat16": bool(flags & {"amx_bf16", "avx512_bf16"}),
        "int8_exact": not products_overflow(flags),
    }
    found = ", ".join(sorted(flags & NOTABLE)) or "none of AVX2, VNNI, AVX-512 BF16, AMX"
    if facts["int8_exact"]:
        yield Finding("CPU features", "ok", f"{found}: int8 runs exactly", facts=facts)
    else:
        yield Finding(
            "CPU features",
            "warn",
            f"{found}; neither VNNI nor AMX: int8 with weights of 8 bits can overflow",
            "use fp32, or an int8 bundle made with `batchqa export --target avx2`",
            facts,
        )
    if facts["bfloat16"]:
        yield Finding(
            "bfloat16", "ok", "this CPU multiplies bfloat16: OpenVINO can use it (batchqa[openvino])"
        )


def _memory() -> Iterator[Finding]:
    limit = memory_limit()
    if limit is not None:
        yield Finding("memory", "ok" if limit >= 2**31 else "warn", f"{limit / 2**30:.1f} GiB available")


def _onnxruntime() -> Iterator[Finding]:
    installed = {
        name: distribution.version
        for distribution in importlib.metadata.distributions()
        if (name := (distribution.metadata["Name"] or "").lower().replace("_", "-")) in ONNXRUNTIMES
    }
    names = ", ".join(f"{name} {version}" for name, version in sorted(installed.items()))
    if len(installed) > 1:
        yield Finding(
            "onnxruntime",
            "fail",
            f"{names} are installed together, and each overwrote files of the other",
            f"pip uninstall -y {' '.join(sorted(installed))}, then install batchqa again",
        )
    try:
        onnxruntime = import_onnxruntime()
    except ImportError as error:
        yield Finding("onnxruntime", "fail", f"cannot be imported: {error}", "install batchqa again")
        return
    if len(installed) <= 1:
        yield Finding("onnxruntime", "ok", names or onnxruntime.__version__)
    providers = (name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
    yield Finding("providers", "ok", f"built with {', '.join(providers)} (built with is not yet usable)")


def _cuda() -> Iterator[Finding]:
    try:
        cuda = look_for_cuda()
    except ImportError:
        return
    if cuda.serves is None:
        yield Finding("CUDA", "ok", "no NVIDIA driver was found: models run on the CPU")
        return
    found = (
        f"driver {cuda.driver} for CUDA {cuda.serves[0]}.{cuda.serves[1]}, {len(cuda.devices)} device(s): "
        f"{', '.join(cuda.devices) or '-'}"
    )
    facts: dict[str, Any] = {
        "driver": cuda.driver,
        "driver_cuda": list(cuda.serves),
        "built_for": cuda.built_for,
        "devices": list(cuda.devices),
    }
    if obstacle := cuda.driver_obstacle():
        yield Finding("CUDA", "warn", f"{found}; {obstacle[0]}", obstacle[1], facts)
    else:
        text = f"{found}; onnxruntime is built for CUDA {cuda.built_for or 'unknown'}"
        yield Finding("CUDA", "ok", text, facts=facts)
    names = ", ".join(f"{name} {version}" for name, version in sorted(cuda.libraries.items()))
    facts = {"versions": dict(cuda.libraries), "missing": list(cuda.missing)}
    if obstacle := cuda.library_obstacle():
        text = f"{obstacle[0]} (there are: {names or 'none from pip'})"
        yield Finding("CUDA libraries", "warn", text, obstacle[1], facts)
    else:
        yield Finding("CUDA libraries", "ok", names or "none from pip", facts=facts)
    if cuda.has_provider:
        yield _cuda_provider()


def _cuda_provider() -> Finding:
    """Whether onnxruntime's CUDA provider really loads: it would only warn and run on the CPU."""
    from batchqa.bundle import open_model

    try:
        bundle = open_model("default")
        load(ModelSpec.of(bundle, bundle.manifest.variants[0], "onnxruntime", "cuda:0", threads=1))
    except BatchqaError as error:
        return Finding("CUDA provider", "warn", str(error), "fix the CUDA problem reported above first")
    return Finding(
        "CUDA provider", "ok", "loads: a bundle with an fp16 or fp32 variant runs on --device cuda"
    )


def _precisions() -> Finding:
    """Which variants of a bundle are worth having here."""
    on_cpu = ["int8", "fp32"] if not products_overflow(cpu_flags()) else ["int8 (--target avx2)", "fp32"]
    on_cuda = ["fp16", "fp32"] if cuda_is_available() else []
    found = f"CPU: {', '.join(on_cpu)}; CUDA: {', '.join(on_cuda) or 'none'}"
    return Finding("precisions", "ok", f"{found} (the fastest first)", facts={"cpu": on_cpu, "cuda": on_cuda})


def _openvino() -> Finding:
    try:
        return Finding("OpenVINO", "ok", importlib.metadata.version("openvino"))
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            "OpenVINO", "ok", "not installed (pip install 'batchqa[openvino]' for --engine openvino)"
        )


def _smoke_test(model: str, device: str) -> Iterator[Finding]:
    """Load the model and ask the golden question; only the default model must know the answer."""
    import pyarrow as pa

    from batchqa.annotator import Annotator

    try:
        annotator = Annotator(model, device)
        table = pa.table({"context": [GOLDEN_CONTEXT], "question": [GOLDEN_QUESTION]})
        answer = annotator.annotate(table).to_pylist()[0]
    except SettingsError:
        raise
    except BatchqaError as error:
        yield Finding("model", "fail", str(error))
        return
    resolved, manifest = annotator.resolved, annotator.bundle.manifest
    variants = ", ".join(
        f"{variant.precision} for {'/'.join(variant.engines)}" for variant in manifest.variants
    )
    yield Finding(
        "model",
        "ok",
        f"{manifest.name} (has {variants}): {resolved.variant} on {resolved.device}, {resolved.engine}, "
        f"{resolved.threads} threads, {resolved.workers} workers, batches of {resolved.batch_tokens} tokens",
    )
    if annotator.engine.cpu_because:
        yield Finding("device", "warn", f"the CPU is used, not a GPU: {annotator.engine.cpu_because}")
    if len(annotator.engine.speeds) > 1:
        speeds = ", ".join(f"{name} {speed:,} tokens/s" for name, speed in annotator.engine.speeds.items())
        yield Finding("engines", "ok", f"{speeds}: {resolved.engine} is used (kept in the cache folder)")
    if warning := annotator.engine.warning:
        yield Finding("int8", "warn", warning)
    given = answer["qa_answer"]
    if given == GOLDEN_ANSWER:
        yield Finding("golden question", "ok", f"{GOLDEN_QUESTION} {given} ({answer['qa_score']:.2f})")
    elif model == "default":
        yield Finding(
            "golden question",
            "fail",
            f"{GOLDEN_QUESTION} {given!r} instead of {GOLDEN_ANSWER!r}",
            "the engine gives wrong results on this machine, or the installation is damaged: install "
            "batchqa again",
        )
    else:
        yield Finding(
            "golden question",
            "warn",
            f"{GOLDEN_QUESTION} {given!r} instead of {GOLDEN_ANSWER!r}",
            "expected for a model of another language; otherwise export it again",
        )
